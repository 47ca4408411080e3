"""
Outbox of messages: not sent yet, in flight, to be sent again, settled.

They move in segments, parts of a parcel that are in the same state, so that a thousand messages
cost little more than one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from .answers import UNKNOWN, Answer, Garbled
from .buffer import Buffer
from .numbering import Numbering
from .parcel import Parcel, Segment, merged
from .retry_after import RetryAfter
from .wire import Wire

MAX_HELD_ANSWERS: Final = 256 * 1024 * 1024
"""Bytes of answers that wait for the others of their parcels."""


class Outbox:
    """
    Messages of a session that have no final answer yet.

    @ivar stream: their numbering; C{None} without a stream.
    @ivar unanswered: number of messages without a final answer.
    @ivar finished: parcels that got all their answers since the last L{noted}.
    """

    def __init__(
        self,
        buffer: Buffer,
        retry_after: RetryAfter,
        stream: str | None,
        window: int,
        resend: bool,
        plain: bool,
    ) -> None:
        """
        @param buffer: it is opened; messages in it are sent first.
        @raise ClientError: the buffer cannot be opened.
        """
        left = buffer.open(stream)
        self.stream = None if stream is None else Numbering(stream, buffer)
        self.finished: list[Parcel] = []
        self._buffer = buffer
        self._retry_after = retry_after
        self._window = window
        self._resend = resend
        self._plain = plain
        self._unsent = deque(Segment(one, one.count - one.left, one.count) for one in left)
        self._again: list[Segment] = []
        self._held = 0  # messages in it
        self._in_flight = 0
        self._touched = False
        self._answer_bytes = 0
        self.unanswered = sum(one.left for one in left)

    @property
    def refused_for_now(self) -> bool:
        """True if messages wait for their time to be sent again."""
        return bool(self._again) and (self.stream is None or not self._in_flight)

    def put(self, route: str, messages: Sequence[bytes]) -> Parcel:
        """
        Queue messages.

        @raise BufferFull: none is queued.
        """
        if not messages:
            parcel = Parcel(route, self._buffer.given, 0, 0, list)
            self.finished.append(parcel)
            return parcel
        parcel = self._buffer.add(route, messages)
        self._unsent.append(Segment(parcel, 0, parcel.count))
        self.unanswered += parcel.count
        return parcel

    def due(self) -> None:
        """Queue again what was answered -TRY; in a stream only once nothing is in flight."""
        if self._again and (self.stream is None or not self._in_flight):
            self._unsent.extendleft(reversed(merged(self._again)))
            self._again = []
            self._held = 0

    def fill(self, wire: Wire, pieces: list[bytes]) -> list[Segment]:
        """
        Send as many messages as the window allows.

        @param pieces: the bytes to write are appended to it.
        @return: segments that are in flight now.
        """
        sent: list[Segment] = []
        if self._again and self.stream is not None:
            return sent
        room = self._window - self._in_flight - self._held
        while room > 0 and self._unsent:
            segment = self._unsent[0]
            parcel, start = segment.parcel, segment.start
            count = min(room, segment.stop - start)
            if count == segment.stop - start:
                self._unsent.popleft()
            else:
                segment.start += count
                segment = Segment(parcel, start, start + count)
            room -= count
            messages = parcel.messages
            if count < parcel.count:
                messages = messages[start : start + count]
            head = b"" if self._plain else b"PUT %b " % parcel.route.encode()
            number = None
            if self.stream is not None:
                number = self.stream.sending(segment.ordinal, count)
            pieces.append(wire.put(head, number, messages))
            sent.append(segment)
            self._in_flight += count
        return sent

    def apply_answer(self, segment: Segment, count: int, answer: Answer, now: float) -> None:
        """
        Apply an answer to the first messages of a segment in flight.

        @raise Garbled: the answers to keep are too large.
        """
        if self._answer_bytes > MAX_HELD_ANSWERS:
            raise Garbled(
                f"answers of more than {MAX_HELD_ANSWERS:,} bytes to messages sent together"
            )
        parcel, start, stream = segment.parcel, segment.start, self.stream
        segment.start += count
        self._in_flight -= count
        # Behind a message to send again all others are sent again too, whatever their answers.
        in_order = stream is None or parcel.ordinal + start == stream.settled
        if answer.word != "-TRY" and in_order:
            self._retry_after.progress()
            self._settle(parcel, start, count, answer)
            return
        if answer.word == "-TRY":
            if stream is None or not self._again:
                self._retry_after.set_from(answer, now)
            if stream is not None and answer.code == "GAP" and answer.seq is not None:
                stream.resume(answer.seq)
        self._again.append(Segment(parcel, start, start + count))
        self._held += count

    def lost(self, flight: Iterable[Segment]) -> None:
        """Take the loss of the connection: messages in flight are sent again, or fail."""
        for segment in flight:
            if self._resend or self.stream is not None:
                self._again.append(segment)
            else:
                count = segment.stop - segment.start
                self._settle(segment.parcel, segment.start, count, UNKNOWN)
        self._in_flight = 0
        self.due()

    def taken_over(self) -> None:
        """Note that another client owns the stream."""
        if self.stream is not None:
            self.stream.taken_over()

    def noted(self) -> list[Parcel]:
        """
        Update the buffer, and return the finished parcels.
        """
        finished, self.finished = self.finished, []
        if self._touched:
            self._touched = False
            stream = self.stream
            self._buffer.save_progress(
                finished,
                0 if stream is None else stream.settled,
                0 if stream is None else stream.loose,
            )
        return finished

    def _settle(self, parcel: Parcel, start: int, count: int, answer: Answer) -> None:
        if self.stream is not None:
            self.stream.note_answer(count, answer)
        self.unanswered -= count
        self._touched = True
        self._answer_bytes += parcel.settle(start, count, answer)
        if not parcel.left:
            self._answer_bytes -= parcel.answer_bytes
            self.finished.append(parcel)
