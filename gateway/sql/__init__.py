"""SQL statements that store batches or answer calls, and their parameters."""
