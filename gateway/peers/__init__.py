"""One peer's connection, and what the peers of a listener have in common."""
