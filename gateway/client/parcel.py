"""
What a client has to do: parcels of messages, questions; and what it hears of its own accord.

A parcel is what one call gave to be sent. Its results are runs, (how many, answer): a
parcel of a thousand messages that are all stored is one run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .answers import Answer, ClientError

Runs = list[tuple[int, Answer]]
"""So many messages in a row, and what was said of each."""


class Parcel:
    """
    Messages that were given together.

    @ivar route: where they go.
    @ivar ordinal: how many messages were given before the first of these, ever.
    @ivar count: how many they are.
    @ivar size: bytes they take of the buffer.
    @ivar left: how many have no final answer yet.
    @ivar told: bytes of the answers, each of a run counted once.
    """

    __slots__ = (
        "_answers",
        "_load",
        "_messages",
        "count",
        "left",
        "ordinal",
        "route",
        "size",
        "told",
    )

    def __init__(
        self,
        route: str,
        ordinal: int,
        count: int,
        size: int,
        load: Callable[[], Sequence[bytes]],
    ) -> None:
        """
        @param load: gives the messages when they are to be sent.
        """
        self.route = route
        self.ordinal = ordinal
        self.count = count
        self.size = size
        self.left = count
        self.told = 0
        self._load = load
        self._messages: Sequence[bytes] | None = None
        self._answers: list[tuple[int, int, Answer]] = []

    @property
    def messages(self) -> Sequence[bytes]:
        if self._messages is None:
            self._messages = self._load()
        return self._messages

    def settle(self, start: int, count: int, answer: Answer) -> int:
        """
        A final answer for some of the messages.

        @return: bytes that it takes.
        """
        self.left -= count
        if self._answers:
            first, many, said = self._answers[-1]
            if first + many == start and (said is answer or said == answer):
                self._answers[-1] = (first, many + count, said)
                return 0
        self._answers.append((start, count, answer))
        self.told += len(answer.raw)
        return len(answer.raw)

    def pass_over(self, count: int) -> None:
        """The first ones were settled in an earlier life of this client; nobody waits for them."""
        self.left -= count

    @property
    def runs(self) -> Runs:
        """The answers so far, in the order of the messages."""
        return [(count, answer) for _, count, answer in sorted(self._answers, key=_start)]


def _start(answer: tuple[int, int, Answer]) -> int:
    return answer[0]


class Segment:
    """
    Some messages of a parcel that are at one stage of their way.
    """

    __slots__ = ("parcel", "start", "stop")

    def __init__(self, parcel: Parcel, start: int, stop: int) -> None:
        self.parcel = parcel
        self.start = start
        self.stop = stop

    @property
    def ordinal(self) -> int:
        return self.parcel.ordinal + self.start

    def follows(self, other: Segment) -> bool:
        """Whether both can be one."""
        return other.parcel is self.parcel and other.stop == self.start


class Question:
    """
    A command that is no message.

    @ivar answer: C{None} until it is answered.
    @ivar complete: whether the answer is all there, its rows included.
    @ivar rows: what came behind the answer C{*N}.
    @ivar channel: which one it begins to listen to.
    @ivar own: asked by the session itself, not by its owner.
    @ivar failure: what is wrong with the answer, where that makes no sense.
    @ivar dropped: nobody waits for the answer any more; not asked again.
    """

    __slots__ = ("answer", "channel", "complete", "dropped", "failure", "own", "payload", "rows")

    def __init__(self, payload: bytes, channel: str | None = None, own: bool = False) -> None:
        self.payload = payload
        self.channel = channel
        self.own = own
        self.dropped = False
        self.failure: ClientError | None = None
        self.rows: list[bytes] = []
        self.answer: Answer | None = None
        self.complete = False

    @property
    def is_call(self) -> bool:
        """True for a query, whose answer has rows."""
        return self.payload.startswith(b"CALL ")

    @property
    def said(self) -> str:
        """What stands behind +OK."""
        return "" if self.answer is None else str(self.answer).partition(" ")[2]


@dataclass(frozen=True, slots=True)
class Push:
    """
    Push from a channel.

    @ivar payload: C{None}: some may have been missed.
    """

    channel: str
    payload: str | None


def push(frame: bytes) -> Push:
    """
    @param frame: from its C{>} on.
    """
    channel, _, payload = frame[1:].decode("utf-8", "replace").partition(" ")
    return Push(payload, None) if channel == "!gap" else Push(channel, payload)


Event = Parcel | Question | Push
"""What is done, or has come."""


def merged(segments: list[Segment]) -> list[Segment]:
    """
    In order, with neighbours put together: what was cut many times does not stay in pieces.
    """
    found: list[Segment] = []
    for segment in sorted(segments, key=lambda one: one.ordinal):
        if found and segment.follows(found[-1]):
            found[-1].stop = segment.stop
        else:
            found.append(segment)
    return found
