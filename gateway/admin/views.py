"""
Views of the status: what SHOW shows, as tables. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from gateway.admin.grammar import HELP, PEER_FILTERS
from gateway.admin.table import Column, Kind, Row, Table, Value
from gateway.status.status import Distribution, ListenerStatus, SpoolStatus, Status, WorkerStatus

Growth = Callable[[str], float]
"""Name of a total, as L{gateway.status.warnings.totals_of} has it -> its growth in a second."""

Part = TypeVar("Part")

WORDS: Final = ("+OK", "+DUP", "+QUE", "-REJ", "-TRY", "-BYE")

_TEXT, _COUNT, _BYTES = Kind.TEXT, Kind.COUNT, Kind.BYTES
_SECONDS, _TIME, _ID = Kind.SECONDS, Kind.TIME, Kind.ID


def _columns(*named: tuple[str, Kind]) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in named)


def stats(status: Status, growth: Growth) -> Table:
    """Return what came in at each listener, and what became of it."""
    columns = _columns(
        ("listener", _TEXT),
        *(("peers", _COUNT), ("messages", _COUNT), ("per_second", _COUNT), ("bytes", _BYTES)),
        *((word, _COUNT) for word in WORDS),
        ("mean_seconds", _SECONDS),
    )
    rows: list[Row] = []
    for listener in status.listeners:
        rows.append(
            (
                *(listener.name, listener.peers, listener.messages),
                round(growth(f"listener.{listener.name}.messages"), 1),
                listener.bytes_received,
                *(answers_of(listener, word) for word in WORDS),
                mean(listener.answer_seconds),
            )
        )
    return Table(columns, rows)


def listeners(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *(("listener", _TEXT), ("address", _TEXT), ("framing", _TEXT), ("dialect", _TEXT)),
        *(("tls", _TEXT), ("peers", _COUNT), ("most", _COUNT), ("connections", _COUNT)),
        *(("turned_away", _TEXT), ("let_go", _TEXT), ("throttled", _COUNT)),
        ("lost", _TEXT),
    )
    return Table(
        columns,
        [
            (
                *(one.name, one.address, one.framing, one.dialect, one.tls, one.peers),
                *(one.most_peers, one.connections),
                *(_counted(one.turned_away), _counted(one.let_go), one.throttled),
                _counted(one.lost),
            )
            for one in status.listeners
        ],
    )


def routes(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *(("route", _TEXT), ("state", _TEXT), ("table", _TEXT), ("commits", _COUNT)),
        *(("rows", _COUNT), ("per_second", _COUNT), ("mean_commit", _SECONDS)),
        *(("mean_rows", _COUNT), ("unresolved", _COUNT), ("dead_letters", _COUNT)),
        *(("spooled", _COUNT), ("held", _COUNT), ("reason", _TEXT)),
    )
    return Table(
        columns,
        [
            (
                *(route.name, route.state, route.table, route.commits, route.rows),
                round(growth(f"route.{route.name}.rows"), 1),
                *(mean(route.commit_seconds), mean(route.batch_rows), route.unresolved),
                *(route.dead_letters, route.spooled, route.held, route.reason),
            )
            for route in status.routes
        ],
    )


def pool(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *_worker_column(status),
        *(("pool", _TEXT), ("in_use", _COUNT), ("idle", _COUNT), ("opening", _COUNT)),
        *(("most", _COUNT), ("waiting", _COUNT), ("opened", _COUNT), ("lost", _COUNT)),
        *(("reconnects", _COUNT), ("server", _TEXT), ("trouble", _TEXT)),
    )
    return Table(
        columns,
        [
            (
                *worker,
                *(one.full_name, one.in_use, one.idle, one.opening, one.most, one.waiting),
                *(one.opened, one.lost, one.reconnects, one.server, one.trouble),
            )
            for worker, one in _by_worker(status, lambda part: part.pools)
        ],
    )


def lanes(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *_worker_column(status), *(("lane", _ID), ("waiting", _COUNT), ("seconds", _SECONDS))
    )
    return Table(
        columns,
        [
            (
                *((lane.worker,) if status.workers else ()),
                *(lane.number, lane.waiting, lane.seconds),
            )
            for lane in status.lanes
        ],
    )


def spool(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *_worker_column(status),
        *(("state", _TEXT), ("messages", _COUNT), ("size", _BYTES), ("most", _BYTES)),
        *(("oldest", _TIME), ("kept", _COUNT), ("drained", _COUNT), ("refused", _COUNT)),
        *(("damaged", _COUNT), ("path", _TEXT), ("reason", _TEXT)),
    )
    return Table(
        columns,
        [
            (
                *worker,
                *(one.state, one.messages, one.size, one.most_size, one.oldest, one.kept),
                *(one.drained, one.refused, one.damaged, one.path, one.reason),
            )
            for worker, one in _by_worker(status, _spools)
        ],
    )


def streams(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *(("open", _COUNT), ("waiting", _COUNT), ("claims", _COUNT)),
        *(("taken_over", _COUNT), ("gaps", _COUNT)),
    )
    one = status.streams
    return Table(columns, [(one.open, one.waiting, one.claims, one.taken_over, one.gaps)])


def queries(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *(("query", _TEXT), ("calls", _COUNT), ("answers", _TEXT), ("mean_seconds", _SECONDS)),
    )
    return Table(
        columns,
        [
            (one.name, sum(one.answers.values()), _counted(one.answers), mean(one.seconds))
            for one in status.queries
        ],
    )


def channels(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *(("channel", _TEXT), ("subscribers", _COUNT), ("notifications", _COUNT)),
        *(("pushes", _COUNT), ("gaps", _COUNT)),
    )
    return Table(
        columns,
        [
            (one.name, one.subscribers, one.notifications, one.pushes, one.gaps)
            for one in status.channels
        ],
    )


def certificates(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *(("listener", _TEXT), ("kind", _TEXT), ("expires", _TIME), ("left", _SECONDS)),
        ("subject", _TEXT),
    )
    return Table(
        columns,
        [
            (one.listener, one.kind, one.expires, max(0.0, one.expires - status.time), one.subject)
            for one in status.certificates
        ],
    )


def version(status: Status, growth: Growth) -> Table:
    columns = _columns(
        *(("version", _TEXT), ("pid", _ID), ("state", _TEXT), ("started", _TIME)),
        ("running", _SECONDS),
    )
    running = status.time - status.started
    return Table(
        columns, [(status.version, status.process.pid, status.state, status.started, running)]
    )


def workers(status: Status, growth: Growth) -> Table:
    """Return the worker processes; where one process does it all, that one."""
    columns = _columns(
        *(("worker", _ID), ("state", _TEXT), ("pid", _ID), ("running", _SECONDS)),
        *(("restarts", _COUNT), ("peers", _COUNT), ("messages", _COUNT), ("per_second", _COUNT)),
        *(("rows", _COUNT), ("spooled", _COUNT), ("cpu_seconds", _COUNT), ("memory", _BYTES)),
        *(("lag", _SECONDS), ("last_end", _TEXT)),
    )
    rows: list[Row] = []
    for one in status.workers or [_only(status)]:
        process = one.process
        rows.append(
            (
                *(one.number, one.state, one.pid),
                None if one.started is None else max(0.0, status.time - one.started),
                *(one.restarts, one.peers, one.messages),
                round(worker_rate(status, one, growth), 1),
                *(one.rows, 0 if one.spool is None else one.spool.messages),
                None if process is None else round(process.cpu_seconds, 1),
                None if process is None else process.resident,
                None if process is None else process.reactor_lag,
                one.last_end,
            )
        )
    return Table(columns, rows)


def worker_rate(status: Status, worker: WorkerStatus, growth: Growth) -> float:
    """Return the messages that a worker received in a second."""
    if status.workers:
        return growth(f"worker.{worker.number}.messages")
    return sum(growth(f"listener.{listener.name}.messages") for listener in status.listeners)


def _only(status: Status) -> WorkerStatus:
    return WorkerStatus(
        number=1,
        state=status.state,
        pid=status.process.pid,
        started=status.started,
        restarts=0,
        last_end="",
        peers=status.peers,
        messages=sum(listener.messages for listener in status.listeners),
        rows=sum(route.rows for route in status.routes),
        spool=status.spool,
        process=status.process,
    )


def _worker_column(status: Status) -> Sequence[tuple[str, Kind]]:
    return (("worker", _ID),) if status.workers else ()


def _spools(part: Status | WorkerStatus) -> Sequence[SpoolStatus]:
    return [*([] if part.spool is None else [part.spool]), *part.left_spools]


def _by_worker(
    status: Status, parts: Callable[[Status | WorkerStatus], Sequence[Part]]
) -> Iterator[tuple[Row, Part]]:
    """Yield the parts of all workers, each with the beginning of its row."""
    if not status.workers:
        yield from (((), part) for part in parts(status))
    for worker in status.workers:
        yield from (((worker.number,), part) for part in parts(worker))


VIEWS: Final[Mapping[str, Callable[[Status, Growth], Table]]] = {
    "STATS": stats,
    "LISTENERS": listeners,
    "ROUTES": routes,
    "POOL": pool,
    "LANES": lanes,
    "SPOOL": spool,
    "STREAMS": streams,
    "QUERIES": queries,
    "CHANNELS": channels,
    "CERTIFICATES": certificates,
    "WORKERS": workers,
    "VERSION": version,
}
"""What SHOW shows of the status."""


def help_table() -> Table:
    """All commands."""
    columns = _columns(("command", _TEXT), ("does", _TEXT))
    filters = [(f"SHOW PEERS {name}=", f"{does}") for name, does in PEER_FILTERS.items()]
    rows: list[Row] = []
    for command, does in HELP.items():
        rows.append((command, does))
        if command == "SHOW PEERS":
            rows += filters
    return Table(columns, [*rows, ("... --json", "one JSON object a line")])


def config_table(config: object, public: Callable[[str], str]) -> Table:
    """
    Show a configuration, one key a row.

    @param public: takes the secrets out of a connection string.
    """
    columns = _columns(("key", _TEXT), ("value", _TEXT))
    return Table(columns, list(_keys("", config, public)))


def _keys(where: str, value: object, public: Callable[[str], str]) -> Iterator[Row]:
    below = _fields(value)
    if below is not None:
        for name, one in below.items():
            yield from _keys(f"{where}.{name}" if where else str(name), one, public)
    elif isinstance(value, str) and where.rpartition(".")[2] == "dsn":
        yield where, public(value)
    else:
        yield where, _shown(value)


def _fields(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, msgspec.Struct):
        return {name.rstrip("_"): getattr(value, name) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value if isinstance(value, Mapping) and value else None


def _shown(value: object) -> Value:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(map(str, value)) if isinstance(value, set | frozenset) else map(str, value)
        return ", ".join(items)
    return "" if isinstance(value, Mapping) else str(value)


def answers_of(listener: ListenerStatus, word: str) -> int:
    """Return how many answers of a listener begin with a word."""
    return sum(n for answer, n in listener.answers.items() if answer.split(" ")[0] == word)


def mean(distribution: Distribution) -> float | None:
    """Return the mean of a histogram; C{None}: it is empty."""
    count = sum(distribution.counts)
    return distribution.total / count if count else None


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
