"""
Reloads of a running gateway: under load, with the database away, with messages in the spool.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from tests.faults.load import Load, judge_soon
from tests.faults.proxy import FaultProxy
from tests.support import Database, Gateway, Peer, wait_until

StartGateway = Callable[..., Gateway]
StartProxy = Callable[[str], FaultProxy]

HEAD = """
acquire_timeout = 0.3
[routes.messages]
table = "messages"
create = true
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
"""

COMMANDS = """
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
"""

ENDS = re.compile("configuration reloaded; connections live on|from before stays in force")


class Configured:
    """
    A gateway, and the file of its configuration.
    """

    def __init__(self, path: Path, dsn: str, start: StartGateway) -> None:
        self._path = path
        self._head = f"[database]\ndsn = '''{dsn}'''\n"
        self._start = start

    def start(self, sections: str) -> Gateway:
        self._write(sections)
        self.gateway = self._start("--config", str(self._path))
        return self.gateway

    def reload(self, sections: str) -> str:
        """SIGHUP with another text; give what the log says of it."""
        before = self.gateway.log
        count = len(ENDS.findall(before))
        self._write(sections)
        self.gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(ENDS.findall(self.gateway.log)) > count, "the reload is said")
        return self.gateway.log[len(before) :]

    def _write(self, sections: str) -> None:
        # At once, as editors do: a reload must not find half of it.
        new = self._path.with_suffix(".new")
        new.write_text(self._head + sections)
        new.rename(self._path)


@pytest.fixture
def configured(tmp_path: Path, database: Database, start_gateway: StartGateway) -> Configured:
    return Configured(tmp_path / "gateway.toml", database.dsn, start_gateway)


def test_routes_and_queries_come_and_go(configured: Configured, database: Database) -> None:
    """
    A new route's table is created and takes messages, a changed one is another at once; what the
    database disagrees with is refused, with each problem, and creates nothing.
    """
    database.execute("CREATE TABLE other (body text NOT NULL, peer text)")
    gateway = configured.start(HEAD + COMMANDS)
    asks = gateway.connect("commands")

    def ask(command: str) -> bytes:
        asks.send(command.encode() + b"\n")
        return asks.read_lines(1)[0]

    assert ask("PUT messages a") == b"+OK"
    assert ask("PUT orders a").startswith(b"-REJ ROUTE ")
    orders = '[routes.orders]\ntable = "orders"\ncreate = true\n'
    wrong = (
        '[routes.w]\ntable = "missing"\n[routes.v]\ntable = "other"\n[routes.v.columns]\nx = "x"\n'
    )
    log = configured.reload(
        HEAD + COMMANDS + orders + wrong.replace('"other"', '"other"\nformat = "json"')
    )
    assert "not reloaded: routes.w.table: " in log and "not reloaded: routes.v." in log
    assert not database.column("SELECT to_regclass('orders')")[0]
    assert ask("PUT orders a").startswith(b"-REJ ROUTE ")
    query = "[queries.count]\nsql = 'select count(*) as n from orders'\n"
    log = configured.reload(HEAD + COMMANDS + orders + query)
    assert "reload: route orders: added" in log and "reload: query count: added" in log
    assert ask("PUT orders a") == b"+OK"
    wait_until(
        lambda: b'{"n":1}' in gateway.connect("commands").ask(b"CALL count\n"),
        "the query is examined",
    )
    # Without a table to be created a query that does not work is refused.
    log = configured.reload(HEAD + COMMANDS + orders + query.replace("orders", "nowhere"))
    assert "not reloaded: queries.count." in log
    log = configured.reload(HEAD + COMMANDS + orders.replace('"orders"', '"other"') + query)
    assert "reload: route orders: changed: table" in log
    assert ask("PUT orders b") == b"+OK"
    assert database.column("SELECT body FROM other") == ["b"]
    log = configured.reload(HEAD + COMMANDS)
    assert "route orders: removed" in log and "query count: removed" in log
    assert ask("PUT orders a").startswith(b"-REJ ROUTE ")
    assert ask("PUT messages b") == b"+OK"
    assert "Traceback" not in gateway.log
    assert gateway.terminate() == 0


def test_listeners_come_and_go(configured: Configured, database: Database, tmp_path: Path) -> None:
    """
    A new one listens, a removed one is closed behind its answers, one that moves is there before it
    is gone; others notice nothing.
    """
    gateway = configured.start(HEAD)
    stays = gateway.connect()
    more = f'[listeners.more]\nendpoint = "unix:{tmp_path}/{{}}"\nroute = "messages"\n'
    log = configured.reload(HEAD + more.format("a"))
    assert re.search(r"listener more: line frames on .*/a; try: printf", log)
    peer = Peer(f"{tmp_path}/a")
    peer.send(b"one\n")
    assert peer.read_lines(1) == [b"+OK"]
    log = configured.reload(HEAD + more.format("b"))
    assert "endpoint unix:" in log
    wait_until(lambda: not (tmp_path / "a").exists(), "the socket of before is gone")
    assert peer.read_all().startswith(b"-BYE DRAIN ")
    peer.close()
    peer = Peer(f"{tmp_path}/b")
    assert peer.ask(b"two\n") == b"+OK\n"
    log = configured.reload(HEAD + more.format("b") + "backlog = 9\n")
    assert "its port is opened anew" in log
    assert Peer(f"{tmp_path}/b").ask(b"three\n") == b"+OK\n"
    assert "listener more: removed" in configured.reload(HEAD)
    wait_until(lambda: not (tmp_path / "b").exists(), "the socket of before is gone")
    assert stays.ask(b"four\n") == b"+OK\n"
    assert database.bodies() == ["one", "two", "three", "four"]
    assert "Traceback" not in gateway.log
    assert gateway.terminate() == 0


def test_a_hundred_reloads_under_load(
    configured: Configured, database: Database, tmp_path: Path
) -> None:
    """
    While other routes, queries, channels and listeners come, go and change a hundred times, peers
    that are connected lose nothing, find nothing twice and are not disconnected.
    """
    database.execute("CREATE TABLE a (body text, peer text); CREATE TABLE b (body text, peer text)")
    gateway = configured.start(HEAD + COMMANDS)
    idle = [gateway.connect() for _ in range(20)]
    load = Load(gateway, peers=4, window=100)
    load.wait_progress()
    for number in range(100):
        more = ""
        if number % 3:
            more += f'[routes.more]\ntable = "{"ab"[number % 2]}"\n'
        if number % 4:
            more += (
                f'[listeners.more]\nendpoint = "unix:{tmp_path}/{number % 5}"\nroute = "messages"\n'
                f"window = {number + 1}\nbacklog = {number % 2 + 1}\n"
            )
        if number % 5:
            more += f"[queries.q]\nsql = 'select {number} as n'\n"
        more += f"[channels]\nallow = ['c{number % 3}']\n[limits]\nconnections = {1000 + number}\n"
        assert "configuration reloaded" in configured.reload(HEAD + COMMANDS + more)
        if number % 10 == 0:
            load.wait_progress()
    load.finish()
    assert not load.refused
    assert all(len(loader.connections) == 1 for loader in load.loaders)
    judge_soon(database, load)
    for peer in idle:
        assert peer.ask(b"0 0\n") == b"+OK\n"
    assert not re.search(r"peers? disconnected: ", gateway.log)
    assert "Traceback" not in gateway.log
    assert gateway.terminate() == 0


def test_a_changed_route_under_load(configured: Configured, database: Database) -> None:
    """
    While the table of a route changes back and forth, each message is in one of them, once, and
    whoever was answered before a reload is in the table of then.
    """
    gateway = configured.start(HEAD)
    load = Load(gateway, peers=4, window=100)
    load.wait_progress()
    for number in range(1, 11):
        table = f"messages{number % 2 or ''}"
        log = configured.reload(HEAD.replace('"messages"\ncreate', f'"{table}"\ncreate'))
        assert "route messages: changed: table" in log
        load.wait_progress()
    load.finish()
    assert not load.refused
    assert all(len(loader.connections) == 1 for loader in load.loaders)
    assert database.column("SELECT count(*) > 0 FROM messages1") == [True]
    database.execute(
        "INSERT INTO messages (body, peer, received_at)"
        " SELECT body, peer, received_at FROM messages1 ORDER BY id"
    )
    database.execute(
        "CREATE TABLE sorted AS SELECT * FROM messages ORDER BY split_part(body, ' ', 2)::int;"
        "DROP TABLE messages; ALTER TABLE sorted RENAME TO messages;"
        "ALTER TABLE messages DROP COLUMN id; ALTER TABLE messages ADD id bigserial"
    )
    judge_soon(database, load)
    assert gateway.terminate() == 0


def test_a_removed_route_with_messages_in_flight(
    configured: Configured, database: Database
) -> None:
    """
    Messages that wait for a lock are stored by the route under which they were read, though it is
    gone or is another one by the time of their commit.
    """
    routes = '[routes.{}]\ntable = "{}"\n'
    database.execute("CREATE TABLE a (body text, peer text); CREATE TABLE b (body text, peer text)")
    gateway = configured.start(HEAD + COMMANDS + routes.format("x", "a") + routes.format("y", "a"))
    asks = gateway.connect("commands")
    with psycopg2.connect(database.dsn) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE a")
        asks.send(b"PUT x 1\nPUT y 2\n")
        wait_until(lambda: database.column("SELECT 1 FROM pg_locks WHERE NOT granted"), "it waits")
        log = configured.reload(HEAD + COMMANDS + routes.format("y", "b"))
        assert "route x: removed" in log and "route y: changed: table" in log
        later = gateway.connect("commands").ask(b"PUT y 3\n")
        assert later == b"+OK\n"
    other.close()
    assert asks.read_lines(2) == [b"+OK", b"+OK"]
    assert database.column("SELECT body FROM a ORDER BY body") == ["1", "2"]
    assert database.column("SELECT body FROM b") == ["3"]
    assert gateway.terminate() == 0


def test_the_database_is_away(
    configured: Configured,
    database: Database,
    tmp_path: Path,
    start_gateway: StartGateway,
    start_proxy: StartProxy,
) -> None:
    """
    Without the database a reload is taken over; what could not be checked is opened and created
    later. The messages of a removed route that wait in the spool are stored by it, and after a
    restart wait for it.
    """
    proxy = start_proxy(database.dsn)
    configured = Configured(tmp_path / "gateway.toml", proxy.dsn(database.dsn), start_gateway)
    old = '[routes.old]\ntable = "old"\ncreate = true\n'
    gateway = configured.start(HEAD + COMMANDS + old)
    asks = gateway.connect("commands")

    def ask(command: str) -> bytes:
        asks.send(command.encode() + b"\n")
        return asks.read_lines(1)[0]

    assert ask("PUT old 1") == b"+OK"
    proxy.tell("refuse")
    proxy.tell("reset")
    wait_until(lambda: ask("PUT old 2") == b"+QUE" or None, "the database is away")
    new = '[routes.new]\ntable = "new"\ncreate = true\n'
    log = configured.reload(HEAD + COMMANDS + new)
    assert "new: not checked, and opened when that is possible: " in log
    assert re.search(r"route old: \d+ of its messages wait in the spool; they are stored by", log)
    assert ask("PUT new 1") == b"+QUE"
    assert ask("PUT old 3").startswith(b"-REJ ROUTE ")
    proxy.tell("accept")
    wait_until(
        lambda: database.column("SELECT to_regclass('new')")[0] and database.bodies("new") == ["1"],
        "the new route is opened",
    )
    bodies = database.bodies("old")
    assert bodies[0] == "1" and bodies[-1] == "2"
    # In the spool at a stop, they need their route again.
    configured.reload(HEAD + COMMANDS + new + old)
    assert ask("PUT old 4") == b"+OK"
    proxy.tell("refuse")
    proxy.tell("reset")
    wait_until(lambda: ask("PUT old 5") == b"+QUE" or None, "the database is away")
    configured.reload(HEAD + COMMANDS + new)
    assert gateway.terminate() == 0
    proxy.tell("accept")
    gateway = configured.start(HEAD + COMMANDS + new)
    gateway.wait_log("route old: out of service, .* its messages wait in the spool")
    configured.reload(HEAD + COMMANDS + new + old)
    wait_until(lambda: database.bodies("old")[-1:] == ["5"], "its messages are stored")
    assert "Traceback" not in gateway.log
    os.kill(gateway.process.pid, signal.SIGTERM)
