"""Booking records into MongoDB, each exactly once."""
