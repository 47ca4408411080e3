"""
Console: carries out the commands of the operator.

It reads the status as everything else that shows it does, and changes the gateway by the few
functions that it was given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
from twisted.logger import Logger

from gateway.admin.grammar import CommandError, Request
from gateway.admin.page import page
from gateway.admin.peers import SLICE, PeerQuery, query_of
from gateway.admin.table import (
    Column,
    Row,
    Table,
    cells_of,
    json_of,
    line_of,
    lines_of,
    widths_of,
)
from gateway.admin.views import VIEWS, Growth, config_table, help_table
from gateway.config.load import EMBEDDED, Config
from gateway.model.text import printable
from gateway.postgres.connect.dsn import public_dsn
from gateway.status.status import Status
from gateway.status.warnings import totals_of
from gateway.status.watch import StatusWatch


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
    """

    reload: Callable[[], Awaitable[tuple[bool, Sequence[str]]]]
    drain: Callable[[], None]
    shutdown: Callable[[], None]


class Done(NamedTuple):
    """
    Outcome of an operation.

    @ivar lines: for the operator.
    @ivar fault: where it failed, if not everywhere; C{""}: nowhere.
    @ivar waited: messages that waited for it, to be told with the last line; C{None}: none could.
    """

    lines: Sequence[str]
    fault: str = ""
    waited: int | None = None


class Operations(Protocol):
    """
    Operations on one process or on several.
    """

    async def operate(self, request: Request) -> Done:
        """
        Carry out PAUSE, RESUME, KILL, RECONNECT or SET LOG.

        @raise CommandError: it cannot be carried out.
        """


class Peers(Protocol):
    """
    Peers of one process or of several.
    """

    @property
    def columns(self) -> Sequence[Column]:
        """Columns of the rows."""

    def slices(self, query: PeerQuery) -> AsyncIterator[Sequence[Row]]:
        """
        Return rows, some at a time, with the reactor's other work in between.

        @raise CommandError: these are not all.
        """

    async def breathe(self) -> None:
        """Let the reactor do its other work."""


class Console:
    """
    Console of the gateway.
    """

    _log = Logger()

    def __init__(
        self,
        watch: StatusWatch,
        config: Callable[[], Config],
        controls: Controls,
        operations: Operations,
        peers: Peers,
    ) -> None:
        """
        @param config: returns the configuration in force.
        """
        self._watch = watch
        self._config = config
        self._controls = controls
        self._operations = operations
        self._peers = peers

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
        if request.verb == "RELOAD":
            is_taken, lines = await self._controls.reload()
            fault = "" if is_taken else "not reloaded"
        else:
            done = await self._change(request)
            lines, fault = done.lines, done.fault
            if done.waited is not None and lines:
                lines = [*lines[:-1], f"{lines[-1]}; {done.waited} messages waited"]
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
        status = await self._watch.fresh_status()
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
        names = [listener.name for listener in self._watch.status().listeners]
        columns = self._peers.columns
        slices = self._peers.slices(query_of(request.options, names, columns))
        if request.as_json:
            async for rows in slices:
                await answer.write([json_of(columns, row) for row in rows])
            return
        head = [column.name for column in columns]
        widths = widths_of([head], [0] * len(columns))
        cells: list[list[str]] = [head]
        fault: CommandError | None = None
        try:
            async for rows in slices:
                some = [cells_of(columns, row) for row in rows]
                widths = widths_of(some, widths)
                cells += some
        except CommandError as error:  # those that were found are shown all the same
            fault = error
        for start in range(0, len(cells), SLICE):
            await answer.write(
                [line_of(columns, row, widths) for row in cells[start : start + SLICE]]
            )
            await self._peers.breathe()
        if fault is not None:
            raise fault

    # What changes the gateway.

    async def _change(self, request: Request) -> Done:
        if request.verb not in ("DRAIN", "SHUTDOWN"):
            return await self._operations.operate(request)
        peers = (await self._watch.fresh_status()).peers
        if request.verb == "DRAIN":
            self._controls.drain()
            line = (
                f"no more connections are accepted; the gateway ends when its {peers} peers have"
                " left. SHUTDOWN does not wait for them"
            )
        else:
            self._controls.shutdown()
            line = f"the gateway stops; {peers} peers are disconnected after their answers"
        return Done([line])


def _public(dsn: str) -> str:
    return dsn if dsn == EMBEDDED else public_dsn(dsn)
