"""What the process logs."""
