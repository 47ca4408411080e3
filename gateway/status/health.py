"""
Health of the gateway: whether what peers send is stored, spooled or neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.status.status import PoolStatus, RouteStatus, SpoolStatus, State, Status

STOPS: Final = "draining: the gateway stops"
"""Why a gateway that is drained takes nothing."""


class Health(NamedTuple):
    """
    Health of the gateway.

    @ivar is_storing: whether messages are stored now.
    @ivar is_taking: whether messages are stored or spooled now, and connections accepted.
    @ivar reasons: why not, or which part of it not, one line each.
    """

    is_storing: bool
    is_taking: bool
    reasons: Sequence[str]


def health_of(
    state: State,
    pools: Sequence[PoolStatus],
    routes: Sequence[RouteStatus],
    spool: SpoolStatus | None,
) -> Health:
    """
    Judge the health.

    An outage of the database is none of the gateway while the spool takes what comes: a balancer
    that looks at C{/readyz} must not take every gateway out of service for it. One of several
    databases counts as a route that is out of service does.

    @param pools: that of C{[database]} for messages first.
    """
    pool = pools[0]
    reached = {one.database: one.is_reached for one in pools if one.name == "messages"}
    takes = spool is not None and spool.takes
    reasons = []
    if state == "draining":
        reasons.append(STOPS)
    # Before anything was asked it counts as reached: the first messages wait for a connection.
    if not pool.is_reached:
        reasons.append(f"the database cannot be reached: {pool.trouble}")
    reasons += [
        f"database {one.database} cannot be reached: {one.trouble}"
        for one in pools[1:]
        if one.name == "messages" and not one.is_reached
    ]
    serving = [route for route in routes if route.state not in ("out of service", "removed")]
    reasons += [fault for route in routes if (fault := route_fault(route))]
    # A gateway may have queries and channels only.
    is_serving = bool(serving) or not routes
    is_storing = any(r.state != "paused" and reached.get(r.database, True) for r in serving)
    if not routes:
        is_storing = pool.is_reached
    if spool is not None and spool.state in ("keeping", "refusing"):
        is_storing = False
        reasons.append(
            f"spool: {_waiting(spool.messages)}" + (f": {spool.reason}" if spool.reason else "")
            if spool.state == "keeping"
            else f"spool: messages are refused: {spool.reason}"
        )
    if not pool.is_reached and not takes:
        reasons.append("there is no spool for what comes meanwhile")
    is_spooling = spool is not None and takes and spool.state != "refusing" and is_serving
    is_taking = state != "draining" and (is_storing or is_spooling)
    return Health(is_storing, is_taking, reasons)


def route_fault(route: RouteStatus) -> str:
    """Return why messages of a route are not stored, in one line; C{""}: they are."""
    if route.state == "out of service":
        return f"route {route.name} is out of service: {route.reason}"
    if route.state == "removed":
        return f"route {route.name} is not in the configuration: {_waiting(route.spooled)}"
    if route.state == "paused":
        return f"route {route.name} is {route.reason}"
    return ""


def health_of_route(status: Status, route: RouteStatus) -> Health:
    """
    Judge the health of one route: that of the gateway, without what ails its other routes.
    """
    others = {route_fault(other) for other in status.routes if other.name != route.name}
    reasons = [reason for reason in status.reasons if reason not in others]
    is_serving = route.state not in ("out of service", "removed")
    is_storing = status.is_storing and is_serving
    if route.state == "paused":
        # Its peers wait where there is no spool.
        is_storing = False
        is_serving = status.spool is not None and status.spool.takes
    return Health(is_storing, status.is_taking and is_serving, reasons)


def _waiting(count: int) -> str:
    return "1 message waits" if count == 1 else f"{count} messages wait"
