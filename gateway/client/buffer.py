"""
Keep messages that have no final answer yet: bounded, in memory or on disk.

On disk it is one SQLite file with a write-ahead log that is flushed before L{DiskBuffer.add}
returns: a chunk is one row and one transaction. SQLite drops a torn end of its log, for which
L{DiskBuffer.add} has not yet returned. Settled messages are removed without a flush; if a power
failure undoes that, they are sent again under their old numbers and answered C{+DUP}.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from .answers import BufferBroken, BufferFull, BufferHeld
from .parcel import Parcel

MESSAGE_OVERHEAD: Final = 32
"""Bytes that each message counts beside its own, so that empty ones are bounded too."""

MAX_BUFFER_BYTES: Final = 64 * 1024 * 1024
"""A buffer's bound where none is given."""


class Buffer(Protocol):
    """
    Buffer of parcels, with the state of a numbered stream.

    @ivar size: bytes kept, with L{MESSAGE_OVERHEAD}.
    @ivar max_bytes: limit of C{size}.
    @ivar base: number before that of the first message ever added; C{None} until the gateway has
        sent the stream's state.
    @ivar epoch: epoch of the stream; C{""} where the gateway sent none.
    @ivar given: number of messages ever added.
    @ivar settled: how many of them, from the first on, have a final answer (in a stream).
    @ivar loose: how many of the last settled ones may not have used up their numbers.
    @ivar taken: whether another client has taken the stream over.
    """

    size: int
    max_bytes: int
    base: int | None
    epoch: str
    given: int
    settled: int
    loose: int
    taken: bool

    def open(self, stream: str | None) -> list[Parcel]:
        """
        Open the buffer, and return unanswered parcels from an earlier process.
        """

    def add(self, route: str, messages: Sequence[bytes]) -> Parcel:
        """
        Keep messages; they are safe when this returns.

        @raise BufferFull: none of them is kept.
        """

    def save_progress(self, finished: Sequence[Parcel], settled: int, loose: int) -> None:
        """Remove finished parcels, and keep the state of the stream."""

    def save_opening(self, base: int, loose: int, epoch: str) -> None:
        """
        Keep the state from the answer to HELLO: this client owns the stream. Safe when this
        returns.
        """

    def rebase(self, base: int, loose: int = 0) -> None:
        """Keep another base of the numbers; safe when this returns."""

    def mark_taken(self) -> None:
        """Keep that another client has taken the stream over; safe when this returns."""

    def close(self) -> None:
        """Close the file, if there is one."""


def _messages_size(messages: Sequence[bytes]) -> int:
    return sum(map(len, messages)) + MESSAGE_OVERHEAD * len(messages)


def _check_room(buffer: Buffer, size: int) -> None:
    if buffer.size + size > buffer.max_bytes:
        raise BufferFull(
            f"{size} bytes more than the {buffer.size} unanswered would exceed the buffer's"
            f" {buffer.max_bytes}: wait for room() or for answers, or give it a larger max_bytes"
        )


class MemoryBuffer:
    """
    Buffer in memory, which is lost with the process.
    """

    def __init__(self, max_bytes: int = MAX_BUFFER_BYTES) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self.base: int | None = None
        self.epoch = ""
        self.given = 0
        self.settled = 0
        self.loose = 0
        self.taken = False

    def open(self, stream: str | None) -> list[Parcel]:
        self.taken = False
        self.size = self.given = self.settled = self.loose = 0
        self.base = None
        self.epoch = ""
        return []

    def add(self, route: str, messages: Sequence[bytes]) -> Parcel:
        size = _messages_size(messages)
        _check_room(self, size)
        # A copy, since the caller may go on appending to its list.
        kept = tuple(messages)
        parcel = Parcel(route, self.given, len(kept), size, lambda: kept)
        self.size += size
        self.given += len(kept)
        return parcel

    def save_progress(self, finished: Sequence[Parcel], settled: int, loose: int) -> None:
        self.size -= sum(parcel.size for parcel in finished)
        self.settled = settled
        self.loose = loose

    def save_opening(self, base: int, loose: int, epoch: str) -> None:
        self.base, self.loose, self.epoch = base, loose, epoch
        self.taken = False

    def rebase(self, base: int, loose: int = 0) -> None:
        self.base = base
        self.loose = loose

    def mark_taken(self) -> None:
        self.taken = True

    def close(self) -> None:
        """Do nothing."""


