"""
The daemon as a process: twistd, a real PostgreSQL, real sockets.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests.forking import BIN
from tests.support import (
    LISTEN,
    PATIENCE,
    Database,
    Gateway,
    Peer,
    TemporaryServer,
    tool,
    wait_until,
)

Start = Callable[..., Gateway]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gateway(database: Database, start_gateway: Start) -> Gateway:
    """A gateway on a database of its own."""
    return start_gateway("--database", database.dsn, *LISTEN)


def test_lines(gateway: Gateway, database: Database) -> None:
    """Two lines in, two +OK out, two rows in order."""
    peer = gateway.connect()
    name = peer.name
    assert peer.ask(b"hello\nworld\n") == b"+OK\n+OK\n"
    assert database.execute("SELECT body, peer FROM messages ORDER BY id") == [
        ("hello", name),
        ("world", name),
    ]


def test_netstrings(gateway: Gateway, database: Database) -> None:
    """Netstrings in, netstrings out; any text goes through, line feeds too."""
    assert gateway.connect("netstrings").ask(b"5:hello,11:two\nlines\r\n,") == b"3:+OK,3:+OK,"
    assert database.bodies() == ["hello", "two\nlines\r\n"]


def test_commands(gateway: Gateway) -> None:
    """Verbs, tags, and an answer for nonsense; QUIT closes."""
    peer = gateway.connect("commands")
    peer.send(b"@7 PUT messages hello\r\nPING you there\r\nNOPE\r\nquit\r\nPING late\r\n")
    assert peer.read_all() == (
        b"@7 +OK\r\n+OK you there\r\n-REJ FORMAT :unknown verb NOPE; try HELP\r\n+OK\r\n"
    )
    peer.close()


def test_bad_messages_cost_only_themselves(gateway: Gateway, database: Database) -> None:
    """Invalid UTF-8, NUL and what is too long are refused alone, each with its reason."""
    answers = gateway.connect().ask(
        b"one\n\xff\ntwo\nn\0ul\n" + b"x" * 65537 + b"\n" + b"y" * 65536 + b"\nthree"
    )
    assert [line.split(b" :")[0] for line in answers.splitlines()] == [
        *(b"+OK", b"-REJ DATA", b"+OK", b"-REJ DATA", b"-REJ TOOBIG", b"+OK")
    ]
    assert database.bodies() == ["one", "two", "y" * 65536]


def test_a_constraint_refuses_one_of_many(gateway: Gateway, database: Database) -> None:
    """One of 500 breaks a rule of the table: it alone is refused, with PostgreSQL's words."""
    database.execute("CREATE UNIQUE INDEX once ON messages (body)")
    lines = [b"%d" % n for n in range(500)]
    lines[250] = b"7"
    answers = gateway.connect().ask(b"\n".join(lines) + b"\n").splitlines()
    refusal = (
        b'-REJ CONSTRAINT sqlstate=23505 :duplicate key value violates unique constraint "once"'
    )
    assert answers == [refusal if n == 250 else b"+OK" for n in range(500)]
    assert database.bodies() == [str(n) for n in range(500) if n != 250]


def test_framing_error_says_goodbye(gateway: Gateway, database: Database) -> None:
    """The good ones are stored, then -BYE reaches the peer although it sent much more."""
    peer = gateway.connect("netstrings")
    peer.send(b"4:good,3:badX" + b"5:never," * 50_000)
    said = peer.read_all()
    assert said.startswith(b"3:+OK,") and said.endswith(b"b',' should end the frame,"), said
    assert b":-BYE FORMAT :netstring: b'X' where" in said
    assert database.bodies() == ["good"]
    peer.close()


def test_order_of_each_peer_under_load(gateway: Gateway, database: Database) -> None:
    """With all lanes busy, each peer's messages have ids in the order it sent them."""
    peers = [gateway.connect() for _ in range(12)]
    rounds, burst = 20, 700
    for start in range(0, rounds * burst, burst):
        for number, peer in enumerate(peers):
            peer.send(b"".join(b"%d %d\n" % (number, n) for n in range(start, start + burst)))
    for peer in peers:
        assert set(peer.read_lines(rounds * burst)) == {b"+OK"}
        peer.close()
    for number in range(len(peers)):
        got = database.column(
            "SELECT split_part(body, ' ', 2)::int FROM messages"
            " WHERE split_part(body, ' ', 1) = %s ORDER BY id",
            str(number),
        )
        assert got == list(range(rounds * burst))
    assert database.column("SELECT count(*) FROM gateway.lane WHERE number > 0")[0] > 1


