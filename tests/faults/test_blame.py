"""
One message costs only itself: what the database says of one row befalls no other, whatever it
says, directly and from the spool.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import psycopg2
import pytest

from tests.faults.look import Start, assert_quiet
from tests.faults.proxy import FaultProxy
from tests.postgres.store.test_blame import CODES, SOME, TRIGGER
from tests.support import Database, Gateway, Peer, wait_until

ROUTES: Final = """
[routes.messages]
table = "messages"
create = true
dead_letter = true
columns = { body = "@frame", peer = "@peer" }
[routes.others]
table = "others"
create = true
columns = { body = "@frame", peer = "@peer" }
"""

Connect = Callable[[Gateway], Peer]

PROMPT: Final = 3.0
"""Seconds in which a route is answered that has nothing to do with what befalls another one."""


def ask(peer: Peer, *lines: str) -> None:
    peer.send("".join(f"{line}\n" for line in lines).encode())


def read(peer: Peer, count: int) -> list[str]:
    """Answers without their texts."""
    return [answer.decode().split(" :")[0] for answer in peer.read_lines(count)]


def says(peer: Peer, *lines: str) -> list[str]:
    """The answers, without their texts."""
    ask(peer, *lines)
    return read(peer, len(lines))


def sqlstates(answers: list[str]) -> list[str]:
    return [answer.partition("sqlstate=")[2] for answer in answers]


def dead_letters(database: Database) -> list[tuple[str, str]]:
    found = database.execute("SELECT frame, sqlstate FROM gateway.dead_letter ORDER BY id")
    return [(bytes(frame).decode(), sqlstate) for frame, sqlstate in found]


def is_prompt(other: Peer) -> bool:
    """Whether a peer of another route is answered as ever."""
    began = time.monotonic()
    other.send(b"PUT others x\n")
    return other.read_lines(1) == [b"+OK"] and time.monotonic() - began < PROMPT


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects peers that speak commands, and closes them."""
    peers: list[Peer] = []

    def connect(gateway: Gateway) -> Peer:
        peers.append(gateway.connect("commands"))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()


@pytest.mark.long
def test_rows_at_fault(database: Database, start_configured: Start, connect: Connect) -> None:
    """Whatever SQLSTATE one message of three raises, together or one by one, it alone is refused
    and a dead letter, and another route is answered as ever."""
    gateway = start_configured(database.dsn, more=ROUTES)
    peer, lone, other = connect(gateway), connect(gateway), connect(gateway)
    assert says(peer, "PUT messages good", "PUT others x") == ["+OK", "+OK"]
    database.execute(TRIGGER)
    for code in SOME:
        three = ["PUT messages good", f"PUT messages bad {code}", "PUT messages good"]
        ask(peer, *three)
        # Beside it, since some errors are waited for.
        ask(lone, three[0])
        alone = read(lone, 1)
        ask(lone, three[1])
        assert is_prompt(other), code
        together = read(peer, 3)
        alone += [*read(lone, 1), *says(lone, three[2])]
        assert sqlstates(together) == sqlstates(alone) == ["", code, ""], code
        assert [answer[:4] for answer in together] == ["+OK", "-REJ", "+OK"]
    assert len(database.bodies()) == 1 + 4 * len(SOME)
    assert dead_letters(database) == [(f"bad {code}", code) for code in SOME for _ in "12"]
    assert_quiet(gateway)
    assert "out of service" not in gateway.log and "lost" not in gateway.log


