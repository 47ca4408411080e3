"""Schema of the gateway, and the live database's types and statements."""
