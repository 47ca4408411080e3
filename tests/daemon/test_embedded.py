"""
The embedded server: which one is ours.
"""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, cast

import psycopg2
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import formatEvent

from gateway.daemon.embedded import EmbeddedServer
from gateway.daemon.embedded_roles import hand_over
from tests.support import Database, Gateway, TemporaryServer, logged

CLOCK = cast(Any, reactor)


@pytest.fixture
def embedded(tmp_path: Path, template: Path) -> Iterator[EmbeddedServer]:
    """A server that was made and is not running."""
    server = TemporaryServer(tmp_path, template)
    server.start()
    server.stop()
    yield server.embedded
    if server.embedded.running:
        server.stop()


def left_behind(embedded: EmbeddedServer, number: int) -> None:
    """What a server that was killed leaves, where another process has got its number."""
    folder = embedded.socket_dir
    text = f"{number}\n{embedded.data}\n1700000000\n5432\n{folder}\n\n  123456  99\nready   \n"
    (embedded.data / "postmaster.pid").write_text(text)


@pytest_twisted.ensureDeferred
async def test_another_clusters_server_is_left_alone(
    embedded: EmbeddedServer, server: TemporaryServer
) -> None:
    """Its number in our file makes it neither found, nor stopped, nor in our way."""
    number = int((server.embedded.data / "postmaster.pid").read_text().split()[0])
    left_behind(embedded, number)
    assert not embedded.running
    await embedded.stop(CLOCK)
    assert server.embedded.running
    left_behind(embedded, number)
    assert embedded.start() and embedded.running
    assert not embedded.start(), "it is found again"
    assert Database(embedded.dsn).column("SELECT pg_backend_pid() > 0") == [True]
    await embedded.stop(CLOCK)
    assert not embedded.running and server.embedded.running


