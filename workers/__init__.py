"""What a worker runs beside requests: booking records, refreshing what is cached, adopting journals."""