def test_window_of_a_stalled_database(gateway: Gateway, database: Database) -> None:
    """While the database stands still a peer is read no further than its window."""
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    peer = gateway.connect()
    peer.socket.settimeout(1.0)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += peer.socket.send(b"x" * 99 + b"\n") // 100
    assert not peer.readable(0)
    memory = psutil.Process(gateway.process.pid).memory_info().rss
    assert memory < 150e6
    locker.close()
    peer.socket.settimeout(PATIENCE)
    peer.finish()
    assert peer.read_all().count(b"+OK\n") >= sent
    assert database.column("SELECT count(*) FROM messages")[0] >= sent
    peer.close()


def test_a_slow_reader_gets_every_answer(gateway: Gateway, database: Database) -> None:
    """
    A peer that reads nothing until it can send no more is paused, not dropped and not
    buffered for; then it gets every answer, whole and in order.
    """
    peer = gateway.connect("commands")
    sent = 0
    peer.socket.settimeout(1.0)
    chunk = b"".join(b"@%03d PING %s\n" % (n, b"x" * 80) for n in range(1000))
    left = b""
    with pytest.raises(TimeoutError):
        while True:
            left = left or chunk
            sent += (size := peer.socket.send(left))
            left = left[size:]
    assert psutil.Process(gateway.process.pid).memory_info().rss < 150e6
    peer.socket.settimeout(PATIENCE)
    whole = sent // len(chunk) * 1000 + (sent % len(chunk)) // (len(chunk) // 1000)
    answers = peer.read_lines(whole)
    assert answers == [b"@%03d +OK %s" % (n % 1000, b"x" * 80) for n in range(whole)]
    peer.close()


def test_stop_answers_what_is_in_flight(gateway: Gateway, database: Database) -> None:
    """SIGTERM: no new peers, everything in flight answered, goodbye said, exit status 0."""
    port = gateway.port("lines")
    idle = gateway.connect()
    peer = gateway.connect()
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    peer.send(b"in flight\n")
    wait_until(
        lambda: database.column(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type='Lock'"
        )[0],
        "the statement waits",
    )
    gateway.process.send_signal(signal.SIGTERM)
    goodbye = b"-BYE DRAIN :the gateway stops; what has no answer is not stored\n"
    assert idle.read_all() == goodbye
    with pytest.raises(ConnectionRefusedError):
        Peer(port)
    locker.close()
    assert peer.read_all() == b"+OK\n" + goodbye
    for each in (idle, peer):
        each.close()
    assert gateway.process.wait(PATIENCE) == 0
    assert database.bodies() == ["in flight"]
    assert database.column("SELECT count(*) FROM gateway.lane") == [0]
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log


