"""
Tests of L{gateway.postgres.store}.
"""
