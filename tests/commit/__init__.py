"""
Tests of L{gateway.commit}.
"""
