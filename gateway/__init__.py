"""
Gateway: sockets on one side, PostgreSQL on the other, an honest answer for every message.

Data flows one way, and imports point the same way: bytes, C{wire}, C{dialects}, C{formats},
C{commit}, the store in C{postgres}, answers in C{peers}, bytes. C{docs/architecture.md} has the
picture.
"""
