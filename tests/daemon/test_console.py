"""
The console of a running gateway: what it shows, what it changes, and who may use it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from gateway.admin.client import AdminClient, NoGateway, Refused
from gateway.admin.grammar import SUBJECTS
from gateway.admin.protocol import MAX_CONSOLES, MAX_LINE
from tests.faults.look import assert_quiet
from tests.support import PATIENCE, Database, Gateway, Peer, wait_until

Start = Callable[[str], Gateway]

LISTENERS = """
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.others]
endpoint = "tcp:0:interface=127.0.0.1"
route = "others"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
table = "messages"
create = true
columns = { body = "@frame" }
create_columns = { id = "bigserial PRIMARY KEY", body = "text" }
[routes.others]
table = "others"
create = true
columns = { body = "@frame" }
create_columns = { id = "bigserial PRIMARY KEY", body = "text" }
"""

REFUSE = '[spool]\non_outage = "refuse"\n'


def path_of(gateway: Gateway) -> Path:
    """Where a gateway has its console."""
    return Path(gateway.wait_log(r"admin: console on (\S+);")[1])


def ask(gateway: Gateway, command: str) -> list[str]:
    """The answer to one command."""
    with AdminClient(path_of(gateway)) as client:
        return list(client.ask(command))


def rows(gateway: Gateway, command: str) -> list[dict[str, Any]]:
    """The rows that a command shows."""
    return [json.loads(line) for line in ask(gateway, f"{command} --json")]


def raw(path: Path, data: bytes) -> bytes:
    """All that comes back, as nc -N -U shows it."""
    found = b""
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(PATIENCE)
        console.connect(os.fspath(path))
        with suppress(BrokenPipeError):
            console.sendall(data)
            console.shutdown(socket.SHUT_WR)
        # It is closed with a reset where something was said that it did not read any more.
        with suppress(ConnectionResetError):
            while more := console.recv(65536):
                found += more
    return found


def test_each_thing_that_can_be_shown(start_with: Start) -> None:
    """SHOW answers with lines and OK, as a table and as JSON, also to nc."""
    gateway = start_with(LISTENERS)
    peer = gateway.connect("commands")
    peer.send(b"HELLO till-1\n")
    peer.read_lines(1)
    for subject in SUBJECTS:
        assert ask(gateway, f"SHOW {subject}")
        assert rows(gateway, f"show {subject}") or subject in (
            "QUERIES",
            "CERTIFICATES",
            "CHANNELS",
        )
    answer = raw(path_of(gateway), b"SHOW POOL\r\nSHOW NOTHING\n\nshow version")
    *lines, last = answer.decode().splitlines()
    assert last == "OK" and "ERROR nothing called NOTHING to show; try SHOW HELP" in lines
    assert lines.count("OK") == 1 and any(line.startswith("messages ") for line in lines)
    assert stat.S_IMODE(path_of(gateway).stat().st_mode) == 0o600
    (only,) = rows(gateway, "SHOW PEERS")
    assert only["stream"] == "till-1" and only["listener"] == "commands"
    assert only["frames"] == 1 and only["bytes"] == 13 and only["unanswered"] == 0
    assert only["state"] == "read" and abs(only["since"] - time.time()) < PATIENCE
    config = {row["key"]: row["value"] for row in rows(gateway, "SHOW CONFIG")}
    assert config["routes.others.table"] == "others"


def test_peers_are_filtered_and_sorted(start_with: Start) -> None:
    """SHOW PEERS has those that are asked for, in the order that is asked for."""
    gateway = start_with(LISTENERS)
    for count, listener in ((1, "lines"), (3, "others"), (2, "lines")):
        peer = gateway.connect(listener)
        peer.send(b"x\n" * count)
        peer.read_lines(count)

    def frames(options: str) -> list[int]:
        return [row["frames"] for row in rows(gateway, f"SHOW PEERS {options}")]

    assert frames("") == [1, 3, 2]
    assert frames("sort=frames") == [3, 2, 1]
    assert frames("sort=-frames limit=2") == [1, 2]
    assert frames("listener=lines sort=id") == [1, 2]
    assert frames("address=127.0.0.0/8 sort=idle") == [1, 3, 2]
    assert frames("address=10.0.0.1") == [] and frames("identity=joe") == []
    for options, text in (
        ("listener=line", "no listener line; did you mean lines?"),
        ("sort=byte", "no column byte; did you mean bytes?"),
        ("address=home", "address= takes an address, a network or unix"),
        ("limit=many", "limit= takes a number"),
    ):
        with pytest.raises(Refused, match=re.escape(text)):
            frames(options)


class Load:
    """
    Peers that send numbered messages, some at a time, and wait for their answers.
    """

    def __init__(self, gateway: Gateway, listener: str, peers: int, window: int) -> None:
        self.answers: list[list[bytes]] = [[] for _ in range(peers)]
        self.sent = [0] * peers
        self._window = window
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(number, gateway.connect(listener)))
            for number in range(peers)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int, peer: Peer) -> None:
        while not self._ends.is_set():
            first = self.sent[number]
            self.sent[number] += self._window
            peer.send(b"".join(b"%d %d\n" % (number, first + n) for n in range(self._window)))
            self.answers[number] += peer.read_lines(self._window)

    def end(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def check(self, database: Database, table: str) -> None:
        """Each message is stored once and in its peer's order, and was answered so."""
        bodies = database.bodies(table)
        for number, answers in enumerate(self.answers):
            mine = [body for body in bodies if body.startswith(f"{number} ")]
            assert mine == [f"{number} {n}" for n in range(self.sent[number])]
            assert len(answers) == self.sent[number]
            assert set(answers) <= {b"+OK", b"+QUE"}


