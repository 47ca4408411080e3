"""Store on PostgreSQL: routes examined against their tables, and batches stored."""
