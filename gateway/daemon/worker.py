"""
A worker: a whole gateway inside, whose connections and configuration come from its parent.

It is started by its parent alone (L{gateway.workers.processes}), and ends with the channel to it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import msgspec
from twisted.application.reactors import installReactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner

from gateway.access.rates import Allowance, Bucket, RateBucket
from gateway.admin.grammar import CommandError, Request
from gateway.config.load import Config, Database, Limits
from gateway.logs.observer import LogObserver
from gateway.model.errors import ConfigError
from gateway.system.file_limit import raise_file_limit
from gateway.system.lock import LockFile, LockHeld
from gateway.workers.channel import Channel, ChannelError
from gateway.workers.lending import LentBucket
from gateway.workers.log import ChannelOutput
from gateway.workers.processes import (
    ALIVE,
    BEGIN,
    CHANNEL_FILE,
    DRAIN,
    END,
    FORCE,
    SIGN_INTERVAL,
    STOP,
)
from gateway.workers.receiving import Receiver
from gateway.workers.reloading import CERTIFICATES, PREPARE, TAKE, UNDO, Report
from gateway.workers.start import Configuration, Start, contexts_of, unpack

_PDEATHSIG: Final = 1
"""Option of prctl(2): a signal for the end of the parent."""

_LOCK_TIMEOUT: Final = 10.0
"""Seconds that a worker of a gateway that was killed may take to give its spool up."""

_IGNORED: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that a terminal or a supervisor sends to all processes; they are for the parent."""

_log: Final = Logger()

_encode: Final = msgspec.msgpack.Encoder().encode


