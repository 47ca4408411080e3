"""The gateway's own schema, and what the live database says of types and statements."""
