"""
Work of a client: parcels of messages and commands; and pushes from the gateway.

A parcel holds the messages of one call. Its results are runs, (count, answer): a parcel of a
thousand messages that are all stored is one run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .answers import Answer, ClientError

Runs = list[tuple[int, Answer]]
"""Answers to messages in order: the number of messages in a row, and the answer to each."""


class Parcel:
    """
    Messages of one call.

    @ivar ordinal: number of messages ever given before the first of these.
    @ivar count: number of messages.
    @ivar size: bytes in the buffer.
    @ivar left: number of messages without a final answer.
    @ivar answer_bytes: bytes of the answers; those of a run are counted once.
    """

    __slots__ = (
        "_answers",
        "_load",
        "_messages",
        "answer_bytes",
        "count",
        "left",
        "ordinal",
        "route",
        "size",
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
        @param load: returns the messages when they are sent.
        """
        self.route = route
        self.ordinal = ordinal
        self.count = count
        self.size = size
        self.left = count
        self.answer_bytes = 0
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
        Set the final answer of some of the messages.

        @return: the bytes that it adds to C{answer_bytes}.
        """
        self.left -= count
        if self._answers:
            first, many, last_answer = self._answers[-1]
            if first + many == start and (last_answer is answer or last_answer == answer):
                self._answers[-1] = (first, many + count, last_answer)
                return 0
        self._answers.append((start, count, answer))
        self.answer_bytes += len(answer.raw)
        return len(answer.raw)

    def pass_over(self, count: int) -> None:
        """Skip the first messages, which were settled in an earlier process."""
        self.left -= count

    @property
    def runs(self) -> Runs:
        """Answers so far, in the order of the messages."""
        return [(count, answer) for _, count, answer in sorted(self._answers, key=_start)]


def _start(answer: tuple[int, int, Answer]) -> int:
    return answer[0]


class Segment:
    """
    Part of a parcel whose messages are in the same state.
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
        """Say whether this segment continues another one."""
        return other.parcel is self.parcel and other.stop == self.start


class Question:
    """
    Command that is no message, with its answer.

    @ivar answer: C{None} until it comes.
    @ivar complete: whether the answer has come with all its rows.
    @ivar rows: rows behind the answer C{*N}.
    @ivar channel: channel of a LISTEN.
    @ivar own: whether the session itself sent it.
    @ivar failure: error of an answer that cannot be parsed.
    @ivar dropped: whether nobody waits for the answer any more; then it is not sent again.
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
    def text(self) -> str:
        """Text behind +OK."""
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
    Parse a push; C{frame} begins at its C{>}.
    """
    channel, _, payload = frame[1:].decode("utf-8", "replace").partition(" ")
    return Push(payload, None) if channel == "!gap" else Push(channel, payload)


Event = Parcel | Question | Push
"""Event for the owner of a session: a settled parcel, an answered command, or a push."""


def merged(segments: list[Segment]) -> list[Segment]:
    """
    Sort segments and merge neighbours, so that repeated splits leave no small pieces.
    """
    segments_left: list[Segment] = []
    for segment in sorted(segments, key=lambda one: one.ordinal):
        if segments_left and segment.follows(segments_left[-1]):
            segments_left[-1].stop = segment.stop
        else:
            segments_left.append(segment)
    return segments_left
