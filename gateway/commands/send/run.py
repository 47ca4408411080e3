"""
Run of C{gateway send}: its source, its client, and its result.

Strategy: errors that can be found before the first message are reported before it: files are
opened, the gateway is reached, the stream's number is known. A run ends when the input is finished
and answered, when nothing is answered for too long, or by an interrupt; each of these prints the
same summary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from gateway.client.answers import (
    Answer,
    ClientError,
    Garbled,
    NotAllowed,
    Refused,
    StreamLost,
    StreamTaken,
    Unknown,
)
from gateway.client.buffer import MemoryBuffer
from gateway.client.greeting import FOR_ALL
from gateway.client.parcel import Parcel
from gateway.commands.connect import Trust, new_client, reason
from gateway.commands.interrupts import on_interrupt
from gateway.commands.send.bookmark import Bookmark
from gateway.commands.send.followed_files import Followed, StreamPlace
from gateway.commands.send.inputs import CUTTERS, InputFiles
from gateway.commands.send.progress import Bar, Quiet
from gateway.commands.send.pump import MAX_UNANSWERED_BYTES, Misrouted, Pump, SendOptions
from gateway.commands.send.refused_file import RefusedFile
from gateway.commands.send.resend import Resend
from gateway.commands.send.send_counts import SendCounts
from gateway.model.errors import InputError

ALL_KEPT: Final = 0
SOME_REFUSED: Final = 1
BAD_INPUT: Final = 2
UNDELIVERED: Final = 3

GIVE_UP_SECONDS: Final = 60.0
"""Seconds without an answer after which a run gives up by itself."""

SLOW_ANSWER_SECONDS: Final = 5.0
"""Seconds without an answer after which a line is printed for people."""

WATCH: Final = 0.2
"""Seconds between two looks at whether anything is answered."""

LAST_WORDS: Final = 5.0
"""Seconds in which an interrupted run waits for the answers to what it has sent."""

_MAX_NUMBER_BYTES: Final = 21
"""Bytes of the longest number in a stream, with its mark and space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    Job of C{gateway send}: what is sent, and how; C{gateway send --help} explains it.

    @ivar kept: file of a stream's messages that are to be sent again (L{Resend}).
    """

    names: tuple[str, ...]
    endpoint: str
    trust: Trust
    token: str | None = field(repr=False)
    framing: str
    delimiter: bytes | None
    dialect: str
    route: str
    stream: str | None
    window: int
    kind: str
    follow: bool
    state: Path | None
    kept: Path | None
    again: bool
    refused: str | None
    retry: bool
    give_up_after: float | None
    max_frame: int


@dataclass(frozen=True, slots=True)
class SendResult:
    """
    Result of a run.

    @ivar problem: why it ended early; for people.
    """

    status: int
    report: dict[str, Any]
    summary: str
    problem: str


async def send(job: Job, reactor: Any, bar: bool) -> SendResult:
    """
    Send everything and wait for the answers.

    @param bar: whether to show the progress on standard error.
    @raise InputError: something is wrong with the files; nothing was sent.
    """
    return await _Run(job, reactor).result(bar)


class _Buffer(MemoryBuffer):
    """
    Client buffer for a stream of which earlier runs sent more than this one sends first.
    """

    def __init__(self, max_bytes: int, sent: int) -> None:
        super().__init__(max_bytes)
        self._sent = sent

    def open(self, stream: str | None) -> list[Parcel]:
        parcels = super().open(stream)
        self.given = self._sent
        return parcels


class _Run:
    def __init__(self, job: Job, reactor: Any) -> None:
        self._job = job
        self._reactor = reactor
        self._counts = SendCounts(reactor.seconds)
        self._quiet = Quiet()
        self._say: Callable[[str], None] = self._quiet.print_line
        self._sender: Pump | None = None
        self._step: Deferred[Any] | None = None
        self._status: int | None = None
        self._problem = ""
        self._last = (reactor.seconds(), (0, 0))
        self._said_slow = False
        self._away = ""
        self._reconnect: Deferred[None] | None = None
        self._have = 0
        self._source: InputFiles | Followed
        cutter = CUTTERS[job.kind]
        if job.follow:
            paths = [Path(name).absolute() for name in job.names]
            self._source = Followed(paths, cutter, reactor, lambda text: self._say(text))
        else:
            self._source = InputFiles(job.names, cutter, reactor, self._tell_unfinished)
        self._refused = None if job.refused is None else RefusedFile(job.refused, job.stream or "")
        self._bookmark = (
            None
            if job.state is None or job.stream is None
            else Bookmark(job.state, job.stream, Path(job.names[0]).absolute())
        )
        # Standard input cannot be read again.
        self._counted = job.stream is not None and ("-" not in job.names or job.again)
        self._again = (
            Resend(job.kept, job.stream)
            if self._counted and job.kept is not None and job.stream is not None
            else None
        )
        self._place = (
            StreamPlace(self._bookmark, self._source, reactor)
            if self._bookmark is not None and isinstance(self._source, Followed)
            else None
        )
        # Our own buffer, because its base is the stream's last number.
        self._buffer = _Buffer(
            max(4 * MAX_UNANSWERED_BYTES, 4 * job.max_frame),
            0 if job.stream is None else self._options().unread,
        )
        self._client = new_client(
            job.endpoint,
            job.trust,
            route=job.route,
            stream=job.stream,
            dialect=job.dialect,
            framing=job.framing,
            delimiter=job.delimiter,
            window=job.window,
            buffer=self._buffer,
            resend=job.retry,
            token=job.token,
            asked_route=job.route if job.dialect == "command" else None,
            reactor=reactor,
            stop_timeout=0.0,
        )

    async def result(self, bar: bool) -> SendResult:
        job = self._job
        restore = await on_interrupt(self._reactor, self._interrupted)
        watch = LoopingCall(self._watch)
        watch.clock = self._reactor
        self._client.startService()
        self._buffer.given = 0
        shown: Bar | Quiet = self._quiet
        fault: InputError | None = None
        try:
            watch.start(WATCH)
            if isinstance(self._source, Followed):
                # Files may come and go before there is a gateway.
                self._source.start()
            await self._connect()
            number, have = await self._numbers()
            self._counts.start()
            if bar:
                shown = Bar(self._counts, self._total, self._name(), self._reactor)
                self._say = shown.print_line
            self._sender = Pump(
                self._reactor,
                self._client,
                self._source,
                self._counts,
                self._options(),
                number=number,
                have=have,
                last=self._have,
                again=self._again,
                rebase=self._rebase,
                say=lambda text: self._say(text),
                refused=self._refused,
                reading=None if self._place is None else self._place.reading,
                settled=None if self._place is None else self._place.note_answered,
            )
            self._step = Deferred.fromCoroutine(self._sender.run())
            await self._step
            if self._status is None and self._sender.number < self._have:
                raise InputError(
                    f"the stream has {self._have:,} messages, and here are only"
                    f" {self._sender.number:,}: this is not what was sent before"
                )
        except InputError as error:
            fault = error
        except Unknown:
            self._end(UNDELIVERED, self._lost())
        except ClientError as error:
            self._end(*self._verdict(error))
        except CancelledError:
            pass  # the code that cancelled it has set the status
        finally:
            if fault is not None:
                self._end(BAD_INPUT, str(fault))
            self._end(SOME_REFUSED if self._counts.refused else ALL_KEPT, "")
            watch.stop()
            shown.stop()
            restore()
            await self._client.stopService()
            if self._place is not None:
                # Before the files: it asks them how far they were read.
                self._place.close()
            self._source.close()
            if self._refused is not None:
                self._refused.close()
        report = self._counts.report()
        if job.stream is not None:
            report["stream"] = job.stream
        assert self._status is not None
        return SendResult(self._status, report, self._counts.summary(), self._problem)

    async def _connect(self) -> None:
        """
        Wait for a connection, and report a failure.
        """
        try:
            self._step = self._client.whenConnected(failAfterFailures=1)
            await self._step
        except (CancelledError, NotAllowed, Refused, StreamLost, StreamTaken):
            raise
        except Garbled as error:
            self._end(UNDELIVERED, f"{self._job.endpoint}: {reason(error)}")
            raise CancelledError from None
        except Exception as error:  # noqa: BLE001 - whatever an endpoint says
            text = f"cannot connect to {self._job.endpoint}: {reason(error)}"
            if not self._job.retry:
                self._end(UNDELIVERED, text)
                raise CancelledError from None
            self._say(f"{text}; trying again")
            self._away = text
            self._said_slow = True
            self._step = self._client.whenConnected()
            await self._step

    async def _numbers(self) -> tuple[int, int]:
        """
        Return the number before the source's first message, and the number up to which messages are
        skipped.
        """
        if self._job.stream is None:
            return 0, 0
        have = self._buffer.base or 0
        self._have = have
        if not self._counted:
            return have, have
        floor = 0
        if self._again is not None:
            self._again.check(have)
        if self._place is not None:
            floor = self._place.floor(have, 0 if self._again is None else self._again.count)
        # Messages whose answers a killed run did not read are sent again, to get them.
        have -= min(self._options().unread, have - floor)
        number = 0
        if self._place is not None:
            number = self._place.resume(have, self._have, self._say)
        have = max(have, number)
        self._buffer.rebase(have)
        return number, have

    def _tell_unfinished(self, text: str) -> None:
        # A later run counts that line, and goes on behind it.
        if self._counted:
            self._say(text)

    def _rebase(self, number: int) -> None:
        """Give the next message the next number, whatever came before it."""
        self._buffer.rebase(number - self._buffer.given)

    def _verdict(self, error: BaseException | None) -> tuple[int, str]:
        """
        Return the status and the text for a run that ended with this error.
        """
        if isinstance(error, Misrouted):
            text = self._mistake(error.answer)
            if self._again is not None:
                more = "it and those behind it are sent again by the next run"
            elif self._job.stream is not None:
                more = "it and those behind it are to be given again"
            else:
                more = "those behind it are not sent"
            return BAD_INPUT, f"{text}. The first line refused so is {error}; {more}"
        if isinstance(error, Refused) and error.answer.code in FOR_ALL:
            text = f"{self._mistake(error.answer)}. What has no answer is not given up"
            return BAD_INPUT, text
        return UNDELIVERED, reason(error)

    def _mistake(self, answer: Answer) -> str:
        job = self._job
        todo = {
            "ROUTE": "name a route of the gateway's configuration with --route",
            "DENIED": "have it granted in the gateway's [access], or say who you are with"
            " --token-file or --certificate",
        }.get(answer.code, "the gateway has to offer it")
        what = f"route {job.route}" if job.dialect == "command" else "this listener"
        return f"{job.endpoint}: {what}: {answer}; {todo}, then run this again"

    def _options(self) -> SendOptions:
        job = self._job
        limit = job.max_frame
        if job.dialect == "command":
            limit -= len(f"PUT {job.route} ".encode()) + (_MAX_NUMBER_BYTES if job.stream else 0)
        return SendOptions(
            *(job.framing, job.delimiter, job.dialect == "plain"),
            *(job.window, job.stream or "", limit),
        )

    def _total(self) -> int | None:
        if isinstance(self._source, Followed):
            return self._source.total(self._counts.size)
        return self._source.total

    def _name(self) -> str:
        first, *others = self._job.names
        name = "standard input" if first == "-" else Path(first).name
        return f"{name} and {len(others)} more" if others else name

    def _watch(self) -> None:
        """
        Check the connection, and whether anything was answered lately.
        """
        if self._sender is not None and not self._client.connected and self._reconnect is None:
            if not self._job.retry:
                self._end(UNDELIVERED, self._lost())
                self._stop(at_once=True)
                return
            self._reconnect = self._client.whenConnected()
            self._reconnect.addCallbacks(self._there_again, self._gone_for_good)
        now = self._reactor.seconds()
        marker = (self._counts.settled, self._client.unanswered)
        waiting = self._sender is None or marker[1] > 0
        then, before = self._last
        if marker != before or not waiting:
            if self._said_slow and waiting:
                self._say("answers come again")
            self._said_slow = False
            self._last = (now, marker)
            return
        idle = now - then
        limit = self._job.give_up_after
        if limit is not None and idle >= limit:
            text = f"nothing was answered for {limit:g} s{self._why()}"
            if self._sender is None and self._away and self._client.put_off is None:
                text = f"{self._away}; for {limit:g} s"
            self._end(UNDELIVERED, text)
            self._stop(at_once=True)
        elif idle >= SLOW_ANSWER_SECONDS and not self._said_slow:
            self._said_slow = True
            self._say(
                f"{self._job.endpoint}: nothing was answered for {idle:.0f} s{self._why()}; still"
                " trying"
            )

    def _lost(self) -> str:
        return f"{self._job.endpoint}: the connection was lost{self._why()}"

    def _why(self) -> str:
        trouble = self._client.trouble
        return "" if trouble is None else f" ({reason(trouble)})"

    def _there_again(self, result: None) -> None:
        self._reconnect = None

    def _gone_for_good(self, failure: Failure) -> None:
        # After a stop of the client the status is set already.
        self._end(*self._verdict(failure.value))
        self._stop(at_once=True)

    def _interrupted(self, status: int) -> None:
        again = self._status is not None
        self._end(status, "")
        if not again:
            self._reactor.callLater(LAST_WORDS, self._stop, at_once=True)
        self._stop(at_once=again)

    def _stop(self, at_once: bool) -> None:
        if self._sender is None:
            if self._step is not None:
                self._step.cancel()
        elif at_once:
            self._sender.stop_now()
        else:
            self._sender.stop()

    def _end(self, status: int, problem: str) -> None:
        """Set the result of the run; only the first one counts."""
        if self._status is None:
            self._status, self._problem = status, problem
