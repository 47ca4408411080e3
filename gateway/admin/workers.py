"""
Console over several workers: what it asks them, and what they answer.

Strategy: a worker carries out what the console of one process would; the parent asks all of them,
and says once what all say alike. What was paused, and the level of the log, are standing orders: a
worker that is started later is given them before its first connection. An ID of a peer has its
worker's number in it, so that KILL asks that worker alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Final, NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from gateway.admin.console import Done, Operations
from gateway.admin.grammar import CommandError, Request
from gateway.admin.peers import COLUMNS_OF_WORKERS, PeerList, PeerQuery, query_of, slices_of
from gateway.admin.table import Column, Row
from gateway.model.errors import GatewayError
from gateway.status.merge import lines_of_workers
from gateway.status.status import encoded
from gateway.status.watch import Watch
from gateway.status.workers import STATUS, Workers

OPERATE: Final = "operate"
"""Name of the question that carries an operation: a L{Request}, answered by a L{_Result}."""

PEERS: Final = "peers"
"""Name of the question for peers: options of SHOW PEERS, answered by sorted rows."""

PATIENCE: Final = 15.0
"""Seconds that the console waits for a worker; PAUSE takes ten where commits hang."""

_WORKERS: Final = 1000
"""More than there are workers: an ID of a peer is this times a number, plus its worker."""

Result = TypeVar("Result")

Question = Callable[[bytes, Sequence[int]], Awaitable[bytes]]
"""What was asked, with descriptors, of which there are none -> the answer."""


class _Result(Struct, frozen=True, array_like=True):
    """
    Answer of a worker to an operation.

    @ivar fault: why it was not carried out; C{""}: it was.
    @ivar waited: messages that waited for it there; C{None}: none could.
    """

    lines: Sequence[str]
    fault: str = ""
    waited: int | None = None


_pack: Final = msgspec.msgpack.encode


def ids_of(worker: int, first: int) -> Iterator[int]:
    """
    Return the IDs of a worker's peers, which no other worker gives.

    @param first: larger than what any worker of this number before it has counted to, such as the
        connections that were passed to workers until now.
    """
    return count(first * _WORKERS + worker, _WORKERS)


class WorkerAnswers:
    """
    Answers of one worker to its parent's console.
    """

    def __init__(
        self,
        watch: Watch,
        operations: Operations,
        peers: PeerList,
    ) -> None:
        self._watch = watch
        self._operations = operations
        self._peers = peers

    def questions(self) -> Mapping[str, Question]:
        """Return what is answered, by name."""
        return {STATUS: self._status, OPERATE: self._operate, PEERS: self._show_peers}

    async def _status(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        return encoded(self._watch.status())

    async def _operate(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        try:
            done = await self._operations.operate(msgspec.msgpack.decode(payload, type=Request))
        except CommandError as error:
            return _pack(_Result((), str(error)))
        return _pack(_Result(done.lines, done.fault, done.waited))

    async def _show_peers(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        options = msgspec.msgpack.decode(payload, type=dict[str, str])
        try:
            listeners = [one.name for one in self._watch.status().listeners]
            query = query_of(options, listeners, self._peers.columns)
        except CommandError:
            return _pack([])  # a reload has just taken the listener away
        found: list[Row] = []
        async for rows in self._peers.slices(query):
            found += rows
        return _pack(found)


class StandingOrders(NamedTuple):
    """
    Operations that also hold for workers that are started later.

    @ivar is_total: whether all routes are paused.
    @ivar routes: those that were paused by name.
    @ivar level: of the log; C{""}: as configured.
    """

    is_total: bool = False
    routes: frozenset[str] = frozenset()
    level: str = ""

    def requests(self) -> list[Request]:
        """Return what a new worker has to be told, in order."""
        paused = [*sorted(self.routes), *([""] if self.is_total else [])]
        levels = [self.level] if self.level else []
        return [
            *(Request("PAUSE", route, {}, False) for route in paused),
            *(Request("SET", level, {}, False) for level in levels),
        ]

    def since(self, before: StandingOrders) -> list[Request]:
        """Return what a worker has to be told that was given others before."""
        is_over = before.is_total and not self.is_total
        gone = [""] if is_over else sorted(before.routes - self.routes)
        return [*(Request("RESUME", route, {}, False) for route in gone), *self.requests()]

    def after(self, request: Request) -> StandingOrders:
        """Return what they are after an operation."""
        route = request.subject
        if request.verb == "SET":
            return self._replace(level=route)
        if request.verb == "PAUSE":
            return (
                self._replace(routes=self.routes | {route})
                if route
                else self._replace(is_total=True)
            )
        if request.verb == "RESUME":
            if route:
                return self._replace(routes=self.routes - {route})
            return self._replace(is_total=False, routes=frozenset())
        return self


class WorkerOperations:
    """
    Operations on all workers.

    @ivar standing: what workers that are started later are told.
    """

    def __init__(
        self, workers: Workers, clock: IReactorTime, set_level: Callable[[str], None]
    ) -> None:
        """
        @param set_level: sets the lowest level of this process's own log.
        """
        self.standing = StandingOrders()
        self._set_level = set_level
        self._workers = workers
        self._clock = clock

    async def operate(self, request: Request) -> Done:
        """
        Carry out a command in all workers.

        @raise CommandError: none of them could.
        """
        if request.verb == "KILL":
            return await self._kill(request)
        before = self.standing
        if request.verb in ("PAUSE", "SET"):
            # First, for a worker that is started meanwhile.
            self.standing = before.after(request)
        results: dict[tuple[int, int], _Result] = {}
        while asked := [key for key in self._there() if key not in results]:
            answers = [self._ask(number, request) for number, _ in asked]
            results |= dict(zip(asked, await _all(answers), strict=True))
        if request.verb in ("RESUME", "SET"):
            # Of one that died meanwhile only its successor counts. After a PAUSE its last commit
            # may still be under way.
            there = self._there()
            results = {k: result for k, result in results.items() if k in there or not result.fault}
        try:
            done = _together({number: result for (number, _), result in results.items()})
        except CommandError:
            self.standing = before
            raise
        self.standing = self.standing.after(request)
        if request.verb == "SET":
            self._set_level(request.subject)
        away = [life.number for life in self._workers.lives() if not life.is_serving]
        if not away or request.verb == "RECONNECT":
            return done
        later = [f"worker {number} does not serve now, and is told when it does" for number in away]
        return Done([*later, *done.lines], done.fault, done.waited)

    async def welcome(self, number: int, given: StandingOrders) -> None:
        """
        Tell a worker that was started the standing orders, all at once.

        @param given: those that it was started with.
        """
        if given != self.standing:
            await _all([self._ask(number, request) for request in self.standing.since(given)])

    def forget_level(self) -> None:
        """Forget the level of the log, as a reload does."""
        self.standing = self.standing._replace(level="")

    async def _kill(self, request: Request) -> Done:
        number = int(request.subject[:20]) % _WORKERS
        if number not in [number for number, _ in self._there()]:
            raise CommandError(f"no peer {request.subject[:20]}; see SHOW PEERS")
        result = await self._ask(number, request)
        if result.fault:
            raise CommandError(result.fault)
        return Done(result.lines)

    def _there(self) -> list[tuple[int, int]]:
        """Return number and process of each worker that is there."""
        return [
            (life.number, life.pid)
            for life in self._workers.lives()
            if life.pid is not None and life.is_serving
        ]

    async def _ask(self, number: int, request: Request) -> _Result:
        try:
            asked = _asked(self._workers, self._clock, number, OPERATE, _pack(request))
            return msgspec.msgpack.decode(await asked, type=_Result)
        except GatewayError as error:
            return _Result((), str(error))


class WorkerPeers:
    """
    Peers of all workers.
    """

    def __init__(self, workers: Workers, clock: IReactorTime) -> None:
        self.columns: Sequence[Column] = COLUMNS_OF_WORKERS
        self._workers = workers
        self._clock = clock

    async def slices(self, query: PeerQuery) -> AsyncIterator[Sequence[Row]]:
        """
        Return rows, some at a time.

        @raise CommandError: a worker did not tell its peers; those of the others were returned.
        """
        numbers = [life.number for life in self._workers.lives() if life.pid is not None]
        found = await _all([self._of(number, query) for number in numbers])
        parts = [rows for rows, _ in found]
        for rows in slices_of(parts, query):
            yield rows
            await self.breathe()
        faults = [
            f"worker {n}: {fault}" for n, (_, fault) in zip(numbers, found, strict=True) if fault
        ]
        if faults:
            raise CommandError("; ".join(faults))

    async def breathe(self) -> None:
        """Let the reactor do its other work."""
        await deferLater(self._clock, 0)

    async def _of(self, number: int, query: PeerQuery) -> tuple[list[Row], str]:
        try:
            asked = _asked(self._workers, self._clock, number, PEERS, _pack(dict(query.options)))
            return msgspec.msgpack.decode(await asked), ""
        except GatewayError as error:
            return [], str(error)


class _NoAnswer(GatewayError):
    """
    A worker did not answer in time.
    """


async def _asked(
    workers: Workers, clock: IReactorTime, number: int, name: str, payload: bytes
) -> bytes:
    async def ask() -> bytes:
        return await workers.ask(number, name, payload)

    try:
        return await Deferred.fromCoroutine(ask()).addTimeout(PATIENCE, clock)
    except TimeoutError:
        raise _NoAnswer("it does not answer") from None


async def _all(answers: Sequence[Awaitable[Result]]) -> list[Result]:
    """
    Wait for answers at the same time.
    """

    async def one(answer: Awaitable[Result]) -> Result:
        return await answer

    return await gatherResults([Deferred.fromCoroutine(one(answer)) for answer in answers])


def _together(results: Mapping[int, _Result]) -> Done:
    """
    Return the results of all workers as one.

    @param results: by the number of the worker.
    @raise CommandError: none of them is good.
    """
    faults = {n: [result.fault] for n, result in results.items() if result.fault}
    if results and len(faults) == len(results):
        raise CommandError("; ".join(lines_of_workers(faults, len(results))))
    lines = {number: result.lines for number, result in results.items()}
    waited = [result.waited for result in results.values() if result.waited is not None]
    return Done(
        lines_of_workers(lines, len(results)),
        "; ".join(lines_of_workers(faults, len(results))),
        sum(waited) if waited else None,
    )
