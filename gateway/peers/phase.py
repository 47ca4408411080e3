"""
Phases of a peer's connection, and reasons not to read it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """
    State of a connection on its way to its end.
    """

    OPEN = auto()
    """Frames come in, answers go out."""

    ENDED = auto()
    """The peer has said all it had to say; that is still answered."""

    CLOSING = auto()
    """Nothing more is read; what was asked is still answered."""

    CLOSING_ENDED = auto()
    """Both: nothing is left to be read either."""

    LOST = auto()
    """The connection is gone."""


ENDED: Final = (Phase.ENDED, Phase.CLOSING_ENDED)
"""Phases in which nothing more comes from the peer."""

CLOSING: Final = (Phase.CLOSING, Phase.CLOSING_ENDED)
"""Phases in which nothing more is read."""


class Pause(Enum):
    """
    Reason why a peer is not read now.
    """

    OUTPUT = "it does not take its answers"
    MEMORY = "the gateway holds as much as it may"
    WINDOW = "enough of its frames are under way"
    CLOSING = "it is told to go"
    RATE = "it sends more than it may"
