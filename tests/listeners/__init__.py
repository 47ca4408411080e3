"""
Tests of L{gateway.listeners}.
"""
