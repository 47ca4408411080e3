"""
Probe of a client: a first frame, PING, that no listener stores as a message.

A client of commands that reaches a plain listener would have its commands stored, and each answered
C{+OK}. So it begins with a PING that has a fixed mark and a byte which no text column can hold. A
listener of commands answers it like any other; every other listener recognizes its first bytes,
before they are cut into frames, and answers which listener it is.

The client has the same mark in C{gateway/client/probe.py}, as that folder works by itself.
"""

from __future__ import annotations

from typing import Final

from gateway.wire.framing import FRAMINGS

_PING: Final = b"PING gateway-client-5e2b9c41d7 "

ENQUIRY: Final = b"\x05"
"""Byte behind the mark where the listener has a delimiter of its own, which never holds it."""

_NONCE: Final = b"0" * 16 + b"\n"
"""Bytes behind the mark, different in each probe."""


_BYTES: Final = {"nul": b"\x01", "delimited": ENQUIRY}
"""Framing -> the byte behind the mark, where it is not NUL: NUL ends a frame, or another tells it
from lines."""


def _beginning(name: str) -> bytes:
    """Return the first bytes of a connection that begins with a probe, less than a whole frame."""
    ping = _PING + _BYTES.get(name, b"\0")
    frame = FRAMINGS[name](4096).frame(ping + _NONCE)
    return frame[: frame.index(ping) + len(ping)]


_BEGINNINGS: Final = {_beginning(name): name for name in FRAMINGS}

MAX_PROBE_BYTES: Final = max(map(len, _BEGINNINGS))
"""Bytes of a connection by which a probe is recognized."""


def probe_framing(beginning: bytes) -> str | None:
    """
    Return the framing that a probe comes in.

    @param beginning: a connection's first bytes.
    @return: C{""}: this is no probe; C{None}: more bytes are needed.
    """
    for probe, framing in _BEGINNINGS.items():
        if beginning.startswith(probe):
            return framing
        if probe.startswith(beginning):
            return None
    return ""
