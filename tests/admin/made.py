"""
A status that tests make.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

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

EMPTY: Final = Distribution(bounds=(1.0,), counts=(0, 0), total=0.0)

LISTENER: Final = ListenerStatus(
    name="lines",
    address="127.0.0.1:8000",
    framing="line",
    dialect="plain",
    tls=False,
    peers=3,
    most_peers=None,
    connections=7,
    messages=1234567,
    bytes_received=5 * 1024 * 1024,
    answers={"+OK": 1234000, "-REJ DATA": 60, "-REJ FORMAT": 7, "-TRY DOWN": 500},
    answer_seconds=Distribution(bounds=(1.0,), counts=(4, 0), total=0.02),
    turned_away={"denied": 2},
    let_go={"idle": 1, "operator": 1},
    throttled=0,
)

ROUTE: Final = RouteStatus(
    name="messages",
    table="messages",
    state="in service",
    reason="",
    commits=10,
    rows=100,
    commit_seconds=Distribution(bounds=(1.0,), counts=(10, 0), total=0.5),
    batch_rows=Distribution(bounds=(100.0,), counts=(10, 0), total=100.0),
    unknown=0,
    resolved={},
    dead_letters=2,
    spooled=0,
    held=0,
    unresolved=0,
)

STATUS: Final = Status(
    version="1.2",
    state="ready",
    is_storing=True,
    is_taking=True,
    reasons=(),
    time=1_800_000_000.0,
    started=1_799_990_000.0,
    warnings=(Warning(code="refusals", subject="lines", text="67 messages were refused"),),
    peers=3,
    most_peers=16384,
    listeners=(LISTENER,),
    routes=(ROUTE,),
    pools=(
        PoolStatus(
            name="messages",
            most=8,
            in_use=1,
            idle=1,
            opening=0,
            waiting=0,
            opened=2,
            lost=0,
            reconnects=0,
            trouble="",
            server="127.0.0.1 (PostgreSQL 18.0)",
        ),
    ),
    lanes=(
        LaneStatus(number=1, waiting=5, seconds=0.25),
        LaneStatus(number=2, waiting=0, seconds=0),
    ),
    spool=SpoolStatus(
        path="/data/spool.db",
        state="keeping",
        reason="the database cannot be reached",
        messages=12,
        size=4096,
        most_size=1 << 30,
        oldest=1_799_999_940.0,
        damaged=0,
        kept=12,
        drained=0,
        refused=0,
    ),
    streams=StreamsStatus(open=1, waiting=0, claims=2, taken_over=0, gaps=0),
    queries=(QueryStatus(name="last", answers={"+ROW": 3}, seconds=EMPTY),),
    channels=(ChannelStatus(name="news", subscribers=1, notifications=5, pushes=5, gaps=0),),
    certificates=(
        CertificateStatus(
            listener="tls", kind="certificate", subject="gateway", expires=1_800_864_000.0
        ),
    ),
    memory=MemoryStatus(in_flight=100, kept=0, most=1 << 26, full=False),
    process=ProcessStatus(
        pid=4711,
        cpu_seconds=12.5,
        resident=1 << 26,
        open_files=30,
        most_files=20000,
        reactor_lag=0.01,
        reactor_lags=Distribution(bounds=(1.0,), counts=(60, 0), total=0.5),
    ),
)

HOSTILE: Final = "\x1b[2J\nERROR \u202e\u2028OK"
"""A name that clears a screen, begins a line, and has text read backwards."""


def hostile() -> Status:
    """The same, with names that nobody should be shown as they are."""
    return replace(
        STATUS,
        reasons=(HOSTILE,),
        warnings=(Warning(code="refusals", subject=HOSTILE, text=HOSTILE),),
        listeners=(replace(LISTENER, name=HOSTILE, address=HOSTILE, let_go={HOSTILE: 1}),),
        routes=(replace(ROUTE, name=HOSTILE, state="out of service", reason=HOSTILE),),
        pools=(replace(STATUS.pools[0], trouble=HOSTILE, server=HOSTILE),),
        channels=(replace(STATUS.channels[0], name=HOSTILE),),
        certificates=(replace(STATUS.certificates[0], subject=HOSTILE),),
    )
