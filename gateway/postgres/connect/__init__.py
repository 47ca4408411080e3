"""Connections to PostgreSQL: strings, hosts, the pool, LISTEN, and the driver's errors."""
