"""
Round an outage: kept at once, stored in order, exactly once, and then straight again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.memory_store import KeptStream, MemoryStore
from gateway.commit.writer import PeerSource, Writer
from gateway.model.batch import MAX_BATCH_ROWS, Batch, Chunk, Fence, Origin
from gateway.model.errors import (
    FenceVoid,
    FramesRefused,
    OutcomeUnknown,
    RowError,
    SpoolError,
    TransientError,
    Unavailable,
)
from gateway.model.grouping import Group
from gateway.model.outcome import Code, Outcome, Run, refused
from gateway.model.store import Written
from gateway.model.stream import Stream, digests_of
from gateway.model.unit import unit_key
from gateway.spool.file import SpoolFile
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import OwnThread, Spool
from gateway.spool.record import Record, RecordGroup, unpack
from tests.in_memory import said
from tests.spool.test_file import earlier
from tests.support import PATIENCE

reactor = global_reactor

AWAY = Unavailable("away")


class Bench:
    """
    A writer with a spool, on a store whose outages the test makes.
    """

    def __init__(
        self, file: SpoolFile, store: MemoryStore, takes: bool, answer_timeout: float
    ) -> None:
        self.store = store
        self.missing: list[str] = []
        self.breakers = CircuitBreakers(store, reactor, lambda attempt: 0.01)
        self.spool = Spool(file, OwnThread(reactor))
        self.spooler = OutageSpool(
            self.spool,
            store,
            self.breakers,
            reactor,
            lambda attempt: 0.01,
            lambda stream, epoch: self.missing.append(stream),
            takes,
            answer_timeout,
        )
        self.writer = Writer(
            store,
            reactor,
            2,
            InflightLimit(100_000_000),
            lambda: 0.0,
            self.breakers,
            self.spooler,
        )
        self.answers: list[str] = []

    def source(self, name: str = "p") -> PeerSource:
        return self.writer.source(Origin(name, "lines"), self._answered)

    def _answered(self, token: object, runs: list[Run]) -> None:
        self.answers += said(runs)

    def send_unit(self, *parts: tuple[str, list[bytes]], key: str | None = None) -> None:
        """Have one peer send messages that are stored together."""
        chunks = [Group(route, frames) for route, frames in parts]
        self.source().submit_unit(chunks, lambda runs: self.answers.extend(said(runs)), key)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.store.rows]

    async def until(self, condition: Callable[[], object]) -> None:
        until = reactor.seconds() + PATIENCE
        while not condition():
            assert reactor.seconds() < until, "it does not come to that"
            await deferLater(reactor, 0.005)

    async def answered(self, count: int) -> list[str]:
        """The next answers."""
        await self.until(lambda: len(self.answers) >= count)
        found, self.answers = self.answers[:count], self.answers[count:]
        return found

    async def emptied(self) -> None:
        await self.until(lambda: not self.spool.messages)


@asynccontextmanager
async def opened(
    path: Path,
    store: MemoryStore,
    takes: bool = True,
    max_bytes: int = 1 << 26,
    kind: type[SpoolFile] = SpoolFile,
    answer_timeout: float = PATIENCE,
) -> AsyncIterator[Bench]:
    bench = Bench(kind(path / "spool.db", max_bytes), store, takes, answer_timeout)
    bench.spool.open()
    bench.spool.start()
    bench.spooler.start()
    try:
        yield bench
    finally:
        await bench.spooler.stop()
        await bench.spool.close()


class Outage(MemoryStore):
    """
    A store that is away for as long as the test likes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.before: Callable[[], Awaitable[None]] | None = None

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        if self.away:
            raise AWAY
        if self.before is not None:
            await self.before()
        return await super().write(batch, fence, patient=patient, blame=blame)

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        if self.away:
            raise AWAY
        if self.before is not None:
            await self.before()
        return await super().write_together(batches, fences, chunks, afresh=afresh)

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        if self.away:
            raise AWAY
        await super().write_whole(batches, fences)


@pytest_twisted.ensureDeferred
async def test_an_outage(tmp_path: Path) -> None:
    """+QUE while it lasts, then everything is stored in order, and +OK again."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        source.submit("r", [b"1"], None)
        assert await bench.answered(1) == ["+OK"]
        store.away = True
        for n in range(2, 50):
            source.submit("r", [b"%d" % n], None)
        assert await bench.answered(48) == ["+QUE"] * 48
        assert bench.bodies == [b"1"]
        store.away = False
        await bench.emptied()
        source.submit("r", [b"50"], None)
        assert await bench.answered(1) == ["+OK"]
        assert bench.bodies == [b"%d" % n for n in range(1, 51)]


@pytest_twisted.ensureDeferred
async def test_what_comes_while_it_is_stored_goes_behind(tmp_path: Path) -> None:
    """A peer that never stops: answered all the time, in order, and the spool still ends."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        store.away = True
        frames = [b"%d" % n for n in range(MAX_BATCH_ROWS)]
        sent = 16
        for _ in range(sent):
            source.submit("r", frames, None)
            await bench.answered(MAX_BATCH_ROWS)
        store.away = False
        # A slow store, so that peers could put more than it takes.
        store.before = lambda: deferLater(reactor, 0.05)
        words: list[str] = []
        while words[-1:] != ["+OK"]:
            flowing = bool(bench.bodies)
            source.submit("r", frames, None)
            sent += 1
            answers = set(await bench.answered(MAX_BATCH_ROWS))
            words += answers if flowing else ()
        assert words.count("+QUE") >= 5, "answered while the spool was stored"
        assert sent < 60, "and it ended"
        assert bench.bodies == frames * sent


