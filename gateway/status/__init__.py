"""Status of the gateway: one reading of all its parts, for metrics, pages and the console."""
