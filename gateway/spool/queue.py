"""
Queue of the spool's jobs: one thread for its file, one commit for all that waits.

While the thread flushes a commit, new jobs gather; then all of them are
one transaction, with one flush. A transaction that fails is done again job by
job, so that only those fail that cannot be done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID, uuid4, uuid5

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from gateway.metrics.counters import SpoolCounters
from gateway.model.batch import Batch, Fence, Refusal, Slice
from gateway.model.errors import SpoolError, SpoolUnknown
from gateway.spool.backlog import SpoolBacklog
from gateway.spool.disk_space import portions
from gateway.spool.file import SpoolFile
from gateway.spool.record import Record, RecordGroup, pack, rows_of, unpack

Result = TypeVar("Result")

_FULL: Final = "the database cannot be reached, and there is no room for the spool"
_BROKEN: Final = "the database cannot be reached, and the spool cannot be written"


class _Unflushed(Exception):
    """
    A commit failed, for the reason that is its cause, and may still be there after a crash.

    SQLite finds what it had written to its log before the flush failed.
    """


@dataclass(slots=True)
class _Job(Generic[Result]):
    """
    A job for the thread.

    @ivar size: bytes that must be free.
    @ivar writes: whether it is part of a transaction.
    """

    work: Callable[[SpoolFile], Result]
    done: Deferred[Result]
    size: int = 0
    writes: bool = True


class Thread(Protocol):
    """
    Port: a thread that runs one call after the other.
    """

    def start(self) -> None:
        """Start the thread; from now on the process ends only after L{stop}."""

    def stop(self) -> None:
        """Wait for the present call, and end the thread."""

    def run(self, work: Callable[[], Result]) -> Deferred[Result]:
        """Run a call, one at a time."""


class OwnThread:
    """
    Real thread of the process.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(1, 1, "spool")

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        self._pool.stop()

    def run(self, work: Callable[[], Result]) -> Deferred[Result]:
        return deferToThreadPool(self._reactor, self._pool, work)


