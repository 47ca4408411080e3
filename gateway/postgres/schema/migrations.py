"""
Schema of the gateway, brought up to date by numbered SQL files.

C{gateway.migration} holds the numbers applied. An advisory lock makes gateways that start together
take turns; the second one finds nothing to do. Where a database administrator has run the files,
nothing is created here, so the gateway's role needs no right to create.
"""

from __future__ import annotations

from importlib import resources
from importlib.metadata import version
from typing import Final

from gateway.model.errors import SchemaNewer
from gateway.model.route import Route, create_sql, table_identifier
from gateway.postgres.connect.connection import RunQuery

_LOCK: Final = 0x6761_7465_7761_7901
"""Key of the advisory lock: the word "gateway" and a version."""

# Not to_regclass(): it answers from a cache that is not brought up to date within a
# transaction, so that after waiting for the lock it still sees no table.
_EXISTS: Final = """
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = 'gateway' AND c.relname = 'migration'
"""

# A role called gateway has our own schema at the head of its search_path ("$user"),
# and no table of the user's belongs there.
_CREATE_IN: Final = """
    SELECT name FROM unnest(current_schemas(false)) WITH ORDINALITY AS s(name, place)
     WHERE name <> 'gateway' ORDER BY place LIMIT 1
"""


def migrations() -> list[tuple[int, str, str]]:
    """
    Return (number, file name, SQL) of all SQL files, ascending.
    """
    files = []
    for file in resources.files("gateway.postgres.schema").iterdir():
        if file.name.endswith(".sql"):
            files.append((int(file.name.split("_")[0]), file.name, file.read_text("utf-8")))
    return sorted(files)


async def migrate(query: RunQuery) -> int:
    """
    Apply missing files, inside the transaction that C{query} runs in.

    @return: how many files were applied.
    """
    if await up_to_date(query):
        return 0
    await lock(query)
    applied = await _applied(query)
    if applied == 0:
        await query(
            "CREATE SCHEMA IF NOT EXISTS gateway;"
            "CREATE TABLE IF NOT EXISTS gateway.migration (number int PRIMARY KEY,"
            " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
            None,
        )
    todo = [migration for migration in migrations() if migration[0] > applied]
    for number, name, sql in todo:
        await query(sql, None)
        await query("INSERT INTO gateway.migration (number, name) VALUES (%s, %s)", (number, name))
    return len(todo)


async def refuse_newer(query: RunQuery) -> None:
    """
    Check that the schema is not newer than this gateway.

    @raise SchemaNewer: it has migrations that this gateway does not know.
    """
    applied, known = await _applied(query), migrations()[-1][0]
    if applied > known:
        raise SchemaNewer(
            f"the schema gateway has version {applied}, and this gateway ({version('txgateway')})"
            f" knows {known}: start the gateway that brought it there or a newer one, or restore"
            " the database as it was before"
        )


async def up_to_date(query: RunQuery) -> bool:
    """
    Say whether all migrations are applied.
    """
    return await _applied(query) >= migrations()[-1][0]


async def create_table(query: RunQuery, route: Route) -> bool:
    """
    Create a route's table if it is missing, inside the transaction that C{query} runs in.

    @return: whether it was missing.
    """
    exists = "SELECT to_regclass(%s) IS NOT NULL"
    name = (table_identifier(route.table),)
    if (await query(exists, name))[0][0]:
        return False
    # IF NOT EXISTS alone still fails when two sessions create at once.
    await lock(query)
    schemas = await query(_CREATE_IN, None)
    await query(create_sql(route, schemas[0][0] if schemas else "public"), None)
    return True


async def lock(query: RunQuery) -> None:
    """
    Hold the advisory lock until the end of the transaction.
    """
    await query("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


async def _applied(query: RunQuery) -> int:
    if not await query(_EXISTS, None):
        return 0
    number: int = (await query("SELECT coalesce(max(number), 0) FROM gateway.migration", None))[0][
        0
    ]
    return number
