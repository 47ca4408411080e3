"""
Processes of the workers: started, watched, started again.

A worker that dies is started again with back-off. One that gives no sign of life is killed: its
reactor stands still, and so do its peers, who would wait for ever. The end of the channel ends a
worker, so that none outlives its parent.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from gateway.logs.output import Output
from gateway.workers.channel import Channel, ChannelError
from gateway.workers.log import LOG, lines_of, write_lines

ALIVE: Final = "alive"
"""Name of the push that is a worker's sign of life."""

BEGIN: Final = "begin"
"""Name of the question whose answer says that a worker serves."""

END: Final = "end"
"""Name of the push by which a worker says that only the operator can help."""

STOP: Final = "stop"
FORCE: Final = "force"
DRAIN: Final = "drain"

SIGN_INTERVAL: Final = 1.0
"""Seconds between a worker's signs of life."""

SILENCE: Final = 10.0
"""Seconds without a sign of life after which a worker is killed; design of C{/livez}."""

START_SILENCE: Final = 60.0
"""The same while it starts: it imports the gateway, on a machine that may be busy."""

_STEADY: Final = 10.0
"""Seconds after which a worker's start counts as a success: the back-off begins anew."""

CHANNEL_FILE: Final = 3
"""Descriptor of a worker's end of the channel."""

_NOT_PASSED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
"""Variables of systemd's that are for the parent."""

State = Literal["starting", "serving", "stopping", "away"]


class Begun(NamedTuple):
    """
    What a worker begins with.

    @ivar descriptors: sent with it.
    """

    payload: bytes
    descriptors: Sequence[int]


@dataclass(slots=True)
class Worker:
    """
    One worker, whichever process it is now.

    @ivar pid: C{None} while there is no process.
    @ivar channel: C{None} while there is no process.
    @ivar since: when this process was started, in seconds of the clock.
    @ivar restarts: processes after the first.
    @ivar sign: when it gave its last sign of life, in seconds of the clock.
    @ivar last_end: why the process before ended; C{""}: there was none.
    @ivar fault: why this process cannot go on, as it said itself.
    @ivar failures: starts in a row after which it soon ended.
    """

    number: int
    state: State = "away"
    pid: int | None = None
    channel: Channel | None = None
    since: float = 0.0
    restarts: int = 0
    sign: float = 0.0
    last_end: str = ""
    fault: str = ""
    failures: int = 0


class Events(NamedTuple):
    """
    Functions that the processes call.

    @ivar opened: with a worker that has a channel now, before anything comes through it.
    @ivar serving: with a worker that serves now.
    @ivar gone: with a worker whose process is gone, after all that it sent.
    @ivar unusable: with the reason, where a worker cannot start at all.
    """

    opened: Callable[[Worker], None]
    serving: Callable[[Worker], None]
    gone: Callable[[Worker], None]
    unusable: Callable[[str], None]


