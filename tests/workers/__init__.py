"""
Tests of L{gateway.workers}.
"""
