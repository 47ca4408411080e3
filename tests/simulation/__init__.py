"""
A deterministic simulator: gateways, a database, peers and a clock in one thread, from one seed.
"""
