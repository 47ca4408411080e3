"""
Output to a peer: answers in the order of its frames, and the way of their bytes to the kernel.

Strategy: one slot for each piece of work, settled in any order and answered in
that of the frames: a slot's bytes are due when it and all before it are settled.
A slot holds runs of equal outcomes, so a thousand stored messages are one
multiplication, and everything due at once is one string of bytes.

That is written directly to the kernel, and by the transport only what does not fit.
Twisted's transports write in the reactor's next round, at two more system calls
(the socket is added to the poll set and taken out again). For a small answer that
is most of its cost. A protocol that writes directly must have registered as a pull
producer, and after a write that did not take all must use the transport until
C{resumeProducing} is called; otherwise bytes overtake bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat, zip_longest
from socket import socket
from typing import TYPE_CHECKING

from gateway.dialects.base import Work
from gateway.metrics.counters import ListenerCounters
from gateway.model.outcome import (
    SILENT,
    STORED,
    Acknowledged,
    Outcome,
    Run,
    Word,
    Words,
    merge,
)
from gateway.model.stream import Stream
from gateway.wire.framing import Framing

if TYPE_CHECKING:
    from gateway.system.transport import Transport


class Slot:
    """
    Place in the queue for the answers of one piece of work.

    @ivar runs: fates of its messages in order, C{None} until they are settled.
    @ivar stream: stream that they are numbered in, submitted in its C{series}.
    @ivar is_request: whether it is a request, and not messages.
    @ivar route: of the messages.
    @ivar plain: whether it is of messages alone, without numbers and tags.
    @ivar since: when its frames were read.
    """

    __slots__ = (
        "count",
        "gaps",
        "is_request",
        "plain",
        "route",
        "runs",
        "series",
        "since",
        "stream",
        "tags",
    )

    count: int
    gaps: list[tuple[int, Outcome]]
    route: str
    tags: list[bytes] | None
    runs: Sequence[Run] | None
    stream: Stream | None
    series: int
    is_request: bool
    plain: bool
    since: float


class AnswerQueue:
    """
    Queue of one peer's answers.

    @ivar unanswered: frames whose answers are not due yet.
    @ivar quiet: whether messages are not answered with C{+OK}.
    @ivar last_read: when the last frame was read, in seconds; C{None}: none was.
    @ivar ended: whether C{-BYE} was among what was due; nothing is due after it.
    """

    __slots__ = (
        *("_counters", "_framing", "_seconds", "_slots", "_tally", "_worded", "_words"),
        *("ended", "last_read", "quiet", "unanswered"),
    )

    def __init__(
        self,
        framing: Framing,
        words: Words,
        counters: ListenerCounters,
        seconds: Callable[[], float],
    ) -> None:
        """
        @param framing: answers are framed as the peer's frames are.
        @param counters: count the answers.
        @param seconds: a clock that never goes back.
        """
        self.unanswered = 0
        self.ended = False
        self.last_read: float | None = None
        self.quiet = False
        self._tally: list[int] | None = None
        # Whether a stored message is answered by more, or by something else, than +OK.
        self._worded = words.ack is not None
        self._framing = framing
        self._words = words
        self._counters = counters
        self._seconds = seconds
        self._slots: deque[Slot] = deque()

    @property
    def owes_answers(self) -> bool:
        """Whether any work has no answer yet."""
        return bool(self._slots)

    def expect(self, route: str, count: int) -> Slot:
        """
        Append a slot for the answers of messages that are not read by a dialect.

        @return: as of L{add_slot}.
        """
        slot = Slot()
        slot.plain = True
        slot.count = count
        slot.gaps = []
        slot.route = route
        slot.tags = slot.stream = slot.runs = None
        slot.since = self.last_read = self._seconds()
        slot.is_request = False
        self._slots.append(slot)
        self.unanswered += count
        return slot

    def add_slot(self, work: Work) -> Slot:
        """
        Append a slot for the answers of some work.

        @return: the slot, whose C{runs} the caller sets when the messages are settled; work
            without messages is settled at once.
        """
        # Filled in here and not by a constructor: a call for each chunk less.
        slot = Slot()
        slot.plain = False
        slot.count = work.count
        slot.gaps = work.gaps
        slot.route = work.route
        slot.tags = work.tags
        slot.stream = work.stream
        if work.stream is not None:
            slot.series = work.stream.series
        slot.is_request = work.request is not None
        slot.since = self.last_read = self._seconds()
        slot.runs = None if work.messages or work.groups or slot.is_request else []
        self._slots.append(slot)
        self.unanswered += slot.count
        return slot

    def next_is(self, slot: Slot) -> bool:
        """Say whether everything before this slot is answered."""
        return bool(self._slots) and self._slots[0] is slot

    def tally(self) -> tuple[int, int, int]:
        """
        Return the numbers of messages stored, refused, and to be sent again since the last call.

        Nothing is counted before the first call.
        """
        kept, rejected, again = self._tally or (0, 0, 0)
        self._tally = [0, 0, 0]
        self._worded = True
        return kept, rejected, again

    def count(self, runs: Sequence[Run], since: float) -> None:
        """
        Count answers that were given in another way.

        @param since: when their frames were read, in seconds.
        """
        seconds = self._seconds() - since
        for count, fate in runs:
            self._counters.answered(count, fate, seconds)

    def say_protocol_words(self) -> None:
        """Use the protocol's words from now on, whatever words the listener has."""
        self._words = Words()
        self._worded = self._tally is not None

    def drop_slots(self) -> None:
        """Drop all slots: the peer is gone."""
        self._slots.clear()

    def take_due(self) -> bytes:
        """Take out all answers that may be given now, as bytes."""
        slots = self._slots
        if self.ended:
            slots.clear()
        if not slots or slots[0].runs is None:
            return b""
        due: list[bytes] = []
        counters, now = self._counters, self._seconds()
        while slots and (runs := slots[0].runs) is not None:
            slot = slots.popleft()
            self.unanswered -= slot.count
            if slot.plain and len(runs) == 1 and runs[0][1] is STORED and not self._worded:
                # Nearly every answer there is; counted here, at a call for each chunk less.
                due.append(self._framing.frame(b"+OK") * slot.count)
                counters.stored += slot.count
                histogram, seconds = counters.answer_seconds, now - slot.since
                histogram.counts[bisect_left(histogram.bounds, seconds)] += slot.count
                histogram.total += seconds * slot.count
                continue
            if slot.stream is not None:
                runs = slot.stream.answers_due(slot.series, runs)
            if self._tally is not None:
                runs = self._counted(slot, runs, self._tally)
            if slot.gaps:
                runs = merge(runs, slot.gaps)
            position = 0
            for count, fate in runs:
                if isinstance(fate, Acknowledged):
                    self.ended = fate.closes
                    continue  # it was counted when it was said
                if fate.word is Word.BYE:
                    # -BYE is sent once, whatever frames come after it.
                    count = 1
                    self.ended = True
                counters.answered(count, fate, now - slot.since)
                payload = self._words.payload(fate)
                if payload is None:
                    pass  # this listener does not answer it
                elif (slot.tags is None or self.ended) and isinstance(payload, bytes):
                    # -BYE answers no frame, and has no tag.
                    due.append(self._framing.frame(payload) * count)
                else:
                    payloads = repeat(payload, count) if isinstance(payload, bytes) else payload
                    tags = slot.tags or ()
                    for tag, answer in zip_longest(tags[position : position + count], payloads):
                        tagged = b"%s %s" % (tag, answer) if tag else answer
                        due.append(self._framing.frame(tagged))
                if self.ended:
                    slots.clear()
                    break
                position += count
        return b"".join(due)

    def _counted(self, slot: Slot, runs: Sequence[Run], tally: list[int]) -> Sequence[Run]:
        """Count the answers of a slot; return its runs without C{+OK} where the peer wants none."""
        for count, fate in runs:
            if fate.word is Word.REJ:
                tally[1] += count
            elif fate.word is Word.TRY:
                tally[2] += count
            elif not slot.is_request or fate.word is Word.DUP:
                tally[0] += count
        for _, outcome in slot.gaps:
            if outcome.word is Word.REJ:
                tally[1] += 1
            elif outcome.word is Word.TRY:
                tally[2] += 1
            elif outcome.word is Word.DUP:
                tally[0] += 1
        if self.quiet and not slot.is_request:
            return [(n, SILENT if fate.word is Word.OK else fate) for n, fate in runs]
        return runs


