"""
Operations on one process: what PAUSE, RESUME, KILL, RECONNECT and SET LOG do to its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from twisted.internet.task import deferLater

from gateway.admin.console import Done
from gateway.admin.grammar import CommandError, Request
from gateway.admin.peers import PeerList
from gateway.model import wording
from gateway.model.text import closest, printable
from gateway.status.source import StatusParts

UNDER_WAY: Final = 10.0
"""Seconds that PAUSE waits for commits that are under way."""

_POLL: Final = 0.02


class LocalOperations:
    """
    Operations on the parts of this process.
    """

    def __init__(
        self, parts: StatusParts, peers: PeerList, set_level: Callable[[str], None]
    ) -> None:
        """
        @param set_level: sets the lowest level of the log.
        """
        self._parts = parts
        self._peers = peers
        self._set_log_level = set_level

    async def operate(self, request: Request) -> Done:
        """
        Carry out a command.

        @raise CommandError: it cannot be carried out.
        """
        if request.verb == "RESUME":
            return self._resume(self._route(request.subject))
        return Done(await self._lines(request))

    async def _lines(self, request: Request) -> Sequence[str]:
        if request.verb == "PAUSE":
            return await self._pause(self._route(request.subject))
        if request.verb == "KILL":
            return [self._kill(int(request.subject[:20]))]
        if request.verb == "RECONNECT":
            self._parts.pool.renew()
            self._parts.query_pool.renew()
            self._parts.queries.renew()
            self._parts.databases.renew()
            return ["connections are replaced; those in use when they are given back"]
        assert request.verb == "SET", request.verb
        return [self._set_level(request.subject)]

    def _route(self, name: str) -> str | None:
        """
        @raise CommandError: there is no such route.
        """
        if not name:
            return None
        routes = self._parts.routes()
        if name not in routes and name not in self._parts.breakers.pauses.routes:
            near = closest(name, routes)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(routes)}"
            raise CommandError(f"no route {printable(name)}; {hint}")
        return name

    async def _pause(self, route: str | None) -> Sequence[str]:
        parts = self._parts
        pauses, spooler, clock = parts.breakers.pauses, parts.spooler, parts.clock
        under_way = parts.writer.under_way(route)
        pauses.pause(route)
        what = _what(route)
        if spooler is not None and spooler.takes:
            lines = [f"{what} paused: messages go to the spool, and are answered +QUE"]
        else:
            lines = [
                f"{what} paused: peers wait for their answers, and are not read beyond their window"
            ]
        until = clock.seconds() + UNDER_WAY

        def is_busy() -> bool:
            storing: Iterable[str] = () if spooler is None else spooler.storing
            return under_way() or (bool(storing) if route is None else route in storing)

        while is_busy():
            if clock.seconds() >= until:
                lines.append("what was begun before is still under way; see SHOW LANES")
                break
            await deferLater(clock, _POLL)
        return lines

    def _resume(self, route: str | None) -> Done:
        parts = self._parts
        pauses = parts.breakers.pauses
        if route is not None and pauses.is_total:
            raise CommandError("all routes are paused; RESUME without a route resumes them")
        if not (pauses.on if route is None else pauses.holds(route)):
            raise CommandError(
                "no route is paused" if route is None else f"{_what(route)} not paused"
            )
        held, rows = parts.writer.held(), {} if parts.spool is None else parts.spool.rows
        waiting = sum(
            count
            for name, count in [*held.items(), *rows.items()]
            if name == route or (route is None and pauses.holds(name))
        )
        pauses.resume(route)
        return Done([f"{_what(route)} resumed"], waited=waiting)

    def _kill(self, number: int) -> str:
        found = self._peers.find(number)
        if found is None:
            raise CommandError(f"no peer {number}; see SHOW PEERS")
        factory, peer = found
        bye = wording.ENDED_BY_OPERATOR
        factory.log_close(peer, "operator", bye.text)
        peer.close_with(bye)
        return f"peer {number} ({peer.peer_info.name}) is disconnected after its answers"

    def _set_level(self, level: str) -> str:
        self._set_log_level(level)
        return f"the log has lines from {level} on, until a reload or the next start"


def _what(route: str | None) -> str:
    return "all routes are" if route is None else f"route {route} is"
