"""
Tests of L{gateway.commands.send}.
"""
