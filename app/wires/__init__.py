"""The wire formats of clients and upstreams: what is read of a request, an event, an answer, an error."""
