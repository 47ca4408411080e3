"""
Tests of L{gateway.tls}.
"""
