"""
Faults, each by its number in a list of fifty: what breaks, and what holds all the same.
"""
