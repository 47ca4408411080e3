"""
Dialects: what a frame asks for.

Plain: every frame is a message for the listener's route. Command: every frame begins
with a verb (L{gateway.conversation}). A dialect turns the frames of one read into
L{Work}, as few pieces as possible: what goes to one route in a row is one piece,
whatever stands between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.framing import OVERSIZE
from gateway.pushes import Pushes
from gateway.reply import Code, Fate, Outcome, refused
from gateway.stream import Stream

TOOBIG: Final = refused(Code.TOOBIG, "longer than max_frame of this listener")

Answered = Callable[[Fate], None]
"""Called once, with the answer."""

Request = Callable[[Answered], None]
"""Something that takes its time; begun when everything before it is answered."""


@dataclass(slots=True)
class Work:
    """
    Frames in a row that are answered together.

    @ivar route: where the messages go.
    @ivar messages: what is to be stored, in order; maybe nothing.
    @ivar gaps: answers known at once: (position among the frames, answer), ascending.
    @ivar tags: what each answer repeats, one for each frame; C{None} for none at all.
    @ivar closes: whether the connection ends after these answers.
    @ivar stream: that the messages are numbered in, from C{first} on.
    @ivar request: what the one frame asks for, where that takes its time.
    @ivar rest: frames behind a request, to be read when it is answered.
    """

    route: str
    messages: list[bytes] = field(default_factory=list)
    gaps: list[tuple[int, Outcome]] = field(default_factory=list)
    tags: list[bytes] | None = None
    closes: bool = False
    stream: Stream | None = None
    first: int = 0
    request: Request | None = None
    rest: Sequence[bytes] = ()

    @property
    def count(self) -> int:
        """How many frames, so how many answers."""
        return len(self.messages) + len(self.gaps) + (self.request is not None)


class Peer(Protocol):
    """
    A connection, as what its frames ask for may need it.
    """

    def push(self, pushes: Pushes) -> bool:
        """Say something that is no answer; gives whether more may be said."""

    def dismiss(self, outcome: Outcome) -> None:
        """Say goodbye when everything in flight is answered."""

    def hush(self) -> None:
        """Say no C{+OK} to messages any more."""

    def tally(self) -> tuple[int, int, int]:
        """How many were kept, refused and to be sent again since it was last asked."""


class Reader(Protocol):
    """
    The meaning of one peer's frames.
    """

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        """
        @param frames: one or more.
        @param oversize: whether L{OVERSIZE} may be among them.
        """

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        """
        Have all of these answered alike, unread.

        @param frames: one or more.
        """

    def gone(self) -> None:
        """The peer is gone."""


class Dialect(Protocol):
    """
    The meaning of a listener's frames.
    """

    def reader(self, peer: Peer) -> Reader:
        """For a new peer."""


def turned_away(frames: Sequence[bytes], outcome: Outcome) -> Work:
    """
    Frames without tags that are all answered alike.
    """
    return Work("", gaps=[(position, outcome) for position in range(len(frames))])


class PlainDialect:
    """
    Every frame is a message. Without state, so it is every peer's reader itself.
    """

    def __init__(self, route: str) -> None:
        self._route = route

    def reader(self, peer: Peer) -> Reader:
        return self

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def gone(self) -> None:
        """Nothing is kept of a peer."""

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        if not oversize:
            return [Work(self._route, frames)]
        work = Work(self._route)
        for position, frame in enumerate(frames):
            if frame is OVERSIZE:
                work.gaps.append((position, TOOBIG))
            else:
                work.messages.append(frame)
        return [work]
