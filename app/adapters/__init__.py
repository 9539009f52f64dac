"""The edge out: everything that talks to MongoDB, the upstream or the disk."""