class Processes:
    """
    Processes of the workers.

    @ivar workers: by number.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        count: int,
        begun: Callable[[int], Begun],
        events: Events,
        backoff: Callable[[int], float],
        output: Callable[[], Output | None],
        arguments: Sequence[str] = (),
    ) -> None:
        """
        @param begun: number of a worker -> what it begins with.
        @param backoff: failed starts -> seconds to wait.
        @param output: where lines of workers' logs go.
        @param arguments: of each worker's command line.
        """
        self.workers = {number: Worker(number) for number in range(1, count + 1)}
        self._reactor = reactor
        self._begun = begun
        self._events = events
        self._backoff = backoff
        self._output = output
        self._arguments = arguments
        self._stopping = False
        self._protocols: dict[int, _Process] = {}
        self._starts: dict[int, IDelayedCall] = {}
        self._looking: IDelayedCall | None = None
        self._looked = 0.0
        self._ended: Deferred[None] | None = None

    def start(self) -> None:
        """Start all workers."""
        for number in self.workers:
            self._start(number)
        self._looked = self._reactor.seconds()
        self._looking = self._reactor.callLater(SIGN_INTERVAL, self._look)

    def serving(self) -> list[Worker]:
        """Return the workers that serve."""
        return [worker for worker in self.workers.values() if worker.state == "serving"]

    def ask(
        self, number: int, name: str, payload: bytes = b"", descriptors: Sequence[int] = ()
    ) -> Deferred[bytes]:
        """
        Ask a worker; the result is a L{ChannelError} where it has no answer, or dies.
        """
        channel = self.workers[number].channel
        if channel is None:
            answer: Deferred[bytes] = Deferred()
            answer.errback(ChannelError(f"worker {number} is away"))
            return answer
        return channel.ask(name, payload, descriptors)

    def push(self, name: str, payload: bytes = b"") -> None:
        """Send something to all workers."""
        for worker in self.workers.values():
            if worker.channel is not None:
                worker.channel.push(name, payload)

    def kill(self, number: int, reason: str) -> None:
        """Kill a worker; it is started again."""
        worker = self.workers[number]
        if worker.pid is None:
            return
        self._log.error(
            "worker {worker} (process {pid}) is killed: {reason}",
            event="worker-killed",
            worker=number,
            pid=worker.pid,
            reason=reason,
        )
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    def begin_stop(self) -> None:
        """Tell all workers to stop; none is started again."""
        self._stopping = True
        for call in self._starts.values():
            call.cancel()
        self._starts.clear()
        for worker in self.workers.values():
            if worker.state in ("starting", "serving"):
                worker.state = "stopping"
        self.push(STOP)

    def ended(self) -> Deferred[None]:
        """Return a result for the moment when no process is left."""
        self._ended = Deferred()
        self._tell_ended()
        return self._ended

    def kill_all(self) -> None:
        """Kill all processes that are left."""
        for number in self.workers:
            self.kill(number, "it does not stop")

    def _tell_ended(self) -> None:
        if self._ended is None or self._protocols:
            return
        if self._looking is not None and self._looking.active():
            self._looking.cancel()
        ended, self._ended = self._ended, None
        ended.callback(None)

    def _start(self, number: int) -> None:
        self._starts.pop(number, None)
        worker = self.workers[number]
        try:
            own, its = socket.socketpair()
        except OSError as error:
            self._not_started(worker, error)
            return
        channel = Channel(self._reactor, own, lambda: None)
        channel.on_push(ALIVE, lambda _: self._note_sign(worker))
        channel.on_push(LOG, self._write)
        channel.on_push(END, lambda payload: self._unusable(worker, payload.decode()))
        process = _Process(worker, channel, self._gone, self._printed)
        try:
            with its, Path(os.devnull).open("rb", buffering=0) as nothing:
                transport = self._reactor.spawnProcess(
                    process,
                    sys.executable,
                    [
                        *(sys.executable, "-P", "-m", "gateway.daemon.worker"),
                        *(f"{number}/{len(self.workers)}", str(os.getpid())),
                        *self._arguments,
                    ],
                    env=_environment(os.environ),
                    childFDs={0: nothing.fileno(), 1: "r", 2: "r", CHANNEL_FILE: its.fileno()},
                )
        except OSError as error:
            channel.close()
            self._not_started(worker, error)
            return
        now = self._reactor.seconds()
        worker.state, worker.pid, worker.channel = "starting", transport.pid, channel
        worker.since = worker.sign = now
        self._protocols[number] = process
        self._events.opened(worker)
        channel.start()
        begun = self._begun(number)
        channel.ask(BEGIN, begun.payload, begun.descriptors).addCallbacks(
            lambda _: self._serves(worker, channel),
            lambda failure: self._not_begun(worker, failure),
        )

    def _not_started(self, worker: Worker, error: OSError) -> None:
        """Try again: the system has no room for another process, or no descriptors."""
        worker.failures += 1
        worker.last_end = error.strerror or str(error)
        self._log.error(
            "worker {worker} cannot be started, trying again: {reason}",
            event="worker-not-started",
            worker=worker.number,
            reason=worker.last_end,
        )
        self._starts[worker.number] = self._reactor.callLater(
            self._backoff(worker.failures), self._start, worker.number
        )

    def _serves(self, worker: Worker, channel: Channel) -> None:
        if self._stopping or worker.channel is not channel:
            return
        worker.state = "serving"
        self._events.serving(worker)

    def _not_begun(self, worker: Worker, failure: Failure) -> None:
        failure.trap(ChannelError)
        if worker.channel is not None and worker.channel.is_open:
            self._unusable(worker, str(failure.value))
            # It is of no use, and is started again.
            self.kill(worker.number, str(failure.value))

    def _unusable(self, worker: Worker, reason: str) -> None:
        """Note that a worker cannot start, or go on, until the operator has helped."""
        worker.fault = reason
        if not worker.restarts and not self._stopping:
            self._events.unusable(reason)

    def _note_sign(self, worker: Worker) -> None:
        worker.sign = self._reactor.seconds()

    def _write(self, payload: bytes) -> None:
        output = self._output()
        if output is not None:
            write_lines(output, payload)
            return
        # twistd uses another observer.
        level, lines = lines_of(payload)
        for line in lines:
            self._log.emit(LogLevel.lookupByName(level), "{printed}", printed=line)

    def _printed(self, number: int, line: str) -> None:
        self._log.warn(
            "worker {worker}: {printed}", event="worker-output", worker=number, printed=line
        )

    def _gone(self, process: _Process, status: str) -> None:
        worker = process.worker
        # What it sent before it ended counts: a connection that it took is its own.
        process.channel.read_rest()
        process.channel.close()
        del self._protocols[worker.number]
        pid, seconds = worker.pid, self._reactor.seconds() - worker.since
        worker.pid, worker.channel = None, None
        worker.state = "away"
        self._events.gone(worker)
        if self._stopping:
            self._tell_ended()
            return
        worker.failures = 1 if seconds > _STEADY else worker.failures + 1
        reason = f"{status}: {worker.fault}" if worker.fault else status
        worker.last_end, worker.fault = reason, ""
        worker.restarts += 1
        self._log.error(
            "worker {worker} (process {pid}) ended after {seconds:.1f} s: {reason}; it is started"
            " again",
            event="worker-ended",
            worker=worker.number,
            pid=pid,
            seconds=round(seconds, 3),
            reason=reason,
        )
        delay = self._backoff(worker.failures)
        self._starts[worker.number] = self._reactor.callLater(delay, self._start, worker.number)

    def _look(self) -> None:
        """Kill workers that gave no sign of life."""
        now = self._reactor.seconds()
        late = now - self._looked > 3 * SIGN_INTERVAL
        self._looked = now
        self._looking = self._reactor.callLater(SIGN_INTERVAL, self._look)
        for worker in self.workers.values():
            if worker.pid is None:
                continue
            if late:
                # It is this process that stood still; signs wait in the channel.
                worker.sign = now
            limit = START_SILENCE if worker.state == "starting" else SILENCE
            if now - worker.sign > limit:
                worker.sign = now
                self.kill(worker.number, f"no sign of life for {limit:g} s")


class _Process(ProcessProtocol):
    """
    Process of a worker, as the reactor sees it.
    """

    def __init__(
        self,
        worker: Worker,
        channel: Channel,
        gone: Callable[[_Process, str], None],
        printed: Callable[[int, str], None],
    ) -> None:
        self.worker = worker
        self.channel = channel
        self._gone = gone
        self._printed = printed
        self._rest = b""

    def outReceived(self, data: bytes) -> None:
        self._print(data)

    def errReceived(self, data: bytes) -> None:
        self._print(data)

    def processEnded(self, reason: Failure) -> None:
        if self._rest:
            self._print(b"\n")
        self._gone(self, _status(reason.value))

    def _print(self, data: bytes) -> None:
        """Log what was printed; a worker's log does not come this way."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._printed(self.worker.number, line.decode("utf-8", "replace").rstrip())


def _status(reason: BaseException | None) -> str:
    if isinstance(reason, ProcessTerminated) and reason.signal is not None:
        with suppress(ValueError):
            return f"killed by {signal.Signals(reason.signal).name}"
    if isinstance(reason, ProcessDone | ProcessTerminated):
        return f"exit status {reason.exitCode}"
    return "ended"


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: its parent's, without what systemd told the parent."""
    return {name: value for name, value in environment.items() if name not in _NOT_PASSED}
