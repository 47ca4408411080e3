"""
Log of the process: its lines as text or JSON, their levels, and where they are written.
"""
