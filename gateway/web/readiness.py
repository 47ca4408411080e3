"""
Readiness: whether a balancer should send peers here, and why not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.model.text import closest, printable
from gateway.status.health import Health, health_of_route, route_fault
from gateway.status.status import Status
from gateway.web.answer import Answer, Query, text

ARGUMENTS: Final = ("stored", "route", "verbose")


class Check(NamedTuple):
    """
    One of the things that readiness depends on.

    @ivar text: how it is, in a few words.
    """

    is_good: bool
    text: str


def readiness(status: Status, query: Query) -> Answer:
    """
    Answer C{/readyz}.

    200 while what peers send is stored or spooled, with C{stored} only while it is stored; 503 with
    the reasons otherwise, one a line. What ails the gateway without making it unready is told with
    200 too.
    """
    for name in query.arguments:
        if name not in ARGUMENTS:
            near = closest(name, ARGUMENTS) or ", ".join(ARGUMENTS)
            return text(400, f"unknown argument {printable(name)!r}; there is {near}")
    health = Health(status.is_storing, status.is_taking, status.reasons)
    if "route" in query.arguments:
        name = query.arguments["route"][-1]
        route = next((route for route in status.routes if route.name == name), None)
        if route is None:
            names = ", ".join(sorted(route.name for route in status.routes))
            return text(404, f"no such route; there is {names or 'none'}")
        health = health_of_route(status, route)
    is_ready = health.is_taking and (health.is_storing or "stored" not in query.arguments)
    if "verbose" in query.arguments:
        lines = [f"[{'+' if check.is_good else '-'}] {check.text}" for check in checks_of(status)]
        lines.append("ready" if is_ready else "not ready")
    else:
        lines = ["ok", *health.reasons] if is_ready else list(health.reasons)
    return text(200 if is_ready else 503, *map(printable, lines))


def checks_of(status: Status) -> Iterator[Check]:
    """Yield each thing that readiness depends on."""
    yield Check(status.state != "draining", f"gateway: {status.state}")
    for worker in status.workers:
        # One is enough to be ready: each is a line, and the last line is the judgement.
        how = worker.state if worker.is_taking else f"{worker.state}, takes nothing"
        yield Check(worker.is_taking, f"worker {worker.number}: {how}")
    for pool in status.pools:
        if pool.name == "messages":
            how = "reached" if pool.is_reached else pool.trouble
            yield Check(pool.is_reached, f"database: {how}")
    spool = status.spool
    if spool is None:
        yield Check(True, "spool: none")
    else:
        waiting = f", {spool.messages} messages wait" if spool.messages else ""
        reason = f": {spool.reason}" if spool.reason else ""
        yield Check(spool.state != "refusing", f"spool: {spool.state}{waiting}{reason}")
    for route in status.routes:
        fault = route_fault(route)
        yield Check(not fault, fault or f"route {route.name}: {route.state}")