@pytest_twisted.ensureDeferred
async def test_a_store_that_hangs_again(tmp_path: Path) -> None:
    """Who waits for the last of the spool is answered +QUE when the store says nothing any more."""
    store = Outage()
    hanging: list[Deferred[None]] = []

    async def hang() -> None:
        if bench.bodies:
            hanging.append(Deferred())
            await hanging[-1]

    async with opened(tmp_path, store, answer_timeout=0.1) as bench:
        source = bench.source()
        store.away = True
        frames = [b"%d" % n for n in range(MAX_BATCH_ROWS)]
        for some in (frames, [b"a"]):
            source.submit("r", some, None)
            await bench.answered(len(some))
        store.before = hang
        store.away = False
        await bench.until(lambda: hanging)
        source.submit("r", [b"b"], None)
        assert await bench.answered(1) == ["+QUE"]
        store.before = None
        hanging[0].callback(None)
        await bench.emptied()
        assert bench.bodies == [*frames, b"a", b"b"]


@pytest_twisted.ensureDeferred
async def test_nobody_asks_an_empty_spool(tmp_path: Path) -> None:
    """Lanes ask the spool from the moment that a batch is taken until all of it is stored."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        source.submit("r", [b"1"], None)
        assert await bench.answered(1) == ["+OK"]
        assert not bench.spooler.may_lead
        store.away = True
        source.submit("r", [b"2"], None)
        await bench.until(lambda: bench.spooler.may_lead)
        assert await bench.answered(1) == ["+QUE"]
        assert bench.spooler.may_lead
        store.away = False
        await bench.emptied()
        source.submit("r", [b"3"], None)
        assert await bench.answered(1) == ["+OK"]
        assert not bench.spooler.may_lead
        assert bench.bodies == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_a_restart_during_an_outage(tmp_path: Path) -> None:
    """What was answered +QUE is stored by the next process, before anything newer."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        bench.source().submit("r", [b"1", b"2"], None)
        assert await bench.answered(2) == ["+QUE"] * 2
    async with opened(tmp_path, store) as bench:
        bench.source().submit("r", [b"3"], None)
        assert await bench.answered(1) == ["+QUE"]
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_an_open_outcome_goes_into_the_spool_with_its_fence(tmp_path: Path) -> None:
    """Stored or not, nobody knows, and then the database is away: still stored once."""
    for stored in (True, False):
        store = Outage()
        async with opened(tmp_path, store) as bench:
            bench.source().submit("r", [b"0"], None)
            assert await bench.answered(1) == ["+OK"]
            lanes = set(bench.writer.lanes)
            if stored:
                store.lost_replies = 1
            else:
                store.failures.append(OutcomeUnknown("lost"))
            bench.source().submit("r", [b"1"], None)
            store.away = True
            assert await bench.answered(1) == ["+QUE"]
            assert set(bench.writer.lanes) != lanes, "the lane's number is the spool's now"
            store.away = False
            await bench.emptied()
            bench.source().submit("r", [b"2"], None)
            assert await bench.answered(1) == ["+OK"]
            assert bench.bodies == [b"0", b"1", b"2"]


