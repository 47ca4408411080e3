"""
Tests of L{gateway.metrics}.
"""
