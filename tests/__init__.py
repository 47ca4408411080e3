"""
Tests mirror the packages of gateway/; those of whole processes are in daemon and faults.
"""
