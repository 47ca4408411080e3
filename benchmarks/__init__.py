"""
Benchmarks: the gateway beside what one would use otherwise, on one server in one run.
"""
