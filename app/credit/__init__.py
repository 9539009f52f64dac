"""Credit: what a request may cost, what is held for it, the ledger of grants."""
