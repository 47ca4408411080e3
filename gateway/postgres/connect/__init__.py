"""Connections to PostgreSQL: where to, how they are opened, pooled, and what their errors mean."""
