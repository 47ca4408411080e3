"""
The whole logic of a client, without any I/O: what to write, and what answers mean.

The owner tells it of connections (L{Session.connected}, L{Session.lost}) and of bytes
(L{Session.receive}), writes what L{Session.output} gives, comes again after
L{Session.wait} seconds, and takes what is done with L{Session.take}. The clock is a
number of seconds that the owner hands in.

In a stream messages have numbers and are settled in their order. What has no answer when
a connection is lost is sent again under its old number, from the first one on: C{+DUP} (or
the C{-REJ} it got) then tells its fate. After C{-TRY} nothing is sent until all that is in
flight is answered; then all goes again from there. Without a stream only what was
answered C{-TRY} is sent again, so that it may be overtaken.

Chunks, not messages: answers are counted, a read of nothing but C{+OK} is one comparison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from .answers import (
    OK,
    UNKNOWN,
    Answer,
    ClientError,
    Garbled,
    Refused,
    StreamLost,
    StreamTaken,
    Unsendable,
    parse,
)
from .asking import Asking
from .buffer import Buffer
from .numbering import Numbering
from .parcel import Event, Parcel, Push, Question, Segment, merged
from .wire import WIRES, Wire

_AWAY, _HELLO, _OPEN, _LEAVING = range(4)

MAX_WORD: Final = 128
"""Longest name of a stream, a route or a channel, in bytes."""


def backoff(
    jitter: Callable[[], float], first: float = 0.1, most: float = 30.0
) -> Callable[[int], float]:
    """
    @param jitter: from 0 to 1; two clients that lost one gateway must not come back together.
    @param first: seconds before the first try, at most.
    @param most: seconds before any try, at most.
    @return: how many seconds to wait before the nth try in a row.
    """

    def seconds(attempt: int) -> float:
        return min(most, first * 2.0 ** min(attempt - 1, 30)) * (0.5 + jitter() / 2)

    return seconds


class Session:
    """
    One client's conversation, over however many connections.

    @ivar failure: why it ended for good; nothing is sent any more.
    @ivar goodbye: the last -BYE.
    """

    def __init__(
        self,
        buffer: Buffer,
        retry: Callable[[int], float],
        *,
        dialect: str = "command",
        framing: str = "line",
        stream: str | None = None,
        window: int = 1000,
        resend: bool = True,
        takeover: str = "stop",
    ) -> None:
        """
        @param buffer: is opened, and what it holds is to be sent first.
        @param retry: seconds before the nth try in a row of what is answered -TRY.
        @raise ValueError: naming the parameter that does not fit.
        @raise ClientError: of the buffer.
        """
        if dialect not in ("command", "plain"):
            raise ValueError(f"dialect is command or plain, not {dialect!r}")
        if framing not in WIRES:
            raise ValueError(f"framing is one of {', '.join(WIRES)}, not {framing!r}")
        if takeover not in ("stop", "retry"):
            raise ValueError(f"takeover is stop or retry, not {takeover!r}")
        if window < 1:
            raise ValueError(f"window is at least 1, not {window}")
        if stream is not None:
            check_word("stream", stream)
            if dialect == "plain":
                raise ValueError("a stream needs the command dialect, which numbers messages")
        self.failure: ClientError | None = None
        self.goodbye: Answer | None = None
        self._plain = dialect == "plain"
        self._framing = framing
        self._window = window
        self._resend = resend or stream is not None
        self._takeover = takeover
        self._buffer = buffer
        self._retry = retry
        self._events: list[Event] = []
        self._touched: list[Parcel] = []
        self._asking = Asking()
        self._unsent: deque[Segment] = deque()
        self._flight: deque[Segment | Question] = deque()
        self._in_flight = 0  # messages in it
        self._again: list[Segment] = []
        self._held = 0  # messages in it
        self._due = 0.0
        self._tries = 0
        self._understood = False
        self._heads: dict[str, bytes] = {}
        self._disconnect()
        for parcel in buffer.open(stream):
            self._unsent.append(Segment(parcel, parcel.count - parcel.left, parcel.count))
        self._unanswered = sum(one.stop - one.start for one in self._unsent)
        self._stream = None if stream is None else Numbering(stream, buffer, bool(self._unsent))

    def _disconnect(self) -> None:
        self._state = _AWAY
        self._wire: Wire = WIRES[self._framing]()
        self._ok = self._wire.frame(b"+OK")
        # A question whose rows are coming, and how many are missing.
        self._rows: tuple[Question, int] | None = None

    @property
    def unanswered(self) -> int:
        """Messages that have no final answer."""
        return self._unanswered

    @property
    def ready(self) -> bool:
        """Whether messages can be sent: connected, and the stream is ours."""
        return self._state == _OPEN

    @property
    def leaving(self) -> bool:
        """Whether this connection is of no more use."""
        return self._state == _LEAVING or self.failure is not None

    @property
    def waiting(self) -> bool:
        """Whether the gateway owes an answer."""
        return bool(self._flight)

    def put(self, route: str, messages: Sequence[bytes]) -> Parcel:
        """
        Take messages to be sent.

        @raise BufferFull: there is no room; none is taken.
        @raise Unsendable: one of them cannot be said; none is taken.
        """
        if self.failure is not None:
            raise self.failure
        if not self._plain:
            self._head(route)
        self._wire.check(messages, self._plain)
        parcel = self._buffer.add(route, messages)
        if parcel.count:
            self._unsent.append(Segment(parcel, 0, parcel.count))
            self._unanswered += parcel.count
        else:
            self._events.append(parcel)
        return parcel

    def ask(self, payload: bytes) -> Question:
        """
        Take a command to be said; it does not wait for messages that are not sent yet.
        """
        self._check_commands(payload)
        question = Question(payload)
        self._asking.add(question)
        return question

    def listen(self, channel: str) -> Question:
        """Listen on this connection and on every one to come."""
        check_word("channel", channel)
        self._check_commands(b"")
        return self._asking.listen(channel)

    def unlisten(self, channel: str) -> Question:
        """Listen no longer."""
        check_word("channel", channel)
        self._check_commands(b"")
        return self._asking.unlisten(channel)

    def _check_commands(self, payload: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        if self._plain:
            raise Unsendable("a plain listener takes messages only: use one of the command dialect")
        self._wire.check([payload], False)

    def connected(self) -> None:
        """A connection is there."""
        self._disconnect()
        if self._stream is None:
            self._open()
        else:
            self._state = _HELLO
            self._asking.first(Question(b"HELLO " + self._stream.stream.encode(), own=True))

    def lost(self) -> None:
        """The connection is gone."""
        questions = [] if self._rows is None else [self._rows[0]]
        for entry in self._flight:
            if isinstance(entry, Question):
                questions.append(entry)
            elif self._resend:
                self._again.append(entry)
            else:
                self._finish(entry.parcel, entry.start, entry.stop - entry.start, UNKNOWN)
        self._flight.clear()
        self._in_flight = 0
        self._asking.lost(questions)
        self._rewind()
        self._disconnect()
        self._note()

    def take(self) -> list[Event]:
        """
        @return: what has come and what is done since the last time.
        """
        events, self._events = self._events, []
        return events

    def wait(self, now: float) -> float | None:
        """
        @return: seconds after which L{output} has more to say; C{None}: not by time alone.
        """
        if self.leaving or self._state == _AWAY:
            return None
        if not self._asking.refused_for_now and (
            not self._again or (self._stream is not None and self._in_flight)
        ):
            return None
        return max(0.0, self._due - now)

    def output(self, now: float) -> bytes:
        """
        @return: what is to be written now.
        """
        if self.leaving or self._state == _AWAY:
            return b""
        pieces: list[bytes] = []
        if now >= self._due:
            self._asking.due()
            if self._stream is None or not self._in_flight:
                self._rewind()
        for question in self._asking.take(only_own=self._state != _OPEN):
            self._flight.append(question)
            pieces.append(self._wire.frame(question.payload))
        if self._state == _OPEN and (self._stream is None or not self._again):
            self._fill(pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fill(self, pieces: list[bytes]) -> None:
        """Messages, as many as the window takes."""
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
            head = b"" if self._plain else self._head(parcel.route)
            number = self._stream and self._stream.sending(segment.ordinal, count)
            pieces.append(self._wire.put(head, number, messages))
            self._flight.append(segment)
            self._in_flight += count

    def receive(self, data: bytes, now: float) -> None:
        """
        Bytes have come.

        @raise ClientError: this connection is of no use; it is to be closed and L{lost}.
        """
        if self.leaving:
            return
        count, rest = divmod(len(data), len(self._ok))
        try:
            if (
                rest == 0
                and self._rows is None
                and not self._wire.pending
                and data == self._ok * count
            ):
                self._apply(count, OK, now)
                self._understood = True
            else:
                self._read(self._wire.receive(data), now)
        except Garbled as error:
            # Who never understood a word is at the wrong door, and trying again does not help.
            if not self._understood:
                self.failure = error
            raise
        except StreamLost as error:
            self.failure = error
            raise
        finally:
            self._note()

    def _read(self, frames: list[bytes], now: float) -> None:
        place, end = 0, len(frames)
        while place < end:
            if self._rows is not None:
                question, missing = self._rows
                rows = frames[place : place + missing]
                question.rows += rows
                place += len(rows)
                self._rows = (question, missing - len(rows)) if missing > len(rows) else None
                if self._rows is None:
                    self._events.append(question)
                continue
            start, frame = place, frames[place]
            while place < end and frames[place] == frame:
                place += 1
            first = b"" if self._plain else frame[:1]
            if first == b">":
                self._events += [_push(frame)] * (place - start)
            elif first == b"*":
                place = start + 1
                self._listing(frame[1:])
            else:
                answer = parse(frame)
                if answer.word == "-BYE":
                    self._goodbye(answer)
                    return
                self._apply(place - start, answer, now)
                self._understood = True

    def _apply(self, count: int, answer: Answer, now: float) -> None:
        """So many equal answers, to whatever is first in flight."""
        while count:
            if not self._flight:
                raise Garbled(f"more answers than questions: {str(answer)[:100]!r}")
            entry = self._flight[0]
            if isinstance(entry, Question):
                self._flight.popleft()
                count -= 1
                self._answered(entry, answer, now)
                continue
            many = min(count, entry.stop - entry.start)
            start = entry.start
            entry.start += many
            if entry.start == entry.stop:
                self._flight.popleft()
            self._in_flight -= many
            count -= many
            self._judge(entry.parcel, start, many, answer, now)

    def _judge(self, parcel: Parcel, start: int, count: int, answer: Answer, now: float) -> None:
        """What became of messages."""
        stream = self._stream
        # Behind one that is to be sent again all are sent again, whatever was said of them.
        in_order = stream is None or parcel.ordinal + start == stream.settled
        if answer.word != "-TRY" and in_order:
            self._tries = 0
            self._finish(parcel, start, count, answer)
            return
        if answer.word == "-TRY":
            if stream is None or not self._again:
                self._later(answer, now)
            if stream is not None and answer.code == "GAP" and answer.seq is not None:
                stream.resume(answer.seq)
        self._again.append(Segment(parcel, start, start + count))
        self._held += count

    def _finish(self, parcel: Parcel, start: int, count: int, answer: Answer) -> None:
        if self._stream is not None:
            self._stream.settle(count, answer)
        self._unanswered -= count
        parcel.settle(start, count, answer)
        self._touched.append(parcel)
        if not parcel.left:
            self._events.append(parcel)

    def _note(self) -> None:
        """Tell the buffer what is done."""
        if self._touched:
            done = {id(parcel): parcel for parcel in self._touched if not parcel.left}
            self._touched = []
            stream = self._stream
            self._buffer.note(
                list(done.values()), stream.settled if stream else 0, stream.loose if stream else 0
            )

    def _later(self, answer: Answer, now: float) -> None:
        """When what was answered -TRY is to be sent again."""
        if now < self._due:
            return
        self._tries += 1
        wait = self._retry(self._tries)
        if answer.retry is not None:
            wait = max(wait, answer.retry)
        elif answer.code == "GAP" and self._tries == 1:
            wait = 0.0  # it is for us to go on
        self._due = now + wait

    def _rewind(self) -> None:
        if self._again:
            self._unsent.extendleft(reversed(merged(self._again)))
            self._again = []
            self._held = 0

    def _answered(self, question: Question, answer: Answer, now: float) -> None:
        if answer.word == "-TRY":
            self._later(answer, now)
            self._asking.later(question)
            return
        self._tries = 0
        question.answer = answer
        if not question.own:
            self._events.append(question)
        elif question.channel is None:
            self._greeted(question, answer)
        elif answer.kept:
            self._events.append(Push(question.channel, None))
        else:
            self._events.append(question)

    def _greeted(self, hello: Question, answer: Answer) -> None:
        if not answer.kept or answer.seq is None:
            self.failure = Refused(answer, hello.payload)
            return
        assert self._stream is not None
        self._stream.greeted(answer.seq)
        self._open()

    def _open(self) -> None:
        self._state = _OPEN
        self._asking.opened()

    def _listing(self, digits: bytes) -> None:
        question = self._flight.popleft() if self._flight else None
        if not isinstance(question, Question) or not digits.isdigit():
            raise Garbled(f"rows that nobody asked for: {b'*' + digits[:100]!r}")
        self._tries = 0
        question.answer = OK
        if int(digits):
            self._rows = (question, int(digits))
        else:
            self._events.append(question)

    def _goodbye(self, answer: Answer) -> None:
        self.goodbye = answer
        was, self._state = self._state, _LEAVING
        if answer.code == "FORMAT":
            self._unframed(answer)
        elif answer.code == "BUSY" and self._stream is not None and was == _OPEN:
            if self._takeover == "stop":
                self.failure = StreamTaken(
                    f"stream {self._stream.stream}: another client has taken it ({answer})"
                )

    def _unframed(self, answer: Answer) -> None:
        """Everything before the frame at fault is answered, so it is the first one in flight."""
        if not self._understood or not self._flight:
            self.failure = Garbled(
                f"{answer} (is the listener's framing {self._framing}? or the message too long?)"
            )
            return
        refusal = Answer("-REJ", "TOOBIG", {}, answer.text, answer.raw)
        entry = self._flight[0]
        if isinstance(entry, Segment) and self._again and self._stream is not None:
            return  # it is sent again, behind others, and fails again then
        self._apply(1, refusal, 0.0)

    def _head(self, route: str) -> bytes:
        head = self._heads.get(route)
        if head is None:
            check_word("route", route)
            head = self._heads[route] = b"PUT %b " % route.encode()
        return head


def _push(frame: bytes) -> Push:
    channel, _, payload = frame[1:].decode("utf-8", "replace").partition(" ")
    return Push(payload, None) if channel == "!gap" else Push(channel, payload)


def check_word(what: str, word: str) -> None:
    """
    @raise ValueError: no word of a command: empty, too long, with spaces or control characters.
    """
    size = len(word.encode("utf-8", "replace"))
    if not word.isprintable() or any(map(str.isspace, word)) or not 0 < size <= MAX_WORD:
        raise ValueError(f"a {what} is 1 to {MAX_WORD} bytes without spaces, not {word!r}")
