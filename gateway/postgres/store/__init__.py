"""The Store on PostgreSQL: routes held against their tables, and batches stored."""
