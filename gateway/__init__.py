"""
Gateway: sockets on one side, PostgreSQL on the other, an honest answer for every message.

Data flows one way, and imports point the same way: bytes -> L{framing} ->
L{dialect} -> L{formats} -> L{batch} -> L{writer} -> a L{store} -> L{reply} ->
bytes. C{docs/architecture.md} has the picture.
"""
