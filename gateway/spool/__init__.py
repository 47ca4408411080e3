"""
The spool: what PostgreSQL cannot take now is kept durably, and stored later in order.
"""
