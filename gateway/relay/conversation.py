"""
Conversation with the centre on one connection, without any I/O: frames out, answers in.

A request is one or more frames; the answers to all of them, in order, are its runs. What is owed is
a queue, so any number of requests may be under way. Answers are counted by chunks: a read of
nothing but C{+OK} is one comparison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from gateway.client.answers import OK, Answer, Garbled, parse
from gateway.client.wire import MAX_ANSWER, Wire, make_wire

Runs = list[tuple[int, Answer]]
"""Answers to frames in order: how many frames in a row, and the answer to each."""


class Request:
    """
    Frames that were sent together.

    @ivar left: frames that have no answer yet.
    @ivar runs: the answers so far.
    @ivar ended: called when all have their answer, or none will come any more.
    """

    __slots__ = ("ended", "left", "runs")

    def __init__(self, frames: int, ended: Callable[[Request], object]) -> None:
        self.left = frames
        self.runs: Runs = []
        self.ended = ended


class Farewell(Exception):
    """
    The centre said -BYE, and closes the connection.

    @ivar answer: its last words.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


class Conversation:
    """
    Requests and answers of one connection.

    @ivar owed: frames that have no answer yet.
    """

    def __init__(self, framing: str, delimiter: bytes | None = None) -> None:
        """
        @param framing: of the centre's listener.
        """
        self.owed = 0
        self._wire: Wire = make_wire(framing, delimiter)
        self._wire.most = MAX_ANSWER
        self._ok = self._wire.frame(b"+OK")
        self._requests: deque[Request] = deque()

    def command(self, payload: bytes, ended: Callable[[Request], object]) -> bytes:
        """
        Begin a request of one frame.

        @return: the bytes to write.
        """
        self._expect(Request(1, ended))
        return self._wire.frame(payload)

    def put(
        self,
        route: bytes,
        number: int,
        messages: Sequence[bytes],
        ended: Callable[[Request], object],
    ) -> bytes:
        """
        Begin a request of messages that are numbered from C{number} on.

        @param messages: one or more.
        @return: the bytes to write.
        """
        self._expect(Request(len(messages), ended))
        return self._wire.put(b"PUT %b " % route, number, messages)

    def _expect(self, request: Request) -> None:
        self.owed += request.left
        self._requests.append(request)

    def receive(self, data: bytes) -> None:
        """
        Take received bytes.

        @raise Garbled: the other end speaks no protocol of a gateway.
        @raise Farewell: it closes; what was answered before is applied.
        """
        count, rest = divmod(len(data), len(self._ok))
        if not rest and not self._wire.pending and data == self._ok * count:
            self._apply(count, OK)
            return
        frames = self._wire.receive(data)
        place, end = 0, len(frames)
        while place < end:
            start, frame = place, frames[place]
            while place < end and frames[place] == frame:
                place += 1
            answer = parse(frame)
            if answer.word == "-BYE":
                raise Farewell(answer)
            self._apply(place - start, answer)

    def lost(self) -> None:
        """End all requests: no more answers will come."""
        requests, self._requests = self._requests, deque()
        self.owed = 0
        for request in requests:
            request.ended(request)

    def _apply(self, count: int, answer: Answer) -> None:
        while count:
            if not self._requests:
                raise Garbled(f"an answer, and nothing was asked: {str(answer)[:100]!r}")
            request = self._requests[0]
            many = min(count, request.left)
            count -= many
            request.left -= many
            self.owed -= many
            runs = request.runs
            if runs and runs[-1][1] is answer:
                runs[-1] = (runs[-1][0] + many, answer)
            else:
                runs.append((many, answer))
            if not request.left:
                self._requests.popleft()
                request.ended(request)
