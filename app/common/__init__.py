"""What every room may use, and what uses no room: errors, times, texts, money's unit."""
