"""
Console: carries out the commands of the operator.

It reads the status as everything else that shows it does, and changes the gateway by the few
functions that it was given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gateway.admin.grammar import CommandError, Request
from gateway.admin.page import page
from gateway.admin.peers import COLUMNS, SLICE, PeerList, query_of
from gateway.admin.table import (
    Table,
    cells_of,
    json_of,
    line_of,
    lines_of,
    widths_of,
)
from gateway.admin.views import VIEWS, Growth, config_table, help_table
from gateway.config.load import EMBEDDED, Config
from gateway.model import wording
from gateway.model.text import closest, printable
from gateway.postgres.connect.dsn import public_dsn
from gateway.status.status import Status
from gateway.status.warnings import totals_of
from gateway.status.watch import Watch

UNDER_WAY: Final = 10.0
"""Seconds that PAUSE waits for commits that are under way."""

_POLL: Final = 0.02


class Answer(Protocol):
    """
    Answer to one command, on its way to the operator.
    """

    async def write(self, lines: Sequence[str]) -> None:
        """
        Write lines; return when there is room for more.

        @raise ConsoleGone: nobody reads them any more.
        """


class ConsoleGone(Exception):
    """
    The operator's end of the connection is closed.
    """


@dataclass(frozen=True, slots=True)
class Controls:
    """
    Controls that the console has over the gateway.

    @ivar reload: reads the configuration again; returns whether it is in force now, and lines for
        the operator.
    @ivar drain: accepts no more connections, and ends the gateway when its last peer has left.
    @ivar shutdown: stops the gateway as SIGTERM does.
    @ivar set_level: sets the lowest level of the log.
    """

    reload: Callable[[], Awaitable[tuple[bool, Sequence[str]]]]
    drain: Callable[[], None]
    shutdown: Callable[[], None]
    set_level: Callable[[str], None]


class Console:
    """
    Console of the gateway.
    """

    _log = Logger()

    def __init__(self, watch: Watch, config: Callable[[], Config], controls: Controls) -> None:
        """
        @param config: returns the configuration in force.
        """
        self._watch = watch
        self._parts = parts = watch.parts
        self._config = config
        self._controls = controls
        self._peers = PeerList(parts.listeners, parts.streams.owners, parts.clock, parts.wall)

    async def carry_out(self, request: Request, answer: Answer, operator: str) -> None:
        """
        Carry out a command and write its answer.

        @param operator: who gave it, for the log.
        @raise CommandError: it cannot be carried out.
        """
        if request.changes:
            self._log.warn(
                "console: {operator}: {command}",
                event="command",
                operator=operator,
                command=printable(request.text),
            )
        if request.verb == "SHOW":
            await self._show(request, answer)
            return
        fault = ""
        if request.verb == "RELOAD":
            is_taken, lines = await self._controls.reload()
            fault = "" if is_taken else "not reloaded"
        else:
            lines = await self._change(request)
        if request.as_json:
            await answer.write([msgspec.json.encode({"text": line}).decode() for line in lines])
        else:
            await answer.write([printable(line) for line in lines])
        if fault:
            raise CommandError(fault)

    # SHOW.

    async def _show(self, request: Request, answer: Answer) -> None:
        if request.subject == "PEERS":
            await self._show_peers(request, answer)
            return
        status = self._watch.status()
        if request.subject == "STATUS":
            if request.as_json:
                await answer.write([msgspec.json.encode(status).decode()])
            else:
                await answer.write(page(status, self._growth(status)))
            return
        if request.subject == "HELP":
            table = help_table()
        elif request.subject == "CONFIG":
            table = config_table(self._config(), _public)
        else:
            table = VIEWS[request.subject](status, self._growth(status))
        await self._write(table, request.as_json, answer)

    def _growth(self, status: Status) -> Growth:
        return self._watch.recent(totals_of(status)).rate

    async def _write(self, table: Table, as_json: bool, answer: Answer) -> None:
        if as_json:
            await answer.write([json_of(table.columns, row) for row in table.rows])
        else:
            await answer.write(lines_of(table))

    async def _show_peers(self, request: Request, answer: Answer) -> None:
        names = [service.factory.listener for service in self._parts.listeners()]
        slices = self._peers.slices(query_of(request.options, names))
        if request.as_json:
            async for rows in slices:
                await answer.write([json_of(COLUMNS, row) for row in rows])
            return
        head = [column.name for column in COLUMNS]
        widths = widths_of([head], [0] * len(COLUMNS))
        cells: list[list[str]] = [head]
        async for rows in slices:
            some = [cells_of(COLUMNS, row) for row in rows]
            widths = widths_of(some, widths)
            cells += some
        for start in range(0, len(cells), SLICE):
            await answer.write(
                [line_of(COLUMNS, row, widths) for row in cells[start : start + SLICE]]
            )
            await self._peers.breathe()

    # What changes the gateway.

    async def _change(self, request: Request) -> Sequence[str]:
        if request.verb == "PAUSE":
            return await self._pause(self._route(request.subject))
        if request.verb == "RESUME":
            return self._resume(self._route(request.subject))
        if request.verb == "KILL":
            return [self._kill(int(request.subject[:20]))]
        if request.verb == "RECONNECT":
            self._parts.pool.renew()
            self._parts.query_pool.renew()
            self._parts.queries.renew()
            return ["connections are replaced; those in use when they are given back"]
        if request.verb == "SET":
            return [self._set_level(request.subject)]
        peers = self._parts.connection_limit.count
        if request.verb == "DRAIN":
            self._controls.drain()
            return [
                f"no more connections are accepted; the gateway ends when its {peers} peers have"
                " left. SHUTDOWN does not wait for them"
            ]
        self._controls.shutdown()
        return [f"the gateway stops; {peers} peers are disconnected after their answers"]

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

    def _resume(self, route: str | None) -> Sequence[str]:
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
        return [f"{_what(route)} resumed; {waiting} messages waited"]

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
        self._controls.set_level(level)
        return f"the log has lines from {level} on, until a reload or the next start"


def _what(route: str | None) -> str:
    return "all routes are" if route is None else f"route {route} is"


def _public(dsn: str) -> str:
    return dsn if dsn == EMBEDDED else public_dsn(dsn)
