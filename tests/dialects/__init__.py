"""
Tests of L{gateway.dialects}.
"""
