"""
What C{gateway check} says of partitions, foreign tables, and the tables of Citus.

Citus is in none of the registries that tests reach: what these tests see of it is a catalog that
they make by hand, as Citus 13.2 has it. It was compared with a real one once (docs/scaling.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import Database, tool

_PARTITIONED = "CREATE TABLE t (device int, at int, body text) PARTITION BY {by}"

_CITUS = """
SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod "char",
    partkey text, colocationid int, repmodel "char");
CREATE TABLE pg_catalog.pg_dist_shard (logicalrelid regclass, shardid bigint);
CREATE FUNCTION pg_catalog.column_to_column_name(regclass, text) RETURNS text
    LANGUAGE sql AS 'SELECT $2';
CREATE TABLE t (device int, at int, body text)
"""

_KEPT = "exactly once holds, by two-phase commit with the fence on the coordinator"


def check(database: Database, folder: Path, route: str = "") -> tuple[int, str]:
    """
    Judge a route into the table t.

    @return: exit status, and all that is said of the route.
    """
    config = folder / "g.toml"
    config.touch(mode=0o600)
    config.write_text(
        f'[database]\ndsn = "{database.dsn}"\n[listeners.x]\nendpoint = "tcp:0"\nroute = "r"\n'
        f'[routes.r]\ntable = "t"\nformat = "json"\n{route}\n'
        'columns = { device = "device", at = "at", body = "body" }\n'
    )
    done = tool("check", str(config))
    lines = [line.partition("routes.r")[2] for line in (done.stdout + done.stderr).splitlines()]
    return done.returncode, "\n".join(filter(None, lines))


@pytest.mark.parametrize(
    ("by", "partitions", "told"),
    [
        ("RANGE (at)", [], "1 and 23514"),
        ("RANGE (at)", ["FROM (0) TO (10)"], "a row for which there is none is refused (23514)"),
        ("LIST (at)", ["IN (1)", "default"], ""),
        ("HASH (device)", ["WITH (MODULUS 2, REMAINDER 0)", "WITH (MODULUS 2, REMAINDER 1)"], ""),
        ("HASH (device)", ["WITH (MODULUS 2, REMAINDER 0)"], "a row for which there is none"),
        ("RANGE ((at + device))", ["FROM (0) TO (10)"], "a row for which there is none"),
    ],
)
def test_partitions(
    by: str, partitions: list[str], told: str, database: Database, tmp_path: Path
) -> None:
    """Rows that no partition takes are told of, where there can be such rows, and only there."""
    database.execute(_PARTITIONED.format(by=by))
    for number, bound in enumerate(partitions):
        values = "DEFAULT" if bound == "default" else f"FOR VALUES {bound}"
        database.execute(f"CREATE TABLE t{number} PARTITION OF t {values}")
    status, said = check(database, tmp_path)
    assert status == 0
    if not partitions:
        assert "0 partitions; every row is refused (23514) until there is one" in said
    else:
        count = f"{len(partitions)} partition{'s' if len(partitions) > 1 else ''}"
        assert f'"t" is partitioned by {_by(by)}, {count}' in said
        assert ("23514" in said) == bool(told) and told in said


def _by(text: str) -> str:
    if "+" in text:
        return "an expression"
    return f'("{text.partition("(")[2][:-1]}")'


def test_a_key_without_the_partition_key(database: Database, tmp_path: Path) -> None:
    """The index that is told to make is one that PostgreSQL makes, and then the route fits."""
    database.execute(_PARTITIONED.format(by="RANGE (at)"))
    database.execute("CREATE TABLE t0 PARTITION OF t DEFAULT")
    status, said = check(database, tmp_path, 'conflict = "ignore"\nkey = ["device"]')
    assert status == 1
    assert said == (
        '.key: "t" is partitioned by ("at"), so that no unique index can be without "at": add it'
        ' to key, and run CREATE UNIQUE INDEX ON "t" ("device", "at")'
    )
    database.execute(said.partition("run ")[2])
    status, said = check(database, tmp_path, 'conflict = "ignore"\nkey = ["device", "at"]')
    assert status == 0, said


def test_foreign_tables(database: Database, tmp_path: Path) -> None:
    """What postgres_fdw promises is told, of a table and of a partition; a key is refused."""
    database.execute(
        "CREATE FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN DATA WRAPPER other_fdw;"
        " CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;"
        " CREATE SERVER odd FOREIGN DATA WRAPPER other_fdw;"
        + _PARTITIONED.format(by="RANGE (at)")
        + "; CREATE FOREIGN TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (10) SERVER far;"
        " CREATE FOREIGN TABLE t1 PARTITION OF t DEFAULT SERVER odd"
    )
    status, said = check(database, tmp_path)
    assert status == 0
    assert 't0 is a foreign table of server "far" (postgres_fdw): it commits just before' in said
    assert 't1 is a foreign table of server "odd" (other_fdw): exactly once holds only' in said
    database.execute("DROP TABLE t")
    database.execute("CREATE FOREIGN TABLE t (device int, at int, body text) SERVER far")
    status, said = check(database, tmp_path, 'conflict = "ignore"\nkey = ["device"]')
    assert status == 1
    assert '.conflict: "t" is a foreign table, for which PostgreSQL knows no key' in said


def test_tables_of_citus(database: Database, tmp_path: Path) -> None:
    """What Citus's catalog says of a table is told, with what to set; a key has to contain the
    distribution column."""
    database.execute(_CITUS)
    assert check(database, tmp_path) == (0, ': "t" takes device, at, body')
    known = "INSERT INTO pg_dist_partition VALUES ('t', %s, %s, %s, %s)"
    for values, told in (
        (("n", None, 2, "t"), f"is a reference table of Citus, written on every node: {_KEPT}"),
        (("n", None, 3, "s"), f"is one shard of Citus, on one node: {_KEPT}"),
        (("n", None, 0, "s"), f"is a local table that Citus knows: {_KEPT}"),
        (("h", "device", 1, "s"), f'is distributed by ("device") over 2 shards of Citus: {_KEPT}'),
    ):
        database.execute("TRUNCATE pg_dist_partition, pg_dist_shard")
        database.execute("INSERT INTO pg_dist_shard VALUES ('t', 1), ('t', 2)")
        database.execute(known, *values)
        assert check(database, tmp_path) == (0, f': "t" takes device, at, body\n: "t" {told}')
    # The setting is one of a library that is loaded; any prefix may have one.
    name = database.column("SELECT current_database()")[0]
    database.execute(f"ALTER DATABASE \"{name}\" SET citus.max_cached_conns_per_worker = '1'")
    said = check(database, tmp_path)[1]
    assert "citus.max_cached_conns_per_worker is 1, so that each batch connects" in said
    status, said = check(database, tmp_path, 'conflict = "ignore"\nkey = ["at"]')
    assert status == 1
    assert 'is distributed by ("device"), so that no unique index can be without "device"' in said
