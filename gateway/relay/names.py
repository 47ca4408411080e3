"""
Names of an edge's streams at its centre.

A peer's stream C{till-3} goes on as C{edge-7/till-3}. Messages without numbers travel in streams of
the edge itself, C{edge-7:WORD-N}: N counts them, WORD is made up anew whenever the edge does not
know how far its streams were. No name of the one kind can be one of the other, or of another edge,
since an edge's own name holds no slash.
"""

from __future__ import annotations

from typing import Final

from gateway.dialects.command_parser import MAX_STREAM

UNUSABLE: Final = b"-"
"""A route that no gateway has: a message for it is refused, and uses its number up."""


def longest_stream(edge: str) -> int:
    """Return the bytes that the name of a peer's stream may have at this edge."""
    return MAX_STREAM - len(edge.encode()) - 1


def peer_stream(edge: str, name: str) -> str:
    """Return the centre's name of a peer's stream."""
    return f"{edge}/{name}"


def own_stream(edge: str, word: str, number: int) -> str:
    """Return the name of a stream of the edge's own."""
    return f"{edge}:{word}-{number}"
