"""
The PROXY protocol: a proxy in front says whose connection it passes on.
"""