class DiskBuffer:
    """
    Buffer in a file: the next client that opens it sends what has no answer.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int = MAX_BUFFER_BYTES) -> None:
        """
        @param path: the file; it is created, readable by its owner alone. SQLite adds C{-wal} and,
            for moments, C{-journal}. One process at a time can open it.
        @param max_bytes: limit of the messages kept; the file itself may be somewhat larger.
        """
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.size = 0
        self.base: int | None = None
        self.epoch = ""
        self.given = 0
        self.settled = 0
        self.loose = 0
        self.taken = False
        self._database: sqlite3.Connection | None = None
        # Their removal failed, perhaps on a full disk; tried again with the next ones.
        self._finished: list[Parcel] = []

    def open(self, stream: str | None) -> list[Parcel]:
        """
        Open the file.

        @raise BufferHeld: another process has it open.
        @raise BufferBroken: it is no buffer, cannot be read, or holds messages of another stream.
        """
        if self._database is not None:
            self.close()
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise BufferBroken(f"{self.path}: {error.strerror}") from error
        database = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            left = self._load(database, stream or "")
        except sqlite3.Error as error:
            database.close()
            if "locked" in str(error):
                raise BufferHeld(f"{self.path} is in use by another process") from error
            raise BufferBroken(f"{self.path}: {error}; move it away to begin anew") from error
        except BaseException:
            database.close()
            raise
        self._database = database
        return left

    def _load(self, database: sqlite3.Connection, stream: str) -> list[Parcel]:
        # Exclusive from the first read on: the lock is SQLite's own, and ends with the process.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "CREATE TABLE IF NOT EXISTS parcel (ordinal INTEGER PRIMARY KEY, route TEXT NOT NULL,"
            " count INTEGER NOT NULL, size INTEGER NOT NULL, messages BLOB NOT NULL)"
        )
        database.execute(
            "CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " stream TEXT NOT NULL, base INTEGER, given INTEGER NOT NULL,"
            " settled INTEGER NOT NULL, loose INTEGER NOT NULL, taken INTEGER NOT NULL,"
            " epoch TEXT NOT NULL DEFAULT '')"
        )
        columns = database.execute("SELECT name FROM pragma_table_info('state')").fetchall()
        if ("epoch",) not in columns:
            # Made by a version before streams had epochs.
            database.execute("ALTER TABLE state ADD COLUMN epoch TEXT NOT NULL DEFAULT ''")
        row = database.execute(
            "SELECT stream, base, given, settled, loose, taken, epoch FROM state"
        ).fetchone()
        rows = database.execute(
            "SELECT ordinal, route, count, size FROM parcel ORDER BY ordinal"
        ).fetchall()
        if row is None or (row[0] != stream and not rows):
            database.execute("DELETE FROM state")
            database.execute("INSERT INTO state VALUES (1, ?, NULL, 0, 0, 0, 0, '')", (stream,))
            row = (stream, None, 0, 0, 0, 0, "")
        owner, self.base, self.given, self.settled, self.loose, taken, self.epoch = row
        self.taken = bool(taken)
        database.execute("COMMIT")
        if owner != stream:
            raise BufferBroken(
                f"{self.path} holds messages of {_stream_label(owner)}, not of"
                f" {_stream_label(stream)}: send them first, or use another file"
            )
        self._finished = []
        left = []
        for ordinal, route, count, size in rows:
            parcel = Parcel(route, ordinal, count, size, _Loader(self, ordinal))
            done = min(count, max(0, self.settled - ordinal)) if stream else 0
            parcel.pass_over(done)
            if parcel.left:
                left.append(parcel)
            else:
                self._finished.append(parcel)
        self.size = sum(parcel.size for parcel in left)
        return left

    def add(self, route: str, messages: Sequence[bytes]) -> Parcel:
        size = _messages_size(messages)
        _check_room(self, size)
        ordinal, count = self.given, len(messages)
        try:
            self._commit(
                "FULL",
                (
                    "INSERT INTO parcel VALUES (?, ?, ?, ?, ?)",
                    [(ordinal, route, count, size, _pack_messages(messages))],
                ),
                ("UPDATE state SET given = ?", [(ordinal + count,)]),
            )
        except sqlite3.Error as error:
            if "full" in str(error):
                raise BufferFull(f"{self.path}: {error}") from error
            raise BufferBroken(f"{self.path}: {error}") from error
        self.size += size
        self.given += count
        return Parcel(route, ordinal, count, size, _Loader(self, ordinal))

    def save_progress(self, finished: Sequence[Parcel], settled: int, loose: int) -> None:
        self.size -= sum(parcel.size for parcel in finished)
        self.settled = settled
        self.loose = loose
        self._finished += finished
        try:
            self._commit(
                "NORMAL",
                ("DELETE FROM parcel WHERE ordinal = ?", [(p.ordinal,) for p in self._finished]),
                ("UPDATE state SET settled = ?, loose = ?", [(settled, loose)]),
            )
        except sqlite3.Error:
            # They stay, and are sent again after a restart; add() reports the disk's error.
            return
        self._finished = []

    def save_opening(self, base: int, loose: int, epoch: str) -> None:
        # One statement, so that epoch and numbers always belong together.
        self._safely(
            "UPDATE state SET base = ?, loose = ?, epoch = ?, taken = 0", base, loose, epoch
        )
        self.base, self.loose, self.epoch = base, loose, epoch
        self.taken = False

    def rebase(self, base: int, loose: int = 0) -> None:
        self._safely("UPDATE state SET base = ?, loose = ?", base, loose)
        self.base = base
        self.loose = loose

    def mark_taken(self) -> None:
        self._safely("UPDATE state SET taken = 1")
        self.taken = True

    def load_messages(self, ordinal: int) -> list[bytes]:
        """Read the messages of a parcel."""
        database = self._opened()
        try:
            row = database.execute(
                "SELECT messages FROM parcel WHERE ordinal = ?", (ordinal,)
            ).fetchone()
        except sqlite3.Error as error:
            raise BufferBroken(f"{self.path}: {error}") from error
        if row is None:
            raise BufferBroken(f"{self.path}: messages from {ordinal} on are gone")
        return _unpack_messages(row[0])

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise BufferBroken(f"{self.path} is closed")
        return self._database

    def _safely(self, sql: str, *values: int | str) -> None:
        try:
            self._commit("FULL", (sql, [values]))
        except sqlite3.Error as error:
            raise BufferBroken(f"{self.path}: {error}") from error

    def _commit(self, flush: str, *steps: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        """
        Run statements as one transaction.

        @param flush: C{FULL}: on disk when this returns. C{NORMAL}: later, in the order of commits.
        """
        database = self._opened()
        database.execute(f"PRAGMA synchronous = {flush}")
        database.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in steps:
                database.executemany(sql, rows)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


class _Loader:
    """
    Callable that reads a parcel when it is sent: until then it takes no memory.
    """

    __slots__ = ("_buffer", "_ordinal")

    def __init__(self, buffer: DiskBuffer, ordinal: int) -> None:
        self._buffer = buffer
        self._ordinal = ordinal

    def __call__(self) -> list[bytes]:
        return self._buffer.load_messages(self._ordinal)


def _stream_label(stream: str) -> str:
    return f"stream {stream}" if stream else "no stream"


def _pack_messages(messages: Sequence[bytes]) -> bytes:
    count = len(messages)
    return struct.pack(f"<I{count}I", count, *map(len, messages)) + b"".join(messages)


def _unpack_messages(blob: bytes) -> list[bytes]:
    (count,) = struct.unpack_from("<I", blob)
    at = 4 + 4 * count
    messages = []
    for length in struct.unpack_from(f"<{count}I", blob, 4):
        messages.append(blob[at : at + length])
        at += length
    return messages
