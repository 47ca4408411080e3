"""
Tests of L{gateway.status}.
"""