class OpenCommit(Outage):
    """
    A store that goes away with a commit of several routes, done or not.
    """

    def __init__(self, done: bool) -> None:
        super().__init__()
        self._done = done

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        if afresh:
            return await super().write_together(batches, fences, chunks, afresh=afresh)
        if self._done:
            await super().write_together(batches, fences, chunks, afresh=afresh)
        self.away = True
        raise OutcomeUnknown("lost")

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        if self.away:
            raise AWAY
        return await super().resolve(batch, fence)


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("short", [True, False])
@pytest_twisted.ensureDeferred
async def test_routes_of_an_open_commit(tmp_path: Path, done: bool, short: bool) -> None:
    """
    A commit of several routes whose fate is open: each message is stored once, after a short
    absence as after one in which the spool took them, and a route that is out of service
    then keeps only its own.
    """
    store = OpenCommit(done)
    async with opened(tmp_path, store) as bench:
        started: Deferred[None] = Deferred()
        store.before = lambda: started
        source = bench.source()
        for route, frame in (("r", b"0"), ("gone", b"1"), ("r", b"2"), ("gone", b"3")):
            source.submit(route, [frame], None)
        store.before = None
        started.callback(None)
        if short:
            await bench.until(lambda: store.away)
            store.away = False
            assert await bench.answered(4) == ["+OK"] * 4
        else:
            assert await bench.answered(4) == ["+OK", "+QUE", "+QUE", "+QUE"]
            store.closed.add("gone")
            store.away = False
            await bench.until(lambda: "r" not in bench.spool.rows)
            await deferLater(reactor, 0.05)
            store.closed.clear()
            await bench.emptied()
        assert sorted(bench.bodies) == [b"0", b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_a_lost_reply_while_the_spool_is_stored(tmp_path: Path) -> None:
    """Parcels put together differently after a lost reply: every message once."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        for n in range(6):
            source.submit("r", [b"%d" % n], None)
            await bench.answered(1)
        # One parcel of four records is stored, its reply lost; then the process ends.
        parcel = await bench.spool.next(0, ())
        assert parcel is not None
        store.away = False
        first_four = parcel.records[:4]
    again = unpack(first_four)
    await MemoryStore.write(store, again.batch, again.fence)
    async with opened(tmp_path, store) as bench:
        await bench.emptied()
        assert bench.bodies == [b"%d" % n for n in range(6)]


@pytest_twisted.ensureDeferred
async def test_bad_messages_in_the_spool_become_dead_letters(tmp_path: Path) -> None:
    """Nobody waits for an answer any more, so they are kept; the others are stored in order."""
    store = Outage()
    store.poison = {b"bad"}
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        frames = [b"%d" % n if n % 7 else b"bad %d" % n for n in range(60)]
        frames[20] = b"not text \xff"
        for start in (0, 20, 40):
            source.submit("r", frames[start : start + 20], None)
            await bench.answered(20)
        store.away = False
        await bench.emptied()
        good = [frame for frame in frames if frame.isdigit()]
        assert bench.bodies == good
        assert sorted(frame for frame, _ in store.dead_letters) == sorted(
            frame for frame in frames if not frame.isdigit()
        )
        counters = bench.spool.counters
        assert counters.dead_letters == {"r": len(store.dead_letters)}
        assert (counters.kept, counters.drained, counters.refused) == (60, 60, 0)
        reasons = dict(store.dead_letters)
        assert reasons[b"bad 0"].sqlstate == "23514"
        assert "UTF-8" in reasons[b"not text \xff"].text


class Unsure(Outage):
    """
    A store that cannot say which row is at fault.
    """

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        frames = [frame for part in batch.slices for frame in part.frames]
        if not self.away and any(b"bad" in frame for frame in frames):
            raise RowError("at the very end", "P0001")
        return await super().write(batch, fence, patient=patient, blame=blame)


@pytest_twisted.ensureDeferred
async def test_what_nobody_can_say_is_found_by_halves(tmp_path: Path) -> None:
    """A record whose bad row the database does not name is split until it stands alone."""
    store = Unsure()
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        for frames in ([b"1", b"2", b"bad 3", b"4", b"5"], [b"bad 6"], [b"7"]):
            source.submit("r", frames, None)
            await bench.answered(len(frames))
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"1", b"2", b"4", b"5", b"7"]
        assert [frame for frame, _ in store.dead_letters] == [b"bad 3", b"bad 6"]


@pytest_twisted.ensureDeferred
async def test_what_is_refused_outlives_the_process(tmp_path: Path) -> None:
    """A process that ends when a parcel is stored, but its bad rows not yet kept, loses none."""
    store = Outage()
    store.poison = {b"bad"}
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        for frames in ([b"1", b"bad 2", b"3"], [b"bad 4"], [b"5"]):
            source.submit("r", frames, None)
            await bench.answered(len(frames))
        parcel = await bench.spool.next(0, ())
        assert parcel is not None
        store.away = False
        first = parcel.records[:1]
    again = unpack(first)
    await MemoryStore.write(store, again.batch, again.fence)
    async with opened(tmp_path, store) as bench:
        await bench.emptied()
        assert bench.bodies == [b"1", b"3", b"5"]
        assert [frame for frame, _ in store.dead_letters] == [b"bad 2", b"bad 4"]


@pytest_twisted.ensureDeferred
async def test_a_split_record_is_stored_once_and_counted_once(tmp_path: Path) -> None:
    """Pieces of a record that is split while the next one is read are not taken for that one."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        source.submit("r", [b"1", b"not text \xff", b"2"], None)
        await bench.answered(3)
        store.away = False
        await bench.until(lambda: len(bench.bodies) == 2 and store.dead_letters)
        await deferLater(reactor, 0.05)
        assert bench.spool.rows == {}
        source.submit("r", [b"3"], None)
        assert await bench.answered(1) == ["+OK"]
        assert bench.bodies == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_a_route_out_of_service_lets_others_pass(tmp_path: Path) -> None:
    """A route whose table is gone keeps its messages in the spool; other routes go on."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        source.submit("gone", [b"1"], None)
        source.submit("fine", [b"2"], None)
        await bench.answered(2)
        store.closed.add("gone")
        store.away = False
        await bench.until(lambda: b"2" in bench.bodies and "fine" not in bench.spool.rows)
        await bench.until(lambda: "gone" in bench.breakers.answers)
        source.submit("gone", [b"3"], None)
        source.submit("fine", [b"4"], None)
        assert await bench.answered(2) == [
            "-TRY ROUTE sqlstate=42P01 retry=1 :out of service until its operator acts",
            "+OK",
        ]
        store.closed.clear()
        await bench.emptied()
        assert bench.bodies == [b"2", b"4", b"1"]
        source.submit("gone", [b"5"], None)
        assert await bench.answered(1) == ["+OK"]


@pytest_twisted.ensureDeferred
async def test_errors_that_pass_do_not_stop_the_spool(tmp_path: Path) -> None:
    """A deadlock or a lost connection while the spool is stored is tried again."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        bench.source().submit("r", [b"1"], None)
        await bench.answered(1)
        store.failures += [TransientError("deadlock", "40P01"), OutcomeUnknown("lost"), AWAY]
        store.lost_replies = 1
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"1"]


class Unreadable(SpoolFile):
    """
    A spool that cannot be read at times.
    """

    errors = 3

    def next(self, *arguments: Any) -> RecordGroup | None:
        if self.rows and self.errors:
            self.errors -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return super().next(*arguments)


