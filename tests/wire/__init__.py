"""
Tests of L{gateway.wire}.
"""
