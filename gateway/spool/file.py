"""
File of the spool: SQLite with a write-ahead log, flushed at each commit.

Everything here blocks and belongs to one thread, L{gateway.spool.queue}'s. A
commit is durable when it returns (C{synchronous=FULL} flushes the log, SQLite
documentation, "PRAGMA synchronous"). This module adds what SQLite has not: a
checksum for each record, a limit to the size on disk, and a report when
acknowledged messages are gone, see L{gateway.spool.mark}.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from gateway.model.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS, Batch
from gateway.model.errors import EmbeddedError, SpoolError, SpoolGone
from gateway.spool.database import connect, flush_folder, open_database
from gateway.spool.disk_space import PAGE, Room, size_of
from gateway.spool.mark import MarkFile, SpoolMark
from gateway.spool.record import PARTS, Record, RecordGroup, unpack
from gateway.spool.salvage import (
    READ,
    SUFFIXES,
    copy_aside,
    intact,
    move_aside,
    readable,
)
from gateway.system.lock import LockFile, LockHeld
from gateway.system.regular_file import own_file

_TOGETHER: Final = 64
"""Parcels that are stored by one commit, at most: each is a statement of its own."""

_SPARE: Final = 4 * 1024 * 1024
"""Bytes of free pages that are kept when the spool is empty."""


_FILE_GONE: Final = "the database cannot be reached, and the spool's file is gone"


def _identity_of(path: Path) -> tuple[int, int] | None:
    """
    Return device and inode of a file; C{None}: there is none.

    @raise OSError: that cannot be known.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class SpoolFile:
    """
    Records of a spool on disk.

    @ivar remarks: texts for the operator; the reader takes them out.
    @ivar rows: route -> messages that wait for no stream, as of the last commit.
    @ivar aside: stream -> messages that wait for it, as of the last commit.
    @ivar damaged: messages that were damaged and are set aside.
    @ivar room: space that it may still take.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """@param max_bytes: most that the file and its log may take together."""
        self.path = path
        self.remarks: list[str] = []
        self.rows: dict[str, int] = {}
        self.aside: dict[str, int] = {}
        self.damaged = 0
        self._log_path = Path(f"{path}-wal")
        self._fresh_path = Path(f"{path}.new")
        self.room = Room(path, self._log_path, max_bytes)
        self._lock = LockFile(Path(f"{path}.lock"))
        self._mark = MarkFile(Path(f"{path}.mark"))
        self._next = 1
        self._changes: list[tuple[Record, int]] = []
        self._database: sqlite3.Connection
        self._identity: tuple[int, int] | None = None

    # Opening and closing.

    def open(self) -> None:
        """
        Open the file, whatever state it was left in; damaged records are set aside and reported.

        @raise EmbeddedError: another process has it, or it cannot be made.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.hold()
            mark = self._mark.load()
            self._mark.open()
            if self._fresh_path.exists() and not self.path.exists():
                self._fresh_path.rename(self.path)  # a crash came before this rename
            fault = aside = ""
            missing = not self.path.exists()
            if missing:
                if mark.rows:
                    fault = f"{self.path} is missing"
                if self._log_path.exists():
                    # SQLite would remove it, as it belongs to no file.
                    aside = str(move_aside(self.path)) + "-wal"
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                fault = f"{self.path} is damaged ({error})"
                aside = self._salvage()
            self._compare(mark, fault, aside, missing)
        except LockHeld as held:
            raise EmbeddedError(
                f"the spool {self.path} is in use by another gateway (process {held.owner});"
                " give each its own with spool.path or --data-dir"
            ) from None
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise EmbeddedError(
                f"the spool {self.path} cannot be used: {reason}; name another place with"
                " spool.path"
            ) from None

    def close(self) -> None:
        self._database.close()
        self._mark.close()
        self._lock.release()

    def _connect(self) -> None:
        """
        Open the database.

        @raise sqlite3.DatabaseError: it is no database, or a damaged one.
        """
        self._database = self._opened(self.path)
        self._identity = _identity_of(self.path)

    def _opened(self, path: Path) -> sqlite3.Connection:
        database = open_database(path, self.room)
        try:
            self._next = (database.execute("SELECT max(next) FROM counter").fetchone()[0]) or 1
            if self._next == 1:
                database.execute("INSERT INTO counter VALUES (1)")
            self._count(database)
            largest = database.execute("SELECT max(length(payload)) FROM record").fetchone()[0]
            self.room.largest = largest or 0
            self.damaged = database.execute("SELECT sum(rows) FROM damaged").fetchone()[0] or 0
        except BaseException:
            database.close()
            raise
        return database

    @property
    def messages(self) -> int:
        """Number of all messages, as of the last commit."""
        return sum(self.rows.values()) + sum(self.aside.values())

    def _count(self, database: sqlite3.Connection) -> None:
        counted = "SELECT {0}, sum(rows) FROM record WHERE stream IS {1} GROUP BY {0}"
        self.rows = dict(database.execute(counted.format("route", "NULL")))
        self.aside = dict(database.execute(counted.format("stream", "NOT NULL")))

    def _compare(self, mark: SpoolMark, fault: str, aside: str, missing: bool = False) -> None:
        """
        Compare the file with its mark, and report what is lost.

        @param fault: fault that is known already.
        @param aside: path where the old file is kept.
        @param missing: whether there was no file; an empty one may be removed.
        """
        kept = self.messages
        if self._next < mark.next and not fault and not missing:
            fault = f"the end of {self.path} is damaged"
            aside = str(copy_aside(self.path))
        if fault:
            copy = f"; a copy is kept as {aside}" if aside else ""
            self.remarks.append(
                f"{fault}: {kept} messages are left and will be stored,"
                f" {max(mark.rows - kept, 0)} messages answered +QUE are lost, or more{copy}"
            )
        if self._next < mark.next:
            self._next = mark.next
            self._database.execute("UPDATE counter SET next = ?", (self._next,))
        self._mark.save(SpoolMark(self._next, kept))

    # Damage.

    def _salvage(self) -> str:
        """
        Begin a new file with the readable records of the damaged one.

        It is made beside the old one, which stays where it is until the new one is complete.

        @return: path where the old file is kept.
        """
        for suffix in SUFFIXES:
            Path(f"{self._fresh_path}{suffix}").unlink(missing_ok=True)
        with closing(self._opened(self._fresh_path)) as self._database:
            self.begin()
            for record in readable(self.path):
                self._insert(record)
            last = self._database.execute("SELECT max(place) FROM record").fetchone()[0] or 0
            self._database.execute("UPDATE counter SET next = ?", (1 + (last >> PARTS),))
            self._database.execute("COMMIT")
        aside = move_aside(self.path)
        self._fresh_path.rename(self.path)
        flush_folder(self.path)
        self._connect()
        return str(aside)

    def recover(self, reason: str) -> None:
        """
        Salvage the file after damage that was found while it was open.

        @raise EmbeddedError: not even a new file can be made.
        """
        rows, streams = self.rows, self.aside
        mark = SpoolMark(self._next, self.messages)
        self._database.close()
        try:
            aside = self._salvage()
            self._compare(mark, f"{self.path} is damaged ({reason})", aside)
        except (OSError, sqlite3.Error) as error:
            # The damaged file is still there, so the counts stay as they were.
            self.rows, self.aside, self._next = rows, streams, mark.next
            raise EmbeddedError(f"the spool {self.path} cannot be made anew: {error}") from None

    # Changing: between begin and commit.

    def begin(self) -> None:
        self._changes.clear()
        self._database.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit everything since L{begin}; it is on disk when this returns."""
        self._database.execute("UPDATE counter SET next = ?", (self._next,))
        self._database.execute("COMMIT")
        for record, rows in self._changes:
            aside = record.stream is not None
            counts, key = (self.aside, record.stream) if aside else (self.rows, record.route)
            assert key is not None
            left = counts.get(key, 0) + rows
            if left:
                counts[key] = left
            else:
                counts.pop(key, None)
        self._changes.clear()
        self._mark.save(SpoolMark(self._next, self.messages))

    def rollback(self) -> None:
        self._changes.clear()
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def make_room(self, size: int) -> None:
        """
        Check that so many bytes of payload fit; before L{begin}.

        A file that was removed is made again.

        @raise SpoolError: they do not, or the file cannot be made again.
        """
        try:
            if not self._is_there():
                self._replace()
            if self._lacking(size):
                self.relieve()
                if lacking := self._lacking(size):
                    raise SpoolError(f"the database cannot be reached, and {lacking}")
        except LockHeld as held:
            raise SpoolGone(
                _FILE_GONE, f"another gateway (process {held.owner}) has it now"
            ) from None
        except OSError as error:
            raise SpoolGone(_FILE_GONE, error.strerror or type(error).__name__) from None

    def _is_there(self) -> bool:
        """Say whether the open file is the one that the next start would find."""
        return self._identity == _identity_of(self.path)

    def _replace(self) -> None:
        """
        Make the file again after somebody removed it; an open file can still be read.

        @raise LockHeld: another gateway has made one.
        @raise OSError: it cannot be made, as where its folder is gone.
        """
        self._lock.release()
        self._lock.hold()
        if os.path.lexists(self.path):
            raise FileExistsError(errno.EEXIST, "another file is in its place")
        for suffix in SUFFIXES:
            Path(f"{self._fresh_path}{suffix}").unlink(missing_ok=True)
        os.close(own_file(self._fresh_path))
        with closing(connect(self._fresh_path)) as fresh:
            self._database.backup(fresh)
        self._log_path.unlink(missing_ok=True)
        self._fresh_path.rename(self.path)
        flush_folder(self.path)
        old = self._database
        self._connect()
        old.close()
        self._mark.close()
        self._mark.open()
        self._mark.save(SpoolMark(self._next, self.messages))
        self.remarks.append(
            f"{self.path} was removed while the gateway ran; it is made again, with the"
            f" {self.messages} messages that it held"
        )

    def relieve(self) -> None:
        """Free the space of the log, by copying it to the file."""
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _lacking(self, size: int) -> str:
        return self.room.lacking(size, self._pragma("page_count"), self._pragma("freelist_count"))

    def append(
        self,
        route: str,
        fence: tuple[str, int | None],
        rows: int,
        payload: bytes,
        stream: str | None = None,
    ) -> None:
        """
        Add a record at the end.

        @param fence: its lane and its number there; C{None}: the number is that of its place.
        @param stream: stream that it waits for.
        """
        lane, number = fence
        place = self._next
        self._next += 1
        self._insert(Record(place << PARTS, route, lane, number or place, rows, payload, stream))

    def replace(
        self, record: Record, pieces: Sequence[Record], behind: Sequence[Record] = ()
    ) -> None:
        """
        Replace a record by others.

        @param behind: records that are removed with it.
        """
        self.remove([record, *behind])
        for piece in pieces:
            self._insert(piece)

    def remove(self, records: Sequence[Record]) -> None:
        places = [(record.place,) for record in records]
        self._database.executemany("DELETE FROM record WHERE place = ?", places)
        self._changes += [(record, -record.rows) for record in records]

    def _insert(self, record: Record) -> None:
        place, route, lane, number, rows, payload, stream = record
        self.room.largest = max(self.room.largest, len(payload))
        self._database.execute(
            "INSERT INTO record (place, route, lane, number, rows, checksum, payload, stream)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (place, route, lane, number, rows, record.checksum, payload, stream),
        )
        self._changes.append((record, rows))

    # Looking.

    def next(
        self, after: int, without: Collection[str], held: Collection[str] = ()
    ) -> RecordGroup | None:
        """
        Return the next records that can be stored by one statement.

        @param after: the place before them.
        @param without: routes to leave out.
        @param held: streams whose records that are put aside are left out too.
        """
        while True:
            records, bad = self._read(after, without, held)
            if bad is None:
                try:
                    return unpack(records) if records else None
                except ValueError:
                    bad = records[0]
            self._set_aside(bad)

    def several(
        self, after: int, without: Collection[str], held: Collection[str] = ()
    ) -> Sequence[RecordGroup]:
        """
        Return the next parcels, each of another route, that may be stored by one commit.

        Together they are all records up to the last one's place. Empty where the first is damaged.
        """
        groups: dict[str, list[Record]] = {}
        rows = size = 0
        with closing(self._records(after, without, held)) as records:
            for record, sound in records:
                rows += record.rows
                size += len(record.payload)
                group = groups.get(record.route)
                other = len(groups) == _TOGETHER if group is None else not record.follows(group[-1])
                if not sound or other or rows > MAX_BATCH_ROWS or size > MAX_BATCH_BYTES:
                    break
                groups.setdefault(record.route, []).append(record)
        try:
            return [unpack(group) for group in groups.values()]
        except ValueError:
            return []  # the damaged one is found by next()

    def lanes(self) -> frozenset[str]:
        """Return the lanes of all records."""
        lanes = self._database.execute("SELECT DISTINCT lane FROM record")
        return frozenset(lane for (lane,) in lanes)

    def each(self) -> Iterator[RecordGroup]:
        """
        Yield every record that is not damaged, as a parcel.

        Damaged ones are reported when it is their turn to be stored.
        """
        with closing(self._database.execute(f"{READ} ORDER BY place")) as cursor:
            for *fields, checksum in cursor:
                record = Record(*fields)
                with suppress(ValueError):
                    if intact(record, checksum):
                        yield unpack([record])

    def at(self, place: int) -> RecordGroup:
        """Return the record at a place, one of L{each}."""
        *fields, _ = self._database.execute(f"{READ} WHERE place = ?", (place,)).fetchone()
        return unpack([Record(*fields)])

    def batches(self) -> Iterator[Batch]:
        """Yield the batch of every record that is not damaged."""
        for parcel in self.each():
            yield parcel.batch

    def shrink(self) -> None:
        """Give disk space back, where no record is left and much is free."""
        if not self.messages and self._pragma("freelist_count") * PAGE > _SPARE:
            self.relieve()  # the new file goes through the log
            self._database.execute("VACUUM")
            self.relieve()

    @property
    def size(self) -> int:
        """Bytes on disk, of the file and its log."""
        return size_of(self.path) + size_of(self._log_path)

    def _read(
        self, after: int, without: Collection[str], held: Collection[str]
    ) -> tuple[list[Record], Record | None]:
        """
        Read the next records of one route and one lane.

        @return: the records; and the damaged record, where the first one is.
        """
        records_read: list[Record] = []
        rows = size = 0
        with closing(self._records(after, without, held)) as records:
            for record, sound in records:
                if not sound:
                    return records_read, None if records_read else record
                rows += record.rows
                size += len(record.payload)
                if records_read and (
                    not record.follows(records_read[-1])
                    or rows > MAX_BATCH_ROWS
                    or size > MAX_BATCH_BYTES
                ):
                    break
                records_read.append(record)
        return records_read, None

    def _records(
        self, after: int, without: Collection[str], held: Collection[str]
    ) -> Generator[tuple[Record, bool], None, None]:
        """
        Yield the next records, each with whether it is intact.

        To be closed: an open cursor would keep SQLite from beginning its log anew.
        """
        marks = ", ".join("?" * len(without))
        cursor = self._database.execute(
            f"{READ} WHERE place > ? AND route NOT IN ({marks})"
            " AND (stream IS NULL OR stream NOT IN (SELECT value FROM json_each(?)))"
            " ORDER BY place",
            (after, *without, json.dumps([*held])),
        )
        with closing(cursor):
            for *fields, checksum in cursor:
                record = Record(*fields)
                yield record, intact(record, checksum)

    def _set_aside(self, record: Record) -> None:
        self.begin()
        self._database.execute(
            "INSERT INTO damaged SELECT * FROM record WHERE place = ?", (record.place,)
        )
        # Counted below: its own number of rows may be damaged.
        self._database.execute("DELETE FROM record WHERE place = ?", (record.place,))
        self.commit()
        before = self.messages
        self._count(self._database)
        lost = before - self.messages
        self.damaged += lost
        self.remarks.append(
            f"a record of {lost} messages in {self.path} is damaged; it is set aside in its"
            " table damaged and will not be stored"
        )

    def _pragma(self, name: str) -> int:
        value: int = self._database.execute(f"PRAGMA {name}").fetchone()[0]
        return value