@pytest.mark.parametrize("spool", [True, False])
def test_pauses_under_load(start_with: Start, database: Database, spool: bool) -> None:
    """A paused route commits nothing while others go on; then all is stored, once, in order."""
    gateway = start_with(LISTENERS + ("" if spool else REFUSE))
    load, other = Load(gateway, "lines", 4, 20), gateway.connect("others")
    for number in range(3):
        stored = len(database.bodies())
        wait_until(lambda stored=stored: len(database.bodies()) > stored, "messages are stored")
        (line,) = ask(gateway, "PAUSE messages")
        assert ("+QUE" if spool else "peers wait") in line
        before = len(database.bodies())
        states = {row["route"]: row["state"] for row in rows(gateway, "SHOW ROUTES")}
        assert states == {"messages": "paused", "others": "in service"}
        waits = "spooled" if spool else "held"
        wait_until(
            lambda waits=waits: rows(gateway, "SHOW ROUTES")[0][waits], "messages of it wait"
        )
        for _ in range(20):
            other.send(b"other\n")
            assert other.read_lines(1) == [b"+OK"]
        assert len(database.bodies()) == before
        assert "route-paused" in "\n".join(ask(gateway, "SHOW STATUS"))
        assert "messages waited" in ask(gateway, "RESUME" if number else "RESUME messages")[0]
    load.end()
    wait_until(lambda: not rows(gateway, "SHOW ROUTES")[0]["spooled"], "the spool is stored")
    load.check(database, "messages")
    assert database.bodies("others") == ["other"] * 60
    queued = sum(answers.count(b"+QUE") for answers in load.answers)
    assert bool(queued) == spool
    assert gateway.terminate() == 0


def test_a_stop_while_all_is_paused(start_with: Start, database: Database) -> None:
    """Without a spool what waits is given back, so that it can be sent again; none is stored."""
    gateway = start_with(LISTENERS + REFUSE)
    ask(gateway, "PAUSE")
    peer = gateway.connect()
    peer.send(b"one\ntwo\n")
    wait_until(lambda: rows(gateway, "SHOW ROUTES")[0]["held"] == 2, "the messages wait")
    gateway.process.send_signal(signal.SIGTERM)
    answers = peer.read_lines(3)
    assert [answer.split(b" :")[0] for answer in answers] == [
        *[b"-TRY DOWN retry=1"] * 2,
        b"-BYE DRAIN",
    ]
    assert gateway.process.wait(PATIENCE) == 0
    assert "chunks unanswered" not in gateway.log
    assert database.bodies() == []


def test_a_stop_while_the_spool_takes_what_is_paused(start_with: Start, database: Database) -> None:
    """With a spool the next start stores what a pause had left there."""
    gateway = start_with(LISTENERS)
    ask(gateway, "PAUSE messages")
    peer = gateway.connect()
    peer.send(b"one\ntwo\n")
    assert peer.read_lines(2) == [b"+QUE"] * 2
    assert gateway.terminate() == 0 and database.bodies() == []
    start_with(LISTENERS)
    wait_until(lambda: database.bodies() == ["one", "two"], "the spool is stored")


