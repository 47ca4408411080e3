"""
Routes whose answers differ from row to row, and faults between the gateway and the server.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable

import pytest

from tests.faults.proxy import FaultProxy
from tests.support import Database, Gateway

StartWith = Callable[..., Gateway]
StartProxy = Callable[[str], FaultProxy]

TABLES = """
    CREATE TABLE readings (
        id bigint GENERATED ALWAYS AS IDENTITY, n integer CHECK (n <> 13), UNIQUE (n)
    );
    CREATE TABLE alarms (id bigint GENERATED ALWAYS AS IDENTITY, n integer);
"""

SECTIONS = """
acquire_timeout = 1.0
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route_by = "kind"
window = 10_000
[listeners.lines.routes]
plain = "plain"
alarm = "alarms"
ignore = "ignore"
own = "own"
[routes.plain]
table = "readings"
format = "json"
dead_letter = true
[routes.plain.columns]
n = "n"
[routes.alarms]
table = "alarms"
format = "json"
[routes.alarms.columns]
n = "n"
[routes.ignore]
table = "readings"
format = "json"
conflict = "ignore"
key = ["n"]
returning = ["id"]
[routes.ignore.columns]
n = "n"
[routes.own]
sql = "INSERT INTO readings (n) VALUES (%(n)s) RETURNING id"
format = "json"
returning = ["id"]
"""


def message(kind: str, n: int) -> bytes:
    return json.dumps({"kind": kind, "n": n}).encode() + b"\n"


@pytest.mark.parametrize(
    ("kinds", "numbers", "pattern"),
    [
        # Several routes in one commit.
        (["plain", "alarm"], range(100, 300), "gateway.advance"),
        # A block that leaves out the rows at fault.
        (["plain"], range(200), "gw_block"),
        # Duplicates and values, worked out in the statement, then in a block.
        (["ignore"], [n % 50 for n in range(100, 300)], "EXECUTE"),
        (["ignore"], [n % 50 for n in range(200)], "gw_block"),
        (["own"], [n % 150 for n in range(200)], "gw_block"),
    ],
    ids=["together", "refused", "duplicates", "refused-duplicates", "own"],
)
def test_a_reply_is_lost(
    start_with: StartWith,
    start_proxy: StartProxy,
    database: Database,
    kinds: list[str],
    numbers: list[int],
    pattern: str,
) -> None:
    """
    Number 23, where each row has its own answer: what was committed when its reply was lost
    is told as it would have been, row by row.
    """
    database.execute(TABLES)
    proxy = start_proxy(database.dsn)
    peer = start_with(SECTIONS, proxy.dsn(database.dsn)).connect()
    for kind in dict.fromkeys(kinds):
        peer.send(message(kind, 1_000_000 + len(kind)))
        assert peer.read_lines(1)[0].startswith(b"+OK")
    proxy.tell(f"drop-reply-to {pattern}")
    sent = [(kinds[place % len(kinds)], n) for place, n in enumerate(numbers)]
    peer.send(b"".join(message(*each) for each in sent))
    proxy.wait_event("dropped-reply")
    answers = peer.read_lines(len(sent))
    ids = dict(database.execute("SELECT n, id FROM readings WHERE n < 1_000_000"))
    seen: set[int] = set()
    for (kind, n), answer in zip(sent, answers, strict=True):
        if kind == "alarm":
            assert answer == b"+OK"
        elif n == 13:
            assert answer.startswith(b"-REJ CONSTRAINT sqlstate=23514 :")
        elif n in seen:
            wanted = b"+DUP" if kind == "ignore" else b"-REJ CONSTRAINT sqlstate=23505 :"
            assert answer.startswith(wanted)
        else:
            assert answer == (b"+OK" if kind == "plain" else b"+OK id=%d" % ids[n])
            seen.add(n)
    assert ids.keys() == seen
    alarms = [n for kind, n in sent if kind == "alarm"]
    assert database.column("SELECT n FROM alarms WHERE n < 1_000_000 ORDER BY id") == alarms
    peer.close()


@pytest.mark.long
def test_backends_terminated_all_the_time(start_with: StartWith, database: Database) -> None:
    """
    Number 21, with several routes in each commit: whatever ends a backend, each message is
    stored once, and its answer is its own.
    """
    database.execute(TABLES)
    gateway = start_with(SECTIONS + '[spool]\non_outage = "refuse"\n', None)
    stop = threading.Event()
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'gateway' AND random() < 0.5"
    )

    def terminate() -> None:
        while not stop.is_set():
            database.execute(kill)
            time.sleep(0.04)

    killer = threading.Thread(target=terminate)
    killer.start()
    chance = random.Random(7)
    kinds = ["plain", "alarm", "ignore", "own"]
    sent = [(chance.choice(kinds), n) for n in range(100, 3100)]
    peer = gateway.connect()
    try:
        for start in range(0, len(sent), 500):
            left = sent[start : start + 500]
            while left:
                peer.send(b"".join(message(*each) for each in left))
                answers = peer.read_lines(len(left))
                assert all(a.startswith((b"+OK", b"-TRY")) for a in answers), set(answers)
                left = [m for m, a in zip(left, answers, strict=True) if a.startswith(b"-TRY")]
    finally:
        stop.set()
        killer.join()
    stored = database.column("SELECT n FROM readings UNION ALL SELECT n FROM alarms")
    assert sorted(stored) == [n for _, n in sent]
    assert gateway.log.count("Traceback") == 0
    peer.close()
