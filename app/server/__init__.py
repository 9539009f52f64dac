"""The client's side of the wire: worker, connections, heads, answers, and how the event loop is shared."""
