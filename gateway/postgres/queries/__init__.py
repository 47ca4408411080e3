"""Queries on PostgreSQL: examined against the database, and their calls answered in groups."""