@pytest.mark.long
def test_rows_at_fault_in_the_spool(
    database: Database,
    start_configured: Start,
    start_proxy: Callable[[str], FaultProxy],
    connect: Connect,
) -> None:
    """The same from the spool, over a restart, where nothing is known of the route: the first of
    all is at fault too. Everything else is stored in order within a minute."""
    proxy = start_proxy(database.dsn)
    gateway = start_configured(proxy.dsn(database.dsn), more=ROUTES)
    peer = connect(gateway)
    assert says(peer, "PUT messages good", "PUT others x") == ["+OK", "+OK"]
    database.execute(TRIGGER)
    proxy.tell("refuse")
    proxy.tell("reset")
    bad = [f"bad {code}" for code in ("XX000", *SOME)]
    for number, body in enumerate(bad):
        for line in (f"PUT messages {body}", f"PUT messages {number}", f"PUT others {number}"):
            assert says(peer, line) == ["+QUE"]
    peer.close()
    gateway.terminate()
    proxy.tell("accept")
    gateway = start_configured(proxy.dsn(database.dsn), more=ROUTES)
    wait_until(lambda: "spool: empty" in gateway.log, "the spool is stored", 60)
    assert database.bodies() == ["good", *map(str, range(len(bad)))]
    assert database.bodies("others") == ["x", *map(str, range(len(bad)))]
    assert sorted(dead_letters(database)) == sorted((body, body[4:]) for body in bad)
    peer = connect(gateway)
    assert says(peer, "PUT messages good") == ["+OK"]
    assert_quiet(gateway)


def test_a_row_at_fault_in_a_stream(
    database: Database, start_configured: Start, connect: Connect
) -> None:
    """In a numbered stream its number is used up, and the stream goes on."""
    gateway = start_configured(database.dsn, more=ROUTES)
    peer = connect(gateway)
    assert says(peer, "HELLO s", "PUT messages #1 good")[1] == "+OK"
    database.execute(TRIGGER)
    lines = [f"PUT messages #{n} bad {code}" for n, code in enumerate(CODES, 2)]
    assert sqlstates(says(peer, *lines)) == list(CODES)
    assert says(peer, f"PUT messages #{len(CODES) + 2} good") == ["+OK"]
    assert database.bodies() == ["good", "good"]
    assert_quiet(gateway)


def test_a_slow_row(database: Database, start_configured: Start, connect: Connect) -> None:
    """A row that takes longer than a statement may is refused after twice that time, and the
    others are stored; the same where its peer would wait for longer than is waited for."""
    gateway = start_configured(database.dsn, "statement_timeout = 1.0", more=ROUTES)
    peer = connect(gateway)
    assert says(peer, "PUT messages good", "PUT others x") == ["+OK", "+OK"]
    database.execute(TRIGGER)
    found = says(peer, "PUT messages 1", "PUT messages slow", "PUT messages 2")
    assert sqlstates(found) == ["", "57014", ""]
    assert database.bodies() == ["good", "1", "2"]
    assert_quiet(gateway)


def test_a_slow_row_that_is_spooled(
    database: Database, start_configured: Start, connect: Connect
) -> None:
    """One that takes longer than an answer may is acknowledged, and becomes a dead letter."""
    gateway = start_configured(
        database.dsn,
        "statement_timeout = 1.5\nanswer_timeout = 0.5",
        more=ROUTES,
    )
    peer = connect(gateway)
    assert says(peer, "PUT messages good", "PUT others x") == ["+OK", "+OK"]
    database.execute(TRIGGER)
    assert says(peer, "PUT messages slow") == ["+QUE"]
    wait_until(lambda: dead_letters(database) == [("slow", "57014")], "it is a dead letter", 60)
    wait_until(lambda: says(peer, "PUT messages more") == ["+OK"], "the spool is empty", 60)
    assert_quiet(gateway)


def test_a_locked_table_holds_nobody_else_up(
    database: Database, start_configured: Start, connect: Connect
) -> None:
    """While a table is locked what is sent to it waits in the spool, and another route is answered
    as ever."""
    gateway = start_configured(
        database.dsn, "statement_timeout = 2.0\nanswer_timeout = 0.5", more=ROUTES
    )
    peer, other = connect(gateway), connect(gateway)
    assert says(peer, "PUT messages good", "PUT others x") == ["+OK", "+OK"]
    locker = psycopg2.connect(database.dsn)
    try:
        locker.cursor().execute("LOCK TABLE messages")
        assert says(peer, *["PUT messages m"] * 3) == ["+QUE"] * 3
        until = time.monotonic() + 3
        while time.monotonic() < until:
            began = time.monotonic()
            assert says(other, "PUT others y") in (["+OK"], ["+QUE"])
            assert time.monotonic() - began < PROMPT
    finally:
        locker.close()
    wait_until(lambda: len(database.bodies()) == 4, "they are stored", 60)
    assert dead_letters(database) == []
    assert_quiet(gateway)
