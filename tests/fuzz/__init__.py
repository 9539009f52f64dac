"""Coverage-guided fuzzing of all that reads what strangers and upstreams send: `python -m tests.fuzz`."""
