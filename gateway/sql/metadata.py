"""
Metadata: values that are the same for all messages of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Final

from gateway.model.batch import Chunk
from gateway.model.route import CONSTANT, Value

_OF_CHUNK: Final[Mapping[str, Callable[[Chunk], str | None]]] = {
    "@peer": attrgetter("origin.peer"),
    "@listener": attrgetter("origin.listener"),
    "@identity": attrgetter("origin.identity"),
    "@received_at": lambda chunk: _iso(chunk.received_at),
}


def of_chunk(value: Value) -> Callable[[Chunk], str | None]:
    """
    Return the function that gives a value's text for a chunk.

    @param value: a constant, or of metadata.
    """
    if value.source == CONSTANT:
        return lambda chunk: value.default
    return _OF_CHUNK[value.source]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ")
