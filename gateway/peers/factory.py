"""
Factory of the protocols of one listener's peers, with the state that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import cast

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from gateway.access.connection_limit import ConnectionLimit
from gateway.access.peer_info import PeerCertificate, PeerInfo
from gateway.access.rates import Allowance, Bucket, RateBucket, Rates
from gateway.access.rights import NOTHING, Access, Rights
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.placed_writer import PlacedSource, PlacedWriter
from gateway.commit.writer import OnSettled, PeerSource, Writer
from gateway.dialects.acknowledging import AcknowledgingDialect
from gateway.dialects.base import Dialect
from gateway.dialects.subscriptions import Subscriptions
from gateway.metrics.counters import ListenerCounters
from gateway.model import wording
from gateway.model.batch import Origin
from gateway.model.outcome import Outcome, Words
from gateway.peers.admission_log import AdmissionLog
from gateway.peers.loss_log import LossLog
from gateway.peers.protocol import PeerProtocol
from gateway.peers.refusal_log import RefusalLog
from gateway.peers.throttle import Throttle
from gateway.peers.timeout_sweep import TimeoutSweep
from gateway.peers.timeouts import Timeouts
from gateway.system.addresses import address_of
from gateway.system.socket_options import SocketOptions
from gateway.wire.framing import Framing, make_framing
from gateway.wire.protocols import PROTOCOLS
from gateway.wire.telnet import TelnetFraming


@dataclass(frozen=True, slots=True)
class DatagramSettings:
    """
    Settings of a listener for datagrams.

    @ivar gelf: whether they may be GELF's chunks, or compressed.
    @ivar trims: whether line ends and NULs at a message's end are dropped.
    @ivar by_source: whether it matters which message came from whom.
    """

    gelf: bool = False
    trims: bool = True
    by_source: bool = True


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """
    Settings of one listener, as far as its peers feel them.

    @ivar listener: its name in the configuration.
    @ivar framing: a key of L{gateway.wire.framing.FRAMINGS} or L{PROTOCOLS}; C{datagram}: none.
    @ivar delimiter: of framing C{delimited}.
    @ivar max_frame: largest payload of a frame, in bytes.
    @ivar max_chunk: largest unit of messages that are acknowledged together, in bytes.
    @ivar window: unanswered frames of a peer at which reading pauses.
    @ivar push_buffer: bytes of pushes that may wait for a peer.
    @ivar auth: whether peers have to prove their identity.
    @ivar telnet: whether peers may send Telnet's commands between their lines.
    @ivar refuses_http: whether a peer that begins with HTTP is disconnected before anything is
        stored.
    @ivar socket_options: socket options of the connections.
    """

    listener: str
    framing: str
    words: Words
    max_frame: int
    window: int
    max_chunk: int = 0
    timeouts: Timeouts = field(default_factory=Timeouts)
    push_buffer: int = 262144
    auth: bool = False
    telnet: bool = False
    refuses_http: bool = True
    delimiter: bytes | None = None
    socket_options: SocketOptions = field(default_factory=SocketOptions)
    datagrams: DatagramSettings = field(default_factory=DatagramSettings)


@dataclass(frozen=True, slots=True)
class PeerServices:
    """
    Parts of the gateway that the peers of all listeners use.

    @ivar wall: seconds since 1970.
    @ivar channels: subscriptions to channels; C{None}: peers cannot listen.
    @ivar ids: the numbers by which peers are known to the operator.
    """

    writer: Writer | PlacedWriter
    inflight_limit: InflightLimit
    clock: IReactorTime
    wall: Callable[[], float]
    channels: Subscriptions | None = None
    ids: Iterator[int] = field(default_factory=partial(count, 1))


class PeerFactory(Factory):
    """
    Factory of the protocols of one listener.

    @ivar peers: peers that are connected now.
    @ivar counters: of this listener.
    """

    noisy = False

    _log = Logger()

    def __init__(
        self,
        settings: ListenerSettings,
        services: PeerServices,
        dialect: Dialect,
        access: Access,
        rates: Rates | None = None,
        connection_limit: ConnectionLimit | None = None,
    ) -> None:
        """
        @param rates: rate limits of peers; C{None}: no limit.
        @param connection_limit: the count of connections.
        """
        self.listener = settings.listener
        self._use(settings)
        self.writer = services.writer
        self.inflight_limit = services.inflight_limit
        self.clock = services.clock
        self.channels = services.channels
        self.counters = ListenerCounters()
        self.dialect = dialect
        self.access = access
        self.rates = Rates(Allowance()) if rates is None else rates
        self.connection_limit = ConnectionLimit() if connection_limit is None else connection_limit
        self.peers: set[PeerProtocol] = set()
        self._wall = services.wall
        self._ids = services.ids
        self._sweep = TimeoutSweep(
            self.clock, self.timeouts, self.listener, self.peers, self._end_expired
        )
        self.refusal_log = RefusalLog(self.clock, self.listener)
        self.admission_log = AdmissionLog(self.clock, self.listener)
        self._loss_log = LossLog(self.clock, self.listener)
        self._told_of_nul = False

    def _use(self, settings: ListenerSettings) -> None:
        self.framing = settings.framing
        self.words = settings.words
        self.max_frame = settings.max_frame
        self.max_chunk = settings.max_chunk
        self.window = settings.window
        self.timeouts = settings.timeouts
        self.push_buffer = settings.push_buffer
        self.auth = settings.auth
        self.telnet = settings.telnet
        self.refuses_http = settings.refuses_http
        self.delimiter = settings.delimiter
        self.datagrams = settings.datagrams
        self.socket_options = settings.socket_options

    def joined(self, peer: PeerProtocol) -> None:
        """Note that a peer connected."""
        self.peers.add(peer)
        peer.id, peer.since = next(self._ids), self.clock.seconds()
        self.counters.connections += 1
        self.connection_limit.enter(peer.peer_info.site)
        self._sweep.peers_changed()

    def left(self, peer: PeerProtocol) -> None:
        """Note that a peer is gone."""
        self.peers.discard(peer)
        self.connection_limit.leave(peer.peer_info.site)
        if self.channels is not None:
            self.channels.end_all(peer)
        self._sweep.peers_changed()

    def nul_found(self, peer: PeerProtocol) -> None:
        """Log, once, that a peer seems to end its messages with NUL."""
        if self._told_of_nul:
            return
        self._told_of_nul = True
        self._log.warn(
            "listener {listener}: {peer} seems to end its messages with NUL, and here a newline"
            ' ends a message, so they are not stored; set framing = "nul" for this listener, or'
            " have the sender end each message with a newline",
            event="nul-at-the-end",
            listener=self.listener,
            peer=peer.peer_info.name,
        )

    def log_refused(self, peer: PeerProtocol, route: str, count: int, outcome: Outcome) -> None:
        """Log that messages are refused for good."""
        self.refusal_log.note(route, count, outcome, peer.peer_info.name)

    def log_admission(self, peer_info: PeerInfo) -> None:
        """Log that a peer has rights here, where it has proved its identity."""
        if peer_info.identity is not None:
            self.admission_log.note(
                peer_info.identity, peer_info.proof, peer_info.site, peer_info.name
            )

    def log_close(self, peer: PeerProtocol, kind: str, reason: str) -> None:
        """Count and log that a peer is told to go."""
        self.counters.let_go[kind] += 1
        self._sweep.count_close(reason, peer.peer_info.name)

    def log_refusal(self, name: str, kind: str, reason: str) -> None:
        """
        Count and log that a connection is refused.

        @param name: its address.
        @param kind: one word of few, for counting.
        """
        self.counters.turned_away[kind] += 1
        self._sweep.count_close(reason, name)

    def note_loss(self, reason: str, count: int, text: str) -> None:
        """
        Count and log datagrams that are lost, as nobody hears of it.

        @param reason: one word of few, for counting.
        @param text: the reason for people.
        """
        self.counters.lost[reason] += count
        self._loss_log.note(reason, count, text)

    def end_log(self) -> None:
        """Log the counts that are not logged yet."""
        self.refusal_log.end()
        self.admission_log.end()
        self._loss_log.end()

    def replace_settings(self, settings: ListenerSettings) -> None:
        """
        Replace the settings: window, timeouts and C{push_buffer} at once, all others for peers to
        come. Peers without an identity are told to go where it changes whether they need one.
        """
        auth_changed = settings.auth != self.auth
        if settings.timeouts != self.timeouts:
            self._sweep.replace_timeouts(settings.timeouts)
        self._use(settings)
        if auth_changed:
            bye = wording.TOKEN_FIRST if settings.auth else wording.LISTENER_CLOSES
            for peer in [peer for peer in self.peers if peer.peer_info.identity is None]:
                peer.disprove(bye)

    def replace_dialect(self, dialect: Dialect, routes: Collection[str]) -> None:
        """
        Replace the dialect. Peers that speak one of another kind keep it, as long as its routes
        are there.

        @param routes: all there are.
        """
        self.dialect = dialect
        for peer in list(self.peers):
            if _are_alike(peer.dialect, dialect):
                if peer.dialect is not dialect:
                    peer.replace_dialect(dialect)
            elif not all(route in routes for route in peer.dialect.routes):
                peer.close_with(wording.LISTENER_CLOSES)

    def close_all(self, bye: Outcome) -> None:
        """Tell all peers to go, after their answers."""
        for peer in list(self.peers):
            peer.close_with(bye)

    def replace_rates(self, rates: Rates) -> None:
        """
        Replace the rate limits of all peers.
        """
        if rates.allowance != self.rates.allowance:
            self.rates = rates
            for peer in list(self.peers):
                peer.renew_throttle()

    def replace_access(self, access: Access, known: Callable[[PeerInfo], PeerInfo | None]) -> None:
        """
        Replace the access rights of all peers; those without any are told to go.

        @param known: a peer's identity -> the same as it is now; C{None} where its proof is not
            valid any more.
        """
        self.access = access
        for peer in list(self.peers):
            peer_info = known(peer.peer_info)
            rights = wording.TOKEN_REVOKED if peer_info is None else self.rights(peer_info)
            if isinstance(rights, Outcome):
                peer.disprove(rights)
            elif peer_info is not None:
                peer.peer_info = peer_info
                peer.entitle(rights)

    def end_revoked(self, revoked: Callable[[set[PeerCertificate]], set[PeerCertificate]]) -> None:
        """
        Disconnect peers whose certificate is revoked.

        @param revoked: returns those of some certificates that are.
        """
        shown = {peer.peer_info.certificate for peer in self.peers} - {None}
        revoked_ones = revoked(cast("set[PeerCertificate]", shown)) if shown else ()
        for peer in [peer for peer in self.peers if peer.peer_info.certificate in revoked_ones]:
            peer.disprove(wording.CERTIFICATE_REVOKED)

    def _end_expired(self) -> None:
        now = self._wall()
        for peer in [peer for peer in self.peers if peer.peer_info.ends <= now]:
            peer.disprove(wording.EXPIRED)

    # Called by the protocols of its peers.

    def rights(self, peer_info: PeerInfo) -> Rights | Outcome:
        if self.awaits_proof(peer_info):
            return NOTHING
        return (
            self.access.rights(self.listener, peer_info.address, peer_info.identity)
            or wording.NOTHING_GRANTED
        )

    def make_framing(self, say: Callable[[bytes], object]) -> Framing:
        if self.dialect.acknowledges:
            return PROTOCOLS[self.framing].framing(self.max_frame, self.max_chunk)
        framing = make_framing(
            self.framing, self.max_frame, self.delimiter, refuses_http=self.refuses_http
        )
        return TelnetFraming(framing, say) if self.telnet else framing

    def source(self, peer_info: PeerInfo, answered: OnSettled) -> PeerSource | PlacedSource:
        return self.writer.source(
            Origin(peer_info.name, self.listener, peer_info.identity), answered
        )

    def throttle(self, peer_info: PeerInfo, resume: Callable[[], None]) -> Throttle | None:
        now = self.clock.seconds()
        bucket: RateBucket | None
        if self.awaits_proof(peer_info) and self.rates.allowance.limited:
            # A bucket of its own: a peer without a token must not use up that of peers with one.
            bucket = Bucket(self.rates.allowance, now)
        else:
            bucket = self.rates.bucket(peer_info.account, now)
        if bucket is None:
            return None
        refuses = not (self.words.silent or self.dialect.acknowledges)
        return Throttle(bucket, self.clock, resume, self.counters, refuses=refuses)

    def awaits_proof(self, peer_info: PeerInfo) -> bool:
        return self.auth and peer_info.identity is None

    @property
    def dialect_name(self) -> str:
        """Name of the dialect, as the configuration has it."""
        if self.dialect.acknowledges:
            return self.framing
        return "command" if self.dialect.takes_commands else "plain"

    def wrong_listener_answer(self, framing: str) -> Outcome | None:
        if self.dialect.takes_commands and framing == self.framing:
            return None
        return wording.wrong_listener(self.listener, self.dialect_name, self.framing, framing)

    def buildProtocol(self, addr: IAddress | None) -> PeerProtocol:
        return self.peer(peer_info_of(addr))

    def peer(self, peer_info: PeerInfo) -> PeerProtocol:
        """
        Make the protocol of a peer that is let in.
        """
        return PeerProtocol(self, peer_info)


def _are_alike(one: Dialect, other: Dialect) -> bool:
    """Say whether a peer of one dialect can go on with the other."""
    if isinstance(one, AcknowledgingDialect):
        return one.is_like(other)
    return not other.acknowledges and one.takes_commands == other.takes_commands


def peer_info_of(addr: IAddress | None) -> PeerInfo:
    """
    Return what a transport's address tells of a peer.
    """
    return PeerInfo(peer_name(addr), address_of(getattr(addr, "host", None)))


def peer_name(addr: IAddress | None) -> str:
    """
    Return an address for people and for C{@peer}: C{host:port}, C{[v6]:port} or C{unix}.
    """
    host, port = getattr(addr, "host", None), getattr(addr, "port", None)
    return "unix" if host is None else place_name(host, port)


def place_name(host: str, port: object) -> str:
    """Return C{host:port} or C{[v6]:port}."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
