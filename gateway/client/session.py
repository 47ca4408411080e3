"""
Logic of a client without any I/O: what to write, and what answers mean.

The owner reports connections (L{Session.connected}, L{Session.lost}) and bytes
(L{Session.receive}), writes what L{Session.output} returns, calls it again after L{Session.wait}
seconds, and takes results from L{Session.take_events}. The clock is a number of seconds that the
owner passes in.

In a stream messages have numbers and are settled in their order. Messages without an answer on a
lost connection are sent again under their old numbers, from the first one on: C{+DUP} (or the
C{-REJ} it got) then gives their fate. After C{-TRY} nothing is sent until all that is in flight is
answered; then everything from there on is sent again. Without a stream only the messages answered
C{-TRY} are sent again, so later ones may overtake them.

A connection begins with a PING (L{gateway.client.probe}): nothing else is sent before its answer.

If HELLO is answered C{-TRY}, the gateway cannot open the stream yet, for example while another
gateway's spool holds messages that were answered to this client. HELLO is sent again until it
succeeds, and everything else waits.

Chunks, not messages: answers are counted; a read of nothing but C{+OK} is one comparison.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from .answers import (
    OK,
    Answer,
    ClientError,
    Garbled,
    NotAllowed,
    StreamLost,
    StreamTaken,
    Unsendable,
    WrongListener,
    parse,
)
from .buffer import Buffer
from .greeting import Greeting, again, judged
from .outbox import Outbox
from .parcel import Event, Parcel, Push, Question, Segment, push
from .probe import (
    BEGINNING,
    MAX_PROBE_ANSWER,
    NONCE,
    is_probe,
    mute,
    sent_away,
    stranger,
    takes_commands,
)
from .requests import Params, Requests, call
from .retry_after import RetryAfter
from .wire import BOM, MAX_ANSWER, WIRES, Wire, check_delimiter, check_word, make_wire

_AWAY, _GREETING, _OPEN, _LEAVING = range(4)

NONSENSE: Final = 5
"""Connections in a row that ended in nonsense, without one good answer, after which it is over."""

MAX_ANSWER_ROWS: Final = 1_000_000
"""Rows of an answer; no gateway's C{max_rows} is larger."""

MAX_DIGITS: Final = 7
"""Digits of that number; Python refuses to read one of thousands."""

MAX_ROWS_SIZE: Final = 256 * 1024 * 1024
"""Bytes of an answer's rows; no gateway's C{max_bytes} is larger."""


