"""
Keys of a listener for datagrams: which of them mean something there.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import fields

from gateway.config.reader import SectionReader

USED: Final = frozenset(
    {
        *("endpoint", "route", "route_by", "routes", "max_frame", "gelf", "trim_end"),
        *("messages_per_second", "bytes_per_second", "burst", "allow", "deny"),
        *("socket_mode", "socket_owner", "reuse_port", "receive_buffer"),
    }
)
"""Keys that a listener for datagrams may have."""

_WHY: Final = {
    "framing": "each datagram is a message",
    "delimiter": "each datagram is a message",
    "dialect": "no datagram is answered, so it is plain",
    "window": "no datagram is answered",
    "ack": "no datagram is answered",
    "nak": "no datagram is answered",
    "auth": "a datagram proves no identity; use allow, or a grant with networks",
    "tls": "a datagram is not encrypted",
}


def check_datagrams(
    reader: SectionReader, where: str, listener: Struct, *, datagrams: bool
) -> None:
    """
    Check that a listener has no keys that mean nothing for what it takes, and note the problems.

    @param where: key of its section.
    @param datagrams: whether it takes datagrams.
    """
    if not datagrams:
        for key in ("gelf", "trim_end"):
            if getattr(listener, key) not in (None, False):
                reader.note(
                    f"{where}.{key}",
                    "is for datagrams, an endpoint udp: or unixgram:; leave it out",
                )
        return
    for field in fields(listener):
        if field.name in USED or getattr(listener, field.name) == field.default:
            continue
        why = _WHY.get(field.name, "is for connections")
        reader.note(f"{where}.{field.name}", f"{why}; leave it out")
