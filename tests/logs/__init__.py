"""
Tests of L{gateway.logs}.
"""