@pytest.mark.parametrize("said", ["", ".", "elsewhere"])
@pytest_twisted.ensureDeferred
async def test_a_folder_that_a_dead_server_named_is_left_alone(
    embedded: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """A server that died before its socket was there leaves no folder's name, and one of somebody
    else's any: whatever stands there is neither used nor removed, and the server starts."""
    cwd = tmp_path / "cwd"
    cwd.mkdir(mode=0o700)
    (cwd / "precious").touch()
    monkeypatch.chdir(cwd)
    folder = str(cwd) if said == "elsewhere" else said
    text = f"4194305\n{embedded.data}\n1700000000\n5432\n{folder}\n\n  123456  99\n"
    (embedded.data / "postmaster.pid").write_text(text)
    await embedded.stop(CLOCK)
    assert embedded.start()
    await embedded.stop(CLOCK)
    assert (cwd / "precious").exists()


@pytest_twisted.ensureDeferred
async def test_a_socket_that_is_elsewhere_stays(embedded: EmbeddedServer, tmp_path: Path) -> None:
    """A server that somebody started by hand, with its socket in a folder of their own, is found
    and stopped; what else is in that folder stays."""
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    (folder / "precious").touch()
    command = embedded._start_command()
    command[-1] = str(command[-1]).replace(str(embedded.socket_dir), str(folder))
    with embedded.log_file.open("ab") as log:
        assert not embedded._run(*command, errors=log).returncode
    assert not embedded.start() and embedded.socket_dir == folder
    assert Database(embedded.dsn).column("SELECT 1") == [1]
    await embedded.stop(CLOCK)
    assert not embedded.running and (folder / "precious").exists()


@pytest_twisted.ensureDeferred
async def test_a_lock_of_the_socket_that_was_left(
    embedded: EmbeddedServer, sleeper: subprocess.Popen[bytes]
) -> None:
    """Its number may be another process's by now, as that in the server's own file."""
    left_behind(embedded, sleeper.pid)
    lock = embedded.socket_dir / ".s.PGSQL.5432.lock"
    lock.write_text(f"{sleeper.pid}\n{embedded.data}\n1700000000\n5432\n{embedded.data}\n")
    assert embedded.start()
    await embedded.stop(CLOCK)


@pytest.fixture
def sleeper(embedded: EmbeddedServer) -> Iterator[subprocess.Popen[bytes]]:
    """A process that works in the data directory and is no server."""
    with subprocess.Popen(["sleep", "60"], cwd=embedded.data) as process:
        yield process
        process.kill()


@pytest_twisted.ensureDeferred
async def test_any_other_process_is_left_alone(
    embedded: EmbeddedServer, sleeper: subprocess.Popen[bytes]
) -> None:
    """Nor is one that is no server at all in our way, or stopped."""
    left_behind(embedded, sleeper.pid)
    assert not embedded.running and embedded.start()
    await embedded.stop(CLOCK)
    assert sleeper.poll() is None


def test_children_that_are_left_keep_it_from_starting(embedded: EmbeddedServer) -> None:
    """What tells PostgreSQL of them stays in the file: only the number is another one."""
    left_behind(embedded, 1)
    before = (embedded.data / "postmaster.pid").read_text().splitlines()
    embedded._disown()
    after = (embedded.data / "postmaster.pid").read_text().splitlines()
    assert after[1:] == before[1:] and int(after[0]) > 4_194_304


# Who serves is no superuser.


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that was made as the gateway makes it, and runs."""
    embedded = EmbeddedServer(tmp_path)
    embedded.start()
    yield embedded
    TemporaryServer(tmp_path).stop()


def administrator(embedded: EmbeddedServer, database: str = "gateway") -> Database:
    """As whoever owns the files may get in."""
    return Database(re.sub(r"user=.*", f"user=postgres dbname={database}", embedded.dsn))


POWERS = (
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY t FROM PROGRAM 'echo 1'",
    "COPY t FROM '/etc/hostname'",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/hostname')",
    "SELECT lo_export(1, '/tmp/x')",
    "ALTER SYSTEM SET work_mem = '1MB'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/tmp/x', 'f'",
    "ALTER ROLE gateway SUPERUSER",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "GRANT pg_execute_server_program TO gateway",
    "UPDATE pg_authid SET rolsuper = true",
)


def powerless(database: Database) -> None:
    """Nothing that reaches beyond the database can be done."""
    database.execute("CREATE TABLE IF NOT EXISTS t (a int)")
    for sql in POWERS:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            database.execute(sql)


def test_who_serves_is_no_superuser(fresh: EmbeddedServer) -> None:
    """It owns its database, and postgres; programs and files of the server are not for it."""
    served = Database(fresh.dsn)
    powerless(served)
    served.execute("CREATE SCHEMA s; CREATE TABLE s.t (a int)")
    # What is trusted it may create, the administrator everything.
    administrator(fresh).execute("DROP EXTENSION plpgsql; CREATE EXTENSION vector")
    served.execute("CREATE EXTENSION plpgsql; CREATE TABLE s.v (a vector(2))")
    elsewhere = Database(fresh.dsn.replace("dbname=gateway", "dbname=postgres"))
    elsewhere.execute("CREATE TABLE here (a int)")
    for database in ("gateway", "postgres"):
        found = administrator(fresh, database)
        assert found.column("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [True]
    assert administrator(fresh).column("SELECT count(*) FROM s.t") == [0]


def test_the_superuser_is_for_who_owns_the_files(fresh: EmbeddedServer) -> None:
    """There is one way in, a socket in a folder that nobody else may enter."""
    (directories,) = administrator(fresh).column("SHOW unix_socket_directories")
    assert stat.S_IMODE(Path(directories).stat().st_mode) == 0o700
    assert administrator(fresh).column("SHOW listen_addresses") == [""]
    assert administrator(fresh).column("SHOW unix_socket_permissions") == ["0700"]
    rules = "SELECT DISTINCT type, auth_method FROM pg_hba_file_rules ORDER BY 1"
    found = administrator(fresh).execute(rules)
    assert found == [("host", "reject"), ("local", "trust")]


def made_before(embedded: EmbeddedServer) -> None:
    """A directory as earlier versions made it."""
    embedded._must(
        embedded.binaries / "initdb",
        *("-D", embedded.data, "-U", "gateway", "-E", "UTF8", "--auth-local=trust"),
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        "--auth-host=reject",
    )
    single = (embedded.binaries / "postgres", "--single", "-D", embedded.data, "postgres")
    embedded._must(*single, stdin="CREATE DATABASE gateway\n")


MADE = """
CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, body text);
INSERT INTO plain (body) VALUES ('kept');
CREATE SCHEMA "o dd";
CREATE TYPE "o dd".mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b int);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE "o dd"."T" (a positive, m "o dd".mood) PARTITION BY RANGE (a);
CREATE TABLE "o dd".part PARTITION OF "o dd"."T" FOR VALUES FROM (1) TO (10);
CREATE SEQUENCE loose;
CREATE VIEW seen AS SELECT body FROM plain;
CREATE MATERIALIZED VIEW kept AS SELECT body FROM plain;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);
CREATE OPERATOR <~> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE COLLATION ours (provider = libc, locale = 'C');
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
CREATE STATISTICS about ON id, body FROM plain;
CREATE EXTENSION vector;
CREATE PUBLICATION one FOR TABLE plain;
CREATE ROLE app; CREATE TABLE theirs (a int); ALTER TABLE theirs OWNER TO app;
ALTER ROLE gateway SET search_path = "o dd", public;
ALTER ROLE gateway IN DATABASE gateway SET work_mem = '9MB';
SELECT lo_from_bytea(424242, 'large')
"""

OWNERS = """
SELECT c.relname FROM pg_class AS c WHERE relowner = 10 AND c.oid >= 16384
    AND relkind NOT IN ('t', 'i', 'I') UNION ALL
