"""
Tests of L{gateway.sql}.
"""
