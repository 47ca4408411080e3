"""
A gateway of a few lines: the dialects as C{docs/protocol.md} has them, without a database.

Written from the protocol, not from the client or the gateway; what it stores is a list. A
test hands in what becomes of each message (L{Model.fate}), and may lose, cut and delay
what is said on either side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.model.errors import FramingError
from gateway.wire.framing import FRAMINGS, OVERSIZE

OK = b"+OK"

CONTROL = re.compile(rb"[\0-\x1f]+")

HELLO = re.compile(rb"(\S+)(?: seen=(0|[1-9][0-9]*)(?: epoch=([0-9A-Za-z-]{1,64}))?)?")
"""What stands behind the verb."""


@dataclass
class Stream:
    """
    @ivar last: the last number that is settled.
    @ivar epoch: made up anew where nobody said C{seen=}.
    @ivar refusals: what was refused, by number.
    """

    last: int = 0
    epoch: bytes = b""
    refusals: dict[int, bytes] = field(default_factory=dict)
    owner: Peer | None = None


class Model:
    """
    What all connections share.

    @ivar table: messages stored, in order.
    @ivar fate: gives the answer to a message that may be stored; it is stored for C{+}.
    @ivar hellos: what stood behind each HELLO.
    @ivar put_off: gives the -TRY to a HELLO that says C{seen=}; C{b""}: it can be answered.
    @ivar epochs: how many there were; C{None}: a gateway of an earlier version, which tells none.
    @ivar token: that it asks for; C{b""}: none.
    @ivar offered: whether it knows AUTH.
    @ivar later: how often it wants to be told the token again later.
    @ivar busy: how many connections it has no time for.
    """

    def __init__(self, dialect: str = "command", framing: str = "line", max_frame: int = 1000):
        self.dialect = dialect
        self.framing = framing
        self.max_frame = max_frame
        self.table: list[bytes] = []
        self.streams: dict[str, Stream] = {}
        self.fate: Callable[[bytes], bytes] = lambda message: OK
        self.hellos: list[bytes] = []
        self.put_off: Callable[[], bytes] = lambda: b""
        self.epochs: int | None = 0
        self.queries: dict[str, Callable[[object], list[object]]] = {}
        self.peers: list[Peer] = []
        self.denied: set[str] = set()
        self.token = b""
        self.offered = True
        self.later = self.busy = 0

    def connect(self) -> Peer:
        peer = Peer(self)
        self.peers.append(peer)
        return peer

    def notify(self, channel: str, payload: str) -> None:
        """To all who listen."""
        for peer in self.peers:
            if channel in peer.channels:
                peer.say(b">" + f"{channel} {payload}".encode())

    def gap(self, channel: str) -> None:
        """The gateway lost its own connection."""
        for peer in self.peers:
            if channel in peer.channels:
                peer.say(b">!gap " + channel.encode())


class Peer:
    """
    One connection, the gateway's side.

    @ivar out: what it said; whoever carries it takes it away.
    @ivar closed: whether the gateway has closed it.
    @ivar mute: whether it takes everything in and says nothing.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._framing = FRAMINGS[model.framing](model.max_frame)
        self._stream: Stream | None = None
        self._put_off = b""
        self.channels: set[str] = set()
        self.out = bytearray()
        self.closed = False
        self.mute = False
        self._proven = not model.token

    def say(self, payload: bytes) -> None:
        if not self.mute:
            self.out += self._framing.frame(payload)

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.closed:
            return
        try:
            frames, error = self._framing.receive(data), None
        except FramingError as fault:
            frames, error = fault.frames, fault
        for frame in frames:
            if self.closed:
                return
            if frame is OVERSIZE:
                self.say(b"-REJ TOOBIG :longer than max_frame of this listener")
            elif not self._proven:
                self._prove(frame)
            elif self._model.dialect == "plain":
                self.say(self._store(frame))
            else:
                self._command(frame)
        if error is not None:
            self.leave(f"-BYE FORMAT :{error}".encode())

    def leave(self, goodbye: bytes) -> None:
        """The last word."""
        self.say(goodbye)
        self.closed = True
        self.channels.clear()

    def lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        if self in self._model.peers:
            self._model.peers.remove(self)

    def _store(self, message: bytes) -> bytes:
        answer = self._model.fate(message)
        if answer.startswith(b"+"):
            self._model.table.append(message)
        return answer

    def _prove(self, frame: bytes) -> None:
        model = self._model
        if model.dialect == "command" and frame.startswith(b"PING "):
            self._command(frame)
        elif model.dialect == "command" and not frame.startswith(b"AUTH "):
            self.leave(b"-BYE AUTH :say AUTH and a token first")
        elif not model.offered:
            self.say(b"-REJ QUERY :AUTH is not offered by this gateway")
        elif model.later:
            model.later -= 1
            self.say(b"-TRY RATE retry=1 :slowly")
        elif model.busy:
            model.busy -= 1
            self.leave(b"-BYE BUSY :too many tokens")
        elif frame.removeprefix(b"AUTH ") != model.token:
            self.leave(b"-BYE AUTH :no such token")
        else:
            self._proven = True
            self.say(OK)

    def _command(self, frame: bytes) -> None:
        verb, _, rest = frame.partition(b" ")
        word, space, payload = rest.partition(b" ")
        if verb == b"PUT":
            self.say(self._put(payload) if space else b"-REJ FORMAT :PUT takes a route")
        elif verb == b"HELLO":
            self.say(self._hello(rest))
        elif verb == b"PING":
            # Control characters have no place in an answer.
            self.say(b"+OK " + CONTROL.sub(b" ", rest) if rest else OK)
        elif verb == b"LISTEN":
            if rest.decode() in self._model.denied:
                self.say(b"-REJ DENIED :not this channel")
            else:
                self.channels.add(rest.decode())
                self.say(OK)
        elif verb == b"UNLISTEN":
            self.channels.discard(rest.decode())
            self.say(OK)
        elif verb == b"CALL":
            self._call(word.decode(), payload)
        else:
            self.say(b"-REJ FORMAT :unknown verb")

    def _hello(self, rest: bytes) -> bytes:
        model, self._stream, self._put_off = self._model, None, b""
        said = HELLO.fullmatch(rest)
        if said is None:
            return b"-REJ FORMAT :HELLO takes a stream"
        model.hellos.append(rest)
        name, seen, epoch = said.groups()
        stream = model.streams.setdefault(name.decode(), Stream())
        if stream.owner is not None and stream.owner is not self:
            stream.owner.leave(b"-BYE BUSY :another connection took the stream")
        stream.owner = None
        if seen is not None:
            self._put_off = model.put_off()
            if not self._put_off and (
                stream.last < int(seen) or (epoch is not None and epoch != stream.epoch)
            ):
                taken = b"" if stream.last < int(seen) else b" taken=true"
                self._put_off = b"-TRY GAP retry=1%b :the stream is at #%d" % (taken, stream.last)
            if self._put_off:
                return self._put_off
        elif model.epochs is not None:
            model.epochs += 1
            stream.epoch = b"e-%d" % model.epochs
        stream.owner = self
        self._stream = stream
        told = b"+OK seq=%d" % stream.last
        return told if model.epochs is None else told + b" epoch=" + stream.epoch

    def _call(self, name: str, arguments: bytes) -> None:
        query = self._model.queries.get(name)
        if query is None:
            self.say(b"-REJ QUERY :no such query")
            return
        rows = query(json.loads(arguments) if arguments else None)
        self.say(b"*%d" % len(rows))
        for row in rows:
            self.say(json.dumps(row).encode())

    def _put(self, payload: bytes) -> bytes:
        stream = self._stream
        if stream is None:
            return self._put_off or self._store(payload)
        if stream.owner is not self:
            return b"-TRY BUSY :another connection has the stream"
        mark, _, message = payload.partition(b" ")
        if not (mark.startswith(b"#") and mark[1:].isdigit()):
            return b"-REJ FORMAT :a stream's messages have numbers"
        number = int(mark[1:])
        if number <= stream.last:
            return stream.refusals.get(number, b"+DUP")
        if number > stream.last + 1:
            return b"-TRY GAP seq=%d :number %d is not next" % (stream.last, number)
        answer = self._store(message)
        if not answer.startswith(b"-TRY"):
            stream.last = number
            if answer.startswith(b"-REJ"):
                stream.refusals[number] = answer
        return answer
