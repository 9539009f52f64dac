"""What developers and the Makefile run: making environments, and testing on every supported Python."""