class Spool:
    """
    Spool as the reactor uses it: keeps batches until they can be stored.

    @ivar rows: route -> messages that are kept and wait for no stream.
    @ivar aside: stream -> messages that wait for it.
    @ivar damaged: messages that are set aside because they are damaged.
    @ivar size: bytes on disk.
    @ivar backlog: numbers of streams that it holds.
    @ivar counters: of its messages.
    @ivar inherited: lanes of the records that were there at the start. An earlier process may
        have tried to store them, and a stalled server may still execute that.
    """

    _log = Logger()

    def __init__(
        self, file: SpoolFile, thread: Thread, new_id: Callable[[], str] = lambda: str(uuid4())
    ) -> None:
        """
        @param thread: thread that uses the file.
        @param new_id: makes up UUIDs.
        """
        self.rows: dict[str, int] = {}
        self.aside: dict[str, int] = {}
        self.damaged = 0
        self.size = 0
        self.backlog = SpoolBacklog()
        self.counters = SpoolCounters()
        self.inherited: frozenset[str] = frozenset()
        self._file = file
        self._thread = thread
        self._new_id = new_id
        self._session = UUID(new_id())
        self._shared: set[str] = set()
        self._jobs: list[_Job[Any]] = []
        self._busy = False
        self._broken = False
        self._closing: Deferred[None] | None = None

    @property
    def path(self) -> str:
        """Path of the file."""
        return str(self._file.path)

    @property
    def messages(self) -> int:
        """Number of messages that are kept."""
        return sum(self.rows.values()) + sum(self.aside.values())

    def replace_limit(self, max_bytes: int) -> None:
        """Replace the limit of its space on disk."""
        self._file.room.replace_limit(max_bytes)

    def open(self) -> None:
        """
        Open the file; blocks.

        @raise EmbeddedError: it cannot be used.
        """
        self._file.open()
        self.inherited = self._file.lanes()
        self.backlog.reset(self._file.batches())
        self._look()

    def start(self) -> None:
        """Start the thread. From now on the process ends only after L{close}."""
        self._thread.start()

    async def close(self) -> None:
        """Finish all jobs, and close the file."""
        if self._busy:
            self._closing = Deferred()
            await self._closing
        self._thread.stop()
        self._file.close()

    async def put(self, batch: Batch, fence: Fence | None, stream: str | None = None) -> None:
        """
        Keep a batch; on disk when this returns.

        @param fence: the one it may have been stored with.
        @param stream: stream that it waits for.
        @raise SpoolUnknown: it may have been kept.
        @raise SpoolError: nothing was kept.
        """
        behind: tuple[str, int | None]
        if fence is not None:
            behind = fence.lane, fence.number
        elif stream is not None:
            # It may be stored in any order with others.
            behind = self._new_id(), 1
        else:
            # Never sent: a lane of this process, numbered in order for each route.
            lane = str(uuid5(self._session, batch.route))
            self._shared.add(lane)
            behind = lane, None
        size = sum(len(frame) for part in batch.slices for frame in part.frames)
        size += sum(len(r.chunk.frames[r.row]) for r in batch.refusals)

        def append(file: SpoolFile) -> None:
            file.append(batch.route, behind, rows_of(batch), pack(batch), stream)

        try:
            await self._ask(append, max(1, size))
        except SpoolUnknown:
            self.backlog.mark_doubtful(batch)
            raise
        except SpoolError:
            self.counters.refused += rows_of(batch)
            raise
        self.counters.kept += rows_of(batch)
        self.backlog.put(batch, last=True)

    async def next(
        self, after: int, without: Collection[str], held: Collection[str] = ()
    ) -> RecordGroup | None:
        """
        Return the next records that can be stored by one statement; they stay until L{remove}.

        @param after: the place before it; 0 for the first of all.
        @param without: routes to leave out.
        @param held: streams whose records put aside are to be left out.
        """
        routes, streams = frozenset(without), frozenset(held)
        return await self._ask(lambda file: file.next(after, routes, streams), writes=False)

    async def several(
        self, after: int, without: Collection[str], held: Collection[str] = ()
    ) -> Sequence[RecordGroup]:
        """Return the next parcels that may be stored by one commit; parameters as for L{next}."""
        routes, streams = frozenset(without), frozenset(held)
        return await self._ask(lambda file: file.several(after, routes, streams), writes=False)

    async def remove(self, *parcels: RecordGroup) -> None:
        """
        Remove parcels that are stored.

        @raise SpoolError: some of their records are still there.
        """
        records = [record for parcel in parcels for record in parcel.records]
        for some in portions(records, self._file.room.log_bytes):
            try:
                await self._ask(methodcaller("remove", some))
            except SpoolError:
                # On a full disk there is room to remove one at a time.
                for record in some:
                    await self._ask(methodcaller("remove", [record]))
        for parcel in parcels:
            self.counters.drained += rows_of(parcel.batch)
            self.backlog.remove(parcel.batch)

    async def replace(self, parcel: RecordGroup, pieces: Sequence[Record]) -> None:
        """
        Replace the records of a parcel by others, durably.

        @param pieces: the first of them takes the place of the parcel's first record.
        """
        record, *behind = parcel.records
        await self._ask(lambda file: file.replace(record, pieces, behind))
        before = sum(one.rows for one in parcel.records)
        self.counters.drained += before - sum(piece.rows for piece in pieces)
        self.backlog.remove(parcel.batch)
        for piece in pieces:
            self.backlog.put(unpack([piece]).batch)

    async def oldest(self) -> float | None:
        """
        Return when the first message that is kept came, in seconds since 1970; C{None}: there is
        none.

        @raise SpoolError: it cannot be read.
        """
        parcel = await self.next(0, ())
        if parcel is None:
            return None
        batch = parcel.batch
        pieces: list[Slice | Refusal] = [*batch.slices, *batch.refusals]
        return min(piece.chunk.received_at for piece in pieces)

    def new_session(self) -> None:
        """Use new lanes for batches put from now on, since the former ones may be removed."""
        self._session = UUID(self._new_id())
        self._shared.clear()

    def shares(self, lane: str) -> bool:
        """Say whether more records may be put on a lane, or be there, when one of it is gone."""
        return lane in self._shared

    def new_id(self) -> str:
        """
        Make up the UUID of a lane.
        """
        return self._new_id()

    async def shrink(self) -> None:
        """
        Give disk space back, if nothing is kept.
        """
        await self._ask(lambda file: file.shrink(), writes=False)

    # The thread.

    async def _ask(
        self, work: Callable[[SpoolFile], Result], size: int = 0, writes: bool = True
    ) -> Result:
        if size and self._broken:
            raise SpoolError(_BROKEN)
        job = _Job(work, Deferred(), size, writes)
        self._jobs.append(job)
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._work()).addErrback(self._bug)
        return await job.done

    async def _work(self) -> None:
        try:
            while self._jobs:
                jobs, self._jobs = self._jobs, []
                try:
                    results = await self._thread.run(partial(_do_all, self._file, jobs))
                except Exception:  # noqa: BLE001 - a bug must not leave anybody waiting forever
                    results = [Failure()] * len(jobs)
                self._look()
                for job, result in zip(jobs, results, strict=True):
                    job.done.callback(self._judged(result))
        finally:
            self._busy = False
        if self._closing is not None:
            self._closing.callback(None)

    def _look(self) -> None:
        # The thread is idle.
        file = self._file
        self.rows = dict(file.rows)
        self.aside = dict(file.aside)
        self.damaged = file.damaged
        if file.remarks:
            # Records are lost or damaged.
            self.backlog.reset(file.batches())
        with suppress(OSError):
            self.size = file.size
        for remark in file.remarks:
            self._log.error("spool: {remark}", event="spool-damaged", remark=remark)
        file.remarks.clear()

    def _judged(self, result: Any) -> Any:
        """Convert an error of the file to a L{SpoolError}."""
        if not isinstance(result, Failure) or not result.check(sqlite3.Error, _Unflushed):
            return result
        error: BaseException | None = result.value
        unflushed = isinstance(error, _Unflushed)
        if error is not None and unflushed:
            error = error.__cause__
        if _is_full(error):
            return Failure(SpoolError(_FULL))
        if not self._broken:
            # After a failed write a later one may only seem to succeed.
            self._broken = True
            self._log.error(
                "spool: {path} cannot be written ({reason}); nothing more is put into it until"
                " the gateway is started again",
                event="spool-unwritable",
                path=self.path,
                reason=str(error),
            )
        return Failure(SpoolUnknown(_BROKEN) if unflushed else SpoolError(_BROKEN))

    def _bug(self, failure: Failure) -> None:
        self._log.failure("spool: its thread failed", event="spool-thread-failed", failure=failure)


