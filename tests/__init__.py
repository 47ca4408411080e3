"""
Tests mirror modules; those of whole processes are in test_daemon and faults.
"""