def test_one_peer_is_disconnected(start_with: Start) -> None:
    """KILL ends one peer, after its answers, and nobody else."""
    gateway = start_with(LISTENERS + REFUSE)
    peer, other = gateway.connect(), gateway.connect()
    ask(gateway, "PAUSE")
    peer.send(b"one\n")
    (row,) = wait_until(
        lambda: [row for row in rows(gateway, "SHOW PEERS") if row["unanswered"]], "it waits"
    )
    assert row["address"] == peer.name
    ask(gateway, f"KILL {row['id']}")
    assert rows(gateway, "SHOW PEERS sort=-unanswered")[-1]["state"] == "told to go"
    ask(gateway, "RESUME")
    assert peer.read_all() == b"+OK\n-BYE DRAIN :disconnected by the operator\n"
    other.send(b"two\n")
    assert other.read_lines(1) == [b"+OK"]
    left = {row["listener"]: row["let_go"] for row in rows(gateway, "SHOW LISTENERS")}
    assert left["lines"] == "operator 1"
    with pytest.raises(Refused, match="no peer 999; see SHOW PEERS"):
        ask(gateway, "KILL 999")


def test_reload_says_what_became_of_it(start_with: Start, tmp_path: Path) -> None:
    """RELOAD waits for the outcome: what is wrong is said, and then that it is in force."""
    gateway = start_with(LISTENERS)
    file = tmp_path / "gateway.toml"
    good = file.read_text()
    file.write_text(good + "[limts]\n")
    lines = raw(path_of(gateway), b"RELOAD\n").decode().splitlines()
    assert "limts" in lines[0] and lines[-1].startswith("ERROR not reloaded")
    file.write_text(good)
    assert raw(path_of(gateway), b"RELOAD\n").endswith(b"OK\n")


def test_new_connections_to_the_database(start_with: Start, database: Database) -> None:
    """RECONNECT replaces all connections, and no message is lost or doubled by it."""
    gateway = start_with(LISTENERS)
    load = Load(gateway, "lines", 4, 5)
    for _ in range(5):
        opened = rows(gateway, "SHOW POOL")[0]["opened"]
        ask(gateway, "RECONNECT")
        wait_until(
            lambda opened=opened: rows(gateway, "SHOW POOL")[0]["opened"] >= opened + 2, "opened"
        )
    load.end()
    load.check(database, "messages")
    assert rows(gateway, "SHOW POOL")[0]["lost"] == 0


def test_draining_waits_for_peers(start_with: Start) -> None:
    """DRAIN refuses new connections, serves those there are, and ends with the last of them."""
    gateway = start_with(LISTENERS)
    peer, port = gateway.connect(), gateway.port("lines")
    ask(gateway, "DRAIN")

    def is_refused() -> bool:
        try:
            Peer(port).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(is_refused, "no connection is accepted")
    assert rows(gateway, "SHOW VERSION")[0]["state"] == "draining"
    peer.send(b"one\n")
    assert peer.read_lines(1) == [b"+OK"]
    assert gateway.process.poll() is None
    peer.close()
    assert gateway.process.wait(PATIENCE) == 0
    assert not path_of(gateway).exists()


def test_shutdown(start_with: Start) -> None:
    """SHUTDOWN answers, tells peers to go, and ends the process with status 0."""
    gateway = start_with(LISTENERS)
    peer = gateway.connect()
    assert raw(path_of(gateway), b"SHUTDOWN\n").endswith(b"OK\n")
    assert peer.read_all().startswith(b"-BYE DRAIN")
    assert gateway.process.wait(PATIENCE) == 0
    with pytest.raises(NoGateway):
        ask(gateway, "SHOW POOL")


