"""
SQLite database of the spool: durable at each commit, checked when it is opened.

The gateway alone writes, for it holds the spool's lock. Others may read meanwhile
(L{gateway.spool.reader}): neither side waits for the other.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from gateway.spool.disk_space import PAGE, Room
from gateway.system.regular_file import own_file

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS record (
        place INTEGER PRIMARY KEY,  -- order of arrival
        route TEXT NOT NULL,
        lane TEXT NOT NULL,         -- UUID of the fence
        number INTEGER NOT NULL,    -- on that lane
        rows INTEGER NOT NULL,      -- messages
        checksum INTEGER NOT NULL,  -- CRC-32 of all else
        payload BLOB NOT NULL,      -- MessagePack
        stream TEXT                 -- that it waits for, all of it; others pass it
    );
    CREATE TABLE IF NOT EXISTS damaged AS SELECT * FROM record WHERE false;
    CREATE TABLE IF NOT EXISTS counter (next INTEGER NOT NULL);
"""
"""The tables of a spool."""


def open_database(path: Path, room: Room) -> sqlite3.Connection:
    """
    Open the spool's database, or create it.

    @param room: how large its log may grow.
    @raise sqlite3.OperationalError: it cannot be opened.
    @raise sqlite3.DatabaseError: it is no database, or a damaged one.
    """
    fresh = not path.exists()
    # SQLite makes the log with the rights of the file.
    os.close(own_file(path))
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if os.path.lexists(beside):
            os.close(own_file(beside))
    database = connect(path)
    try:
        database.execute(f"PRAGMA page_size = {PAGE}")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # Debian's SQLite would fill what is removed with zeros.
        database.execute("PRAGMA secure_delete = OFF")
        database.execute(f"PRAGMA wal_autocheckpoint = {room.log_pages}")
        database.execute(f"PRAGMA journal_size_limit = {room.log_bytes}")
        verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        database.executescript(SCHEMA)
        if not has_streams(database):
            # Made by a version before streams had epochs.
            database.executescript(
                "BEGIN; ALTER TABLE record ADD COLUMN stream TEXT;"
                "ALTER TABLE damaged ADD COLUMN stream TEXT;"
                "DROP TABLE IF EXISTS lane; COMMIT"
            )
    except BaseException:
        database.close()
        raise
    if fresh:
        flush_folder(path)
    return database


def has_streams(database: sqlite3.Connection) -> bool:
    """
    Say whether the table of records has the column of streams.
    """
    columns = database.execute("SELECT name FROM pragma_table_info('record')")
    return ("stream",) in columns.fetchall()


def connect(path: Path) -> sqlite3.Connection:
    """
    Open a database that may be damaged.
    """
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.text_factory = as_text
    return database


def as_text(stored: bytes) -> str:
    """
    Decode a text column, invalid UTF-8 too.
    """
    return stored.decode("utf-8", "replace")


def flush_folder(path: Path) -> None:
    """
    Flush a file's folder, so that the file is found after a power failure.
    """
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
