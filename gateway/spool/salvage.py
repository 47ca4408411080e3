"""
Salvage of a damaged spool: its readable records, and a copy of the file.

Nothing is ever deleted: a damaged file is put aside under a name of its own,
for a person to look into.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from gateway.spool.database import connect, has_streams
from gateway.spool.record import Record

READ: Final = "SELECT place, route, lane, number, rows, payload, stream, checksum FROM record"

READ_OLD: Final = READ.replace("stream,", "NULL,")
"""Query for the records of a file of an earlier version that was never opened by this one."""

SUFFIXES: Final = ("-wal", "-shm", "")
"""Suffixes of the files of a database, that of the main file last."""


def _aside(path: Path) -> Path:
    number = 1
    while any(Path(f"{path}.damaged-{number}{suffix}").exists() for suffix in SUFFIXES):
        number += 1
    return Path(f"{path}.damaged-{number}")


def copy_aside(path: Path) -> Path:
    """
    Keep a copy of a file and its log.

    @return: the copy.
    """
    aside = _aside(path)
    for suffix in SUFFIXES:
        if Path(f"{path}{suffix}").exists():
            shutil.copy2(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def move_aside(path: Path) -> Path:
    """
    Rename a file and its log, to make place for a new one.

    @return: the new name.
    """
    aside = _aside(path)
    for suffix in SUFFIXES:
        if Path(f"{path}{suffix}").exists():
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def intact(record: Record, checksum: int) -> bool:
    """
    Say whether a record is as it was written.
    """
    try:
        return record.checksum == checksum
    except TypeError:
        return False  # not even of the type it was written as


def readable(path: Path) -> Iterator[Record]:
    """
    Yield the readable records of a damaged file: from both ends, up to the damage.
    """
    reached = -1
    for order in ("ASC", "DESC"):
        try:
            with closing(connect(path)) as database:
                read = READ if has_streams(database) else READ_OLD
                for *fields, checksum in database.execute(f"{read} ORDER BY place {order}"):
                    record = Record(*fields)
                    if not intact(record, checksum):
                        continue
                    if order == "DESC" and record.place <= reached:
                        return
                    if order == "ASC":
                        reached = record.place
                    yield record
        except sqlite3.Error:
            continue
