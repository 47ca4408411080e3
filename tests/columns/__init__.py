"""
Tests of L{gateway.columns}.
"""
