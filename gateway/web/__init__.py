"""Health, status page and metrics over HTTP."""
