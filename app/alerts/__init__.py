"""What operators are told without asking: conditions that need somebody, each once in its period."""
