"""
Tests of L{gateway.access}.
"""
