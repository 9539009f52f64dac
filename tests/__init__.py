"""The tests; what belongs to none of them alone is in `tests.support`."""
