"""
Log of a worker: its lines go to the parent, which writes them where its own are.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.logs.output import Output
from gateway.workers.channel import Channel

LOG = "log"
"""Name of the push that brings the lines of one event."""


class _Lines(msgspec.Struct, frozen=True, array_like=True):
    """
    Lines of one event.
    """

    level: str
    lines: tuple[str, ...]


class ChannelOutput:
    """
    Output of the log to the parent.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def write(self, level: str, lines: Sequence[str]) -> None:
        self._channel.push(LOG, msgspec.msgpack.encode(_Lines(level, tuple(lines))))

    def reopen(self) -> bool:
        return False


def write_lines(output: Output, payload: bytes) -> None:
    """
    Write lines that a worker sent.
    """
    output.write(*lines_of(payload))


def lines_of(payload: bytes) -> tuple[str, Sequence[str]]:
    """Return the level and the lines that a worker sent."""
    sent = msgspec.msgpack.decode(payload, type=_Lines)
    return sent.level, sent.lines