@pytest_twisted.ensureDeferred
async def test_a_spool_that_cannot_be_read(tmp_path: Path) -> None:
    """It is tried again, however often that takes; what is in it is stored in the end."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store, kind=Unreadable) as bench:
        bench.source().submit("r", [b"1", b"2"], None)
        assert await bench.answered(2) == ["+QUE"] * 2
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"1", b"2"]


@pytest_twisted.ensureDeferred
async def test_what_nobody_foresaw_does_not_stop_the_spool(tmp_path: Path) -> None:
    """A bug while a route is stored, or a spool that cannot be read: tried again, others go on."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        source.submit("r", [b"1"], None)
        source.submit("s", [b"2"], None)
        await bench.answered(2)
        store.failures.append(KeyError("nobody foresaw"))
        read, failures = bench.spool.next, [SpoolError("unreadable"), ValueError("odd")]

        async def unreadable(*arguments: Any) -> RecordGroup | None:
            if failures:
                raise failures.pop()
            return await read(*arguments)

        bench.spool.next = cast(Any, unreadable)  # type: ignore[method-assign]
        store.away = False
        await bench.until(lambda: len(bench.bodies) == 2)
        assert not failures and not store.failures
        await bench.emptied()


@pytest.mark.parametrize("bad", [b"", b"bad"], ids=["good", "one bad"])
@pytest_twisted.ensureDeferred
async def test_routes_that_alternate(tmp_path: Path, bad: bytes) -> None:
    """Messages of two routes by turns, and of a stream over both, share commits; where one of them
    is bad it is found, and the others are stored in their order."""
    store = Outage()
    store.poison = {b"bad"}
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        store.away = True
        for n in range(60):
            for route in "rt":
                source.submit(route, [b"%d%s" % (n, route.encode())], None)
                send(source, stream, b"s%d" % n + (bad if n == 40 else b""), route=route)
                await bench.answered(2)
        before = len(store.writes)
        store.away = False
        await bench.emptied()
        found = [body for body in bench.bodies if body.startswith(b"s")]
        wanted = [b"s%d" % n for n in range(60) for _ in "rt" if not (bad and n == 40)]
        assert sorted(found) == sorted(wanted) and store.streams["s"].mark == 120
        for suffix in (b"r", b"t"):
            plain = [body for body in bench.bodies if body.endswith(suffix)]
            assert plain == [b"%d%s" % (n, suffix) for n in range(60)]
        assert len(store.dead_letters) == (2 if bad else 0)
        if not bad:
            assert len(store.writes) - before < 20, "and not one for each"


@pytest_twisted.ensureDeferred
async def test_a_bad_message_among_many_small_records(tmp_path: Path) -> None:
    """One of many that travelled together is found by halving, not by storing each alone."""
    store = Outage()
    store.poison = {b"bad"}
    store.away = True
    async with opened(tmp_path, store) as bench:
        source = bench.source()
        frames = [b"bad" if n == 77 else b"%d" % n for n in range(128)]
        for frame in frames:
            source.submit("r", [frame], None)
            await bench.answered(1)
        store.writes.clear()
        store.away = False
        await bench.emptied()
        assert bench.bodies == [frame for frame in frames if frame != b"bad"]
        assert len(store.writes) < 20


@pytest_twisted.ensureDeferred
async def test_a_full_spool_refuses(tmp_path: Path) -> None:
    """-TRY before the limit is passed, for that message alone; then there is room again."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store, max_bytes=1 << 20) as bench:
        source = bench.source()
        words: list[str] = []
        while not words or words[-1] == "+QUE":
            source.submit("r", [b"x" * 60_000], None)
            words += await bench.answered(1)
        assert words[-1].startswith("-TRY DOWN retry=1 :the database cannot be reached, and the")
        kept = len(words) - 1
        source.submit("r", [b"small"], None)
        small = await bench.answered(1)
        store.away = False
        await bench.emptied()
        assert len(bench.bodies) == kept + (small == ["+QUE"])


@pytest_twisted.ensureDeferred
async def test_a_flush_that_fails_is_not_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite may find after a crash what its flush failed for, so nobody may hear -TRY."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        commits = 0

        def commit() -> None:
            nonlocal commits
            commits += 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        with monkeypatch.context() as failing:
            failing.setattr(bench.spool._file, "commit", commit)
            for _ in range(2):
                bench.source().submit("r", [b"1"], None)
            words = await bench.answered(2)
        # Both at once are one commit, which is not tried again.
        assert words[0].startswith("-BYE INTERNAL")
        assert commits <= 2
        bench.source().submit("r", [b"2"], None)
        assert (await bench.answered(1))[0].startswith("-TRY DOWN")


@pytest_twisted.ensureDeferred
async def test_a_spool_that_only_ends(tmp_path: Path) -> None:
    """on_outage = "refuse" after a time of spooling: the rest is stored, nothing is added."""
    store = Outage()
    store.away = True
    async with opened(tmp_path, store) as bench:
        bench.source().submit("r", [b"1"], None)
        await bench.answered(1)
    async with opened(tmp_path, store, takes=False) as bench:
        bench.source().submit("r", [b"2"], None)
        assert await bench.answered(1) == ["-TRY DOWN retry=1 :the database cannot be reached"]
        store.away = False
        await bench.emptied()
        bench.source().submit("r", [b"3"], None)
        assert await bench.answered(1) == ["+OK"]
        assert bench.bodies == [b"1", b"3"]


@pytest_twisted.ensureDeferred
async def test_lanes_are_cleared_away(tmp_path: Path) -> None:
    """Rows of lanes that nothing needs any more are removed; those of a dead process only age
    removes, since a server that stood still may yet come to what that sent."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        bench.source().submit("r", [b"1"], None)
        await bench.answered(1)
        store.away = True
        bench.source().submit("r", [b"2"], None)
        await bench.answered(1)
        inherited = {record.lane for record in await spooled(bench)} | set(store._fences)
    before = set(store._fences)
    store.away = False
    async with opened(tmp_path, store) as bench:
        await bench.emptied()
        assert before and bench.bodies == [b"1", b"2"]
        await bench.until(lambda: set(store._fences) == inherited)
        store.away = True
        bench.source().submit("r", [b"3"], None)
        await bench.answered(1)
        store.away = False
        await bench.emptied()
        await bench.until(lambda: set(store._fences) == inherited)


