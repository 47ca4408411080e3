"""
Shape of the status: what C{/status.json}, the console and the metrics show.

It is read from the gateway's parts at once (L{gateway.status.source}), so that whoever shows it,
and however, agrees with the others. Times are seconds since 1970, durations seconds, sizes bytes;
totals only grow while the process runs. Nothing in it is a peer's data or a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct, msgpack


class Warning(Struct, frozen=True, kw_only=True):
    """
    State of the gateway that its operator should look at.

    @ivar code: short name, for programs and the runbook; one of those in docs/operations.md.
    @ivar subject: name of the listener, route or certificate; C{""}: the gateway.
    @ivar text: one line for people.
    """

    code: str
    subject: str = ""
    text: str = ""


class Distribution(Struct, frozen=True, kw_only=True):
    """
    Histogram of durations or sizes.

    @ivar bounds: upper bounds of its buckets, ascending.
    @ivar counts: values in each bucket, and in one more for all above.
    @ivar total: sum of the values.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


class ListenerStatus(Struct, frozen=True, kw_only=True):
    """
    Status of one listener.

    @ivar address: C{host:port} or a path; C{""}: it does not listen.
    @ivar dialect: C{plain} or C{command}.
    @ivar peers: peers connected now.
    @ivar most_peers: its limit of them; C{None}: it has none of its own.
    @ivar answers: answers by their first words, such as C{+OK} or C{-REJ DATA}.
    @ivar turned_away: connections refused, by reason.
    @ivar let_go: peers disconnected, by reason.
    @ivar lost: datagrams lost, by reason.
    """

    name: str
    address: str
    framing: str
    dialect: str
    tls: bool
    peers: int
    most_peers: int | None
    connections: int
    messages: int
    bytes_received: int
    answers: Mapping[str, int]
    answer_seconds: Distribution
    turned_away: Mapping[str, int]
    let_go: Mapping[str, int]
    lost: Mapping[str, int] = {}
    throttled: int


RouteState = Literal["opening", "in service", "out of service", "paused", "removed"]
"""C{removed}: it is not in the configuration, and messages of it wait in the spool."""


class RouteStatus(Struct, frozen=True, kw_only=True):
    """
    Status of one route.

    @ivar table: name of its table; C{""} where its statement is its own.
    @ivar reason: why it is out of service or paused; C{""} where it is not.
    @ivar unknown: tries to commit whose reply was lost.
    @ivar unresolved: batches of which it is not known now whether they are stored.
    @ivar resolved: batches that were such, by what became of them.
    @ivar spooled: messages of it that wait in the spool.
    @ivar database: name of the one of C{[databases]} that it stores in; C{""}: C{[database]}.
    @ivar held: messages of it whose peers wait, since it is paused and there is no spool.
    """

    name: str
    table: str
    state: RouteState
    reason: str
    commits: int
    rows: int
    commit_seconds: Distribution
    batch_rows: Distribution
    unknown: int
    unresolved: int
    resolved: Mapping[str, int]
    dead_letters: int
    spooled: int
    held: int
    database: str = ""


class PoolStatus(Struct, frozen=True, kw_only=True):
    """
    Status of a pool of connections to the database.

    @ivar name: C{messages} or C{queries}.
    @ivar database: name of one of C{[databases]}; C{""}: it is C{[database]}'s.
    @ivar most: its largest number of connections.
    @ivar in_use: connections that run a statement.
    @ivar idle: connections that are open and free.
    @ivar opening: attempts to connect under way.
    @ivar waiting: callers that wait for a connection.
    @ivar opened: connections opened in total.
    @ivar lost: those of them that were lost.
    @ivar trouble: why it cannot connect now; C{""}: it can.
    @ivar server: address and version of the server.
    """

    name: str
    most: int
    in_use: int
    idle: int
    opening: int
    waiting: int
    opened: int
    lost: int
    reconnects: int
    trouble: str
    server: str
    database: str = ""

    @property
    def full_name(self) -> str:
        """Its name, and that of its database where it is not C{[database]}."""
        return f"{self.name} of {self.database}" if self.database else self.name

    @property
    def is_reached(self) -> bool:
        """Whether there are connections, or can be, as far as is known."""
        return not self.trouble or self.idle + self.in_use > 0


class ReplicaStatus(Struct, frozen=True, kw_only=True):
    """
    Status of a standby that answers queries.

    @ivar name: of its section in C{[databases]}.
    @ivar is_used: whether it is known to be no further behind than it may be.
    @ivar reason: why it is not used; C{""}: it is.
    @ivar lag: seconds that it is behind, at most; C{None}: not known.
    @ivar passed_over: calls that the primary answered in its place.
    """

    name: str
    is_used: bool
    reason: str
    lag: float | None
    passed_over: int


SpoolState = Literal["empty", "keeping", "draining", "refusing"]


class SpoolStatus(Struct, frozen=True, kw_only=True):
    """
    Status of the spool.

    @ivar state: C{keeping}: messages are put into it; C{draining}: they are stored from it;
        C{refusing}: it has no room, or cannot be written.
    @ivar takes: whether messages are put into it; else those it has are stored, no more.
    @ivar reason: why it keeps or refuses; C{""}: it does neither.
    @ivar messages: messages in it.
    @ivar size: bytes on disk.
    @ivar most_size: its limit of them.
    @ivar oldest: when its oldest message came; C{None}: it is empty.
    @ivar damaged: messages set aside because they are damaged.
    """

    path: str
    state: SpoolState
    reason: str
    messages: int
    size: int
    most_size: int
    oldest: float | None
    damaged: int
    kept: int
    drained: int
    refused: int
    takes: bool = True


