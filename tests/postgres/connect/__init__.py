"""
Tests of L{gateway.postgres.connect}.
"""
