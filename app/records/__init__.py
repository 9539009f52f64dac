"""The record of a request: its fields, its readers, its exports."""
