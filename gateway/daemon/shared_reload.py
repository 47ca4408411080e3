"""
Reload of a gateway of several processes: all of them take a new configuration, or none.

The parent reads and checks the files and opens the ports; each worker then checks and prepares
what it has to do, as one process would. Only when all have is it taken over. A worker that dies
meanwhile is no objection: its successor gets the configuration that is in force then. One that
could not take over what it had prepared is killed, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from gateway.config.changes import changes_of
from gateway.config.load import Config
from gateway.daemon.configuration import Loaded
from gateway.daemon.parent import ParentService
from gateway.daemon.reload import (
    GONE,
    STOPS,
    ReloadOutcome,
    file_changes,
    log_reload,
    refuse,
)
from gateway.model.errors import ConfigError
from gateway.workers.channel import ChannelError
from gateway.workers.dispatch import Room
from gateway.workers.listeners import NewParentListeners
from gateway.workers.reloading import CERTIFICATES, PREPARE, TAKE, UNDO, Report
from gateway.workers.start import contents_of, pack


class _Asked(NamedTuple):
    """
    Reports of all workers that were asked and did not die.

    @ivar numbers: of these workers, those left out that did not take over what they had prepared.
    """

    numbers: Sequence[int]
    problems: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class SharedReloadParts:
    """
    Parts of the parent to which a new configuration is applied.

    @ivar room: returns how many connections a configuration leaves for peers, with warnings for
        the operator.
    @ivar warnings: returns the warnings about a configuration.
    """

    service: ParentService
    room: Callable[[Config], tuple[Room, list[str]]]
    warnings: Callable[[Config], list[str]]


class SharedReload:
    """
    Reload of the configuration of all processes.
    """

    _log = Logger()

    def __init__(
        self, read: Callable[[], Loaded], parts: SharedReloadParts, remarks: Sequence[str]
    ) -> None:
        """
        @param read: reads the configuration; raises L{ConfigError}.
        @param remarks: warnings about the configuration in force.
        """
        self._read = read
        self._parts = parts
        self._remarks = remarks
        self._parent = parts.service.parts.parent
        self._started = self._parent.loaded.config
        self._turn = DeferredLock()

    def __call__(self) -> None:
        """Reload, for SIGHUP."""
        Deferred.fromCoroutine(self.apply()).addErrback(
            lambda failure: self._log.failure(
                "the reload failed", event="reload-failed", failure=failure
            )
        )

    async def apply(self) -> ReloadOutcome:
        """
        Read the configuration again and apply it to all processes; one reload at a time.

        @return: the outcome, which is logged as well.
        """
        await self._turn.acquire()
        try:
            return await self._parts.service.parts.systemd.reloading(self._apply)
        finally:
            self._turn.release()

    def renew_certificates(self) -> None:
        """Hand the workers the TLS files that the parent has read again."""
        contents = contents_of(self._parent.loaded.contexts)
        self._parts.service.processes.push(CERTIFICATES, pack(contents))

    async def _apply(self) -> ReloadOutcome:
        try:
            loaded = self._read()
            if self._parent.loaded.config.access is not None and loaded.config.access is None:
                raise ConfigError([GONE])
            new = self._parts.service.parts.listeners.prepare(loaded.config)
            asked = await self._prepare(loaded, new)
        except ConfigError as error:
            return refuse(error.problems)
        return await self._take(loaded, new, asked)

    async def _prepare(self, loaded: Loaded, new: NewParentListeners) -> _Asked:
        """
        Have everything prepared.

        @raise ConfigError: with every problem; nothing is changed.
        """
        service = self._parts.service
        faults = await new.ports.open(may_close=False)
        asked = await self._ask_all(PREPARE, lambda number: self._packed(number, loaded, new))
        problems = [*asked.problems]
        if faults and not problems:
            faults = await new.ports.open(may_close=True)
        problems += faults
        if service.is_stopping:
            problems = [STOPS]
        if problems:
            await self._ask_all(UNDO, lambda _: (b"", []))
            problems += await new.ports.undo(reopens=not service.is_stopping)
            raise ConfigError(problems)
        return asked

    async def _take(
        self, loaded: Loaded, new: NewParentListeners, prepared: _Asked
    ) -> ReloadOutcome:
        service, parent = self._parts.service, self._parent
        parts, before, config = service.parts, parent.loaded, loaded.config
        changes = changes_of(before.config, config, self._started, has_spool=True)
        lines = [*changes.lines, *file_changes(before.tokens or {}, before.contexts, loaded)]
        # From here on a worker that is started gets the new one.
        parent.loaded = loaded
        parts.listeners.take(new)
        room, remarks = self._parts.room(config)
        parts.dispatch.replace_room(room)
        remarks = [*self._parts.warnings(config), *remarks]
        notes = [f"warning: {remark}" for remark in remarks if remark not in self._remarks]
        self._remarks = remarks
        parts.tls.replace_contexts(loaded.contexts)
        parts.log_observer.take(config.log)
        parts.lender.replace(config)
        parts.operator.reload(config, remarks)
        service.replace_limits(config.limits)
        taken = await self._ask_all(
            TAKE, lambda number: self._packed(number, loaded, new), prepared.numbers
        )
        for worker in service.processes.serving():
            if worker.number not in taken.numbers:
                service.processes.kill(worker.number, "it has not taken a new configuration over")
        await new.close()
        parts.listeners.log_addresses(new.ports.opened)
        notes = [*new.notes, *notes, *dict.fromkeys([*prepared.notes, *taken.notes])]
        remarks = [*notes, *changes.waiting]
        log_reload(lines, remarks)
        return ReloadOutcome(True, [*lines, *remarks] or ["nothing changed"])

    def _packed(
        self, number: int, loaded: Loaded, new: NewParentListeners
    ) -> tuple[bytes, list[int]]:
        configuration, descriptors = self._parent.configuration(
            number, loaded, new.listeners.values()
        )
        return pack(configuration), descriptors

    async def _ask_all(
        self,
        name: str,
        payload: Callable[[int], tuple[bytes, list[int]]],
        numbers: Sequence[int] | None = None,
    ) -> _Asked:
        """
        Ask all workers at the same time.

        @param payload: number of a worker -> what it is sent, with descriptors.
        @param numbers: of those that are asked; C{None}: all that serve.
        """
        processes = self._parts.service.processes
        if numbers is None:
            numbers = [worker.number for worker in processes.serving()]
        # One after the other is sent, then all are waited for.
        answers = {number: processes.ask(number, name, *payload(number)) for number in numbers}
        asked: list[int] = []
        problems: dict[str, None] = {}
        notes: dict[str, None] = {}
        for number, answer in answers.items():
            try:
                report = msgspec.msgpack.decode(await answer, type=Report)
            except ChannelError:
                continue
            if not (name == TAKE and report.problems):
                asked.append(number)
            problems |= dict.fromkeys(report.problems)
            notes |= dict.fromkeys(report.notes)
        return _Asked(asked, list(problems), list(notes))