class LateClosing(Outage):
    """
    A store at which lanes are removed later than anybody waits for it: when the reply of a
    message is lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.closing: list[Sequence[str]] = []

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        self.closing.append(lanes)
        raise OutcomeUnknown("no answer")

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        written = await super().write(batch, fence, patient=patient, blame=blame)
        if self.closing:
            for lanes in self.closing:
                await super().close_lanes(lanes)
            self.closing.clear()
            raise OutcomeUnknown("the reply is lost")
        return written


@pytest_twisted.ensureDeferred
async def test_lanes_are_closed_late(tmp_path: Path) -> None:
    """A statement that removes lanes, and that the server executes when nobody waits for it any
    more, takes no fence from what was tried since: nothing is stored twice."""
    store = LateClosing()
    async with opened(tmp_path, store) as bench:
        for body in (b"1", b"2", b"3"):
            store.away = True
            bench.source().submit("r", [body], None)
            assert await bench.answered(1) == ["+QUE"]
            store.away = False
            await bench.emptied()
            await bench.until(lambda: store.closing)
        assert bench.bodies == [b"1", b"2", b"3"]


async def spooled(bench: Bench) -> Sequence[Record]:
    parcel = await bench.spool.next(0, ())
    assert parcel is not None
    return parcel.records


# Numbered streams.


def known(store: MemoryStore, name: str = "s", mark: int = 0, epoch: str = "e") -> Stream:
    """A stream that the store knows, claimed."""
    store.streams[name] = KeptStream("c", epoch, mark)
    return Stream(name, epoch, "c", mark)


def send(
    source: PeerSource,
    stream: Stream,
    *frames: bytes,
    route: str = "r",
    refusal: Outcome | None = None,
) -> None:
    """With the numbers that come next."""
    first = stream.next
    stream.take_all(first, len(frames))
    source.submit(route, [*frames], None, stream, first, refusal)


NO_ROUTE = refused(Code.ROUTE, "no route")


@pytest_twisted.ensureDeferred
async def test_a_stream_in_an_outage(tmp_path: Path) -> None:
    """Its numbers are kept in the spool, refused ones too before that is said, and stored in their
    order; then it goes on the straight way."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        send(source, stream, b"1")
        assert await bench.answered(1) == ["+OK"]
        store.away = True
        for number in range(2, 7):
            send(source, stream, b"%d" % number)
            assert await bench.answered(1) == ["+QUE"]
        send(source, stream, b"7", route="", refusal=NO_ROUTE)
        assert await bench.answered(1) == ["-REJ ROUTE :no route"]
        send(source, stream, b"8", route="t")
        assert await bench.answered(1) == ["+QUE"]
        waiting = bench.spool.backlog.numbers_of("s")
        assert waiting is not None and waiting.numbers == {"e": ((2, 8),)}
        assert waiting.refusals == {"e": {7: NO_ROUTE}} and waiting.last == ("e", 8)
        store.away = False
        await bench.emptied()
        assert bench.spool.backlog.numbers_of("s") is None
        send(source, stream, b"9")
        assert await bench.answered(1) == ["+OK"]
        assert bench.bodies == [b"%d" % n for n in (1, 2, 3, 4, 5, 6, 8, 9)]
        kept = store.streams["s"]
        assert (kept.mark, kept.refusals) == (9, {7: NO_ROUTE}) and not store.dead_letters


@pytest_twisted.ensureDeferred
async def test_a_stream_that_another_epoch_ended(tmp_path: Path) -> None:
    """What waited when a new epoch began is not stored in it: it becomes a dead letter that says
    why, unless it is shown to be there; plain messages beside it are stored."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        store.away = True
        send(source, stream, b"1", b"2", b"3")
        source.submit("r", [b"plain"], None)
        send(source, stream, b"4", refusal=NO_ROUTE)
        await bench.answered(5)
        # Meanwhile its peer went on elsewhere, and there #1 was the same message.
        kept = store.streams["s"]
        kept.epoch, kept.mark, kept.digests = "f", 2, {1: digests_of([b"1"])}
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"plain"]
        letters = dict(store.dead_letters)
        assert letters.keys() == {b"2", b"3"}
        assert all(o.code is Code.GAP and "went on elsewhere" in o.text for o in letters.values())
        assert (kept.epoch, kept.mark, kept.refusals) == ("f", 2, {})


@pytest_twisted.ensureDeferred
async def test_numbers_that_were_stored_by_another_way(tmp_path: Path) -> None:
    """What is shown to be stored leaves the spool, another message under a number becomes a dead
    letter, and what comes behind them is stored."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        store.away = True
        send(source, stream, b"1", b"2", b"3", b"4")
        await bench.answered(4)
        kept = store.streams["s"]
        kept.mark, kept.digests = 2, {1: digests_of([b"1"]), 2: digests_of([b"other"])}
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"3", b"4"] and kept.mark == 4
        ((frame, outcome),) = store.dead_letters
        assert frame == b"2" and outcome.code is Code.GAP and "#2" in outcome.text


