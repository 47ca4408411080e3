"""
Tests of L{gateway.postgres}.
"""
