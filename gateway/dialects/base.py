"""
Dialects: interfaces that turn frames into work for the writer, and into answers.

Plain: every frame is a message for the listener's route. Command: every frame begins
with a verb (L{gateway.dialects.command}). A dialect turns the frames of one read into
L{Work}, as few pieces as possible: consecutive messages for one route are one piece,
whatever stands between, and so are messages for several routes that come by turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.access.peer_info import PeerInfo
from gateway.access.rights import Rights
from gateway.model.grouping import Group
from gateway.model.outcome import Fate, Outcome, Run
from gateway.model.stream import Stream
from gateway.model.unit import OnUnitSettled
from gateway.wire.push import Pushes

OnAnswer = Callable[[Fate], None]
"""Called once, with the answer."""

Request = Callable[[OnAnswer], None]
"""Something that takes its time; begun when everything before it is answered."""


@dataclass(slots=True)
class Work:
    """
    Consecutive frames that are answered together.

    @ivar route: route of the messages.
    @ivar messages: to be stored, in order; maybe none.
    @ivar groups: in place of C{messages} and C{route}: those of several routes, with their places
        among all messages of the work.
    @ivar gaps: answers known at once: (position among the frames, answer), ascending.
    @ivar tags: the tag that each answer repeats, one for each frame; C{None}: there are none.
    @ivar closes: whether the connection ends after these answers.
    @ivar stream: stream that the messages are numbered in, from C{first} on.
    @ivar refusal: why the messages are not to be stored; they use their numbers up.
    @ivar request: for a single frame that is not answered at once: the call that begins it.
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
    groups: Sequence[Group] = ()

    @property
    def count(self) -> int:
        """Number of frames, and so of answers."""
        grouped = sum([len(group.frames) for group in self.groups]) if self.groups else 0
        return len(self.messages) + grouped + len(self.gaps) + (self.request is not None)


class AnswerCounts(Protocol):
    """
    Counts of a peer's answers, kept by L{gateway.peers.output}.

    @ivar quiet: whether messages are not answered with C{+OK}.
    """

    quiet: bool

    def tally(self) -> tuple[int, int, int]:
        """
        Return the numbers of messages stored, refused and to be sent again since the last call.
        """


class RightsHolder(Protocol):
    """
    Sender of messages, as the plain dialects need it.

    @ivar rights: its rights now.
    """

    @property
    def rights(self) -> Rights: ...


class Peer(Protocol):
    """
    Connection, as its dialect needs it.

    @ivar peer_info: its address and its proved identity.
    @ivar rights: its rights now; L{gateway.access.rights.NOTHING} as long as it has to prove
        its identity first.
    @ivar answers: counts of its answers.
    """

    @property
    def peer_info(self) -> PeerInfo: ...

    @property
    def rights(self) -> Rights: ...

    @property
    def answers(self) -> AnswerCounts: ...

    def set_identity(self, peer_info: PeerInfo) -> Outcome | None:
        """
        Set the identity that the peer has proved. Nothing may be in flight.

        @return: the last answer, where this identity has no rights here.
        """

    def log_close(self, bye: Outcome) -> Outcome:
        """Log that the peer is told to go; return the outcome given."""

    def push(self, pushes: Pushes) -> bool:
        """Send pushes; return whether the peer may get more."""

    def close_with(self, outcome: Outcome) -> None:
        """Close the connection with an outcome, when everything in flight is answered."""

    def submit_unit(
        self, groups: Sequence[Group], settled: OnUnitSettled, key: str | None = None
    ) -> None:
        """
        Submit messages that are stored together or not at all, see L{gateway.model.unit}.

        @param groups: one or more.
        @param settled: called with the fates of all their messages, maybe before this returns. What
            comes behind the first one that is neither stored nor kept is not stored.
        """

    def acknowledge(self, payload: bytes, runs: Sequence[Run], since: float) -> None:
        """
        Send bytes in the protocol's own form, and count the answers that they give.

        @param since: when the frames of these messages were read, in seconds of the clock.
        """


class FrameReader(Protocol):
    """
    Reader of one peer's frames: turns them into work.
    """

    @property
    def route(self) -> str | None:
        """
        The route of all frames, where each is a message as it is and need not be read; C{None}
        where they have to be.
        """

    @property
    def kept_bytes(self) -> int:
        """About how many bytes of memory the reader keeps for its peer."""

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        """
        Turn frames into work.

        @param frames: one or more.
        @param oversize: whether L{OVERSIZE} may be among them.
        """

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        """
        Answer all frames with one outcome, without reading them.

        @param frames: one or more.
        """

    def rights_changed(self, peer: Peer) -> FrameReader:
        """
        Take notice that the peer's rights have changed.

        @return: the reader of its frames from here on.
        """

    def release(self) -> None:
        """Release what is kept: the peer is gone."""


class Dialect(Protocol):
    """
    Dialect of a listener: makes a reader for each peer.

    @ivar takes_commands: whether frames are commands, and not messages.
    @ivar routes: routes of messages that do not name theirs.
    @ivar acknowledges: whether it has an acknowledgement of its own, in place of our answers.
    """

    takes_commands: bool
    acknowledges: bool

    @property
    def routes(self) -> Sequence[str]: ...

    def reader(self, peer: Peer) -> FrameReader:
        """Make the reader of a new peer's frames."""


def turned_away(frames: Sequence[bytes], outcome: Outcome) -> Work:
    """Return work that answers all frames, which have no tags, with one outcome."""
    return Work("", gaps=[(position, outcome) for position in range(len(frames))])
