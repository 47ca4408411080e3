"""
Spool: keeps batches durably while PostgreSQL cannot take them, and stores them later in order.
"""
