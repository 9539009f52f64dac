"""The model table and what a request costs."""
