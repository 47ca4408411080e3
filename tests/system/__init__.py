"""
Tests of L{gateway.system}.
"""
