"""
Warnings: states of the gateway that its operator should look at.

Each has a code that the runbook in docs/operations.md explains; the gravest come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from gateway.status.status import SpoolStatus, Status, Warning

SOON: Final = 14 * 86400.0
"""Seconds before a certificate's expiry from which it is warned of."""

FULL: Final = 0.8
"""Part of a limit from which it is warned of."""

LAG: Final = 0.5
"""Seconds of lag of the reactor from which it is warned of."""

LATELY: Final = 60.0
"""Seconds for which a flood or a refusal is told."""

CODES: Final = (
    *("spool-refuses", "database-away", "route-out-of-service", "route-paused", "worker-away"),
    *("spooling", "replica-passed-over"),
    *("slow-commit", "spool-damaged", "spool-nearly-full", "memory-full"),
    *("connections-nearly-full", "files-nearly-full", "reactor-lag", "rate-limit", "refusals"),
    *("certificate-expired", "certificate-expires", "configuration"),
)
"""Codes of all warnings."""

OF_THE_WHOLE: Final = frozenset(
    (
        *("worker-away", "connections-nearly-full", "rate-limit", "refusals"),
        *("certificate-expired", "certificate-expires", "configuration"),
    )
)
"""Codes of warnings that workers have together, and none of them by itself."""

Growth = Callable[[str], float]
"""Name of a total, as L{totals_of} has it -> its growth in the last minute."""


def totals_of(status: Status) -> dict[str, float]:
    """
    Return the totals whose history is kept.

    The names are C{listener.NAME.KIND}, C{route.NAME.KIND} and C{worker.NUMBER.KIND}; the kinds
    C{messages}, C{bytes}, C{stored}, C{spooled}, C{refused}, C{later} and C{throttled}, of routes
    C{rows} and C{commits}, and of workers C{messages}.
    """
    totals: dict[str, float] = {}
    for listener in status.listeners:
        begin = f"listener.{listener.name}"
        totals[f"{begin}.messages"] = listener.messages
        totals[f"{begin}.bytes"] = listener.bytes_received
        totals[f"{begin}.throttled"] = listener.throttled
        for kind, words in (
            ("stored", ("+OK", "+DUP")),
            ("spooled", ("+QUE",)),
            ("refused", ("-REJ",)),
            ("later", ("-TRY", "-BYE")),
        ):
            totals[f"{begin}.{kind}"] = sum(
                count for answer, count in listener.answers.items() if answer.startswith(words)
            )
    for worker in status.workers:
        totals[f"worker.{worker.number}.messages"] = worker.messages
    for route in status.routes:
        totals[f"route.{route.name}.rows"] = route.rows
        totals[f"route.{route.name}.commits"] = route.commits
    return totals


def warnings_of(
    status: Status, growth: Growth, slow_commit: float, remarks: Sequence[str]
) -> list[Warning]:
    """
    Return the warnings of a status, the gravest first.

    @param slow_commit: seconds after which a commit in flight counts as slow.
    @param remarks: lines about the configuration, from the start.
    """
    return [
        *_of_storing(status, slow_commit),
        *_of_limits(status),
        *_of_peers(status, growth),
        *_of_certificates(status),
        *(Warning(code="configuration", text=text) for text in remarks),
    ]


def warnings_of_workers(
    status: Status, growth: Growth, lag: float, remarks: Sequence[str]
) -> list[Warning]:
    """
    Return the warnings of a gateway with workers, the gravest first.

    @param status: that of the whole, with the warnings of its workers.
    @param lag: longest lag in the last minute of the process that accepts for them, in seconds.
    @param remarks: lines about the configuration, from the start.
    """
    found = [
        *(warning for warning in status.warnings if warning.code not in OF_THE_WHOLE),
        *_of_workers(status),
        *_of_connections(status),
        *_of_lag(lag, "parent"),
        *_of_peers(status, growth),
        *_of_certificates(status),
        *(Warning(code="configuration", text=text) for text in remarks),
    ]
    return sorted(found, key=lambda one: CODES.index(one.code) if one.code in CODES else -1)


def _of_workers(status: Status) -> Iterator[Warning]:
    for worker in status.workers:
        if worker.state == "away":
            text = f"there is no process now: {worker.last_end}"
            yield Warning(code="worker-away", subject=f"worker {worker.number}", text=text)


