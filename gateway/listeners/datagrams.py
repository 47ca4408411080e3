"""
Datagrams of one listener, from the socket to the writer: each is one message, and has no answer.

Strategy: the datagrams of one turn of the reactor are one submission, and only where it matters
which message came from whom (C{@peer}, dead letters) one for each source. What becomes of them is
counted; a sender hears of nothing, so what is not stored is counted as lost and logged
(L{gateway.peers.loss_log}).

The socket is not read while the gateway holds too much (L{gateway.commit.inflight_limit}), and
while this listener's messages in flight take half of that limit, since senders do not slow down
and would leave others nothing. Then the kernel's buffer fills, and it drops what comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.access.peer_info import PeerInfo
from gateway.access.rights import Rights
from gateway.commit.placed_writer import PlacedSource
from gateway.commit.writer import MESSAGE, PeerSource
from gateway.dialects.base import Dialect, FrameReader
from gateway.dialects.by_content import ContentDialect
from gateway.dialects.plain import PlainDialect
from gateway.listeners.admission import Admission
from gateway.metrics.counters import kind_of
from gateway.model import wording
from gateway.model.outcome import Fate, Outcome, Run, Word
from gateway.peers.factory import place_name
from gateway.system.addresses import address_of
from gateway.wire.framing import OVERSIZE
from gateway.wire.gelf import GelfDatagrams

Address = tuple[str, int] | None
"""Host and port of a sender; C{None}: it has none, or nobody needs it."""

KERNEL: Final = "kernel"
"""Reason of a loss: the kernel dropped datagrams for which its buffer had no room."""

INCOMPLETE: Final = "incomplete"
"""Reason of a loss: chunks of a GELF message did not come."""

_MAX_VERDICTS: Final = 4096
"""Addresses of which it is kept whether their datagrams are taken."""

_NO_ROOM: Final = (
    "the kernel's buffer was full (receive_buffer; docs/datagrams.md); it dropped them"
)
_MISSING: Final = "chunks of a GELF message did not come within 5 s, or it had no room"
_MAX_ENDING: Final = len(b"\r\n\0")
_ENDINGS: Final = b"\r\n\0"


class DatagramPort(Protocol):
    """
    Socket that the datagrams come from.

    @ivar has_sources: whether senders have addresses.
    """

    has_sources: bool

    def update_reading(self) -> None:
        """Read or stop reading, as L{DatagramReceiver.holds} says."""

    def take_drops(self) -> int:
        """Return how many datagrams the kernel dropped since the last call."""


@dataclass(slots=True)
class _Sent:
    """
    Submission under way.

    @ivar size: bytes that it counts for.
    """

    route: str
    source: _Source
    began: float
    size: int


class _Source:
    """
    Source of messages with some in flight: they are stored in the order in which they came.
    """

    __slots__ = ("address", "in_flight", "name", "submits")

    submits: PeerSource | PlacedSource

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self.name = name
        self.in_flight = 0


@dataclass(frozen=True, slots=True)
class _Sender:
    """
    Sender of datagrams, as a dialect needs it.
    """

    rights: Rights


class DatagramReceiver:
    """
    Receiver of one listener's datagrams.

    @ivar holds: whether nothing is to be read now.
    """

    def __init__(self, admission: Admission, clock: IReactorTime) -> None:
        self.holds = False
        self._admission = admission
        self._factory = admission.peers
        self._clock = clock
        self._port: DatagramPort | None = None
        self._pressed = False
        self._in_flight = 0
        self._sources: dict[Address, _Source] = {}
        self._verdicts: dict[str | None, FrameReader | Outcome] = {}
        self._valid_for: tuple[object, ...] = ()
        self._gelf = GelfDatagrams()
        self._incomplete = 0
        self._later: IDelayedCall | None = None
        self._anybody = "unix"

    # The port's life.

    def opened(self, port: DatagramPort) -> None:
        """Begin with a port."""
        self._port = port
        self._anybody = "udp" if port.has_sources else "unix"
        limit = self._factory.inflight_limit
        limit.add_reader(self)
        self._pressed = limit.full
        self._update()

    def closed(self) -> None:
        """End: nothing more comes; what is in flight is still counted."""
        self._note_drops()
        self._port = None
        self._factory.inflight_limit.remove_reader(self)
        self._gelf.clear()
        self._note_incomplete()
        if self._later is not None:
            self._later.cancel()
            self._later = None

    @property
    def max_datagram(self) -> int:
        """Bytes of a datagram, at most; of a longer one no more needs to be read."""
        datagrams = self._factory.datagrams
        # What ends it does not count, and a compressed one may be longer than its message.
        return self._factory.max_frame + _MAX_ENDING + (1024 if datagrams.gelf else 0)

    @property
    def needs_sources(self) -> bool:
        """Whether the addresses of senders matter."""
        admission, factory = self._admission, self._factory
        return bool(
            factory.datagrams.by_source
            or factory.datagrams.gelf
            or admission.allow
            or admission.deny
            or factory.rates.allowance.limited
            or factory.access.is_limited
        )

    # Backpressure.

    def hold_reading(self, held: bool) -> None:
        """Pause or resume, as the limit of the whole gateway wants it."""
        self._pressed = held
        self._update()

    def disconnect(self) -> None:
        """Give up the incomplete GELF messages: the gateway holds too much."""
        self._gelf.clear()
        self._note_incomplete()

    def _update(self) -> None:
        most = self._factory.inflight_limit.limit // 2
        # It goes on when a quarter is free again, so that not every answer turns it on and off.
        least = most - most // 4 if self.holds else most
        holds = self._pressed or self._in_flight > least
        if holds is self.holds:
            return
        self.holds = holds
        if self._port is not None:
            self._port.update_reading()
            if holds:
                self._watch()

    def _watch(self) -> None:
        """Look again in a second: while nothing is read the kernel may drop, and chunks expire."""
        if self._later is None and self._port is not None:
            self._later = self._clock.callLater(1.0, self._look)

    def _look(self) -> None:
        self._later = None
        self._note_drops()
        if self._gelf.expires is not None:
            self._gelf.expire(self._clock.seconds())
            self._count_gelf()
        if self.holds or self._gelf.expires is not None:
            self._watch()

    # From datagrams to the writer.

    def receive(self, datagrams: list[bytes], addresses: Sequence[Address]) -> None:
        """
        Take the datagrams of one turn of the reactor.

        @param datagrams: one or more.
        @param addresses: their senders'; none where L{needs_sources} said so.
        """
        counters = self._factory.counters
        counters.messages += len(datagrams)
        counters.bytes_received += sum(map(len, datagrams))
        self._note_drops()
        if not addresses:
            self._take(None, datagrams)
            return
        groups: dict[Address, list[bytes]] = {}
        for datagram, address in zip(datagrams, addresses, strict=True):
            group = groups.get(address)
            if group is None:
                groups[address] = [datagram]
            else:
                group.append(datagram)
        if self._factory.datagrams.by_source or len(groups) == 1:
            for address, group in groups.items():
                self._take(address, group)
            return
        # Nobody asks whose they are: all that are taken go together.
        together: dict[int, tuple[FrameReader, list[bytes]]] = {}
        for address, group in groups.items():
            reader = self._admit(address, group)
            if reader is not None and group:
                together.setdefault(id(reader), (reader, []))[1].extend(group)
        for reader, frames in together.values():
            self._read(reader, self._source(None), frames)

    def _take(self, address: Address, datagrams: list[bytes]) -> None:
        reader = self._admit(address, datagrams)
        if reader is not None and datagrams:
            by_source = self._factory.datagrams.by_source
            self._read(reader, self._source(address if by_source else None), datagrams)

    def _admit(self, address: Address, frames: list[bytes]) -> FrameReader | None:
        """
        Leave in C{frames} the messages of one source that are taken.

        @return: their reader; C{None}: the source may not send here.
        """
        reader = self._verdict(None if address is None else address[0])
        if isinstance(reader, Outcome):
            self._refuse("", len(frames), reader, _name(address))
            return None
        # First: one that is cut off may end anywhere.
        _mark_oversize(frames, self.max_datagram)
        if self._factory.datagrams.gelf:
            self._assemble(address, frames)
        if self._factory.datagrams.trims:
            # An empty one may be the mark for one that is too long.
            frames[:] = [frame.rstrip(_ENDINGS) if frame else frame for frame in frames]
        _mark_oversize(frames, self._factory.max_frame)
        if self._factory.rates.allowance.limited and frames:
            self._limit(address, frames)
        return reader

    def _assemble(self, address: Address, frames: list[bytes]) -> None:
        """Make messages of GELF's chunks and compressed datagrams."""
        gelf = self._gelf
        found = gelf.receive(address, frames, self._factory.max_frame, self._clock.seconds())
        frames[:] = found.frames
        for fault in found.faults:
            self._refuse("", 1, fault, _name(address))
        self._count_gelf()

    def _count_gelf(self) -> None:
        self._note_incomplete()
        self._factory.inflight_limit.set_kept(self, self._gelf.waiting)
        if self._gelf.expires is not None:
            self._watch()

    def _limit(self, address: Address, frames: list[bytes]) -> None:
        """Drop what is over the rate of a source."""
        now = self._clock.seconds()
        info = _peer_info(None if address is None else address[0], "")
        bucket = self._factory.rates.bucket(info.account, now)
        if bucket is None:
            return
        passed = bucket.take(frames, now)
        if over := len(frames) - passed:
            del frames[passed:]
            self._lose(over, wording.over_rate(1), 0.0)

    def _verdict(self, host: str | None) -> FrameReader | Outcome:
        """
        Return the reader of a host's messages, or the reason why it may not send here.
        """
        admission, factory = self._admission, self._factory
        valid_for = (admission.allow, admission.deny, factory.access, factory.dialect)
        if valid_for != self._valid_for or len(self._verdicts) >= _MAX_VERDICTS:
            self._verdicts.clear()
            self._valid_for = valid_for
        verdict = self._verdicts.get(host)
        if verdict is None:
            verdict = self._verdicts[host] = self._judge(host, factory.dialect)
        return verdict

    def _judge(self, host: str | None, dialect: Dialect) -> FrameReader | Outcome:
        info = _peer_info(host, "")
        refusal = self._admission.address_refusal(info)
        rights = refusal or self._factory.rights(info)
        if isinstance(rights, Outcome):
            return Outcome(Word.REJ, rights.code, rights.text)
        assert isinstance(dialect, PlainDialect | ContentDialect)
        return dialect.reader(_Sender(rights))

    def _source(self, address: Address) -> _Source:
        source = self._sources.get(address)
        if source is None:
            source = self._sources[address] = _Source(
                address, _name(address) if address else self._anybody
            )
            info = _peer_info(None if address is None else address[0], source.name)
            source.submits = self._factory.source(info, self._settled)
        return source

    def _read(self, reader: FrameReader, source: _Source, frames: list[bytes]) -> None:
        oversize = any(frame is OVERSIZE for frame in frames) if b"" in frames else False
        route = reader.route
        if route is not None and not oversize:
            self._submit(route, source, frames)
            return
        for work in reader.read(frames, oversize):
            for _, outcome in work.gaps:
                self._refuse(work.route, 1, outcome, source.name)
            if work.messages:
                self._submit(work.route, source, work.messages)
        if not source.in_flight:
            self._sources.pop(source.address, None)

    def _submit(self, route: str, source: _Source, frames: list[bytes]) -> None:
        size = sum(map(len, frames)) + MESSAGE * len(frames)
        source.in_flight += 1
        self._in_flight += size
        sent = _Sent(route, source, self._clock.seconds(), size)
        source.submits.submit(route, frames, sent)
        if self._in_flight:
            self._update()

    # What became of them.

    def _settled(self, token: object, runs: Sequence[Run]) -> None:
        assert isinstance(token, _Sent)
        seconds = self._clock.seconds() - token.began
        for count, fate in runs:
            self._count(token, count, fate, seconds)
        source = token.source
        source.in_flight -= 1
        if not source.in_flight:
            # Those without anything in flight would only take memory.
            self._sources.pop(source.address, None)
        self._in_flight -= token.size
        if self.holds:
            self._update()

    def _count(self, sent: _Sent, count: int, fate: Fate, seconds: float) -> None:
        if isinstance(fate, Outcome) and fate.word in (Word.TRY, Word.BYE):
            self._lose(count, fate, seconds)
            return
        self._factory.counters.answered(count, fate, seconds)
        if isinstance(fate, Outcome) and fate.word is Word.REJ:
            self._factory.refusal_log.note(sent.route, count, fate, sent.source.name)

    def _refuse(self, route: str, count: int, outcome: Outcome, name: str) -> None:
        """Count and log datagrams that are refused before anything is stored."""
        self._factory.counters.answered(count, outcome, 0.0)
        self._factory.refusal_log.note(route, count, outcome, name)

    def _lose(self, count: int, outcome: Outcome, seconds: float) -> None:
        """Count messages that are not stored, and would be if they were sent again."""
        self._factory.counters.answered(count, outcome, seconds)
        self._factory.note_loss(kind_of(outcome), count, outcome.text)

    def _note_drops(self) -> None:
        drops = 0 if self._port is None else self._port.take_drops()
        if drops:
            self._factory.note_loss(KERNEL, drops, _NO_ROOM)

    def _note_incomplete(self) -> None:
        more = self._gelf.incomplete - self._incomplete
        if more:
            self._incomplete = self._gelf.incomplete
            self._factory.note_loss(INCOMPLETE, more, _MISSING)


def _mark_oversize(frames: list[bytes], most: int) -> None:
    if max(map(len, frames), default=0) > most:
        frames[:] = [OVERSIZE if len(frame) > most else frame for frame in frames]


def _peer_info(host: str | None, name: str) -> PeerInfo:
    return PeerInfo(name, address_of(host))


def _name(address: Address) -> str:
    """Return a sender for people and for C{@peer}, as a connection's peer is named."""
    return "unix" if address is None else place_name(*address[:2])