SELECT typname FROM pg_type AS t WHERE typowner = 10 AND oid >= 16384 AND NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.objid = t.oid AND deptype = 'e') UNION ALL
SELECT proname FROM pg_proc AS p WHERE proowner = 10 AND oid >= 16384 AND NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND deptype = 'e') UNION ALL
SELECT nspname FROM pg_namespace WHERE nspowner = 10 AND oid >= 16384 UNION ALL
SELECT datname FROM pg_database WHERE datdba = 10 AND NOT datistemplate
"""


MEMBERS = """
SELECT DISTINCT proowner::regrole::text FROM pg_proc AS p JOIN pg_depend AS d
    ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
"""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of an earlier version, in which people have made all kinds of things."""
    embedded = EmbeddedServer(tmp_path)
    made_before(embedded)
    server = TemporaryServer(tmp_path)
    server.restart()
    for statement in MADE.split(";\n"):
        Database(embedded.dsn).execute(statement)
    elsewhere = Database(embedded.dsn.replace("dbname=gateway", "dbname=postgres"))
    elsewhere.execute("CREATE TABLE elsewhere (a int)")
    elsewhere.execute('CREATE DATABASE "an ""other"""')
    yield embedded
    server.stop()


def brought_over(embedded: EmbeddedServer) -> None:
    """All that was made is the serving role's own, and works."""
    served = Database(embedded.dsn)
    powerless(served)
    assert administrator(embedded).column(OWNERS) == []
    assert administrator(embedded).column(MEMBERS) == ["postgres"]
    assert served.column("SELECT body FROM plain") == ["kept"]
    served.execute("INSERT INTO plain (body) VALUES ('more'); INSERT INTO theirs VALUES (1)")
    served.execute("""INSERT INTO "o dd"."T" VALUES (5, 'good'); ALTER TABLE plain ADD c int""")
    served.execute("REFRESH MATERIALIZED VIEW kept; DROP FUNCTION twice(int); CALL nothing()")
    assert served.column("SELECT nextval('loose') + total(id::int) FROM plain") == [1 + 1 + 2]
    assert served.column("SELECT '[1,2]'::vector <-> '[1,2]'") == [0.0]
    assert served.column("SELECT convert_from(lo_get(424242), 'UTF8')") == ["large"]
    assert served.column("SHOW search_path") == ['"o dd", public']
    assert served.column("SHOW work_mem") == ["9MB"]
    elsewhere = Database(embedded.dsn.replace("dbname=gateway", "dbname=postgres"))
    elsewhere.execute("INSERT INTO elsewhere VALUES (1); CREATE TABLE new (a int)")
    assert elsewhere.column("SELECT rolname FROM pg_roles WHERE rolsuper") == ["postgres"]


