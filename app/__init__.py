"""The proxy: edges, exchange, adapters and the pure core."""
