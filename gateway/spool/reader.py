"""
Reader of a spool's file while a gateway uses it.

It changes nothing: it opens the file read-only, and neither waits for a lock nor
holds one that the gateway waits for. While it reads, SQLite cannot begin its log anew, so it
reads a little at a time. A record that the gateway adds or takes out meanwhile may be seen or
not; each one is whole, as its checksum shows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from gateway.model.batch import Batch
from gateway.model.errors import EmbeddedError
from gateway.spool.database import as_text, has_streams
from gateway.spool.disk_space import size_of
from gateway.spool.record import Record, unpack
from gateway.spool.salvage import READ, READ_OLD, intact

_BYTES_PER_TRANSACTION: Final = 4 * 1024 * 1024
"""Bytes of payload after which a transaction ends: some milliseconds of reading."""

_TRIES: Final = 3
"""Number of tries to open a file, since a gateway may start or stop at this very moment."""


class SpooledRecord(NamedTuple):
    """
    A record as it was found.

    @ivar batch: its content; C{None} where it is damaged.
    """

    record: Record
    batch: Batch | None


class SpoolReader:
    """
    Reader of a spool's records.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self) -> Iterator[SpooledRecord]:
        """
        Yield all records, in the order in which they are stored.

        @raise EmbeddedError: it cannot be read; one line that says why.
        """
        after = -1
        while page := self._tried(after):
            for record, checksum in page:
                yield SpooledRecord(record, _batch(record) if intact(record, checksum) else None)
            after = page[-1][0].place

    def _tried(self, after: int) -> list[tuple[Record, int]]:
        for attempt in range(_TRIES):
            try:
                uri = self._uri()
                page = _read_records(uri, after)
                if uri == self._uri():
                    break
            except (OSError, sqlite3.Error) as error:
                if attempt + 1 == _TRIES:
                    reason = getattr(error, "strerror", None) or error
                    text = f"the spool {self._path} cannot be read: {reason}"
                    raise EmbeddedError(text) from None
        return page

    def _uri(self) -> str:
        """
        Return the URI to open the file with.

        @raise OSError: there is none.
        @see: SQLite documentation, "Write-Ahead Logging", section "Read-Only Databases".
        """
        self._path.stat()
        name = f"file:{quote(str(self._path))}"
        if not size_of(Path(f"{self._path}-wal")):
            # A clean stop leaves no log: the file alone is complete.
            return f"{name}?immutable=1"
        if Path(f"{self._path}-shm").exists():
            return f"{name}?mode=ro&readonly_shm=1"
        # Killed by an earlier version; SQLite makes the index of the log that is missing.
        return f"{name}?mode=ro"


def _read_records(uri: str, after: int) -> list[tuple[Record, int]]:
    """Return some records behind a place, each with its checksum."""
    records: list[tuple[Record, int]] = []
    size = 0
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=1)) as database:
        database.text_factory = as_text
        read = READ if has_streams(database) else READ_OLD
        rows = database.execute(f"{read} WHERE place > ? ORDER BY place", (after,))
        for *fields, checksum in rows:
            record = Record(*fields)
            records.append((record, checksum))
            size += len(record.payload) if isinstance(record.payload, bytes) else 0
            if size > _BYTES_PER_TRANSACTION:
                break
    return records


def _batch(record: Record) -> Batch | None:
    try:
        return unpack([record]).batch
    except ValueError:
        return None
