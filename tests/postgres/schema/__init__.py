"""
Tests of L{gateway.postgres.schema}.
"""