def _of_storing(status: Status, slow_commit: float) -> Iterator[Warning]:
    spool = status.spool
    if spool is not None and spool.state == "refusing":
        yield Warning(
            code="spool-refuses", text=f"messages are refused: {spool.reason}; see {spool.path}"
        )
    for pool in status.pools:
        if not pool.is_reached:
            what = "messages cannot be stored" if pool.name == "messages" else "queries wait"
            if any(replica.name == pool.database for replica in status.replicas):
                what = "[database] answers its queries"
            yield Warning(
                code="database-away", subject=pool.full_name, text=f"{what}: {pool.trouble}"
            )
    for replica in status.replicas:
        if not replica.is_used and replica.passed_over:
            yield Warning(
                code="replica-passed-over",
                subject=replica.name,
                text=f"[database] answers its queries: {replica.reason}",
            )
    for route in status.routes:
        if route.state == "out of service":
            yield Warning(code="route-out-of-service", subject=route.name, text=route.reason)
        elif route.state == "paused":
            waiting = route.spooled or route.held
            yield Warning(
                code="route-paused",
                subject=route.name,
                text=f"paused by the operator, {waiting} messages wait; RESUME goes on",
            )
    if spool is not None and spool.state in ("keeping", "draining"):
        yield Warning(code="spooling", text=_spooling(spool))
    for left in status.left_spools:
        if left.state != "empty":
            why = f": {left.reason}" if left.reason else ""
            text = f"{left.messages} messages of a worker that is no more wait in {left.path}{why}"
            yield Warning(code="spooling", text=text)
    slow = [lane.seconds for lane in status.lanes if lane.seconds > slow_commit]
    if slow:
        count = f"{len(slow)} commits take" if len(slow) > 1 else "a commit takes"
        yield Warning(
            code="slow-commit", text=f"{count} long, the longest {max(slow):.1f} s until now"
        )
    if spool is not None and spool.damaged:
        yield Warning(
            code="spool-damaged",
            text=f"{spool.damaged} damaged messages are set aside in {spool.path}",
        )


def _spooling(spool: SpoolStatus) -> str:
    if spool.state == "draining":
        return f"{spool.messages} messages wait in the spool and are being stored"
    return f"{spool.messages} messages wait in the spool: {spool.reason}"


def _of_limits(status: Status) -> Iterator[Warning]:
    spool = status.spool
    if spool is not None and spool.state != "refusing" and spool.size > FULL * spool.most_size:
        part = spool.size / spool.most_size
        yield Warning(code="spool-nearly-full", text=f"the spool is {part:.0%} full")
    if status.memory.full:
        yield Warning(
            code="memory-full",
            text="all peers wait: bytes_in_flight is reached; the database is too slow for them",
        )
    yield from _of_connections(status)
    process = status.process
    if process.open_files > FULL * process.most_files:
        yield Warning(
            code="files-nearly-full",
            text=f"{process.open_files} of {process.most_files} files are open",
        )
    yield from _of_lag(process.reactor_lag)


def _of_connections(status: Status) -> Iterator[Warning]:
    if status.peers > FULL * status.most_peers:
        yield Warning(
            code="connections-nearly-full",
            text=f"{status.peers} of {status.most_peers} connections are in use",
        )
    for listener in status.listeners:
        if listener.most_peers is not None and listener.peers > FULL * listener.most_peers:
            yield Warning(
                code="connections-nearly-full",
                subject=listener.name,
                text=f"{listener.peers} of {listener.most_peers} connections are in use",
            )


def _of_lag(lag: float, subject: str = "") -> Iterator[Warning]:
    if lag > LAG:
        text = f"the reactor was {lag:.1f} s late"
        yield Warning(code="reactor-lag", subject=subject, text=text)


def _of_peers(status: Status, growth: Growth) -> Iterator[Warning]:
    for listener in status.listeners:
        begin = f"listener.{listener.name}"
        if growth(f"{begin}.throttled"):
            yield Warning(
                code="rate-limit",
                subject=listener.name,
                text="peers sent more than their rate limit in the last minute",
            )
        refused = growth(f"{begin}.refused")
        if refused:
            yield Warning(
                code="refusals",
                subject=listener.name,
                text=f"{refused:.0f} messages were refused for good in the last minute",
            )


def _of_certificates(status: Status) -> Iterator[Warning]:
    for one in status.certificates:
        left = one.expires - status.time
        if left <= 0:
            text = f"{one.kind} {one.subject} expired {-left / 86400:.0f} days ago"
            yield Warning(code="certificate-expired", subject=one.listener, text=text)
        elif left < SOON:
            text = f"{one.kind} {one.subject} expires in {left / 86400:.1f} days"
            yield Warning(code="certificate-expires", subject=one.listener, text=text)
