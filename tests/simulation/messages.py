"""
Messages of the simulated peers: each has a body of its own, so that it is known wherever it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

POISON: Final = b"poison"
"""The database refuses a message that holds this."""


class Fault(Enum):
    """Why a message can never be stored."""

    POISON = b" " + POISON
    NOT_TEXT = b" \xff"
    NO_ROUTE = b" lost"


@dataclass(frozen=True, slots=True)
class Message:
    """
    A message of a peer.

    @ivar peer: its name, which is also that of its stream.
    @ivar index: its place in the order in which the peer made its messages, from 0.
    @ivar fault: C{None} where nothing is wrong with it.
    """

    peer: str
    index: int
    route: str
    body: bytes
    fault: Fault | None

    def __str__(self) -> str:
        return self.body.decode("ascii", "backslashreplace")


def message(peer: str, index: int, route: str, fault: Fault | None = None) -> Message:
    """
    Make a message.
    """
    body = f"{peer}.{index}".encode() + (b"" if fault is None else fault.value)
    return Message(peer, index, "nowhere" if fault is Fault.NO_ROUTE else route, body, fault)
