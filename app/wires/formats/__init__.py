"""The two wire formats: how their answers are read."""
