"""What OhMyGPT says of itself: which models it offers, and how the account behind the keys stands."""
