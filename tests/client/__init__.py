"""
The client library, against a gateway of a few lines and against real ones.
"""
