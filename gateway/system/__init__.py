"""
Operating system interfaces: files, sockets, addresses, the limit of open files, time zones.
"""
