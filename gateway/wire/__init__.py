"""
Bytes on a connection: framings, pushes, Telnet's commands, a proxy's header; pure, sans I/O.
"""
