"""
What travels on a connection: framings, pushes, Telnet's commands, a proxy's header; pure, never
sees a transport.
"""