class StreamsStatus(Struct, frozen=True, kw_only=True):
    """
    Status of numbered streams.

    @ivar open: streams that are open now.
    @ivar waiting: messages that wait in the spool for a stream's earlier ones.
    """

    open: int
    waiting: int
    claims: int
    taken_over: int
    gaps: int


class QueryStatus(Struct, frozen=True, kw_only=True):
    """
    Status of one query.
    """

    name: str
    answers: Mapping[str, int]
    seconds: Distribution


class ChannelStatus(Struct, frozen=True, kw_only=True):
    """
    Status of one channel.

    @ivar subscribers: peers that listen to it.
    @ivar notifications: notifications that the database sent.
    @ivar pushes: copies of them that were sent to subscribers.
    @ivar gaps: how often subscribers were told that they may have missed some.
    """

    name: str
    subscribers: int
    notifications: int
    pushes: int
    gaps: int


class CertificateStatus(Struct, frozen=True, kw_only=True):
    """
    Certificate that a listener shows, or authority or list that it uses.

    @ivar listener: name of the listener.
    @ivar kind: C{certificate}, C{authority} or C{list}.
    @ivar subject: name in the certificate.
    @ivar expires: the last second at which it is valid.
    """

    listener: str
    kind: str
    subject: str
    expires: float


class LaneStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Lane: a logical writer with at most one batch in flight.

    @ivar worker: number of the worker that it is in; 0, and not encoded: there are none.
    @ivar waiting: messages queued and in flight.
    @ivar seconds: age of the batch in flight; 0 where there is none.
    """

    number: int
    waiting: int
    seconds: float
    worker: int = 0


class MemoryStatus(Struct, frozen=True, kw_only=True):
    """
    Bytes that are held for peers.

    @ivar in_flight: bytes of messages that are not answered yet.
    @ivar kept: bytes that wait for the peers themselves.
    @ivar full: whether all peers wait because of it.
    """

    in_flight: int
    kept: int
    most: int
    full: bool


class ProcessStatus(Struct, frozen=True, kw_only=True):
    """
    The process itself.

    @ivar cpu_seconds: seconds of processor time used.
    @ivar resident: bytes of memory used.
    @ivar open_files: open files and sockets.
    @ivar reactor_lag: seconds that a timer of one second was late, the longest of the last minute.
    @ivar reactor_lags: all such seconds.
    """

    pid: int
    cpu_seconds: float
    resident: int
    open_files: int
    most_files: int
    reactor_lag: float
    reactor_lags: Distribution


State = Literal["starting", "ready", "draining"]

WorkerState = Literal["starting", "ready", "draining", "away"]
"""C{starting} until its routes are opened once; C{away}: there is no process now."""


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """
    Status of one worker process.

    @ivar number: from 1 on; its successor has the same.
    @ivar pid: its process; C{None}: it is away.
    @ivar started: when this process began; C{None}: it is away.
    @ivar restarts: processes that were started in place of one that ended.
    @ivar last_end: how the one before it ended; C{""}: there was none.
    @ivar read: when it told what follows; C{None}: it has told nothing yet.
    @ivar messages: frames that it and those before it received.
    @ivar rows: messages that they stored, without those from the spool.
    @ivar pools: its share of the connections to the database; empty while it is away.
    @ivar spool: its own file.
    @ivar left_spools: those of workers that are no more which it stores.
    """

    number: int
    state: WorkerState
    pid: int | None
    started: float | None
    restarts: int
    last_end: str
    read: float | None = None
    is_storing: bool = False
    is_taking: bool = False
    peers: int = 0
    messages: int = 0
    rows: int = 0
    pools: Sequence[PoolStatus] = ()
    spool: SpoolStatus | None = None
    left_spools: Sequence[SpoolStatus] = ()
    memory: MemoryStatus | None = None
    process: ProcessStatus | None = None


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Status of the whole gateway.

    @ivar state: C{starting} until the routes are opened once; C{draining} from a stop on.
    @ivar is_storing: whether messages are stored now.
    @ivar is_taking: whether what peers send is stored or spooled.
    @ivar reasons: why not, one line each.
    @ivar time: when it was read.
    @ivar warnings: the gravest first.
    @ivar left_spools: spools of workers that are no more, until they are empty; not encoded where
        there are none.
    @ivar workers: its worker processes; empty, and not encoded: one process does it all.
    """

    version: str
    state: State
    is_storing: bool
    is_taking: bool
    reasons: Sequence[str]
    time: float
    started: float
    warnings: Sequence[Warning]
    peers: int
    most_peers: int
    listeners: Sequence[ListenerStatus]
    routes: Sequence[RouteStatus]
    pools: Sequence[PoolStatus]
    lanes: Sequence[LaneStatus]
    spool: SpoolStatus | None
    streams: StreamsStatus
    queries: Sequence[QueryStatus]
    channels: Sequence[ChannelStatus]
    certificates: Sequence[CertificateStatus]
    memory: MemoryStatus
    process: ProcessStatus
    replicas: Sequence[ReplicaStatus] = ()
    left_spools: Sequence[SpoolStatus] = ()
    workers: Sequence[WorkerStatus] = ()


def encoded(status: Status) -> bytes:
    """Return a status as bytes, for another process of the same version."""
    return _ENCODER.encode(status)


def decoded(data: bytes) -> Status:
    """
    Return the status that L{encoded} was given.

    @raise msgspec.DecodeError: it is none.
    """
    return _DECODER.decode(data)


_ENCODER: Final = msgpack.Encoder()
_DECODER: Final = msgpack.Decoder(Status)
