"""Real clients against a running Weir: `make clients`. See docs/clients.md."""
