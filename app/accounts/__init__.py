"""Users and their client keys: who calls, what they can still spend, how often they may, how they log in."""