@pytest_twisted.ensureDeferred
async def test_a_stream_waits_for_what_is_missing(tmp_path: Path) -> None:
    """Where a number before them is missing its messages wait, over a restart too; other streams
    and plain messages pass, its peer is told, and what it sends goes behind them."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, other, source = known(store), known(store, "t"), bench.source()
        send(source, stream, b"1")
        assert await bench.answered(1) == ["+OK"]
        store.away = True
        send(source, stream, b"2", b"3")
        send(source, other, b"t1")
        source.submit("r", [b"plain"], None)
        send(source, stream, b"4", route="q")
        await bench.answered(5)
        store.streams["s"].mark = 0  # the database is set back
        store.away = False
        await bench.until(lambda: bench.spool.aside == {"s": 3} and len(bench.bodies) == 3)
        assert bench.missing and set(bench.missing) == {"s"}
        assert not bench.spool.rows
        send(source, other, b"t2")
        source.submit("q", [b"more"], None)
        assert await bench.answered(2) == ["+OK"] * 2
        send(source, stream, b"5")
        assert await bench.answered(1) == ["+QUE"]
        assert bench.spool.aside == {"s": 4}
    async with opened(tmp_path, store) as bench:
        assert bench.spool.aside == {"s": 4}
        await bench.until(lambda: bench.missing)
        assert len(bench.bodies) == 5
        # Another gateway's spool had #1.
        store.streams["s"].mark = 1
        await bench.emptied()
        assert bench.bodies == [b"1", b"t1", b"plain", b"t2", b"more", b"2", b"3", b"4", b"5"]
        assert store.streams["s"].mark == 5 and not store.dead_letters


@pytest_twisted.ensureDeferred
async def test_a_stream_waits_for_its_parked_route(tmp_path: Path) -> None:
    """A message whose route is out of service holds its stream up on every route and nobody else;
    when the route is mended all are stored in order."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, other, source = known(store), known(store, "t"), bench.source()
        store.away = True
        for number, route in enumerate(["r", "gone", "r", "gone", "r"], 1):
            send(source, stream, b"%d" % number, route=route)
            send(source, other, b"t%d" % number)
            await bench.answered(2)
        store.closed.add("gone")
        store.away = False
        await bench.until(lambda: store.streams["t"].mark == 5)
        await bench.until(lambda: bench.spool.aside == {"s": 2} and bench.spool.rows == {"gone": 2})
        assert store.streams["s"].mark == 1
        assert not bench.missing, "nothing is lost"
        send(source, other, b"t6")
        assert await bench.answered(1) == ["+OK"]
        send(source, stream, b"6")
        assert await bench.answered(1) == ["+QUE"]
        store.closed.clear()
        await bench.emptied()
        bodies = [body for body in bench.bodies if not body.startswith(b"t")]
        assert bodies == [b"%d" % number for number in range(1, 7)]
        assert not store.dead_letters


@pytest_twisted.ensureDeferred
async def test_what_was_put_aside_waits_for_its_route_too(tmp_path: Path) -> None:
    """Messages that were put aside, and have nothing to wait for after a restart but their route,
    are stored when that is mended, without anything else coming by."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        store.away = True
        send(source, stream, b"1", route="q")
        send(source, stream, b"2")
        await bench.answered(2)
        store.closed.add("q")
        store.away = False
        await bench.until(lambda: bench.spool.aside == {"s": 1})
    kept = store.streams["s"]
    kept.mark, kept.digests = 1, {1: digests_of([b"1"])}
    store.closed = {"r"}
    async with opened(tmp_path, store) as bench:
        await bench.until(lambda: "r" in bench.breakers.answers and not bench.spool.rows)
        assert bench.spool.aside == {"s": 1}
        store.closed.clear()
        await bench.emptied()
        assert bench.bodies == [b"2"]


@pytest_twisted.ensureDeferred
async def test_refused_numbers_in_the_spool(tmp_path: Path) -> None:
    """A message of a stream that the database refuses after +QUE is kept as a dead letter, and the
    stream goes on behind it."""
    store = Outage()
    store.poison = {b"bad"}
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        store.away = True
        for frames in ([b"1", b"bad", b"\xff"], [b"bad"], [b"5"]):
            send(source, stream, *frames)
            await bench.answered(len(frames))
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"1", b"5"] and store.streams["s"].mark == 5
        assert sorted(frame for frame, _ in store.dead_letters) == [b"bad", b"bad", b"\xff"]


@pytest.mark.parametrize("done", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_stream_of_an_open_commit(tmp_path: Path, done: bool) -> None:
    """A commit over several routes whose reply was lost goes into the spool with its fences: stored
    or not, each number is stored once and in order."""
    store = OpenCommit(done)
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        started: Deferred[None] = Deferred()
        store.before = lambda: started
        for number, route in enumerate("rqrqr", 1):
            send(source, stream, b"%d" % number, route=route)
        store.before = None
        started.callback(None)
        assert await bench.answered(5) == ["+OK", *["+QUE"] * 4]
        store.away = False
        await bench.emptied()
        assert sorted(bench.bodies) == [b"%d" % number for number in range(1, 6)]
        assert store.streams["s"].mark == 5 and not store.dead_letters
        for theirs in ([b"1", b"3", b"5"], [b"2", b"4"]):
            # Each of a route; one commit has no order over several.
            assert [body for body in bench.bodies if body in theirs] == theirs


@pytest.mark.parametrize("ended", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_late_statement_finds_its_fence_taken(tmp_path: Path, ended: bool) -> None:
    """What a frozen server still wants to store of a record that was taken apart is never stored
    beside its pieces; nor when the process ended between the two."""
    store = Outage()
    store.poison = {b"bad"}
    async with opened(tmp_path, store) as bench:
        bench.source().submit("r", [b"0"], None)
        assert await bench.answered(1) == ["+OK"]
        store.failures.append(OutcomeUnknown("frozen"))
        bench.source().submit("r", [b"1", b"2", b"3"], None)
        store.away = True
        assert await bench.answered(3) == ["+QUE"] * 3
        (record,) = await spooled(bench)
        late = unpack([record])
        if ended:
            assert await MemoryStore.resolve(store, late.batch, late.fence) is None
        else:
            # What could be stored then cannot be any more, so that it is taken apart.
            store.failures.append(FramesRefused([(1, NO_ROUTE)]))
    async with opened(tmp_path, store) as bench:
        store.away = False
        await bench.emptied()
        with pytest.raises(FenceVoid):
            await MemoryStore.write(store, late.batch, late.fence)
        dead_letters = [] if ended else [b"2"]
        assert bench.bodies == [m for m in (b"0", b"1", b"2", b"3") if m not in dead_letters]
        assert [frame for frame, _ in store.dead_letters] == dead_letters


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest_twisted.ensureDeferred
async def test_a_void_fence_in_the_spool(tmp_path: Path, place: int) -> None:
    """A record whose fence was taken, and that a crash left there, is stored under another one;
    what is before it was stored and what is behind it is, each once and in order."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, source = known(store), bench.source()
        assert await bench.spool.next(0, ()) is None  # it is tidied up behind the one before
        store.away = True
        for number in range(1, 5):
            send(source, stream, b"%d" % number)
            await bench.answered(1)
        records = await spooled(bench)
        assert len(records) == 4
        for number, record in enumerate(records[: place + 1]):
            parcel = unpack([record])
            if number < place:
                await MemoryStore.write(store, parcel.batch, parcel.fence)
            else:
                assert await MemoryStore.resolve(store, parcel.batch, parcel.fence) is None
    async with opened(tmp_path, store) as bench:
        store.away = False
        await bench.emptied()
        assert bench.bodies == [b"1", b"2", b"3", b"4"]
        assert store.streams["s"].mark == 4 and not store.dead_letters


