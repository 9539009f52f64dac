"""MongoDB as all rooms use it: the connection, the driver's errors, secrets at rest, the embedded server."""