class Session:
    """
    Session of one client, over any number of connections.

    @ivar failure: why it ended for good; nothing is sent any more.
    @ivar goodbye: the last -BYE.
    @ivar put_off: last -TRY to a command of this connection's greeting, until it is accepted: why
        nothing is sent.
    @ivar window: most messages in flight.
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
        token: str | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_hex(NONCE // 2),
        asked_route: str | None = None,
        delimiter: bytes | str | None = None,
    ) -> None:
        """
        @param buffer: keeps the messages; see L{open}.
        @param retry: attempt -> seconds to wait before sending again what was answered -TRY.
        @param nonce: returns a new word for the PING of each connection.
        @raise ValueError: with the name of the parameter at fault.
        """
        if dialect not in ("command", "plain"):
            raise ValueError(f"dialect is command or plain, not {dialect!r}")
        if framing not in WIRES:
            raise ValueError(f"framing is one of {', '.join(WIRES)}, not {framing!r}")
        delimiter = check_delimiter(framing, dialect, delimiter)
        if takeover not in ("stop", "retry"):
            raise ValueError(f"takeover is stop or retry, not {takeover!r}")
        if window < 1:
            raise ValueError(f"window is at least 1, not {window}")
        plain = dialect == "plain"
        self._greeting = Greeting(token, stream, plain, framing, nonce, asked_route)
        self.failure: ClientError | None = None
        self.goodbye: Answer | None = None
        self._buffer = buffer
        self._plain = plain
        self._framing = framing
        self._delimiter = delimiter
        self._stream = stream
        self.window = window
        self._resend = resend
        self._takeover = takeover
        self._events: list[Event] = []
        self._retry_after = RetryAfter(retry)
        self._asking = Requests()
        self._outbox: Outbox | None = None
        self._flight: deque[Segment | Question] = deque()
        self._understood = False
        self._nonsense = 0
        self._routes: set[str] = set()
        self._disconnect()

    def _disconnect(self) -> None:
        self._state = _AWAY
        self.put_off: Answer | None = None
        self._wire: Wire = make_wire(self._framing, self._delimiter)
        self._ok = self._wire.frame(b"+OK")
        self._sent_nothing = True
        # A question whose rows are coming, and how many are missing.
        self._rows: tuple[Question, int] | None = None
        # What has come before the first answer of this connection; None: there was one.
        self._beginning: bytes | None = b""
        self._listens = False
        self._size = 0  # of the rows that have come

    def open(self) -> Outbox:
        """
        Open the buffer, unless it is open; messages in it are sent first.

        @raise ClientError: the buffer cannot be opened.
        """
        if self._outbox is None:
            self._outbox = Outbox(
                self._buffer,
                self._retry_after,
                self._stream,
                self.window,
                self._resend,
                self._plain,
            )
        return self._outbox

    def close(self) -> None:
        """Close the buffer, and drop everything that is not in it."""
        self._buffer.close()
        self._outbox = None
        self._asking = Requests()
        self._flight.clear()
        self._events = []
        self.failure = None
        self._disconnect()

    @property
    def unanswered(self) -> int:
        """Number of messages without a final answer."""
        return 0 if self._outbox is None else self._outbox.unanswered

    @property
    def ready(self) -> bool:
        """True if messages can be sent: connected, and the greeting is done."""
        return self._state == _OPEN and self.failure is None

    @property
    def leaving(self) -> bool:
        """True if this connection should be closed."""
        return self._state == _LEAVING or self.failure is not None

    @property
    def connection_doubt(self) -> str:
        """Description of a connection without any answer yet; for people."""
        if self._state == _AWAY or self._plain or self._beginning is None:
            return ""
        return self._stranger()[0] if self._beginning else mute()

    def _stranger(self) -> tuple[str, str]:
        return stranger(self._beginning or b"", self._framing, self._plain)

    @property
    def awaits_answer(self) -> bool:
        """True while the gateway owes an answer."""
        return bool(self._flight) or self._rows is not None

    def put(self, route: str, messages: Sequence[bytes]) -> Parcel:
        """
        Queue messages.

        @raise BufferFull: there is no room; none is queued.
        @raise Unsendable: the framing cannot carry one of them; none is queued.
        """
        if self.failure is not None:
            raise self.failure
        if not self._plain and route not in self._routes:
            check_word("route", route)
            self._routes.add(route)
        self._wire.check(messages, self._plain)
        outbox = self.open()
        parcel = outbox.put(route, messages)
        if not parcel.count:
            self._events += outbox.noted()
        return parcel

    def call(self, query: str, params: Params) -> Question:
        """Queue a call of a query."""
        return self._ask(call(query, params))

    def ping(self, text: str) -> Question:
        """Queue a PING."""
        return self._ask(b"PING " + text.encode() if text else b"PING")

    def listen(self, channel: str) -> Question:
        """Queue LISTEN, for this connection and every later one."""
        self._check_commands()
        return self._asking.listen(channel)

    def unlisten(self, channel: str) -> Question:
        """Queue UNLISTEN."""
        self._check_commands()
        return self._asking.unlisten(channel)

    def _ask(self, payload: bytes) -> Question:
        self._check_commands()
        self._wire.check([payload], False)
        question = Question(payload)
        self._asking.add(question)
        return question

    def _check_commands(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._plain:
            raise Unsendable("a plain listener takes messages only: use one of the command dialect")

    def connected(self) -> None:
        """Begin with a new connection."""
        self._disconnect()
        self._wire.most = MAX_ANSWER if self._plain else MAX_PROBE_ANSWER
        self._greet(self._greeting.restart(self.open().stream))

    def _greet(self, question: Question | None) -> None:
        if question is None:
            self._state = _OPEN
            self.put_off = None
            self._asking.queue_listens()
        else:
            self._state = _GREETING
            self._asking.put_first(question)

    def lost(self) -> None:
        """Take the loss of the connection."""
        if self._beginning and self.failure is None:
            text, kind = self._stranger()
            if kind == "gateway" or (kind and not self._understood):
                self.failure = WrongListener(text)
        questions = [] if self._rows is None else [self._rows[0]]
        questions += [entry for entry in self._flight if isinstance(entry, Question)]
        questions = [question for question in questions if not question.complete]
        segments = [entry for entry in self._flight if isinstance(entry, Segment)]
        self._flight.clear()
        self._asking.lost(questions)
        outbox = self.open()
        outbox.lost(segments)
        self._events += outbox.noted()
        self._disconnect()

    def take_events(self) -> list[Event]:
        """
        Return the events since the last call.
        """
        events, self._events = self._events, []
        return events

    def wait(self, now: float) -> float | None:
        """
        Return the seconds until L{output} has more to write; C{None}: that does not depend on time.
        """
        if self.leaving or self._state == _AWAY:
            return None
        if not self._asking.refused_for_now and not self.open().refused_for_now:
            return None
        return max(0.0, self._retry_after.due - now)

    def output(self, now: float) -> bytes:
        """
        Return the bytes to write now.

        @raise ClientError: the buffer failed.
        """
        if self.leaving or self._state == _AWAY:
            return b""
        outbox = self.open()
        if now >= self._retry_after.due:
            self._asking.due()
            outbox.due()
        pieces: list[bytes] = []
        for question in self._asking.take_commands(only_own=self._state != _OPEN):
            self._flight.append(question)
            self._listens = self._listens or question.channel is not None
            pieces.append(self._wire.frame(question.payload))
        if self._state == _OPEN:
            self._flight += outbox.fill(self._wire, pieces)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._sent_nothing and data:
            self._sent_nothing = False
            # The gateway drops a BOM before the first frame; a message's own must stay.
            if self._wire.drops_mark and data.startswith(BOM):
                data = BOM + data
        return data

    def receive(self, data: bytes, now: float) -> None:
        """
        Take received bytes.

        @raise ClientError: the connection must be closed, and L{lost} called.
        """
        if self.leaving:
            return
        if self._beginning is not None:
            self._beginning = (self._beginning + data)[:BEGINNING]
        count, rest = divmod(len(data), len(self._ok))
        plenty = rest == 0 and self._rows is None and not self._wire.pending
        try:
            if plenty and data == self._ok * count:
                self._apply(count, OK, now)
            else:
                self._read(self._wire.receive(data), now)
        except Garbled as error:
            raise self._garbled(error) from None
        except StreamLost as error:
            self.failure = error
            raise
        finally:
            self._events += self.open().noted()

    def _garbled(self, error: Garbled) -> Garbled:
        """
        Handle bytes that cannot be parsed, and return the error to report. The client ends if they
        come from a wrong listener, or again and again.
        """
        if isinstance(error, WrongListener):
            self.failure = error
        elif self._beginning is not None:
            text, kind = self._stranger()
            error = WrongListener(text)
            # Without a single valid answer it is the wrong listener; trying again does not help.
            if kind == "gateway" or not self._understood:
                self.failure = error
        else:
            self._nonsense += 1
            if not self._understood or self._nonsense >= NONSENSE:
                self.failure = error
            question = self._rows[0] if self._rows is not None else next(iter(self._flight), None)
            if isinstance(question, Question) and not question.own:
                # Sent again, it would get the same answer.
                question.failure = error
                self._complete(question)
        return error

    def _read(self, frames: list[bytes], now: float) -> None:
        place, end = 0, len(frames)
        while place < end:
            if self._rows is not None:
                place += self._row(frames, place)
                continue
            start, frame = place, frames[place]
            while place < end and frames[place] == frame:
                place += 1
            first = b"" if self._plain else frame[:1]
            if first == b">":
                if not self._listens:
                    raise Garbled(f"a push, and nobody listens: {frame[:100]!r}")
                self._events += [push(frame)] * (place - start)
            elif first == b"*":
                place = start + 1
                self._listing(frame[1:])
            else:
                answer = parse(frame)
                if answer.word == "-BYE":
                    self._goodbye(answer, now)
                    return
                self._apply(place - start, answer, now)

    def _row(self, frames: list[bytes], place: int) -> int:
        assert self._rows is not None
        question, missing = self._rows
        rows = frames[place : place + missing]
        question.rows += rows
        self._size += sum(map(len, rows))
        if self._size > MAX_ROWS_SIZE:
            question.rows = []
            raise Garbled(f"rows of more than {MAX_ROWS_SIZE:,} bytes")
        missing -= len(rows)
        self._rows = (question, missing) if missing else None
        if not missing:
            self._complete(question)
        return len(rows)

    def _apply(self, count: int, answer: Answer, now: float) -> None:
        """Apply equal answers to the first messages and commands in flight."""
        outbox = self.open()
        while count:
            if not self._flight:
                raise Garbled(f"an answer, and nothing was asked: {str(answer)[:100]!r}")
            if self._beginning is not None:
                wrong = takes_commands(answer) if self._plain else None
                if wrong is not None:
                    raise wrong
                self._beginning = None
            self._understood = True
            entry = self._flight[0]
            if isinstance(entry, Question):
                if entry.is_call and answer.kept:
                    raise Garbled(f"no rows, which were asked for: {str(answer)[:100]!r}")
                self._flight.popleft()
                count -= 1
                self._answered(entry, answer, now)
                continue
            many = min(count, entry.stop - entry.start)
            count -= many
            self._nonsense = 0
            outbox.apply_answer(entry, many, answer, now)
            if entry.start == entry.stop:
                self._flight.popleft()

    def _answered(self, question: Question, answer: Answer, now: float) -> None:
        if answer.word == "-TRY" and not (answer.code != "RATE" and is_probe(question.payload)):
            self._retry_after.set_from(answer, now)
            if question.own and question.channel is None:
                self.put_off = answer
                if answer.taken:
                    self._taken(answer)
                question = again(question, self.open().stream)
            self._asking.keep_for_later(question)
            return
        self._retry_after.progress()
        question.answer = answer
        if question.own and question.channel is None:
            self._greeted(question, answer)
        elif question.own and question.channel is not None and answer.kept:
            self._events.append(Push(question.channel, None))
        else:
            if question.channel is not None and not answer.kept:
                self._asking.remove_channel(question.channel)
            self._complete(question)

    def _greeted(self, question: Question, answer: Answer) -> None:
        stream = self.open().stream
        self.failure = judged(question, answer, stream)
        if self.failure is None:
            self._wire.most = MAX_ANSWER
            self._greet(self._greeting.next(stream))

    def _listing(self, digits: bytes) -> None:
        question = next(iter(self._flight), None)
        if not isinstance(question, Question) or not question.is_call:
            raise Garbled(f"rows that nobody asked for: {b'*' + digits[:100]!r}")
        if not digits.isdigit() or len(digits) > MAX_DIGITS or int(digits) > MAX_ANSWER_ROWS:
            raise Garbled(f"no number of rows, 0 to {MAX_ANSWER_ROWS:,}: {b'*' + digits[:100]!r}")
        self._flight.popleft()
        self._retry_after.progress()
        question.answer = OK
        self._size = 0
        if int(digits):
            self._rows = (question, int(digits))
        else:
            self._complete(question)

    def _complete(self, question: Question) -> None:
        if question.failure is None:
            self._nonsense = 0
        question.complete = True
        self._events.append(question)

    def _goodbye(self, answer: Answer, now: float) -> None:
        self.goodbye = answer
        self._beginning = None
        was, self._state = self._state, _LEAVING
        if answer.code == "FORMAT":
            self._unframed(answer, now)
        elif answer.code in ("AUTH", "DENIED"):
            self.failure = NotAllowed(f"the gateway does not let this client in: {answer}")
        elif answer.code == "BUSY" and self._stream is not None and was == _OPEN:
            self._taken(answer)

    def _taken(self, answer: Answer) -> None:
        """Handle the loss of the stream to another client: end, or say HELLO without the epoch."""
        if self._stream is None:
            return
        self.open().taken_over()
        taken = StreamTaken(f"stream {self._stream}: another client has taken it ({answer})")
        self.failure = taken if self._takeover == "stop" else None

    def _unframed(self, answer: Answer, now: float) -> None:
        """
        Handle -BYE FORMAT: everything before the frame at fault is answered, so it is the first one
        in flight.
        """
        first = next(iter(self._flight), None)
        if isinstance(first, Question) and is_probe(first.payload):
            self.failure = sent_away(answer)
        elif not self._understood or not self._flight:
            self.failure = Garbled(
                f"{answer} (is the listener's framing {self._framing}? or the message too long?)"
            )
        else:
            self._apply(1, Answer("-REJ", "TOOBIG", {}, answer.text, answer.raw), now)