@pytest_twisted.ensureDeferred
async def test_which_batches_go_round(tmp_path: Path) -> None:
    """While a stream waits, only batches that have it go the way round, and of these only its own
    part; when a route has something that can be stored, all of that route do."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        stream, other, source = known(store), known(store, "t"), bench.source()

        def batch_of(*streams: Stream | None, route: str = "r") -> Batch:
            chunks = [
                Chunk(*(route, [b"m"], Origin("p", "l"), 0.0, lambda c, runs: None, None, s, 1))
                for s in streams
            ]
            return Batch.of(chunks)

        plain, mixed = batch_of(None), batch_of(None, stream, other)
        spooler = bench.spooler
        assert not any(map(spooler.leads, (plain, mixed))) and not spooler.waiting_streams(mixed)
        store.away = True
        send(source, stream, b"1")
        await bench.answered(1)
        assert all(map(spooler.leads, (plain, mixed, batch_of(None, route="q"))))
        assert not spooler.waiting_streams(mixed), "all of it goes"
        store.streams["s"].mark = -1  # something before it is missing
        store.away = False
        await bench.until(lambda: bench.spool.aside == {"s": 1} and not bench.spool.rows)
        await bench.until(lambda: not spooler.leads(plain))
        assert spooler.leads(mixed) and [*spooler.waiting_streams(mixed)] == ["s"]
        assert not spooler.leads(batch_of(other)) and spooler.leads(batch_of(stream, route="q"))
        store.streams["s"].mark = 0
        await bench.emptied()
        assert not spooler.leads(mixed)


@pytest_twisted.ensureDeferred
async def test_a_spool_of_the_version_before(tmp_path: Path) -> None:
    """What a gateway kept that knew of no epochs is stored: numbers that are next, once those that
    are there already are left out."""
    store = Outage()
    earlier(
        tmp_path / "spool.db",
        ("r", "s", 1, [b"1", b"2"]),
        ("r", "s", 3, [b"3"]),
        ("r", None, 0, [b"plain"]),
        ("q", "s", 4, [b"4"]),
        ("r", "new", 1, [b"n1", b"n2"]),
    )
    known(store, "s", 2)
    kept = store.streams["s"]
    kept.digests = {1: digests_of([b"1"]), 2: digests_of([b"2"])}
    async with opened(tmp_path, store) as bench:
        await bench.emptied()
        assert bench.bodies.index(b"3") < bench.bodies.index(b"4")
        assert sorted(bench.bodies) == [b"3", b"4", b"n1", b"n2", b"plain"]
        assert kept.mark == 4 and store.streams["new"].mark == 2 and not store.dead_letters


@pytest_twisted.ensureDeferred
async def test_a_paused_route_goes_to_the_spool(tmp_path: Path) -> None:
    """A paused route's messages are answered +QUE and stored when it is resumed; others are +OK."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        pauses = bench.breakers.pauses
        source, other = bench.source("p"), bench.source("q")
        source.submit("r", [b"1"], None)
        assert await bench.answered(1) == ["+OK"]
        pauses.pause("r")
        for body in (b"2", b"3"):
            source.submit("r", [body], None)
            assert await bench.answered(1) == ["+QUE"]
        other.submit("s", [b"other"], None)
        assert await bench.answered(1) == ["+OK"]
        assert bench.bodies == [b"1", b"other"]
        assert bench.spool.rows == {"r": 2}
        pauses.resume("r")
        source.submit("r", [b"4"], None)
        await bench.answered(1)
        await bench.emptied()
        assert bench.bodies == [b"1", b"other", b"2", b"3", b"4"]
        source.submit("r", [b"5"], None)
        assert await bench.answered(1) == ["+OK"]