@pytest.mark.parametrize("running", [True, False])
def test_a_directory_of_an_earlier_version(old: EmbeddedServer, running: bool) -> None:
    """It is brought over once, also where its server is found running; nothing is lost."""
    if not running:
        TemporaryServer(old.data.parent).stop()
    with logged() as events:
        assert old.start() is not running
    said = [str(formatEvent(event)) for event in events]
    assert said == [
        "database: the role gateway is no superuser any more; the administrator's psql has"
        " -U postgres in place of -U gateway"
    ]
    brought_over(old)
    with logged() as events:
        assert not old.start()
    assert events == []


class Broken(Exception):
    """The power went."""


def test_a_hand_over_that_breaks_off(old: EmbeddedServer) -> None:
    """Wherever it does, the next start goes on; before that nothing is out of reach."""
    for most in count():
        steps = iter(range(most))

        def ask(*said: str, steps: Iterator[int] = steps) -> tuple[str, str]:
            if next(steps, None) is None:
                raise Broken
            return old._ask(*said)

        try:
            hand_over(ask)
            break
        except Broken:
            assert Database(old.dsn).column("SELECT count(*) FROM pg_roles WHERE rolsuper")
    assert most > 5, "it broke off before, in and after the renaming"
    old.start()
    brought_over(old)


def test_a_name_that_is_taken(old: EmbeddedServer) -> None:
    """Where somebody has a role postgres, the superuser has another name, which the log says."""
    Database(old.dsn).execute("CREATE ROLE postgres LOGIN")
    with logged() as events:
        old.start()
    assert "-U gateway_admin " in str(formatEvent(events[-1]))
    found = Database(re.sub("user=gateway", "user=gateway_admin", old.dsn))
    assert found.column("SELECT rolname FROM pg_roles WHERE rolsuper") == ["gateway_admin"]


@pytest.mark.long
def test_a_table_that_somebody_holds(old: EmbeddedServer) -> None:
    """It stays the superuser's, is named in the log, and follows at the next start."""
    holder = psycopg2.connect(old.dsn)
    holder.cursor().execute("LOCK TABLE plain")
    with logged() as events:
        old.start()
    said = [str(formatEvent(event)) for event in events]
    assert "stays the administrator's for now: gateway: " in said[0] and "lock timeout" in said[0]
    holder.close()
    old.start()
    brought_over(old)


REACHING = """
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
table = "messages"
create = true
columns = { body = "@frame" }
[routes.files]
sql = "SELECT pg_read_file(%(body)s)"
columns = { body = "@frame" }
[queries.file]
sql = "select pg_read_file(%(name)s) as content"
[queries.who]
sql = "select current_user as name, rolsuper from pg_roles where rolname = session_user"
"""


def test_what_a_gateway_s_peers_can_reach(
    tmp_path: Path, start_gateway: Callable[..., Gateway]
) -> None:
    """A query or a statement of a route that reads the server's files is refused."""
    (tmp_path / "gateway.toml").write_text(REACHING)
    gateway = start_gateway("--config", "gateway.toml")
    peer = gateway.connect("commands")
    peer.send(b'CALL who\nPUT messages a\nCALL file {"name": "/etc/hostname"}\n')
    assert peer.read_lines(3) == [b"*1", b'{"name":"gateway","rolsuper":false}', b"+OK"]
    (refusal,) = peer.read_lines(1)
    assert refusal == b"-TRY QUERY :the query does not work just now"
    peer.send(b"PUT files /etc/hostname\n")
    (refusal,) = peer.read_lines(1)
    assert refusal.startswith(b"-TRY ROUTE"), refusal
    peer.close()
    for what in ("query file", "route files"):
        gateway.wait_log(rf"{what}.*permission denied for function pg_read_file")
