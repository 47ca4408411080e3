"""
Ledger of an edge: what it must still know about its messages after it was killed.

Three things, in C{relay.db} (SQLite, each commit flushed):

 - bindings: which numbers of which stream the unnumbered messages of a batch have. Noted before a
   batch from the spool is sent, and when it is not known whether another one was stored, before it
   goes into the spool. Whoever sends them again sends them under the same numbers, so that the
   centre stores each once.
 - streams of the edge's own and how far they were, noted at an orderly stop, and taken out at the
   start: after a kill they are not there, and nobody goes on with numbers that are not sure.
 - dead letters: messages that were answered +QUE and that the centre refuses.

All calls block, and are meant for a thread.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from gateway.model.batch import Refusal
from gateway.model.errors import EmbeddedError, Unavailable

_RESERVE: Final = 1024 * 1024
"""
Bytes that file and log have in advance: a spool that filled the disk could never be emptied if the
numbers of what leaves it could not be noted.
"""

_LOG_PAGES: Final = 64
"""Pages of 4 KiB in the log after which SQLite copies them to the file; much less than that."""

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS binding (
        lane TEXT NOT NULL, number INTEGER NOT NULL, first_number INTEGER NOT NULL,
        stream TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL, rows INTEGER NOT NULL,
        PRIMARY KEY (lane, number)) STRICT;
    CREATE TABLE IF NOT EXISTS stream (
        name TEXT PRIMARY KEY, epoch TEXT NOT NULL, settled INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS dead_letter (
        id INTEGER PRIMARY KEY, lane TEXT NOT NULL, fence INTEGER NOT NULL, place INTEGER NOT NULL,
        refused_at REAL NOT NULL, route TEXT NOT NULL,
        code TEXT NOT NULL, sqlstate TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL,
        peer TEXT NOT NULL, listener TEXT NOT NULL, identity TEXT, received_at REAL NOT NULL,
        stream TEXT, number INTEGER, UNIQUE (lane, fence, place)) STRICT;
"""


class Binding(NamedTuple):
    """
    Numbers of the unnumbered messages of a batch.

    @ivar lane: lane of the batch's fence.
    @ivar number: the fence's number; C{first_number}: of the first batch, where several are one.
    @ivar stream: the centre's name of the stream.
    @ivar first: number of the first message; those of the others follow.
    @ivar rows: how many there are.
    """

    lane: str
    number: int
    first_number: int
    stream: str
    epoch: str
    first: int
    rows: int


class OwnStream(NamedTuple):
    """
    A stream of the edge's own that nothing is in flight of.

    @ivar settled: the last number that was answered; all before it are, too.
    """

    name: str
    epoch: str
    settled: int


class Ledger:
    """
    File of an edge.

    @ivar is_new: whether there was none when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_new = False
        self._database: sqlite3.Connection | None = None

    def open(self) -> tuple[Sequence[Binding], Sequence[OwnStream]]:
        """
        Open the file, and take the streams out that were noted at the last stop.

        @return: the bindings, and these streams.
        @raise EmbeddedError: it cannot be used.
        """
        try:
            self.is_new = not self.path.exists()
            if self.is_new:
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            database = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            database.executescript(
                f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {_SCHEMA}"
            )
            _reserve(database)
            bindings = database.execute(
                "SELECT lane, number, first_number, stream, epoch, first, rows FROM binding"
            ).fetchall()
            streams = database.execute(
                "DELETE FROM stream RETURNING name, epoch, settled"
            ).fetchall()
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise EmbeddedError(f"the relay's file {self.path} cannot be used: {reason}") from None
        self._database = database
        return [Binding(*row) for row in bindings], [OwnStream(*row) for row in streams]

    def close(self, streams: Iterable[OwnStream] = ()) -> None:
        """
        Close the file.

        @param streams: those that the next process may go on with.
        """
        if self._database is not None:
            try:
                # What cannot be noted is as after a kill: others take their place.
                with suppress(Unavailable):
                    self._write("INSERT OR REPLACE INTO stream VALUES (?, ?, ?)", streams)
            finally:
                self._database.close()
                self._database = None

    def bind(self, binding: Binding) -> None:
        """Note a binding, durably."""
        self._write("INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?, ?, ?, ?)", [binding])

    def release(self, lanes: Sequence[str]) -> None:
        """Forget the bindings of lanes whose batches are settled and kept nowhere."""
        self._write("DELETE FROM binding WHERE lane = ?", [(lane,) for lane in lanes])

    def release_one(self, lane: str, number: int) -> None:
        """Forget the binding of one batch."""
        self._write("DELETE FROM binding WHERE (lane, number) = (?, ?)", [(lane, number)])

    def keep_dead_letters(self, fence: tuple[str, int], refusals: Sequence[Refusal]) -> int:
        """
        Keep refused messages, durably; those of one batch once.

        @param fence: lane and number of their batch's fence.
        @return: how many were not kept before.
        """
        assert self._database is not None
        now = time.time()
        rows = []
        for place, refusal in enumerate(refusals):
            chunk, outcome = refusal.chunk, refusal.outcome
            stream = chunk.stream
            rows.append(
                (
                    *(*fence, place, now, chunk.route, str(outcome.code or ""), outcome.sqlstate),
                    *(outcome.text, chunk.frames[refusal.row], chunk.origin.peer),
                    *(chunk.origin.listener, chunk.origin.identity, chunk.received_at),
                    *((None, None) if stream is None else (stream.name, refusal.number)),
                )
            )
        before = self._database.total_changes
        self._write(
            "INSERT OR IGNORE INTO dead_letter (lane, fence, place, refused_at, route, code,"
            " sqlstate, reason, payload, peer, listener, identity, received_at, stream, number)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        return self._database.total_changes - before

    def dead_letters(self) -> int:
        """Return how many dead letters are kept."""
        assert self._database is not None
        count: int = self._database.execute("SELECT count(*) FROM dead_letter").fetchone()[0]
        return count

    def _write(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """
        Run a statement for each row, in one transaction.

        @raise Unavailable: nothing is written.
        """
        database = self._database
        assert database is not None
        try:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(sql, rows)
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            text = f"the relay's file {self.path} cannot be written: {error}"
            raise Unavailable(text) from None


def _reserve(database: sqlite3.Connection) -> None:
    """Have space in the file and its log, as far as there is any."""
    database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    try:
        database.execute("CREATE TABLE reserve (bytes BLOB)")
        database.execute("INSERT INTO reserve VALUES (zeroblob(?))", (_RESERVE,))
        database.execute("PRAGMA wal_checkpoint")
    except sqlite3.Error:
        pass  # a full disk: the file has its space from an earlier start, mostly
    finally:
        with suppress(sqlite3.Error):
            database.execute("DROP TABLE IF EXISTS reserve")