@pytest_twisted.ensureDeferred
async def test_a_pause_while_the_spool_is_stored(tmp_path: Path) -> None:
    """What the spool holds of a paused route stays there; that of other routes is stored."""
    store = Outage()
    async with opened(tmp_path, store) as bench:
        store.away = True
        bench.source("p").submit("r", [b"r"], None)
        bench.source("q").submit("s", [b"s"], None)
        assert await bench.answered(2) == ["+QUE"] * 2
        bench.breakers.pauses.pause("r")
        store.away = False
        await bench.until(lambda: bench.spool.rows == {"r": 1})
        assert bench.bodies == [b"s"]
        assert not bench.spooler.storing
        bench.breakers.pauses.resume(None)
        await bench.emptied()
        assert bench.bodies == [b"s", b"r"]


@pytest_twisted.ensureDeferred
async def test_a_pause_where_the_spool_takes_nothing(tmp_path: Path) -> None:
    """Where messages are refused in an outage, peers of a paused route wait."""
    store = Outage()
    async with opened(tmp_path, store, takes=False) as bench:
        bench.breakers.pauses.pause(None)
        bench.source("p").submit("r", [b"1"], None)
        assert bench.writer.held() == {"r": 1} and not bench.answers
        bench.breakers.pauses.resume(None)
        assert await bench.answered(1) == ["+OK"]


@pytest_twisted.ensureDeferred
async def test_a_unit_that_waits_in_the_spool(tmp_path: Path) -> None:
    """
    A unit with a key is stored once, though it is sent again while it waits in the spool, at
    another gateway, and behind the spool.
    """
    store = Outage()
    key = unit_key(b"a chunk")
    unit = ("r", [b"1", b"2"]), ("r", [b"3"])
    store.away = True
    async with opened(tmp_path, store) as bench:
        for _ in range(2):
            bench.send_unit(*unit, key=key)
            assert await bench.answered(3) == ["+QUE"] * 3
    store.away = False
    async with opened(tmp_path / "other", store) as other:
        other.send_unit(*unit, key=key)
        assert await other.answered(3) == ["+OK"] * 3
    async with opened(tmp_path, store) as bench:
        await bench.emptied()
        bench.send_unit(*unit, key=key)
        assert await bench.answered(3) == ["+OK"] * 3
        assert sorted(bench.bodies) == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_a_unit_that_is_refused_behind_the_spool(tmp_path: Path) -> None:
    """
    What the database refuses of a unit in the spool is a dead letter once, and the unit is known
    when it is sent again.
    """
    store = Outage()
    store.poison = {b"bad"}
    key = unit_key(b"a chunk")
    store.away = True
    async with opened(tmp_path, store) as bench:
        for _ in range(2):
            bench.send_unit(("r", [b"1", b"bad", b"\xff", b"2"]), key=key)
            assert await bench.answered(4) == ["+QUE"] * 4
        store.away = False
        await bench.emptied()
        bench.writer.dead_letters = frozenset({"r"})
        bench.send_unit(("r", [b"1", b"bad", b"\xff", b"2"]), key=key)
        words = [answer.split()[0] for answer in await bench.answered(4)]
        assert words == ["+OK", "+OK", "-REJ", "+OK"]
        assert bench.bodies == [b"1", b"2"]
        assert sorted(frame for frame, _ in store.dead_letters) == [b"bad", b"\xff"]


@pytest.mark.parametrize("stored", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_unit_with_an_open_outcome(tmp_path: Path, stored: bool) -> None:
    """Whether a unit is stored is not known, and then the database is away: stored once."""
    for key in (None, unit_key(b"a chunk")):
        store = Outage()
        async with opened(tmp_path / str(key), store) as bench:
            if stored:
                store.lost_replies = 1
            else:
                store.failures.append(OutcomeUnknown("lost"))
            bench.send_unit(("r", [b"1"]), ("r", [b"2"]), key=key)
            store.away = True
            assert await bench.answered(2) == ["+QUE"] * 2
            store.away = False
            await bench.emptied()
            bench.send_unit(("r", [b"3"]))
            assert await bench.answered(1) == ["+OK"]
            assert sorted(bench.bodies) == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_a_unit_of_several_routes_is_not_halved(tmp_path: Path) -> None:
    """It does not go into the spool, which could keep a half of it; it is stored when it can be."""
    store = Outage()
    unit = ("r", [b"1"]), ("q", [b"2"])
    async with opened(tmp_path, store) as bench:
        store.away = True
        for key in (None, unit_key(b"a chunk")):
            bench.send_unit(*unit, key=key)
            assert {answer.split()[0] for answer in await bench.answered(2)} == {"-TRY"}
        bench.send_unit(("r", [b"3"]))
        assert await bench.answered(1) == ["+QUE"]
        bench.send_unit(*unit)
        assert {answer.split()[0] for answer in await bench.answered(2)} == {"-TRY"}
        store.away = False
        await bench.emptied()
        bench.send_unit(*unit)
        assert await bench.answered(2) == ["+OK"] * 2
        assert bench.bodies == [b"3", b"1", b"2"]