def send_now(connection: socket, data: bytes) -> int:
    """
    Send bytes to the kernel at once; return how many it took.

    0 where it has no room or the connection is gone, which the transport will find out.

    @param connection: not blocking, connected.
    """
    try:
        return connection.send(data)
    except OSError:
        return 0


class Output:
    """
    Output of one peer.

    @ivar carrier: the socket below, under TLS too; C{None} where there is none.
    @ivar direct: whether writes go to the kernel first. The protocol then has to be the
        transport's pull producer, see the module.
    @ivar blocked: whether bytes wait for the peer to read them, until L{note_written}.
    @ivar waiting: how many bytes at most.
    """

    __slots__ = ("_pushed", "_transport", "blocked", "carrier", "direct", "waiting")

    def __init__(self, transport: Transport, carrier: socket | None, direct: bool) -> None:
        self._transport = transport
        self.blocked = False
        self.waiting = 0
        self._pushed = 0
        self.carrier = carrier
        self.direct = direct

    def write(self, data: bytes) -> int:
        """Write bytes; return how many of them wait now."""
        if self.direct and not self.blocked:
            assert self.carrier is not None
            data = data[send_now(self.carrier, data) :]
            if not data:
                return 0
            # The peer takes its answers more slowly than it sends.
            self.blocked = True
        self._transport.write(data)
        if not self.blocked:
            return 0
        self.waiting += len(data)
        return len(data)

    def push(self, data: bytes, most: int) -> bool:
        """
        Write a push, which is no answer.

        @param most: bytes of pushes that may wait.
        @return: whether there was room for it.
        """
        if self.blocked and self._pushed + len(data) > most:
            return False
        self._pushed += self.write(data)
        return True

    def note_written(self) -> None:
        """Note that nothing waits any more."""
        self.blocked = False
        self.waiting = 0
        self._pushed = 0
