"""
Command dialect: every frame begins with a verb, and a peer's conversation has state.

Most frames can be answered in the order in which they come: messages are
collected for the writer, mistakes are answered at once. A verb that waits for the database (CALL,
LISTEN, HELLO) or is about the answers themselves (QUIET, SYNC) begins when everything
before it is answered, and the frames behind wait for it: so a query sees what its peer has
stored, and a number is judged by the stream it is of.

The grammar is in C{docs/protocol.md}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Sequence
from operator import methodcaller
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.access.authenticator import Authenticator, Proof
from gateway.access.rights import NOTHING
from gateway.dialects.base import FrameReader, OnAnswer, Peer, Request, Work, turned_away
from gateway.dialects.by_route import joined, works_by_route
from gateway.dialects.command_parser import (
    MAX_STREAM,
    MAX_TAG,
    abbreviated,
    decode_name,
    help_with,
    ping,
    words_of,
)
from gateway.dialects.stream_registry import StreamRegistry
from gateway.dialects.subscriptions import Subscriptions
from gateway.model import wording
from gateway.model.outcome import STORED, Code, Fate, Outcome, Word, refused
from gateway.model.query import Queries
from gateway.model.store import Seen
from gateway.model.stream import Stream
from gateway.wire.framing import OVERSIZE

_MESSAGE_NUMBER: Final = re.compile(rb"#([1-9][0-9]{0,18}) ")

_SEEN: Final = re.compile(rb"seen=(0|[1-9][0-9]{0,17})(?: epoch=([0-9A-Za-z-]{1,64}))?")

_RELAY: Final = re.compile(rb"[0-9A-Za-z-]{1,64}")

_marked = methodcaller("startswith", b"#")

_UNPROVEN: Final = (b"AUTH", b"PING", b"HELP", b"QUIT")
"""Commands allowed to a peer that has not proved its identity yet."""

_REFUSAL_BYTES: Final = 500
"""Bytes that a refusal takes which is remembered with its number, or so."""


class CommandDialect:
    """
    Dialect where every frame begins with a verb.
    """

    takes_commands = True
    acknowledges = False
    routes = ()

    def __init__(
        self,
        streams: StreamRegistry,
        queries: Queries,
        channels: Subscriptions,
        authenticator: Authenticator,
        max_stream: int = MAX_STREAM,
        relay_path: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """
        @param max_stream: longest name of a stream, in bytes.
        @param relay_path: identifiers of the edges that this gateway's messages go over, itself the
            first; none where it stores them itself.
        """
        self.max_stream = max_stream
        self.relay_path = relay_path
        self.streams = streams
        self.queries = queries
        self.channels = channels
        self.authenticator = authenticator

    def reader(self, peer: Peer) -> Conversation:
        return Conversation(self, peer)


class Conversation:
    """
    State of one peer that speaks the command dialect.
    """

    __slots__ = ("_gone", "_offer", "_peer", "_put_off", "_stream")

    route = None
    _log = Logger()

    def __init__(self, offer: CommandDialect, peer: Peer) -> None:
        self._offer = offer
        self._peer = peer
        self._stream: Stream | None = None
        # The answer to the last HELLO where it failed: numbered messages behind it get it too.
        self._put_off: Outcome | None = None
        self._gone = False
        peer.answers.tally()  # begins to count

    def rights_changed(self, peer: Peer) -> FrameReader:
        stream, channels = self._stream, self._offer.channels
        lost = stream is not None and not peer.rights.may_open(stream.name)
        if lost or not all(
            peer.rights.may_listen(channel) and channels.offers(channel)
            for channel in channels.channels_of(peer)
        ):
            peer.close_with(peer.log_close(wording.GRANTED_NO_MORE))
        return self

    def release(self) -> None:
        self._gone = True
        if self._stream is not None:
            self._offer.streams.close_stream(self._stream)

    @property
    def kept_bytes(self) -> int:
        return 0 if self._stream is None else _REFUSAL_BYTES * len(self._stream.refusals)

    # Reading.

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        work = turned_away(frames, outcome)
        tags = [words_of(frame)[0] or b"" for frame in frames]
        work.tags = tags if any(tags) else None
        return work

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        alike = self._alike(frames)
        if alike is not None:
            return [alike]
        return self._by_turns(frames) or self._read_each(frames)

    def _alike(self, frames: list[bytes]) -> Work | None:
        """
        Read frames that all are messages for one route, as a fast peer sends them.

        @return: C{None} where they are anything else.
        """
        end = frames[0].find(b" ", 4)
        head = frames[0][: end + 1]
        route = self._peer.rights.routes.get(head[4:-1])
        if route is None or not head.startswith(b"PUT "):
            return None
        stream, count = self._stream, len(frames)
        if stream is not None:
            first = stream.next
            numbered = head.replace(b"%", b"%%") + b"#%d "
            heads = [numbered % number for number in range(first, first + count)]
            if stream.ended or not all(map(bytes.startswith, frames, heads)):
                return None
            stream.take_all(first, count)
            size = len(heads[0])
            if size == len(heads[-1]):
                messages = [frame[size:] for frame in frames]
            else:
                messages = [frame[len(own) :] for frame, own in zip(frames, heads, strict=True)]
            return Work(route, messages, stream=stream, first=first)
        size = len(head)
        payloads = [frame[size:] for frame in frames if frame.startswith(head)]
        if len(payloads) != count or any(map(_marked, payloads)):
            return None
        return Work(route, payloads)

    def _by_turns(self, frames: list[bytes]) -> list[Work]:
        """
        Read frames that all are messages, for several routes.

        @return: nothing where they are anything else.
        """
        if len(frames) < 2 or not frames[0].startswith(b"PUT "):
            return []
        parts = [frame.split(b" ", 2) for frame in frames]
        if set(map(len, parts)) != {3}:
            return []
        verbs, names, payloads = zip(*parts, strict=True)
        routes = self._peer.rights.routes
        known = {name: routes.get(name, "") for name in set(names)}
        if set(verbs) != {b"PUT"} or not all(known.values()):
            return []
        stream, first = self._stream, 0
        messages = [*payloads]
        if stream is None:
            if any(map(_marked, messages)):
                return []
        else:
            first = stream.next
            heads = [b"#%d " % number for number in range(first, first + len(frames))]
            if stream.ended or not all(map(bytes.startswith, messages, heads)):
                return []
            stream.take_all(first, len(frames))
            messages = [m[len(head) :] for m, head in zip(messages, heads, strict=True)]
        return works_by_route(messages, [known[name] for name in names], stream, first)

    def _read_each(self, frames: list[bytes]) -> list[Work]:
        works: list[Work] = []
        work = Work("", tags=[])
        for position, frame in enumerate(frames):
            tag, verb, rest = words_of(frame)
            if self._peer.rights is NOTHING and verb not in _UNPROVEN:
                self._answer(work, b"", self._peer.log_close(wording.TOKEN_FIRST))
                work.closes = True
                break
            if frame is OVERSIZE:
                self._answer(work, b"", wording.TOO_LONG)
            elif tag is None:
                text = f"a tag is @ and 1 to {MAX_TAG - 1} bytes"
                self._answer(work, b"", refused(Code.FORMAT, text))
            elif verb == b"PUT" and not self._takes_its_time(rest):
                work = self._put(works, work, tag, rest)
            elif verb == b"QUIT" and not rest:
                self._answer(work, tag, Outcome(Word.OK))
                work.closes = True
                break
            else:
                request = self._verb(verb, rest)
                if isinstance(request, Outcome):
                    self._answer(work, tag, request)
                    continue
                works.append(work)
                work = Work("", tags=[tag], request=request, rest=frames[position + 1 :])
                break
        works = [*joined([*works, work])]
        for work in works:
            if work.tags is not None and not any(work.tags):
                work.tags = None
        return [work for work in works if work.count]

    def _answer(self, work: Work, tag: bytes, answer: Outcome) -> None:
        work.gaps.append((work.count, answer))
        assert work.tags is not None
        work.tags.append(tag)

    def _put(self, works: list[Work], work: Work, tag: bytes, rest: bytes) -> Work:
        """
        Read a PUT into the current work, or begin another one.

        @return: the work that goes on; the one before it may be finished.
        """
        name, space, payload = rest.partition(b" ")
        route = self._peer.rights.routes.get(name)
        number = _MESSAGE_NUMBER.match(payload)
        refusal = self._no_route(name) if route is None else None
        numbered = number is not None and (self._stream or self._put_off) is not None
        if refusal is not None and not numbered:
            self._answer(work, tag, refusal)
            return work
        if not space:
            self._answer(work, tag, wording.PUT_SYNTAX)
            return work
        answer = self._numbered(number)
        if answer is not None:
            self._answer(work, tag, answer)
            return work
        if work.messages and (work.route != (route or "") or work.refusal != refusal):
            works.append(work)
            work = Work("", tags=[])
        work.route = route or ""
        work.refusal = refusal
        assert work.tags is not None
        work.tags.append(tag)
        if number is not None:
            payload = payload[number.end() :]
            if not work.messages:
                work.stream, work.first = self._stream, int(number[1])
        work.messages.append(payload)
        return work

    def _numbered(self, number: re.Match[bytes] | None) -> Outcome | None:
        """Check a message's number; return its answer, or C{None} where it is to be stored."""
        stream = self._stream
        if stream is None:
            if number is None:
                return None
            return self._put_off or wording.NO_STREAM
        if number is None:
            return wording.needs_its_number(stream.next)
        return stream.accept(int(number[1]))

    def _takes_its_time(self, rest: bytes) -> bool:
        """
        Say whether a PUT's answer depends on messages before it.

        It does where its number is sent again and has no answer yet.
        """
        stream = self._stream
        if stream is None:
            return False
        number = _MESSAGE_NUMBER.match(rest.partition(b" ")[2])
        return number is not None and stream.is_in_doubt(int(number[1]))

    def _no_route(self, name: bytes) -> Outcome:
        if self._peer.rights.may_use_route(name.decode("utf-8", "backslashreplace")):
            return wording.no_route(abbreviated(name))
        return _denied("PUT to", name)

    def _put_in_turn(self, rest: bytes) -> Request:
        number, stream = _MESSAGE_NUMBER.match(rest.partition(b" ")[2]), self._stream
        assert number is not None and stream is not None
        return lambda answered: answered(stream.take_in_turn(int(number[1])))

    def _help(self, rest: bytes) -> Outcome:
        """
        Answer HELP; with a route, say whether a PUT to it would be refused whatever it stores.

        A peer asks that before the first number of a stream, since every refusal uses one up.
        """
        verb, _, name = rest.partition(b" ")
        if verb.upper() != b"PUT" or not name or b" " in name or self._peer.rights is NOTHING:
            return help_with(rest)
        if self._peer.rights.routes.get(name) is None:
            return self._no_route(name)
        return Outcome(Word.OK, text=f"PUT {abbreviated(name)} payload: it may be used")

    # The other verbs.

    def _verb(self, verb: bytes, rest: bytes) -> Outcome | Request:
        match verb:
            case b"PING":
                return ping(rest)
            case b"HELP":
                return self._help(rest)
            case b"PUT":
                return self._put_in_turn(rest)
            case b"CALL":
                return self._call(rest)
            case b"HELLO":
                return self._hello(rest)
            case b"LISTEN" | b"UNLISTEN":
                return self._listen(verb, rest)
            case b"QUIET" | b"SYNC" | b"QUIT" if rest:
                return wording.takes_nothing(verb.decode())
            case b"QUIET":
                return self._quiet
            case b"SYNC":
                return self._sync
            case b"AUTH":
                return self._auth(rest)
            case b"RELAY":
                return self._relay(rest)
        return wording.unknown_verb(abbreviated(verb))

    def _relay(self, rest: bytes) -> Outcome:
        """Tell an edge over which others its messages go on from here."""
        if not _RELAY.fullmatch(rest):
            return wording.RELAY_SYNTAX
        path = ",".join(self._offer.relay_path())
        return Outcome(Word.OK, values=f"path={path}" if path else "")

    def _call(self, rest: bytes) -> Outcome | Request:
        name, _, arguments = rest.partition(b" ")
        if not name:
            return wording.CALL_SYNTAX
        queries = self._offer.queries
        query = name.decode("utf-8", "backslashreplace")
        denied = _denied("CALL of", name)
        if not self._peer.rights.may_call(query):
            return denied

        def ask(answered: OnAnswer) -> None:
            # A reload may have changed the rights since this was read.
            if self._peer.rights.may_call(query):
                queries.ask(query, arguments, answered)
            else:
                answered(denied)

        return ask

    def _hello(self, rest: bytes) -> Outcome | Request:
        word, more, seen_text = rest.partition(b" ")
        name, known = decode_name(word, self._offer.max_stream), _SEEN.fullmatch(seen_text)
        if name is None:
            return wording.takes_a_stream(self._offer.max_stream)
        if more and known is None:
            return wording.SEEN_SYNTAX
        if not self._peer.rights.may_open(name):
            return _denied("HELLO to", word)
        seen = None if known is None else Seen(int(known[1]), (known[2] or b"").decode())
        return lambda answered: self._run(self._open(name, seen), answered)

    def _listen(self, verb: bytes, rest: bytes) -> Outcome | Request:
        # PostgreSQL's names have at most 63 bytes.
        channel = decode_name(rest, 63)
        if channel is None:
            return wording.takes_a_channel(verb.decode())
        channels = self._offer.channels
        if verb == b"LISTEN":
            if not self._peer.rights.may_listen(channel):
                return _denied("LISTEN to", rest)
            return lambda answered: self._run(self._subscribe(channel), answered)
        return lambda answered: self._run(channels.unsubscribe(channel, self._peer), answered)

    def _auth(self, rest: bytes) -> Outcome | Request:
        authenticator = self._offer.authenticator
        if not authenticator.offered:
            return wording.NO_AUTH
        if not rest:
            return wording.AUTH_SYNTAX
        site = self._peer.peer_info.site
        return lambda answered: authenticator.verify(
            rest, site, lambda proof: answered(self._proved(proof))
        )

    def _proved(self, proof: Proof) -> Outcome:
        """
        Return the answer to AUTH.

        An open stream or channel was opened by the peer's former identity, and does not become
        another's.
        """
        peer = self._peer
        if isinstance(proof, Outcome):
            return peer.log_close(proof)
        is_open = self._stream is not None or bool(self._offer.channels.channels_of(peer))
        if is_open and proof.identity != peer.peer_info.identity:
            return wording.OTHER_IDENTITY
        return peer.set_identity(peer.peer_info.proved(proof)) or STORED

    async def _subscribe(self, channel: str) -> Outcome:
        outcome = await self._offer.channels.subscribe(channel, self._peer)
        if self._peer.rights.may_listen(channel):
            return outcome
        await self._offer.channels.unsubscribe(channel, self._peer)
        return _denied("LISTEN to", channel.encode())

    def _quiet(self, answered: OnAnswer) -> None:
        self._peer.answers.quiet = True
        answered(Outcome(Word.OK))

    def _sync(self, answered: OnAnswer) -> None:
        kept, rejected, again = self._peer.answers.tally()
        answered(Outcome(Word.OK, values=f"ok={kept} rej={rejected} try={again}"))

    async def _open(self, name: str, seen: Seen | None) -> Outcome:
        streams = self._offer.streams
        if self._stream is not None:
            streams.close_stream(self._stream)
            self._stream = None
        self._put_off = None
        stream = await streams.open_stream(name, self._peer, seen)
        if isinstance(stream, Outcome):
            self._put_off = stream
            return stream
        if not self._peer.rights.may_open(name):
            # A reload came between.
            streams.close_stream(stream)
            return _denied("HELLO to", name.encode())
        if self._gone:
            streams.close_stream(stream)
        self._stream = stream
        return Outcome(Word.OK, values=f"seq={stream.last} epoch={stream.epoch}")

    def _run(self, work: Coroutine[Deferred[Any], Any, Fate], answered: OnAnswer) -> None:
        running = Deferred.fromCoroutine(work)
        running.addErrback(self._bug)
        running.addCallback(answered)
        running.addErrback(self._bug)

    def _bug(self, failure: Failure) -> Outcome:
        self._log.failure(
            "a command failed; its peer is disconnected", event="command-failed", failure=failure
        )
        return wording.COMMAND_FAILED


def _denied(what: str, name: bytes) -> Outcome:
    return wording.not_granted(f"{what} {abbreviated(name)}")