def test_a_monitor_only_looks(start_with: Start, tmp_path: Path) -> None:
    """The second socket is for a group, and shows; it changes nothing."""
    gateway = start_with(f'{LISTENERS}[admin]\nmonitor = "unix:{tmp_path}/look.sock"\n')
    path = Path(gateway.wait_log(r"admin: status only on (\S+);")[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with AdminClient(path) as client:
        assert list(client.ask("SHOW STATUS"))
        for command in ("PAUSE", "RELOAD", "KILL 1", "SHUTDOWN", "SET LOG debug", "DRAIN"):
            with pytest.raises(Refused, match="this socket only shows"):
                list(client.ask(command))
    assert rows(gateway, "SHOW ROUTES")[0]["state"] == "in service"


def asked_as(user: int, path: str, data: bytes) -> bytes:
    """What another user is answered."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresuid(user, user, user)
            with socket.socket(socket.AF_UNIX) as console:
                console.settimeout(PATIENCE)
                console.connect(path)
                with suppress(BrokenPipeError):
                    console.sendall(data)
                os.write(writing, console.recv(4096))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_let_in(start_with: Start) -> None:
    """Whatever the mode of the socket's file, only root and the gateway's own user may use it."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        endpoint = f"unix:{folder}/admin.sock:mode=666"
        gateway = start_with(f'{LISTENERS}[admin]\nendpoint = "{endpoint}"\n')
        answer = asked_as(65534, f"{folder}/admin.sock", b"SHUTDOWN\n")
        assert answer == b"ERROR this console is for root\n"
        gateway.wait_log("console: nobody, process .* is not let in")
        assert ask(gateway, "SHOW VERSION")


def test_hostile_consoles(start_with: Start) -> None:
    """Whatever a console sends, its answer is bounded, and the others go on."""
    gateway = start_with(LISTENERS)
    path = path_of(gateway)
    for data, answer in (
        (b"x" * (MAX_LINE + 1), b"ERROR a line has at most 4096 bytes\n"),
        (
            b"SHOW POOL" + b" " * MAX_LINE + b"\nSHOW POOL\n",
            b"ERROR a line has at most 4096 bytes\n",
        ),
        (b"\xff\xfe\n", b"ERROR not UTF-8 at byte 0\n"),
        (b"\0\n", b"ERROR no command \\x00; try SHOW HELP\n"),
        (b"PAUSE \x1b[2J\n", b"ERROR no route \\x1b[2J; there are messages, others\n"),
        (b"\n\r\n  \n", b""),
        (b"", b""),
    ):
        assert raw(path, data) == answer
    many = raw(path, b"SHOW VERSION --json\n" * 1000).splitlines()
    assert many.count(b"OK") == 1000
    open_ones = [Peer(str(path)) for _ in range(MAX_CONSOLES)]
    # Who asks nothing gives way, the oldest first.
    assert raw(path, b"SHOW POOL\n").endswith(b"OK\n")
    assert open_ones[0].read_all().startswith(b"ERROR another console took the place of this one")
    assert not any(peer.readable(0) for peer in open_ones[1:])
    for peer in open_ones:
        peer.close()
    wait_until(lambda: raw(path, b"SHOW POOL\n").endswith(b"OK\n"), "there is room again")


def test_a_console_that_does_not_read(start_with: Start) -> None:
    """Commands whose answers nobody takes wait; other consoles and peers do not."""
    gateway = start_with(LISTENERS)
    deaf = Peer(str(path_of(gateway)))
    deaf.socket.setblocking(False)
    sent = 0
    try:
        while sent < 1 << 24:
            sent += deaf.socket.send(b"SHOW CONFIG\n" * 1000)
    except BlockingIOError:
        pass
    assert sent < 1 << 24, "it is not read any more"
    memory = rows(gateway, "SHOW STATUS")[0]["process"]["resident"]
    peer = gateway.connect()
    peer.send(b"one\n")
    assert peer.read_lines(1) == [b"+OK"]
    assert rows(gateway, "SHOW STATUS")[0]["process"]["resident"] < memory + (16 << 20)
    process = psutil.Process(gateway.process.pid)
    used = process.cpu_times().user
    deaf.close()
    # Nobody is there any more for whom the thousands that were read would be carried out.
    assert ask(gateway, "SHOW VERSION")
    peer.send(b"two\n")
    assert peer.read_lines(1) == [b"+OK"]
    assert process.cpu_times().user - used < 1


def test_a_socket_that_is_left_over(start_with: Start) -> None:
    """The file that a killed gateway left is taken over by the next one."""
    gateway = start_with(LISTENERS)
    path = path_of(gateway)
    gateway.process.kill()
    gateway.process.wait()
    assert path.exists()
    assert ask(start_with(LISTENERS), "SHOW VERSION")


def test_a_socket_in_use(
    start_with: Start, start_gateway: Callable[..., Gateway], database: Database, tmp_path: Path
) -> None:
    """Nobody's socket is taken away: by default a gateway goes on without, if asked for it ends."""
    first = start_with(LISTENERS + REFUSE)
    second = start_gateway("--config", str(tmp_path / "gateway.toml"))
    assert re.search(r"admin: no console: .*admin\.sock is in use; set \[admin\]", second.log)
    assert ask(first, "SHOW VERSION")
    third = tmp_path / "third.toml"
    third.write_text(
        f"[database]\ndsn = '''{database.dsn}'''\n{LISTENERS}{REFUSE}"
        f'[admin]\nendpoint = "unix:{path_of(first)}"\n'
    )
    gateway = start_gateway("--config", str(third), until="admin.endpoint: cannot listen on")
    assert gateway.process.wait(PATIENCE) == 1


def test_no_console(start_with: Start, tmp_path: Path) -> None:
    """Where it is off nothing is there."""
    gateway = start_with(f'{LISTENERS}[admin]\nendpoint = "off"\n')
    assert "admin:" not in gateway.log
    assert not (tmp_path / "gateway-data" / "admin.sock").exists()


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many files as ten thousand peers take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 12_000:
        pytest.skip(f"RLIMIT_NOFILE is {hard} here, 12,000 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 12_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.long
def test_ten_thousand_peers(start_with: Start, many_files: None) -> None:
    """SHOW PEERS of ten thousand costs under a second, and other peers are answered meanwhile."""
    gateway = start_with(LISTENERS)
    port = gateway.port("lines")
    peers = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(10_000)]
    try:
        wait_until(lambda: "10,000 of" in ask(gateway, "SHOW STATUS")[-1], "they are in")
        pinging = gateway.connect("commands")
        pinging.send(b"PING 0\n")
        pinging.read_lines(1)
        found: list[list[str]] = []
        spent = seconds_of(gateway)
        asking = threading.Thread(
            target=lambda: found.append(ask(gateway, "SHOW PEERS sort=address"))
        )
        asking.start()
        answers = 0
        longest = 0.0
        while asking.is_alive():
            begun = time.monotonic()
            pinging.send(b"PING 1\n")
            pinging.read_lines(1)
            longest = max(longest, time.monotonic() - begun)
            answers += 1
        asking.join()
        spent = seconds_of(gateway) - spent
        (lines,) = found
        assert len(lines) == 10_002
        addresses = [line.split()[2] for line in lines[1:]]
        assert addresses == sorted(addresses)
        assert answers >= 10, "the reactor went on"
        assert spent < 1.0, f"{spent:.2f} s of processor time; the longest PING {longest:.3f} s"
        assert len(ask(gateway, "SHOW PEERS sort=bytes limit=3")) == 4
    finally:
        for peer in peers:
            peer.close()


def seconds_of(gateway: Gateway) -> float:
    """Processor time that a gateway has used."""
    used: float = rows(gateway, "SHOW STATUS")[0]["process"]["cpu_seconds"]
    return used


def test_a_removed_route_stays_paused(start_with: Start, database: Database) -> None:
    """
    What waits of a paused route is not stored because a reload removes it, is shown and counted,
    and is stored at RESUME; a listener that moves goes on with its counts.
    """
    removed = '[routes.others]\ntable = "others"\ncreate = true\n'
    kept = '[routes.messages]\ntable = "messages"\ncreate = true\n'
    commands = '[listeners.commands]\nendpoint = "{}"\ndialect = "command"\n{}'
    here, there = "tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1:backlog=77"
    site = '[http]\nendpoint = "tcp:0:interface=127.0.0.1"\n'
    gateway = start_with(site + commands.format(here, kept + removed))
    ask(gateway, "PAUSE others")
    assert gateway.connect("commands").ask(b"PUT others kept\n") == b"+QUE\n"
    config = gateway.cwd / "gateway.toml"
    begin = config.read_text().split("[http]")[0]
    config.write_text(begin + site + commands.format(there, kept))
    ask(gateway, "RELOAD")
    (line,) = [line for line in ask(gateway, "SHOW ROUTES") if line.startswith("others")]
    assert "removed" in line
    assert "others is not in the configuration: 1 message waits" in gateway.get("/readyz")[1]
    metrics = gateway.get("/metrics")[1]
    assert 'gateway_spool_messages{route="others"} 1.0' in metrics
    assert 'gateway_answers_total{code="",listener="commands",word="+QUE"} 1.0' in metrics
    assert database.bodies("others") == []
    assert ask(gateway, "RESUME others")[0].endswith("1 messages waited")
    wait_until(lambda: database.bodies("others") == ["kept"], "it is stored")
    assert_quiet(gateway)
