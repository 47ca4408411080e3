"""
How many files the process may have open, connections among them.

A gateway that has none left can neither accept a peer nor reach its database. So it asks the
system for all that it may have, and keeps some back from its peers.
"""

from __future__ import annotations

import resource
from typing import Final

_OWN: Final = 128
"""Files that are open or may be: the spool, logs, locks, the reactor's, certificates read anew."""


def raise_file_limit() -> int:
    """
    Have as many as the system allows without being asked (the soft limit is there for
    programs that use select(2)).

    @return: how many that is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def room_for_peers(
    wanted: int, files: int, database_connections: int, listeners: int
) -> tuple[int, list[str]]:
    """
    @param wanted: connections.
    @param files: that may be open.
    @param database_connections: at most; a broken one may be open beside its successor.
    @return: connections that peers may have, and what the operator should know of that.
    """
    room = max(1, files - 2 * database_connections - listeners - _OWN)
    if room >= wanted:
        return wanted, []
    return room, [
        f"limits.connections: {wanted} are more than fit into the {files} files that this process"
        f" may open: at most {room}; raise LimitNOFILE= of the service, or ulimit -Hn"
    ]
