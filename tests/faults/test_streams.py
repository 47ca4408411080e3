"""
Numbered streams and faults of everything around them: each message stored once, in order.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from tests.faults.look import BACKENDS, Start, assert_quiet
from tests.faults.proxy import FaultProxy
from tests.support import PATIENCE, Database, Gateway, Peer, TemporaryServer, wait_until

StartProxy = Callable[[str], FaultProxy]
StartWith = Callable[..., Gateway]

COMMANDS = """
acquire_timeout = 0.3
connect_timeout = 1.0
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
"""

WINDOW = 300


class Streamer(threading.Thread):
    """
    A peer that has so many numbered messages to send, and comes back until all are settled.

    @ivar answers: number -> what was told, for those that were told anything.
    @ivar fault: what should never have been.
    """

    def __init__(self, where: Callable[[], int], put: Callable[[int], bytes], count: int) -> None:
        """
        @param where: the port to connect to next.
        @param put: a number -> the whole command.
        """
        super().__init__(daemon=True)
        self.answers: dict[int, bytes] = {}
        self.settled = 0
        self._seen = b""
        self.fault = ""
        self._where = where
        self._put = put
        self._count = count

    def run(self) -> None:
        while self.settled < self._count and not self.fault:
            try:
                self._converse(Peer(self._where()))
            except (AssertionError, OSError):
                time.sleep(0.02)  # less patient than asked to be

    def _converse(self, peer: Peer) -> None:
        try:
            peer.send(b"HELLO s%b\n" % (self._seen and self._seen % self.settled))
            greeting = re.fullmatch(rb"\+OK seq=(\d+) (epoch=\S+)", peer.read_lines(1)[0])
            if greeting is None:
                raise OSError("put off")
            seq = int(greeting[1])
            self._seen = b" seen=%d " + greeting[2]
            if seq < self.settled:
                self.fault = f"back at {seq}, {self.settled} are settled"
            # What has no answer is sent again, and so is told what became of it.
            sent = due = self.settled
            while self.settled < self._count:
                block = range(sent + 1, min(due + WINDOW, self._count) + 1)
                peer.send(b"".join(self._put(number) + b"\n" for number in block))
                sent += len(block)
                for answer in peer.read_lines(min(WINDOW // 3, sent - due)):
                    if answer.startswith(b"-TRY"):
                        raise OSError(answer)
                    if not answer.startswith((b"+OK", b"+QUE", b"+DUP", b"-REJ")):
                        raise OSError(answer)
                    due += 1
                    self.answers[due] = answer
                    self.settled = due
        finally:
            peer.close()

    def wait_progress(self) -> None:
        before = self.settled
        wait_until(lambda: self.settled > before, "it goes on")

    def finish(self) -> None:
        self.join(2 * PATIENCE)
        assert not self.fault and not self.is_alive(), (self.fault, self.settled)


def put(number: int) -> bytes:
    return b"PUT messages #%d m%d" % (number, number)


def bodies(count: int) -> list[str]:
    return [f"m{number}" for number in range(1, count + 1)]


def wait_stored(database: Database, count: int) -> None:
    """Wait until the spool is stored as well, and hold it against all that was sent."""
    last = "SELECT body FROM messages ORDER BY id DESC LIMIT 1"
    wait_until(lambda: database.column(last) == [f"m{count}"], "the last one is stored")
    assert database.bodies() == bodies(count)


def test_backends_end_all_the_time(start_with: StartWith, database: Database) -> None:
    """Number 21: whatever ends a backend, a stream goes on, each message once and in order."""
    gateway = start_with(COMMANDS)
    streamer = Streamer(lambda: gateway.port("commands"), put, 20_000)
    streamer.start()
    while streamer.is_alive():
        database.execute(f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS}) b")
        time.sleep(random.random() / 10)  # the moment is the test's point
    streamer.finish()
    wait_stored(database, 20_000)
    assert_quiet(gateway)


@pytest.mark.parametrize("pattern", ["gateway.follow", "gw_block"])
def test_a_reply_is_lost(
    start_with: StartWith, start_proxy: StartProxy, database: Database, pattern: str
) -> None:
    """Number 23: what was committed when its reply was lost is stored and numbered once."""
    proxy = start_proxy(database.dsn)
    gateway = start_with(COMMANDS, proxy.dsn(database.dsn))
    database.execute("ALTER TABLE messages ADD CONSTRAINT few CHECK (body <> 'm13')")
    peer = gateway.connect("commands")
    peer.send(b"HELLO s\nPUT messages #1 m1\n")
    assert [answer[:9] for answer in peer.read_lines(2)] == [b"+OK seq=0", b"+OK"]
    proxy.tell(f"drop-reply-to {pattern}")
    last = 20 if pattern == "gw_block" else 10
    peer.send(b"".join(put(number) + b"\n" for number in range(2, last + 1)))
    answers = peer.read_lines(last - 1)
    proxy.wait_event("dropped-reply")
    kept = [number for number in range(2, last + 1) if number != 13]
    assert [n for n, answer in enumerate(answers, 2) if answer == b"+OK"] == kept
    assert database.bodies() == [f"m{number}" for number in [1, *kept]]
    peer.close()
    # Whoever did not hear of it hears the same again.
    again = gateway.connect("commands")
    again.send(b"HELLO s\n" + b"".join(put(number) + b"\n" for number in range(1, last + 2)))
    greeting, *told = again.read_lines(last + 2)
    assert greeting.startswith(b"+OK seq=%d epoch=" % last)
    assert told == [
        *[answers[n - 2] if n == 13 else b"+DUP" for n in range(1, last + 1)],
        b"+OK",
    ]
    again.close()
    assert_quiet(gateway)


def test_killed_and_cut_off(
    start_with: StartWith, start_proxy: StartProxy, database: Database
) -> None:
    """
    Numbers 19 and 33: with the gateway killed and its database out of reach by turns, spool
    in between, each message is stored once and in order.
    """
    proxy = start_proxy(database.dsn)
    gateways = [start_with(COMMANDS, proxy.dsn(database.dsn))]
    count = 60_000
    streamer = Streamer(lambda: gateways[-1].port("commands"), put, count)
    streamer.start()
    for turn in range(6):
        streamer.wait_progress()
        if turn % 2:
            gateways[-1].process.kill()
            gateways[-1].process.wait()
            proxy.tell("accept")
            gateways.append(start_with(COMMANDS, proxy.dsn(database.dsn)))
        else:
            proxy.tell("refuse")
            proxy.tell("reset")
            wait_until(lambda: b"+QUE" in list(streamer.answers.values()), "it is spooled")
    proxy.tell("accept")
    streamer.finish()
    wait_stored(database, count)
    for gateway in gateways:
        assert_quiet(gateway)


def test_hello_from_the_spool(own_server: TemporaryServer, start_gateway: Start) -> None:
    """
    A gateway that starts while the database is away knows of its streams by its spool, and goes
    on for a peer that says what it has seen.
    """
    dsn = own_server.embedded.dsn
    folder = own_server.embedded.data.parent / "gateway"
    folder.mkdir()
    (folder / "gateway.toml").write_text(f"[database]\ndsn = '''{dsn}'''\n{COMMANDS}")
    first = start_gateway("--config", "gateway.toml", cwd=folder)
    peer = first.connect("commands")
    peer.send(b"HELLO s\nPUT messages #1 m1\n")
    greeting, stored = peer.read_lines(2)
    assert greeting.startswith(b"+OK seq=0 epoch=") and stored == b"+OK"
    epoch = greeting.partition(b" epoch=")[2]
    own_server.stop()
    peer.send(b"PUT messages #2 m2\nPUT messages #3 m3\n")
    assert peer.read_lines(2) == [b"+QUE"] * 2
    first.process.kill()
    first.process.wait()
    peer.close()
    second = Gateway(("--config", "gateway.toml"), folder)
    try:
        other = second.connect("commands")
        other.send(
            b"HELLO t\nHELLO s\nHELLO s seen=3 epoch=%b\n" % epoch
            + b"PUT messages #3 m3\nPUT messages #4 m4\n"
        )
        answers = other.read_lines(5)
        for answer in answers[:2]:
            assert re.match(rb"-TRY DOWN retry=1 :.*how far the stream is", answer)
        assert answers[2:] == [b"+OK seq=3 epoch=" + epoch, b"+DUP", b"+QUE"]
        own_server.restart()
        wait_stored(Database(dsn), 4)
        second.wait_log("spool: empty")
        other.send(b"PUT messages #5 m5\n")
        assert other.read_lines(1) == [b"+OK"]
        other.close()
        assert_quiet(second)
    finally:
        second.end()


MIXED = """
[routes.messages]
table = "messages"
create = true
dead_letter = true
[routes.numbers]
table = "numbers"
format = "json"
conflict = "ignore"
key = ["n"]
returning = ["n"]
[routes.numbers.columns]
n = { field = "n", required = true }
"""


def mixed(number: int) -> bytes:
    """Routes by turns, some messages refused here and some by the database."""
    if number % 3:
        value = b'"x"' if number % 50 == 1 else b"%d" % number
        return b'PUT numbers #%d {"n": %s}' % (number, value)
    return b"PUT messages #%d m%d" % (number, number)


def test_routes_by_turns(
    start_with: StartWith, start_proxy: StartProxy, database: Database
) -> None:
    """
    A stream whose messages go to several routes, some refused, while backends end: each is
    stored or refused once, and in order.
    """
    database.execute("CREATE TABLE numbers (n integer PRIMARY KEY CHECK (n % 100 <> 20))")
    gateway = start_with(COMMANDS + MIXED)
    count = 900
    streamer = Streamer(lambda: gateway.port("commands"), mixed, count)
    streamer.start()
    while streamer.is_alive():
        database.execute(f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS}) b")
        time.sleep(random.random() / 3)  # the moment is the test's point
    streamer.finish()
    refused = [n for n in range(1, count + 1) if n % 3 and (n % 50 == 1 or n % 100 == 20)]
    assert [n for n, a in streamer.answers.items() if a.startswith(b"-REJ")] == refused
    assert database.column("SELECT n FROM numbers ORDER BY n") == [
        n for n in range(1, count + 1) if n % 3 and n not in refused
    ]
    thirds: Sequence[int] = range(3, count + 1, 3)
    assert database.bodies() == [f"m{n}" for n in thirds]
    assert_quiet(gateway)
