"""
Status in which every metric has a value, of a gateway of any size.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from gateway.status.merge import merged
from gateway.status.prometheus import FATES
from gateway.status.status import ListenerStatus, ReplicaStatus, Status, WorkerStatus
from tests.web import made
from tests.web.made import NOW

ANSWERS = {
    **dict.fromkeys(("+OK", "+DUP", "+QUE"), 1),
    **{
        f"-REJ {code}": 1
        for code in ("FORMAT", "TOOBIG", "DATA", "CONSTRAINT", "ROUTE", "QUERY", "DENIED")
    },
    **{f"-TRY {code}": 1 for code in ("ROUTE", "QUERY", "GAP", "DOWN", "BUSY", "RATE")},
    **{
        f"-BYE {code}": 1
        for code in ("FORMAT", "DENIED", "AUTH", "GAP", "BUSY", "RATE", "DRAIN", "INTERNAL")
    },
}
"""All answers that docs/protocol.md has."""


LOST: Final = dict.fromkeys(("kernel", "incomplete", "down", "rate"), 3)
"""Datagrams lost for every reason that is usual."""


def listener(name: str, **changed: Any) -> ListenerStatus:
    """A listener that gave every answer, and refused and disconnected for every reason."""
    return made.listener(
        name,
        **{
            "most_peers": 100,
            "answers": ANSWERS,
            "turned_away": dict.fromkeys(("busy", "denied", "proxy", "tls"), 1),
            "let_go": dict.fromkeys(("frame", "write", "idle", "first", "auth", "format"), 1),
            "throttled": 2,
            **changed,
        },
    )


def status(routes: int = 2, listeners: int = 2, **changed: Any) -> Status:
    """
    @param changed: fields that have other values.
    """
    return made.status(
        **{
            # A tenth of them take datagrams.
            "listeners": [
                listener(f"listener{number}", lost={} if number % 10 else LOST)
                for number in range(listeners)
            ],
            "routes": [
                made.route(f"route{number}", resolved=dict.fromkeys(FATES, 1))
                for number in range(routes)
            ],
            "replicas": [
                ReplicaStatus(name="replica", is_used=True, reason="", lag=0.1, passed_over=3)
            ],
            "spool": made.spool(state="keeping", messages=12, size=4096, oldest=NOW - 60),
            **changed,
        }
    )


def with_workers(
    workers: int = 2, routes: int = 2, listeners: int = 2
) -> tuple[Status, dict[int, Status]]:
    """
    A gateway with workers.

    @return: the status of the whole, and that of each worker.
    """
    each = {number: status(routes, listeners) for number in range(1, workers + 1)}
    found = [
        WorkerStatus(
            number=number,
            state="ready",
            pid=4711 + number,
            started=NOW - 60,
            restarts=number - 1,
            last_end="killed by signal 9" if number > 1 else "",
            read=NOW,
            is_storing=True,
            is_taking=True,
            peers=one.peers,
            messages=1000,
            rows=990,
            pools=one.pools,
            spool=one.spool,
            memory=one.memory,
            process=replace(one.process, pid=4711 + number),
        )
        for number, one in each.items()
    ]
    return replace(merged(each), workers=found), each
