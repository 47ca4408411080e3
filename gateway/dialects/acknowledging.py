"""
Base of dialects with an acknowledgement of their own: RELP, Fluent forward, Beats, MLLP.

Strategy: the frames of one read are handled by one coroutine, and those behind them wait until it
is done; so a connection has one unit (L{gateway.model.unit}) in flight, and what comes behind a
message that is not stored is never stored before it. A dialect stores messages, and writes what its
protocol says of them when their fate is known; in place of C{-BYE} it says its own farewell, see
L{gateway.wire.protocols}.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.dialects.base import Dialect, FrameReader, OnAnswer, Peer, Work, turned_away
from gateway.model import wording
from gateway.model.grouping import Group, places_by
from gateway.model.outcome import Acknowledged, Outcome, Run, Word, is_kept
from gateway.model.route import Reading
from gateway.wire.forward_handshake import HandshakeSecrets
from gateway.wire.hl7 import ALL_OF_TWO, Accepted

_TOGETHER: Final = 2048
"""Messages of a unit that are read at a time: between them others get their turn."""


@dataclass(frozen=True, slots=True)
class DialectSettings:
    """
    Settings of a listener, as far as its dialect needs them.

    @ivar clock: for what waits.
    @ivar max_frame: largest message, in bytes.
    @ivar max_chunk: largest unit, in bytes, decompressed.
    @ivar remember_chunks: seconds for which a unit with a key is known; 0: it is not.
    @ivar formats: route -> format of its messages.
    @ivar handshake: of forward: what its peers have to know; C{None}: nothing.
    @ivar wall: seconds since 1970.
    @ivar route_by: field that chooses among routes; C{""}: none does.
    @ivar hl7: of MLLP: messages that are accepted.
    @ivar reject_later: of MLLP: whether a message that cannot be stored now is rejected; else the
        connection is closed without an answer.
    """

    clock: IReactorTime
    max_frame: int
    max_chunk: int
    remember_chunks: float
    formats: Mapping[str, Reading]
    handshake: HandshakeSecrets | None = None
    wall: Callable[[], float] = time.time
    route_by: str = ""
    hl7: Accepted = ALL_OF_TWO
    reject_later: bool = False


class HoldTimes:
    """
    How long connections of a listener are held when nothing can be stored now: 1 s, twice as long
    each time up to 60 s, and 1 s again when something was stored.

    @ivar seconds: for the next one.
    """

    _FIRST: Final = 1.0
    # rsyslog's omrelp gives a connection up after 90 s without an answer.
    _MOST: Final = 60.0

    def __init__(self) -> None:
        self.seconds = self._FIRST
        self._stores = 0

    def stored(self) -> None:
        """Note that something was stored."""
        self.seconds = self._FIRST
        self._stores += 1

    async def hold(self, hold: Callable[[float], Awaitable[None]]) -> None:
        """
        Hold one connection. Of several that are held at once only the first one makes it longer.

        @param hold: waits so many seconds.
        """
        seconds, stores = self.seconds, self._stores
        await hold(seconds)
        if stores == self._stores:
            self.seconds = max(self.seconds, min(2 * seconds, self._MOST))


class AcknowledgingReader:
    """
    Reader of one peer's frames; a subclass says what they mean.

    @cvar remembers: whether its units may have keys.
    @ivar greeting: bytes that the peer gets before it has sent any; maybe none.
    """

    remembers = False
    greeting = b""

    route = None
    kept_bytes = 0

    _log = Logger()

    def __init__(self, peer: Peer, dialect: AcknowledgingDialect) -> None:
        self.peer = peer
        self.dialect = dialect
        self.settings = dialect.settings
        self._messages: FrameReader = dialect.messages.reader(peer)
        self._since = 0.0
        self._waiting: Deferred[None] | None = None
        self._hurried = False

    async def handle(self, frames: list[bytes]) -> bool:
        """
        Handle the frames of one read, one or more; never called again before it is done.

        @return: whether the connection ends.
        """
        raise NotImplementedError

    # For subclasses.

    async def store(
        self, messages: list[bytes], key: str | None = None, oversize: Collection[int] = ()
    ) -> list[Run]:
        """
        Store messages as one unit, over all their routes.

        Stored are those before the first one that is neither stored nor kept (see
        L{gateway.model.outcome.is_kept}), and of a unit with a key all or none.

        @param messages: one or more.
        @param key: see L{gateway.model.unit.unit_key}.
        @param oversize: positions of those that are longer than C{max_frame}, and so refused.
        @return: their fates, in order.
        """
        settled: Deferred[list[Run]] = Deferred()
        parts = _parts(self._messages.read(messages, False), messages, oversize)
        self.peer.submit_unit(parts, settled.callback, key)
        return await settled

    def write(self, payload: bytes, runs: Sequence[Run] = ()) -> None:
        """
        Send bytes at once.

        @param runs: fates of the messages that they acknowledge, for counting.
        """
        self.peer.acknowledge(payload, runs, self._since)

    def give_up(self, runs: Sequence[Run]) -> None:
        """
        Count and log that the connection ends without an acknowledgement.

        @param runs: fates of the messages that have none.
        """
        self.write(b"", runs)
        reason = next((fate for _, fate in runs if not is_kept(fate)), None)
        if isinstance(reason, Outcome):
            text = f"not stored, and so not acknowledged: {reason.text}"
            self.peer.log_close(Outcome(Word.BYE, reason.code, text))

    async def hold(self, seconds: float) -> None:
        """Wait; no longer than the peer is there and may stay."""
        if self._hurried:
            return
        waiting = self._waiting = Deferred()
        call = self.settings.clock.callLater(seconds, waiting.callback, None)
        try:
            await waiting
        finally:
            self._waiting = None
            if call.active():
                call.cancel()

    @contextmanager
    def every(self, seconds: float, payload: bytes) -> Iterator[None]:
        """Send bytes now and then, as long as the C{with} block takes; the first ones later."""
        call = LoopingCall(self.write, payload)
        call.clock = self.settings.clock
        call.start(seconds, now=False).addErrback(self._bug)
        try:
            yield
        finally:
            call.stop()

    # As FrameReader has it.

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        return [Work("", request=partial(self._begin, frames))]

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def rights_changed(self, peer: Peer) -> FrameReader:
        self._messages = self._messages.rights_changed(peer)
        return self

    def release(self) -> None:
        """Note that the peer is gone."""
        self.hurry()

    # Called by the protocol of the connection.

    def hurry(self) -> None:
        """End L{hold}, now and from now on: the connection is to end."""
        self._hurried = True
        if self._waiting is not None:
            self._waiting.callback(None)

    def replace_dialect(self, dialect: AcknowledgingDialect) -> None:
        """Replace the dialect of frames that are not read yet; what the peer agreed on stays."""
        self.dialect = dialect
        self.settings = dialect.settings
        self._messages = dialect.messages.reader(self.peer)

    def _begin(self, frames: list[bytes], answered: OnAnswer) -> None:
        self._since = self.settings.clock.seconds()
        handled = Deferred.fromCoroutine(self.handle(frames)).addErrback(self._failed)
        handled.addCallback(lambda closes: answered(Acknowledged(closes))).addErrback(self._bug)

    def _failed(self, failure: Failure) -> bool:
        self._bug(failure)
        self.peer.log_close(wording.COMMAND_FAILED)
        return True

    def _bug(self, failure: Failure) -> None:
        self._log.failure(
            "a peer's frames could not be handled; it is disconnected",
            event="frames-failed",
            failure=failure,
        )


class AcknowledgingDialect:
    """
    Dialect with an acknowledgement of its own.

    @ivar messages: chooses the route of each message, as for peers without a protocol.
    @ivar hold_times: of its listener's connections.
    """

    takes_commands = False
    acknowledges = True

    def __init__(
        self, reader: type[AcknowledgingReader], messages: Dialect, settings: DialectSettings
    ) -> None:
        self._reader = reader
        self.messages = messages
        self.settings = settings
        self.routes = messages.routes
        self.hold_times = HoldTimes()

    @property
    def remembers(self) -> bool:
        """Whether its units may have keys, by which they are known when they are sent again."""
        return self._reader.remembers

    def reader(self, peer: Peer) -> FrameReader:
        return self._reader(peer, self)

    def renewed(self, reader: FrameReader, peer: Peer) -> FrameReader:
        """Return the reader of a peer that had another dialect of its kind."""
        if not isinstance(reader, AcknowledgingReader):
            return self.reader(peer)
        reader.replace_dialect(self)
        return reader

    def is_like(self, other: Dialect) -> bool:
        """Say whether another dialect is of the same protocol."""
        return isinstance(other, AcknowledgingDialect) and other._reader is self._reader


def _parts(works: Sequence[Work], messages: list[bytes], oversize: Collection[int]) -> list[Group]:
    """
    Cut messages into groups of one route or refusal each.

    @param works: as a dialect of messages has read all of them.
    """
    if len(works) == 1 and not (works[0].gaps or works[0].groups or oversize):
        route = works[0].route
        begins = range(0, len(messages), _TOGETHER)
        return [Group(route, messages[begin : begin + _TOGETHER]) for begin in begins]
    ways: list[tuple[str, Outcome | None]] = []
    for work in works:
        ways += _ways(work)
    for place in oversize:
        route, refusal = ways[place]
        ways[place] = route, refusal or wording.TOO_LONG
    groups = []
    for (route, refusal), places in places_by(ways).items():
        for begin in range(0, len(places), _TOGETHER):
            part = places[begin : begin + _TOGETHER]
            groups.append(Group(route, [messages[place] for place in part], refusal, part))
    return groups


def _ways(work: Work) -> list[tuple[str, Outcome | None]]:
    """Return the route of each message of some work, or C{""} and why it has none."""
    ways: list[tuple[str, Outcome | None]] = [(work.route, None)] * len(work.messages)
    if work.groups:
        ways = [("", None)] * sum([len(group.frames) for group in work.groups])
        for group in work.groups:
            for place in group.places:
                ways[place] = group.route, group.refusal
    if not work.gaps:
        return ways
    gaps, waiting = dict(work.gaps), iter(ways)
    return [("", gaps[place]) if place in gaps else next(waiting) for place in range(work.count)]
