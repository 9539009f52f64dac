"""Upstream keys: their states, which one serves, their limits shared among workers, their storage."""
