"""
Tests of L{gateway.commands}.
"""
