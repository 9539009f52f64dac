"""One client request, from start to record."""
