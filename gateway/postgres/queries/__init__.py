"""Queries on PostgreSQL: held against the database, and their calls answered together."""
