"""What the upstream keeps under an id, responses and batches above all: who made it, and with which key."""
