"""
Tests of L{gateway.peers}.
"""
