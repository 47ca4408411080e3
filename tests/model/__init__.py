"""
Tests of L{gateway.model}.
"""