def test_embedded_from_nothing(tmp_path: Path, start_gateway: Start) -> None:
    """No configuration: a server is made, said where, stopped with the gateway, found again."""
    first = start_gateway(*LISTEN)
    log = first.log
    data = tmp_path / "gateway-data" / "postgres"
    order = [
        f"database: embedded PostgreSQL in {data}, started",
        f"database: open it with: {first.wait_log('open it with: (.*)')[1]}",
        *("listener lines: ", "listener netstrings: ", "listener commands: ", "gateway ready"),
    ]
    places = [log.index(text) for text in order]
    assert places == sorted(places) and log.rstrip().endswith("gateway ready")
    assert first.connect().ask(b"kept\n") == b"+OK\n"
    psql = first.wait_log("open it with: (.*)")[1]
    read = subprocess.run(
        [*psql.split(), "-qAtc", "SELECT body FROM messages"], capture_output=True, check=True
    )
    assert read.stdout == b"kept\n"
    assert (data.stat().st_mode & 0o777, data.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    postmaster = int((data / "postmaster.pid").read_text().splitlines()[0])
    # A second one on the same directory refuses in one line, and harms nothing.
    second = Gateway(LISTEN, tmp_path)
    assert second.process.wait(PATIENCE) == 1
    assert f"{data.parent} is in use by another gateway (process {first.process.pid})" in second.log
    assert "Traceback" not in second.log
    assert first.terminate() == 0
    wait_until(lambda: not psutil.pid_exists(postmaster) or _zombie(postmaster), "the server stops")
    # Killed, the gateway leaves its server behind; the next one finds it.
    third = start_gateway(*LISTEN)
    third.process.kill()
    third.process.wait()
    fourth = start_gateway(*LISTEN)
    assert "found running" in fourth.log
    fourth.connect().ask(b"again\n")
    read = subprocess.run(
        [*psql.split(), "-qAtc", "SELECT body FROM messages ORDER BY id"],
        capture_output=True,
        check=True,
    )
    assert read.stdout == b"kept\nagain\n"
    assert fourth.terminate() == 0


def _zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is what runs all other tests")
def test_embedded_as_an_ordinary_user(tmp_path: Path) -> None:
    """Somebody who is not root needs no namespace: the server runs as they do."""
    # Not root inside, but with root's files, so that the interpreter is in reach.
    somebody = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
    gateway = Gateway(LISTEN, tmp_path, wrapper=somebody)
    try:
        gateway.wait_ready()
        assert gateway.connect().ask(b"hello\n") == b"+OK\n"
        assert gateway.terminate() == 0
    finally:
        gateway.end()


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path, start_gateway: Start) -> None:
    """A socket's path is limited to 107 bytes; a deeper directory works all the same."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    gateway = start_gateway(*LISTEN, cwd=deep)
    assert gateway.connect().ask(b"deep\n") == b"+OK\n"
    assert gateway.terminate() == 0


@pytest.mark.parametrize(
    ("on_outage", "early"),
    [("spool", b"+QUE"), ("refuse", b"-TRY DOWN retry=1 :the database cannot be reached")],
)
def test_database_down_at_the_start(on_outage: str, early: bytes, tmp_path: Path) -> None:
    """It stays up, does as its policy says, and needs no restart when the database comes."""
    server = TemporaryServer(tmp_path)
    server.start()
    server.stop()
    config = tmp_path / "g.toml"
    dsn = server.embedded.dsn.replace("'", "")
    config.write_text(
        f'[database]\ndsn = "{dsn}"\nacquire_timeout = 0.2\n[spool]\non_outage = "{on_outage}"\n'
        '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
    )
    gateway = Gateway(("--config", str(config)), tmp_path)
    try:
        gateway.wait_log("database: cannot connect, trying again: .*No such file")
        peer = gateway.connect()
        peer.send(b"too early\n")
        assert peer.read_lines(1) == [early]
        server.restart()
        gateway.wait_ready()
        if on_outage == "spool":
            gateway.wait_log("spool: empty, its 1 messages are stored")
        peer.send(b"now\n")
        assert peer.read_lines(1) == [b"+OK"]
        stored = Database(server.embedded.dsn).bodies()
        assert stored == (["too early", "now"] if on_outage == "spool" else ["now"])
        peer.close()
        assert gateway.log.count("cannot connect") <= 3
        assert "Traceback" not in gateway.log
    finally:
        gateway.end()
        server.stop()


def test_no_password_is_shown(tmp_path: Path) -> None:
    """The log says where the database is and how to open it, but never the password."""
    config = tmp_path / "g.toml"
    config.write_text(
        '[database]\ndsn = "postgresql://ann:hunter2@127.0.0.1:1/db"\nacquire_timeout = 0.1\n'
        '[listeners.a]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
    )
    gateway = Gateway(("--config", str(config)), tmp_path)
    try:
        gateway.wait_log("not ready yet: .*Connection refused")
        assert "database: user=ann dbname=db host=127.0.0.1 port=1" in gateway.log
        assert "open it with: psql 'user=ann dbname=db host=127.0.0.1 port=1'" in gateway.log
        checked = tool("check", str(config))
        assert checked.returncode == 3
        for text in (gateway.log, checked.stdout, checked.stderr):
            assert "hunter2" not in text
    finally:
        gateway.end()


def test_a_storm_of_peers_is_queued(gateway: Gateway) -> None:
    """Peers that come all at once are kept by the kernel until the gateway has time for them."""
    port = gateway.port("lines")
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        peers = [Peer(port) for _ in range(400)]
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    for peer in peers:
        peer.send(b"here\n")
    for peer in peers:
        assert peer.read_lines(1) == [b"+OK"]
        peer.close()


def test_port_in_use(gateway: Gateway, database: Database, tmp_path: Path) -> None:
    """A port that is taken is one line and status 1."""
    port = gateway.port("lines")
    second = Gateway(
        ("--database", database.dsn, "--line", f"tcp:{port}:interface=127.0.0.1"), tmp_path
    )
    assert second.process.wait(PATIENCE) == 1
    assert f"listener 'lines' cannot listen on 'tcp:{port}" in second.log
    assert "Address already in use" in second.log and "Traceback" not in second.log


def test_device_words_and_unix_socket(
    database: Database, tmp_path: Path, start_gateway: Start
) -> None:
    """A users route that says what its device expects; one that says nothing; a Unix socket."""
    config = tmp_path / "g.toml"
    config.write_text(
        f"""
        [database]
        dsn = "{database.dsn.replace("'", "")}"
        [listeners.devices]
        endpoint = "tcp:0:interface=127.0.0.1"
        route = "users"
        ack = "Data saved successfully!"
        nak = "Data refused"
        [listeners.mute]
        endpoint = "tcp:0:interface=127.0.0.1"
        framing = "octet-counted"
        route = "users"
        ack = "none"
        [listeners.local]
        endpoint = "unix:g.sock:mode=600"
        route = "users"
        [routes.users]
        table = "users"
        create = true
        columns = {{ name = "@frame", source = "@listener" }}
        create_columns = {{ id = "bigserial", name = "text", source = "text" }}
        """
    )
    gateway = start_gateway("--config", str(config))
    assert gateway.connect("devices").ask(b"ann\n\xff\n") == (
        b"Data saved successfully!\nData refused\n"
    )
    assert gateway.connect("mute").ask(b"3 bob5 carol") == b""
    assert f"on {tmp_path}/g.sock; try: printf 'hello\\n' | nc -N -U" in gateway.log
    assert Peer(str(tmp_path / "g.sock")).ask(b"dave\n") == b"+OK\n"
    assert database.execute("SELECT name, source FROM users ORDER BY id") == [
        ("ann", "devices"),
        ("bob", "mute"),
        ("carol", "mute"),
        ("dave", "local"),
    ]


def test_check(database: Database, tmp_path: Path) -> None:
    """Every problem of file and database with its key and what to do; status says it too."""
    config = tmp_path / "g.toml"

    def check(routes: str) -> tuple[int, str, str]:
        config.write_text(
            f'[database]\ndsn = "{database.dsn.replace(chr(39), "")}"\n'
            '[listeners.a]\nendpoint = "tcp:0"\nroute = "r"\n' + routes
        )
        done = tool("check", str(config))
        return done.returncode, done.stdout, done.stderr

    status, out, err = check('[routes.r]\ntable = "t"\ncolumns = { body = "@frame" }\n')
    assert (status, err) == (
        1,
        f'{config}: routes.r.table: table "t" does not exist; create it, or set create = true\n',
    )
    database.execute("CREATE TABLE t (id int, bdy text, body int, must text NOT NULL)")
    status, out, err = check(
        '[routes.r]\ntable = "t"\ncolumns = { boddy = "@frame", body = "@peer" }\n'
    )
    assert status == 1
    assert "routes.r.columns: column 'boddy' does not exist in \"t\"; did you mean 'body'?" in err
    assert "column 'body' of \"t\" is of type integer, which cannot hold text (@peer)" in err
    assert "column 'must' of \"t\" is NOT NULL without a default" in err
    status, out, err = check(
        '[routes.r]\ntable = "t"\ncolumns = { bdy = "@frame", must = "@peer" }\n'
    )
    assert (status, err) == (0, "")
    assert 'routes.r: "t" takes bdy, must' in out
    assert "will create or update its schema gateway" in out
    # Nothing was created by looking.
    assert database.column("SELECT count(*) FROM pg_namespace WHERE nspname = 'gateway'") == [0]
    status, out, err = check('[routes.r]\ntable = "new"\ncreate = true\n')
    assert status == 0 and "the table is missing; the gateway will create it" in out
    status, out, err = check('[routes.r]\ntabel = "t"\n[routes.x]\ntable = 3\n')
    assert status == 1 and len(err.splitlines()) == 2, err


def test_check_grants(database: Database, tmp_path: Path, start_gateway: Start) -> None:
    """A role that may not insert, or may not create our schema, is told what to grant."""
    database.execute("CREATE TABLE t (body text)")
    database.execute("CREATE ROLE nobody_much LOGIN")
    try:
        config = tmp_path / "g.toml"
        dsn = database.dsn.replace("'", "").replace("user=gateway", "user=nobody_much")
        config.write_text(
            f'[database]\ndsn = "{dsn}"\n[listeners.a]\nendpoint = "tcp:0"\nroute = "r"\n'
            '[listeners.commands]\nendpoint = "tcp:0:interface=127.0.0.1"\ndialect = "command"\n'
            '[routes.r]\ntable = "t"\ncolumns = { body = "@frame" }\n'
        )
        done = tool("check", str(config))
        assert done.returncode == 1
        assert 'INSERT on "t" is not granted; run GRANT INSERT ON "t" TO' in done.stderr
        assert "GRANT CREATE ON DATABASE" in done.stderr
        # A schema that another role has made, and what its hint says to grant.
        start_gateway("--database", database.dsn, *LISTEN).terminate()
        done = tool("check", str(config))
        grants = re.findall(r"GRANT ([^;]*) TO \.\.\.", done.stderr)
        assert {grant.rsplit(" ", 1)[1] for grant in grants} >= {
            "gateway.lane",
            "gateway.dead_letter",
            "gateway.migration",
            "gateway.stream",
            "gateway.refusal",
            "gateway.digest",
        }
        for grant in grants:
            assert done.returncode == 1
            database.execute(f"GRANT {grant} TO nobody_much")
        database.execute("GRANT INSERT, SELECT ON t TO nobody_much")
        done = tool("check", str(config))
        assert (done.returncode, done.stderr) == (0, "")
        # And with no more than that a stream is opened, stored and left behind.
        gateway = start_gateway("--config", str(config))
        peer = gateway.connect("commands")
        peer.send(b"HELLO s\nPUT r #1 a\nPUT nowhere #2 b\nPUT r #2 b\nHELLO s seen=2\nQUIT\n")
        answers = peer.read_all().splitlines()
        assert [answer.split(b" epoch=")[0] for answer in answers] == [
            *(b"+OK seq=0", b"+OK", b"-REJ ROUTE :no route nowhere"),
            *(b"-REJ ROUTE :no route nowhere", b"+OK seq=2", b"+OK"),
        ]
        peer.close()
        gateway.terminate()
        database.execute("REVOKE INSERT ON gateway.dead_letter FROM nobody_much")
        done = tool("check", str(config))
        assert done.returncode == 1 and "gateway.dead_letter" in done.stderr
    finally:
        database.execute("DROP OWNED BY nobody_much; DROP ROLE nobody_much")


def test_check_no_server(tmp_path: Path) -> None:
    """A database that cannot be reached is told of database.dsn, with a status of its own; what
    is wrong with the file counts for more."""
    config = tmp_path / "g.toml"
    config.write_text('[database]\ndsn = "host=/nonexistent"\n')
    done = tool("check", str(config))
    assert done.returncode == 3
    assert f"{config}: database.dsn: " in done.stderr and "No such file" in done.stderr
    config.write_text('[database]\ndsn = "host=/nonexistent"\npool_max = 0\n')
    done = tool("check", str(config))
    assert done.returncode == 1 and "No such file" not in done.stderr


def test_check_sample() -> None:
    """The sample has no problem."""
    done = tool("check", str(ROOT / "etc" / "gateway.toml"), "--data-dir", "/nonexistent")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("framing", ["line", "netstring"])
def test_bench(gateway: Gateway, database: Database, framing: str) -> None:
    """The load generator counts what it was answered, and that is what is stored."""
    endpoint = f"tcp:127.0.0.1:{gateway.port('lines' if framing == 'line' else 'netstrings')}"
    done = tool(
        *("bench", endpoint, "--framing", framing, "--count", "20000", "--connections", "5"),
        *("--window", "100", "--json"),
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["answers"], report["unanswered"]) == (0, {"+OK": 20000}, 0)
    assert 0 < report["p50"] <= report["p99"] <= report["longest"] < 60
    assert database.column("SELECT count(*) FROM messages") == [20000]
    database.execute("ALTER TABLE messages ADD CHECK (body = '') NOT VALID")
    done = tool("bench", endpoint, "--framing", framing, "--count", "10", "--connections", "1")
    assert done.returncode == 1 and "-REJ CONSTRAINT 10" in done.stdout


def test_bench_nobody_there() -> None:
    """No gateway is one line, not a traceback."""
    done = tool("bench", "tcp:127.0.0.1:1")
    assert done.returncode == 1
    assert "tcp:127.0.0.1:1: cannot connect: " in done.stderr
    assert "Traceback" not in done.stderr


def test_versions() -> None:
    """The daemon and the command say the same version; the daemon Twisted's as well."""
    daemon, command = (
        subprocess.run(
            [BIN / words[0], *words[1:]], capture_output=True, text=True, check=True
        ).stdout.strip()
        for words in (("twistd", "gateway", "--version"), ("gateway", "--version"))
    )
    assert daemon.startswith(f"{command}; Twisted ") and command.startswith("gateway, version ")
