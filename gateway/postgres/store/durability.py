"""
Find settings of the server that make C{+OK} less durable.

The gateway accepts the operator's choice (a server may be fast on purpose), but logs at its start
what it gives up. PostgreSQL documentation, sections 20.5.1 "Settings" and 27.2.8 "Synchronous
Replication".
"""

from __future__ import annotations

from typing import Final

from gateway.postgres.connect.connection import RunQuery

# Anybody may count the rows of pg_stat_replication, though not read all of them.
_SETTINGS: Final = """
    SELECT current_setting('synchronous_commit'), current_setting('fsync')::bool,
           current_setting('full_page_writes')::bool,
           current_setting('synchronous_standby_names') <> '',
           (SELECT count(*) FROM pg_stat_replication)
"""


async def weaknesses(query: RunQuery) -> list[str]:
    """
    Return one line for each setting by which a message answered C{+OK} can be lost.
    """
    rows = await query(_SETTINGS, None)
    return weaknesses_of(*rows[0])


def weaknesses_of(
    synchronous_commit: str, fsync: bool, full_page_writes: bool, synchronous: bool, standbys: int
) -> list[str]:
    """
    Return the weaknesses of given settings.

    @param synchronous: whether C{synchronous_standby_names} names any.
    @param standbys: number of standbys connected.
    """
    problems = []
    if not fsync or not full_page_writes:
        setting = "fsync" if not fsync else "full_page_writes"
        problems.append(f"{setting} = off: a power failure can lose or corrupt the whole database")
    if synchronous_commit == "off":
        problems.append(
            "synchronous_commit = off: a crash of the server loses what it answered +OK"
            " within the last second or so"
        )
    elif synchronous_commit == "local" and (synchronous or standbys):
        problems.append(
            "synchronous_commit = local: +OK does not wait for a standby;"
            " a failover can lose messages"
        )
    elif standbys and not synchronous:
        problems.append(
            "the standby is asynchronous: a failover can lose messages that were answered +OK;"
            " set synchronous_standby_names if it must not"
        )
    return problems
