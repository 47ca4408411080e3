"""
What the operating system gives: files, sockets, addresses, the limit of open files, time zones.
"""
