"""
Tests of L{gateway.formats}.
"""
