"""
Lumberjack's frames as a sender writes them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from struct import pack


def announced(count: int, version: int = 2) -> bytes:
    """A window's announcement."""
    return b"%dW%b" % (version, pack(">I", count))


def event(sequence: int, payload: bytes, version: int = 2) -> bytes:
    """An event in JSON."""
    return b"%dJ%b%b" % (version, pack(">II", sequence, len(payload)), payload)


def fields(sequence: int, pairs: Mapping[bytes, bytes], version: int = 2) -> bytes:
    """An event of keys and values."""
    parts = [part for pair in pairs.items() for part in pair]
    counted = b"".join(pack(">I", len(part)) + part for part in parts)
    return b"%dD%b%b" % (version, pack(">II", sequence, len(pairs)), counted)


def compressed(frames: bytes, version: int = 2, level: int = 3) -> bytes:
    """A compressed frame."""
    payload = zlib.compress(frames, level)
    return b"%dC%b%b" % (version, pack(">I", len(payload)), payload)


def window(payloads: Sequence[bytes], first: int = 1, level: int = 3, version: int = 2) -> bytes:
    """
    A whole window, as libbeat writes it.

    @param first: sequence number of its first event.
    @param level: of the compression; 0: there is none.
    """
    frames = b"".join(event(first + n, payload, version) for n, payload in enumerate(payloads))
    if level:
        frames = compressed(frames, version, level)
    return announced(len(payloads), version) + frames


def ack(sequence: int, version: int = 2) -> bytes:
    """An acknowledgement."""
    return b"%dA%b" % (version, pack(">I", sequence))
