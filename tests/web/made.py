"""
A status that is made up, and an hour of history behind it.
"""

from __future__ import annotations

import math
from typing import Any, Final

from msgspec.structs import replace

from gateway.metrics.counters import LAGS, ROWS, SECONDS
from gateway.status.history import History
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
    Warning,
)
from gateway.status.warnings import totals_of

NOW: Final = 1_795_800_000.0
"""When the status was read."""


def distribution(bounds: tuple[float, ...], value: float, number: int) -> Distribution:
    counts = [0] * (len(bounds) + 1)
    counts[next(n for n, bound in enumerate((*bounds, math.inf)) if value <= bound)] = number
    return Distribution(bounds=bounds, counts=counts, total=value * number)


def listener(name: str, **changed: Any) -> ListenerStatus:
    made = ListenerStatus(
        name=name,
        address="127.0.0.1:8000",
        framing="line",
        dialect="plain",
        tls=False,
        peers=20,
        most_peers=None,
        connections=31,
        messages=1_234_567,
        bytes_received=123_456_789,
        answers={"+OK": 1_200_000, "+QUE": 34_000, "-REJ DATA": 567},
        answer_seconds=distribution(SECONDS, 0.004, 1_234_567),
        turned_away={"denied": 3},
        let_go={"idle": 2, "rate": 1},
        throttled=0,
    )
    return replace(made, **changed)


def route(name: str, **changed: Any) -> RouteStatus:
    made = RouteStatus(
        name=name,
        table="readings",
        state="in service",
        reason="",
        commits=4000,
        rows=1_234_000,
        commit_seconds=distribution(SECONDS, 0.003, 4000),
        batch_rows=distribution(ROWS, 300.0, 4000),
        unknown=0,
        unresolved=0,
        resolved={},
        dead_letters=0,
        spooled=0,
        held=0,
    )
    return replace(made, **changed)


def pool(name: str = "messages", **changed: Any) -> PoolStatus:
    made = PoolStatus(
        name=name,
        most=8,
        in_use=3,
        idle=1,
        opening=0,
        waiting=0,
        opened=12,
        lost=2,
        reconnects=1,
        trouble="",
        server="db.example.org:5432, PostgreSQL 18.1",
    )
    return replace(made, **changed)


def spool(**changed: Any) -> SpoolStatus:
    made = SpoolStatus(
        path="/var/lib/gateway/spool.db",
        state="empty",
        reason="",
        messages=0,
        size=0,
        most_size=1 << 30,
        oldest=None,
        damaged=0,
        kept=0,
        drained=0,
        refused=0,
    )
    return replace(made, **changed)


def status(**changed: Any) -> Status:
    """A gateway in service, with something of everything."""
    made = Status(
        version="0.1.0",
        state="ready",
        is_storing=True,
        is_taking=True,
        reasons=(),
        time=NOW,
        started=NOW - 300_000,
        warnings=(),
        peers=20,
        most_peers=16384,
        listeners=[listener("lines")],
        routes=[route("messages")],
        pools=[pool(), pool("queries", in_use=0, idle=0, opened=0, lost=0, server="")],
        lanes=[LaneStatus(number=1, waiting=300, seconds=0.002)],
        spool=spool(),
        streams=StreamsStatus(open=2, waiting=0, claims=7, taken_over=1, gaps=0),
        queries=[
            QueryStatus(
                name="last",
                answers={"+OK": 70, "-REJ QUERY": 1},
                seconds=distribution(SECONDS, 0.002, 71),
            )
        ],
        channels=[ChannelStatus(name="news", subscribers=4, notifications=10, pushes=40, gaps=0)],
        certificates=[
            CertificateStatus(
                listener="lines",
                kind="certificate",
                subject="gateway.example.org",
                expires=NOW + 40 * 86400,
            )
        ],
        memory=MemoryStatus(in_flight=1_200_000, kept=50_000, most=64 << 20, full=False),
        process=ProcessStatus(
            pid=4711,
            cpu_seconds=812.0,
            resident=90 << 20,
            open_files=60,
            most_files=65536,
            reactor_lag=0.012,
            reactor_lags=distribution(LAGS, 0.002, 3600),
        ),
    )
    return replace(made, **changed)


def troubled() -> Status:
    """The same in a bad night."""
    away = "could not connect to db.example.org:5432: Connection refused"
    return status(
        is_storing=False,
        reasons=[f"the database cannot be reached: {away}"],
        warnings=[
            Warning(
                code="database-away", subject="messages", text=f"messages cannot be stored: {away}"
            ),
            Warning(
                code="route-out-of-service",
                subject="orders",
                text='relation "orders" does not exist (42P01)',
            ),
            Warning(code="spooling", text=f"81234 messages wait in the spool: {away}"),
            Warning(
                code="certificate-expires",
                subject="public",
                text="certificate gateway.example.org expires in 3.5 days",
            ),
        ],
        listeners=[
            listener("lines"),
            listener(
                "public",
                address="203.0.113.7:8443",
                framing="netstring",
                tls=True,
                most_peers=1000,
                peers=900,
                turned_away={"too many": 12},
            ),
        ],
        routes=[
            route("messages", spooled=81_000),
            route(
                "orders",
                table="orders",
                state="out of service",
                reason='relation "orders" does not exist (42P01)',
                unknown=3,
                unresolved=1,
                resolved={"stored": 2},
                spooled=234,
                dead_letters=17,
            ),
        ],
        pools=[pool(in_use=0, idle=0, trouble=away, waiting=4), pool("queries")],
        spool=spool(
            state="keeping",
            reason=away,
            messages=81_234,
            size=900 << 20,
            oldest=NOW - 1800,
            kept=81_234,
        ),
        certificates=[
            CertificateStatus(
                listener="public",
                kind="certificate",
                subject="gateway.example.org",
                expires=NOW + 3.5 * 86400,
            )
        ],
    )


def history(last: Status, samples: int = 361) -> History:
    """
    Return ten-second samples with waves, an outage and some refusals; they end now, at 0 of the
    clock, with the totals of the status.
    """
    found = []
    totals = dict.fromkeys(totals_of(last), 0.0)
    for number in range(samples):
        part = number / 361
        flow = 3000 * (1.2 + math.sin(part * 14))
        is_away = 0.7 < part < 0.85
        for name in totals:
            kind = name.rpartition(".")[2]
            totals[name] += {
                "messages": flow,
                "stored": 0.0 if is_away else flow * 0.98,
                "spooled": flow * 0.98 if is_away else 0.0,
                "refused": flow * 0.02,
                "rows": 0.0 if is_away else flow,
                "commits": 0.0 if is_away else 40.0,
            }.get(kind, 0.0)
        found.append(dict(totals))
    kept = History()
    now = totals_of(last)
    for number, sample in enumerate(found, 1 - samples):
        kept.add(number * 10.0, {name: now[name] - totals[name] + sample[name] for name in now})
    return kept
