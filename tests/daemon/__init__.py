"""
The daemon as a process, with real sockets and a real PostgreSQL.
"""
