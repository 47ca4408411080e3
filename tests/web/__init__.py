"""
Tests of L{gateway.web}.
"""
