"""
Tests of L{gateway.spool}.
"""