class WorkerProcess:
    """
    The process of a worker.
    """

    def __init__(self, reactor: Any, channel: Channel) -> None:
        self._reactor = reactor
        self._channel = channel
        self._gateway: Any = None
        self._receiver = Receiver(reactor, channel, self._make_bucket)
        self._prepared: Any = None
        self._sign = LoopingCall(channel.push, ALIVE)
        self._sign.clock = reactor
        self._stopping = False
        channel.serve(BEGIN, self._begin)
        channel.serve(PREPARE, self._prepare)
        channel.serve(TAKE, self._take)
        channel.serve(UNDO, self._undo)
        channel.on_push(CERTIFICATES, self._renew)
        channel.on_push(STOP, lambda _: self._stop())
        channel.on_push(FORCE, lambda _: self._force())
        channel.on_push(DRAIN, lambda _: self._drain())

    def start(self) -> None:
        """Begin to give signs of life, and to wait for the configuration."""
        self._sign.start(SIGN_INTERVAL)
        self._channel.start()

    async def _begin(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        """
        Start the gateway.

        @raise GatewayError: it cannot be started.
        """
        # It imports all other parts, which takes most of a start.
        from gateway.daemon.configuration import Loaded
        from gateway.daemon.monotonic_clock import use_monotonic_clock
        from gateway.daemon.wiring import Setting, build

        start: Start = unpack(payload)
        given = start.configuration
        observer = LogObserver(given.config.log, start.number)
        observer.output = ChannelOutput(self._channel)
        globalLogBeginner.beginLoggingTo([observer])
        sys.excepthook = observer.crashed
        raise_file_limit()
        use_monotonic_clock(self._reactor)
        self._receiver.place(given.addresses, given.datagrams, descriptors)
        loaded = Loaded(given.config, given.tokens, given.contexts())
        self._gateway = build(
            self._reactor,
            Setting(
                loaded,
                start.data_dir,
                observer,
                read=lambda: loaded,
                warnings=(),
                warnings_of=lambda _: [],
                room=_room,
                end=self._end,
                announces=False,
                hosting=self._receiver,
                leftovers=start.leftovers,
                watches_files=False,
                worker=start.number,
                accepted=start.accepted,
            ),
        )
        await self._serve_operator(start.orders)
        _await_spool(given.config)
        service = self._gateway.service
        try:
            service.privilegedStartService()
            service.startService()
        except SystemExit as error:
            raise ChannelError(str(error).removeprefix("gateway: ")) from None
        if start.is_draining:
            self._drain()
        return b""

    def _make_bucket(
        self, listener: str, key: Hashable, allowance: Allowance, now: float
    ) -> RateBucket:
        if not allowance.limited:
            return Bucket(allowance, now)
        return LentBucket(self._reactor, self._channel, listener, key, allowance)

    # A reload, in three steps: see gateway.daemon.shared_reload.

    async def _prepare(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        from gateway.daemon.configuration import Loaded

        given: Configuration = unpack(payload)
        self._receiver.place({}, given.datagrams, descriptors)
        loaded = Loaded(given.config, given.tokens, given.contexts())
        try:
            self._prepared = await self._gateway.reload.prepare(loaded)
        except ConfigError as error:
            return _encode(Report(problems=error.problems))
        return _encode(Report())

    async def _take(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        given: Configuration = unpack(payload)
        self._receiver.place(given.addresses, given.datagrams, descriptors)
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            # It was started meanwhile, with the configuration that was in force then.
            return _encode(Report(problems=("nothing was prepared",)))
        outcome = self._gateway.reload.take(prepared, announces=False)
        if not outcome.taken:
            return _encode(Report(problems=tuple(outcome.lines)))
        return _encode(Report(notes=tuple(prepared.notes)))

    async def _undo(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self._gateway.reload.undo(prepared)
        return _encode(Report())

    def _renew(self, payload: bytes) -> None:
        if self._gateway is not None:
            self._gateway.tls.renew(contexts_of(unpack(payload)))

    async def _serve_operator(self, orders: Sequence[Request]) -> None:
        """
        Carry out what the operator has said before, and answer what the parent's console asks.
        """
        from gateway.admin.workers import WorkerAnswers

        gateway = self._gateway
        for order in orders:
            with suppress(CommandError):  # its route was removed since
                await gateway.operations.operate(order)
        answers = WorkerAnswers(gateway.watch, gateway.operations, gateway.peers)
        for name, question in answers.questions().items():
            self._channel.serve(name, question)

    def _end(self, status: int) -> None:
        self._channel.push(END, b"see the line before")
        os._exit(status)

    def _drain(self) -> None:
        if self._gateway is not None:
            self._gateway.watch.state = "draining"

    def _force(self) -> None:
        if self._gateway is not None:
            self._gateway.service.force()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._gateway is None or not self._gateway.service.running:
            os._exit(0)
        stopping: Deferred[None] = self._gateway.service.stopService()
        stopping.addErrback(
            lambda failure: _log.failure("the stop failed", failure, event="stop-failed")
        )
        stopping.addCallback(lambda _: self._reactor.stop())


def _room(databases: Sequence[Database], limits: Limits, listeners: int) -> tuple[int, list[str]]:
    """Return the limit of connections, which the parent counts."""
    return limits.connections, []


def _await_spool(config: Config) -> None:
    """
    Wait until nobody has the spool's lock: the worker before this one may just end.
    """
    lock = LockFile(Path(f"{config.spool.path}.lock"))
    until = monotonic() + _LOCK_TIMEOUT
    while Path(f"{config.spool.path}.lock").exists():
        try:
            lock.hold()
        except LockHeld:
            if monotonic() > until:
                return  # the spool says so
            sleep(0.02)
        except OSError:
            return
        else:
            lock.release()
            return


def _die_with_parent(parent: int) -> None:
    """
    Have the kernel kill this process when its parent is gone, even while it stands still.

    @param parent: its process.
    """
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it was gone before that, and what it sent may still be read


def main(arguments: Sequence[str]) -> None:
    """
    Run a worker until its parent says that it stops, or is gone.

    @param arguments: its number and how many there are, such as C{2/4}, for those who list
        processes; the process of the parent; the name of the reactor, if not the usual one.
    """
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _die_with_parent(int(arguments[1]))
    own = socket.socket(fileno=CHANNEL_FILE)
    own.set_inheritable(False)
    if len(arguments) > 2:
        installReactor(arguments[2])
    from twisted.internet import reactor

    running: Any = reactor
    channel = Channel(running, own, lambda: os._exit(0))
    process = WorkerProcess(running, channel)
    running.callWhenRunning(process.start)
    running.run(installSignalHandlers=False)


if __name__ == "__main__":
    main(sys.argv[1:])
