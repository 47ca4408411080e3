"""
Limit of open files of the process, connections among them.

A gateway that reaches it can neither accept a peer nor reach its database. So it asks the
system for all that it may have, and reserves some that its peers do not get.
"""

from __future__ import annotations

import resource
from typing import Final

_OWN_FILES: Final = 128
"""Files that are open or may be: the spool, logs, locks, the reactor's, certificates read anew."""


def raise_file_limit() -> int:
    """
    Raise the soft limit of open files to the hard one; return the limit that holds then.

    The soft limit is there for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def room_in_process(files: int, database_connections: int, listeners: int) -> int:
    """
    Return how many connections of peers fit into one process.

    @param files: most that may be open.
    @param database_connections: at most; a broken one may be open beside its successor.
    """
    return max(1, files - 2 * database_connections - listeners - _OWN_FILES)


def room_for_peers(
    wanted: int, files: int, database_connections: int, listeners: int, workers: int = 1
) -> tuple[int, list[str]]:
    """
    Return how many connections peers may have, and warnings for the operator.

    @param wanted: connections.
    @param files: most that may be open in each process; other parameters as for
        L{room_in_process}.
    @param workers: processes that peers are connected to.
    """
    room = workers * room_in_process(files, database_connections, listeners)
    if room >= wanted:
        return wanted, []
    whose = "this process" if workers == 1 else f"each of {workers} workers"
    return room, [
        f"limits.connections: {wanted} are more than fit into the {files} files that {whose}"
        f" may open: at most {room}; raise LimitNOFILE= of the service, or ulimit -Hn"
    ]