def _do_all(file: SpoolFile, jobs: list[_Job[Any]]) -> list[Any]:
    """
    Run jobs in the thread: all that write as one transaction, then all that read.

    @return: for each job its result, or a L{Failure}.
    """
    writing = [job for job in jobs if job.writes]
    written = _transaction(file, writing)
    if isinstance(written, Failure):
        # After a failed flush it is not written again: that may only seem to succeed.
        if len(writing) > 1 and not written.check(_Unflushed):
            alone = [_transaction(file, [job]) for job in writing]
            written = [r if isinstance(r, Failure) else r[0] for r in alone]
        else:
            written = [written] * len(writing)
    results = iter(written)
    return [next(results) if job.writes else _run_read(file, job) for job in jobs]


def _transaction(file: SpoolFile, jobs: Sequence[_Job[Any]]) -> list[Any] | Failure:
    if not jobs:
        return []
    try:
        size = sum(job.size for job in jobs)
        if size:
            file.make_room(size)
        try:
            return _commit(file, jobs)
        except sqlite3.OperationalError as error:
            if size or not _is_full(error):
                raise
            # For removals space is reserved, once that of the log is freed.
            file.rollback()
            file.relieve()
            return _commit(file, jobs)
    except Exception:  # noqa: BLE001 - whatever it was, it is for those who asked
        failure = Failure()
        file.rollback()
        return failure


def _commit(file: SpoolFile, jobs: Sequence[_Job[Any]]) -> list[Any]:
    file.begin()
    results = [job.work(file) for job in jobs]
    try:
        file.commit()
    except sqlite3.Error as error:
        if _is_full(error):
            raise  # not all of it was written
        raise _Unflushed from error
    return results


def _is_full(error: object) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def _run_read(file: SpoolFile, job: _Job[Any]) -> Any:
    try:
        try:
            return job.work(file)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            file.recover(str(error))
            return job.work(file)
    except Exception:  # noqa: BLE001 - what was written before it is written all the same
        failure = Failure()
        file.rollback()
        return failure
