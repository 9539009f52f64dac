"""The upstream's side of the wire: HTTP/1.1, pooled connections, outbound proxies."""
