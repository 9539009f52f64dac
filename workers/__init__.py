"""Background work: what happens to a record after the answer has been sent."""
