"""
A spool's file in memory, and the thread that uses it.

L{MemorySpoolFile} does what L{gateway.spool.file.SpoolFile} does, on a L{Disk} that outlives
its process: what was committed is there after a kill, everything else is not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from gateway.model.batch import Batch
from gateway.model.errors import SpoolError
from gateway.spool.disk_space import Room
from gateway.spool.file import SpoolFile
from gateway.spool.record import PARTS, Record, unpack
from tests.simulation.world import World

Result = TypeVar("Result")


class Disk:
    """
    What was committed.

    @ivar next: the number of the next record.
    @ivar records: by place.
    @ivar full: whether it takes nothing more.
    @ivar failing: whether the next flush fails.
    @ivar unflushed: what a failed flush may have left, or not.
    """

    def __init__(self) -> None:
        self.next = 1
        self.records: dict[int, Record] = {}
        self.full = False
        self.failing = False
        self.unflushed: tuple[int, dict[int, Record]] | None = None
        self._bodies: dict[bytes, frozenset[bytes]] = {}

    @property
    def bodies(self) -> set[bytes]:
        """The messages on it."""
        found: set[bytes] = set()
        for record in self.records.values():
            bodies = self._bodies.get(record.payload)
            if bodies is None:
                bodies = self._bodies[record.payload] = _bodies_of(unpack([record]).batch)
            found |= bodies
        return found

    def find(self, unflushed: bool) -> None:
        """
        A process begins to use it.

        @param unflushed: whether what a failed flush left is there.
        """
        if self.unflushed is not None and unflushed:
            self.next, self.records = self.unflushed
        self.unflushed = None
        self.failing = False


def _bodies_of(batch: Batch) -> frozenset[bytes]:
    bodies = [frame for piece in batch.slices for frame in piece.frames]
    bodies += [refusal.chunk.frames[refusal.row] for refusal in batch.refusals]
    return frozenset(bodies)


class MemorySpoolFile(SpoolFile):
    """
    Records in memory.
    """

    def __init__(self, disk: Disk) -> None:
        self.path = Path("/spool.db")
        self.remarks = []
        self.rows = {}
        self.aside = {}
        self.damaged = 0
        self.room = Room(self.path, Path("/spool.db-wal"), 1 << 26)
        self._disk: Disk | None = disk
        self._begun: tuple[int, dict[int, Record]] | None = None

    # Opening and closing.

    def open(self) -> None:
        self._recount()

    def close(self) -> None:
        self._disk = None

    @property
    def _open_disk(self) -> Disk:
        if self._disk is None:
            raise sqlite3.OperationalError("the process has ended")
        return self._disk

    @property
    def _kept(self) -> dict[int, Record]:
        return self._open_disk.records if self._begun is None else self._begun[1]

    def _recount(self) -> None:
        rows: dict[str, int] = {}
        aside: dict[str, int] = {}
        for record in self._kept.values():
            if record.stream is None:
                rows[record.route] = rows.get(record.route, 0) + record.rows
            else:
                aside[record.stream] = aside.get(record.stream, 0) + record.rows
        self.rows, self.aside = rows, aside

    # Changing.

    def begin(self) -> None:
        disk = self._open_disk
        self._begun = disk.next, dict(disk.records)

    def commit(self) -> None:
        disk, begun = self._open_disk, self._begun
        assert begun is not None
        if disk.failing:
            disk.failing = False
            disk.unflushed = begun
            raise sqlite3.OperationalError("disk I/O error")
        disk.next, disk.records = begun
        disk.unflushed = None
        self._begun = None
        self._recount()

    def rollback(self) -> None:
        self._begun = None

    def make_room(self, size: int) -> None:
        if self._open_disk.full:
            raise SpoolError("the database cannot be reached, and the spool is full")

    def relieve(self) -> None:
        pass

    def append(
        self,
        route: str,
        fence: tuple[str, int | None],
        rows: int,
        payload: bytes,
        stream: str | None = None,
    ) -> None:
        assert self._begun is not None
        count, records = self._begun
        lane, number = fence
        place = count << PARTS
        records[place] = Record(place, route, lane, number or count, rows, payload, stream)
        self._begun = count + 1, records

    def replace(
        self, record: Record, pieces: Sequence[Record], behind: Sequence[Record] = ()
    ) -> None:
        self.remove([record, *behind])
        for piece in pieces:
            assert piece.place not in self._kept, "two records have one place"
            self._kept[piece.place] = piece

    def remove(self, records: Sequence[Record]) -> None:
        for record in records:
            self._kept.pop(record.place, None)

    # Looking.

    def _records(
        self, after: int, without: Collection[str], held: Collection[str]
    ) -> Generator[tuple[Record, bool], None, None]:
        records = self._kept
        for place in sorted(records):
            record = records[place]
            if place > after and record.route not in without and record.stream not in held:
                yield record, True

    def lanes(self) -> frozenset[str]:
        return frozenset(record.lane for record in self._kept.values())

    def batches(self) -> Iterator[Batch]:
        records = self._kept
        for place in sorted(records):
            yield unpack([records[place]]).batch

    def shrink(self) -> None:
        pass

    def recover(self, reason: str) -> None:
        raise AssertionError(f"nothing here can be damaged: {reason}")

    @property
    def size(self) -> int:
        """It takes no room anywhere."""
        return 0


class DiskThread:
    """
    Does the file's work at once, or when the schedule says so.

    @ivar waiting: whether something is to be done.
    """

    def __init__(self, world: World, prompt: float) -> None:
        """
        @param prompt: probability that work is done at once.
        """
        self._world = world
        self._prompt = prompt
        self._work: tuple[Callable[[], object], Deferred[object]] | None = None

    @property
    def waiting(self) -> bool:
        return self._work is not None

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def run(self, work: Callable[[], Result]) -> Deferred[Result]:
        self._world.count()
        if self._world.chance(self._prompt):
            try:
                return succeed(work())
            except Exception:  # noqa: BLE001 - it is for whoever waits
                return fail(Failure())
        done: Deferred[Result] = Deferred()
        assert self._work is None
        self._work = work, done  # type: ignore[assignment]
        return done

    def work(self, told: bool = True) -> None:
        """
        Do what is to be done.

        @param told: whether the reactor hears of it; else its process is killed first.
        """
        if self._work is None:
            return
        (work, done), self._work = self._work, None
        try:
            result: object = work()
        except Exception:  # noqa: BLE001 - likewise
            result = Failure()
        if told:
            done.callback(result)
