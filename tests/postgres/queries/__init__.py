"""
Tests of L{gateway.postgres.queries}.
"""
