"""
Status of a gateway that does not exist, of any size.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from gateway.metrics.counters import LAGS, ROWS, SECONDS
from gateway.model.outcome import Code
from gateway.status.prometheus import FATES
from gateway.status.status import (
    CertificateStatus,
    ChannelStatus,
    Distribution,
    LaneStatus,
    ListenerStatus,
    MemoryStatus,
    PoolStatus,
    ProcessStatus,
    QueryStatus,
    RouteStatus,
    SpoolStatus,
    Status,
    StreamsStatus,
)

NOW: Final = 1_800_000_000.0
"""When it is read."""

ANSWERS: Final = {
    **dict.fromkeys(("+OK", "+DUP", "+QUE"), 1),
    **{f"-REJ {code.value}": 1 for code in Code},
    **{f"-TRY {code.value}": 1 for code in Code},
    **{f"-BYE {code.value}": 1 for code in Code},
}
"""More answers than a listener gives: every word with every code."""


def distribution(bounds: tuple[float, ...]) -> Distribution:
    """One value in each bucket."""
    return Distribution(bounds=bounds, counts=(1,) * (len(bounds) + 1), total=sum(bounds))


def listener(name: str) -> ListenerStatus:
    return ListenerStatus(
        name=name,
        address="127.0.0.1:9000",
        framing="lines",
        dialect="command",
        tls=True,
        peers=3,
        most_peers=100,
        connections=7,
        messages=sum(ANSWERS.values()),
        bytes_received=1000,
        answers=ANSWERS,
        answer_seconds=distribution(SECONDS),
        turned_away=dict.fromkeys(("auth", "busy", "denied", "proxy", "tls"), 1),
        let_go=dict.fromkeys(
            ("idle", "opening", "unread", "auth", "busy", "denied", "format", "gap"), 1
        ),
        throttled=2,
    )


def route(name: str) -> RouteStatus:
    return RouteStatus(
        name=name,
        table="messages",
        state="in service",
        reason="",
        commits=10,
        rows=100,
        commit_seconds=distribution(SECONDS),
        batch_rows=distribution(ROWS),
        unknown=5,
        unresolved=1,
        resolved=dict.fromkeys(FATES, 1),
        dead_letters=4,
        spooled=6,
        held=0,
    )


def pool(name: str) -> PoolStatus:
    return PoolStatus(
        name=name,
        most=4,
        in_use=2,
        idle=1,
        opening=0,
        waiting=3,
        opened=5,
        lost=2,
        reconnects=1,
        trouble="",
        server="127.0.0.1:5432, PostgreSQL 18.0",
    )


def status(routes: int = 2, listeners: int = 2, **changes: Any) -> Status:
    """
    Return a status in which every figure has a value.

    @param changes: fields that have others.
    """
    made = Status(
        version="0.1.0",
        state="ready",
        is_storing=True,
        is_taking=True,
        reasons=(),
        time=NOW,
        started=NOW - 1000,
        warnings=(),
        peers=6,
        most_peers=1000,
        listeners=[listener(f"listener{number}") for number in range(listeners)],
        routes=[route(f"route{number}") for number in range(routes)],
        pools=[pool("messages"), pool("queries")],
        lanes=[LaneStatus(number=1, waiting=10, seconds=0.2)],
        spool=SpoolStatus(
            path="/spool.db",
            state="draining",
            reason="the database was away",
            messages=12,
            size=4096,
            most_size=1 << 30,
            oldest=NOW - 60,
            damaged=1,
            kept=20,
            drained=8,
            refused=3,
        ),
        streams=StreamsStatus(open=2, waiting=1, claims=5, taken_over=1, gaps=1),
        queries=[
            QueryStatus(
                name="last",
                answers={"+OK": 3, "-REJ QUERY": 1, "-TRY DOWN": 1},
                seconds=distribution(SECONDS),
            )
        ],
        channels=[
            ChannelStatus(name="jobs", subscribers=2, notifications=3, pushes=6, gaps=1),
            ChannelStatus(name="news", subscribers=1, notifications=1, pushes=1, gaps=0),
        ],
        certificates=[
            CertificateStatus(
                listener="listener0", kind="certificate", subject="here", expires=NOW + 90
            ),
            CertificateStatus(listener="listener0", kind="list", subject="CA", expires=NOW + 60),
        ],
        memory=MemoryStatus(in_flight=100, kept=50, most=1 << 20, full=False),
        process=ProcessStatus(
            pid=1,
            cpu_seconds=1.0,
            resident=1 << 24,
            open_files=20,
            most_files=1024,
            reactor_lag=0.01,
            reactor_lags=distribution(LAGS),
        ),
    )
    return replace(made, **changes)
