"""
Dialects: what a frame asks for.

Plain: every frame is a message for the listener's route. Command: every frame begins
with a verb (L{gateway.dialects.command}). A dialect turns the frames of one read into
L{Work}, as few pieces as possible: what goes to one route in a row is one piece,
whatever stands between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.access.peer_info import PeerInfo
from gateway.access.rights import Rights
from gateway.model.outcome import Fate, Outcome
from gateway.model.stream import Stream
from gateway.wire.push import Pushes

OnAnswer = Callable[[Fate], None]
"""Called once, with the answer."""

Request = Callable[[OnAnswer], None]
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
    @ivar refusal: why the messages are not to be stored; they use their numbers up.
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
    refusal: Outcome | None = None
    request: Request | None = None
    rest: Sequence[bytes] = ()

    @property
    def count(self) -> int:
        """How many frames, so how many answers."""
        return len(self.messages) + len(self.gaps) + (self.request is not None)


class AnswerCounts(Protocol):
    """
    Counts of a peer's answers, kept by L{gateway.peers.answer_queue}.

    @ivar quiet: whether no C{+OK} is said to messages.
    """

    quiet: bool

    def tally(self) -> tuple[int, int, int]:
        """How many were kept, refused and to be sent again since this was last asked."""


class Peer(Protocol):
    """
    A connection, as what its frames ask for may need it.

    @ivar peer_info: who it is, as far as it has proved that.
    @ivar rights: what it may do now; L{gateway.access.rights.NOTHING} as long as it has to prove
        first who it is.
    @ivar answers: what it is told.
    """

    @property
    def peer_info(self) -> PeerInfo: ...

    @property
    def rights(self) -> Rights: ...

    @property
    def answers(self) -> AnswerCounts: ...

    def known_as(self, peer_info: PeerInfo) -> Outcome | None:
        """
        It has proved who it is. Nothing may be in flight.

        @return: the last word, where that one may do nothing here.
        """

    def turned_away(self, bye: Outcome) -> Outcome:
        """It is told to go, and so is the log; gives what it was given."""

    def push(self, pushes: Pushes) -> bool:
        """Say something that is no answer; gives whether more may be said."""

    def dismiss(self, outcome: Outcome) -> None:
        """Say goodbye when everything in flight is answered."""


class FrameReader(Protocol):
    """
    Reader of one peer's frames.
    """

    @property
    def kept(self) -> int:
        """How many bytes are kept of what the peer has said and been told, or so."""

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

    def changed(self, peer: Peer) -> FrameReader:
        """
        The peer's rights are others now.

        @return: what reads its frames from here on.
        """

    def gone(self) -> None:
        """The peer is gone."""


class Dialect(Protocol):
    """
    Dialect of a listener: makes a reader for each peer.

    @ivar takes_commands: whether they are commands, and not messages.
    """

    takes_commands: bool

    def reader(self, peer: Peer) -> FrameReader:
        """For a new peer."""


def turned_away(frames: Sequence[bytes], outcome: Outcome) -> Work:
    """
    Frames without tags that are all answered alike.
    """
    return Work("", gaps=[(position, outcome) for position in range(len(frames))])
