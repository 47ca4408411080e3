"""
Faults of the spool: damaged, shared, full, and with messages in it that PostgreSQL refuses.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.look import Start, assert_quiet, sample
from tests.faults.proxy import FaultProxy
from tests.support import LISTEN, PATIENCE, Database, Gateway, Peer, TemporaryServer, wait_until

StartProxy = Callable[[str], FaultProxy]

QUICK = "acquire_timeout = 0.2"

DOWN = b"-TRY DOWN retry=1 :the database cannot be reached"

EACH = 50
BATCHES = 40
SPOOLED = [f"{batch} {number}" for batch in range(BATCHES) for number in range(EACH)]


def encoded(bodies: list[str]) -> bytes:
    return "".join(f"{body}\n" for body in bodies).encode()


def put_aside(peer: Peer, bodies: list[str]) -> None:
    """Have messages spooled, fifty at a time, each in a commit of its own."""
    for start in range(0, len(bodies), EACH):
        piece = bodies[start : start + EACH]
        peer.send(encoded(piece))
        assert peer.read_lines(len(piece)) == [b"+QUE"] * len(piece)


def wait_stored(database: Database, bodies: list[str]) -> None:
    """Wait until the table ends with the last message, and hold it against all."""
    wait_until(lambda: database.bodies()[-1:] == bodies[-1:], "the spool is stored")
    assert database.bodies() == bodies


def spool_lines(gateway: Gateway) -> list[str]:
    """What it said of damage."""
    return [
        line
        for line in gateway.log.splitlines()
        if re.search(r"spool: .*(damaged|missing|lost)", line)
    ]


def checkpoint(path: Path) -> None:
    """Have SQLite copy its log to the file."""
    with closing(sqlite3.connect(path)) as spool:
        spool.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 0x5A
    path.write_bytes(data)


def torn_tail(path: Path) -> None:
    log = Path(f"{path}-wal")
    os.truncate(log, log.stat().st_size * 2 // 3)


def flipped_in_the_log(path: Path) -> None:
    log = Path(f"{path}-wal")
    flip(log, log.stat().st_size // 2)


def flipped_in_a_payload(path: Path) -> None:
    checkpoint(path)
    # A message of the middle, as a payload holds it; pages keep some of what was moved.
    flip(path, *(found.start() for found in re.finditer(rb"20 7\xc4", path.read_bytes())))


def removed(path: Path) -> None:
    path.unlink()


def overwritten(path: Path) -> None:
    checkpoint(path)
    path.write_bytes(os.urandom(path.stat().st_size))


@pytest.mark.parametrize(
    "damage", [torn_tail, flipped_in_the_log, flipped_in_a_payload, removed, overwritten]
)
def test_damage(
    damage: Callable[[Path], None],
    tmp_path: Path,
    own_server: TemporaryServer,
    start_configured: Start,
) -> None:
    """
    Number 37: damage between kill -9 and the next start is told in one line that counts it,
    the rest is stored in order and once, a copy is kept, and the spool works again.
    """
    database = Database(own_server.embedded.dsn)
    path = tmp_path / "gateway-data" / "spool.db"
    gateway = start_configured(database.dsn, QUICK)
    own_server.stop()
    peer = gateway.connect()
    put_aside(peer, SPOOLED)
    gateway.process.kill()
    gateway.process.wait()
    peer.close()
    damage(path)
    left = {p.name: p.read_bytes() for p in path.parent.glob("spool.db*")}

    own_server.restart()
    second = start_configured(database.dsn, QUICK)
    assert second.connect().ask(b"and then\n") in (b"+OK\n", b"+QUE\n")
    wait_until(lambda: "and then" in database.bodies(), "everything is stored")
    *stored, last = database.bodies()
    assert last == "and then"
    assert stored == [body for body in SPOOLED if body in set(stored)]
    lost = len(SPOOLED) - len(stored)
    (line,) = spool_lines(second)
    assert str(path) in line
    assert re.search(rf"\b{lost} messages", line), line
    if damage is flipped_in_a_payload:
        assert set(SPOOLED) - set(stored) == set(SPOOLED[20 * EACH : 21 * EACH])
        assert "set aside in its table damaged" in line
    else:
        assert f"{len(stored)} messages are left" in line
        assert (0 < len(stored) < len(SPOOLED)) == (damage in (torn_tail, flipped_in_the_log))
        copy = re.search(r"a copy is kept as (.*)", line)
        assert copy is not None
        suffix = "-wal" if damage in (torn_tail, flipped_in_the_log) else ""
        kept = Path(copy[1] + suffix).read_bytes()
        assert kept == left["spool.db-wal" if damage is removed else f"spool.db{suffix}"]

    # As good as new: another outage, and nothing is told a second time.
    own_server.stop()
    peer = second.connect()
    put_aside(peer, ["again"])
    peer.close()
    assert second.terminate() == 0
    own_server.restart()
    third = start_configured(database.dsn, QUICK)
    wait_stored(database, [*stored, "and then", "again"])
    assert spool_lines(third) == []
    assert_quiet(second)
    assert_quiet(third)
    if damage is flipped_in_a_payload:
        assert third.terminate() == 0
        with closing(sqlite3.connect(path)) as spool:
            assert spool.execute("SELECT sum(rows) FROM damaged").fetchone() == (EACH,)


def test_shared(
    tmp_path: Path, database: Database, start_proxy: StartProxy, start_configured: Start
) -> None:
    """
    Number 37: a second gateway on the same spool ends with status 1 and a line that names
    the first, which goes on spooling and storing.
    """
    proxy = start_proxy(database.dsn)
    first = start_configured(proxy.dsn(database.dsn), QUICK)
    cut(proxy)
    peer = first.connect()
    put_aside(peer, SPOOLED)
    second = Gateway(("--database", database.dsn, *LISTEN), tmp_path)
    try:
        assert second.process.wait(PATIENCE) == 1
    finally:
        second.end()
    path = tmp_path / "gateway-data" / "spool.db"
    (line,) = [line for line in second.log.splitlines() if "another gateway" in line]
    assert f"{path} is in use by another gateway (process {first.process.pid})" in line
    assert "spool.path" in line
    assert_quiet(second)
    put_aside(peer, ["more"])
    mend(proxy)
    wait_stored(database, [*SPOOLED, "more"])
    peer.close()
    assert spool_lines(first) == []
    assert_quiet(first)


def cut(proxy: FaultProxy) -> None:
    """The database is away."""
    proxy.tell("refuse")
    proxy.tell("reset")


def mend(proxy: FaultProxy) -> None:
    proxy.tell("accept")


def fill(peer: Peer, size: int, together: int = 1) -> list[str]:
    """
    Send messages, some at a time, until many are refused for want of room.

    @return: those that were acknowledged.
    """
    kept: list[str] = []
    refused = number = 0
    while refused < 20:
        bodies = [f"{number + n} ".ljust(size, "x") for n in range(together)]
        number += together
        assert number * size < 2**22, "it takes more than it has room for"
        peer.send(encoded(bodies))
        for body, answer in zip(bodies, peer.read_lines(together), strict=True):
            if answer == b"+QUE":
                kept.append(body)
            else:
                assert answer.startswith(DOWN + b", and ")
                refused += 1
    return kept


def assert_takes_again(gateway: Gateway, peer: Peer, outages: int = 1) -> None:
    """After so many outages messages are stored at once, as before them."""
    wait_until(lambda: gateway.log.count("spool: empty, its") == outages, "the spool is stored")
    peer.send(b"after\n")
    assert peer.read_lines(1) == [b"+OK"]


@pytest.mark.parametrize("size", [100, 30_000])
def test_full(
    size: int,
    tmp_path: Path,
    database: Database,
    start_proxy: StartProxy,
    start_configured: Start,
) -> None:
    """
    Number 42: a spool at its limit refuses, for now, before it is larger than it may be;
    what it acknowledged is stored, and there is room again.
    """
    limit = 1024 * 1024
    proxy = start_proxy(database.dsn)
    gateway = start_configured(proxy.dsn(database.dsn), QUICK, more=f"[spool]\nmax_bytes = {limit}")
    path = tmp_path / "gateway-data" / "spool.db"
    peer = gateway.connect()
    expected: list[str] = []

    def on_disk() -> int:
        return sum(p.stat().st_size for p in path.parent.glob("spool.db*") if p.exists())

    for outage in (1, 2):
        cut(proxy)
        # Message by message at first, which is most of the time.
        kept = fill(peer, size, 1 if outage == 1 or size > 100 else 10)
        assert limit / 4 < on_disk() <= limit
        mend(proxy)
        expected += kept
        wait_stored(database, expected)
        assert on_disk() <= limit
        assert_takes_again(gateway, peer, outage)
        expected.append("after")
    peer.close()
    assert gateway.log.count("peers are told to try later") == 2
    assert_quiet(gateway)


NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c")


@pytest.mark.long
@pytest.mark.parametrize(("size", "bad"), [(100, False), (30_000, False), (3000, True)])
def test_disk_full(
    size: int,
    bad: bool,
    tmp_path: Path,
    database: Database,
    start_proxy: StartProxy,
    start_configured: Start,
) -> None:
    """
    Number 42: a spool on a file system without room refuses, for now; what it acknowledged
    is stored, be there refused messages among it, and there is room again.
    """
    folder = tmp_path / "small"
    folder.mkdir()
    proxy = start_proxy(database.dsn)
    script = f'mount -t tmpfs -o size=2m tmpfs {folder} && exec "$0" "$@"'
    gateway = start_configured(
        proxy.dsn(database.dsn),
        QUICK,
        more=f'[spool]\npath = "{folder}/spool.db"',
        wrapper=(*NAMESPACE, script),
    )
    if bad:
        database.execute("ALTER TABLE messages ADD CHECK (split_part(body, ' ', 1) NOT LIKE '%7')")
    peer = gateway.connect()
    expected: list[str] = []
    for outage in (1, 2):
        cut(proxy)
        kept = fill(peer, size, 20 if bad else 10 if size == 100 else 1)
        assert len(kept) * size > 2**20 / 4 or size == 100
        mend(proxy)
        expected += [body for body in kept if not bad or not body.split()[0].endswith("7")]
        assert_takes_again(gateway, peer, outage)
        expected.append("after")
        assert database.bodies() == expected
    peer.close()
    assert gateway.log.count("peers are told to try later") == 2
    assert_quiet(gateway)


def test_refusing(
    tmp_path: Path, database: Database, start_proxy: StartProxy, start_configured: Start
) -> None:
    """With on_outage = "refuse" peers are told to try later, and no spool is made."""
    proxy = start_proxy(database.dsn)
    gateway = start_configured(proxy.dsn(database.dsn), QUICK, more='[spool]\non_outage = "refuse"')
    peer = gateway.connect()
    cut(proxy)
    peer.send(b"one\ntwo\n")
    assert peer.read_lines(2) == [DOWN, DOWN]
    mend(proxy)

    def taken() -> bool:
        peer.send(b"three\n")
        return peer.read_lines(1) == [b"+OK"]

    wait_until(taken, "it stores again")
    peer.close()
    assert database.bodies() == ["three"]
    assert gateway.terminate() == 0
    assert not list(tmp_path.rglob("spool.db*"))
    assert_quiet(gateway)


def test_stopped_in_an_outage(
    database: Database, start_proxy: StartProxy, start_configured: Start
) -> None:
    """SIGTERM in an outage: status 0 in time, the log counts what stays, a start stores it."""
    proxy = start_proxy(database.dsn)
    gateway = start_configured(proxy.dsn(database.dsn), QUICK, limits="drain_timeout = 5")
    cut(proxy)
    peer = gateway.connect()
    put_aside(peer, SPOOLED)
    peer.close()
    gateway.process.terminate()
    assert gateway.process.wait(8) == 0
    assert f"spool: {len(SPOOLED)} messages stay in " in gateway.log
    mend(proxy)
    again = start_configured(proxy.dsn(database.dsn), QUICK)
    again.wait_log(f"spool: {len(SPOOLED)} messages in .* are stored first")
    wait_stored(database, SPOOLED)
    assert_quiet(gateway)
    assert_quiet(again)


def test_bad_messages(database: Database, start_proxy: StartProxy, start_configured: Start) -> None:
    """
    What is refused after +QUE becomes a dead letter that says why and whose it was; all
    else is stored in order.
    """
    proxy = start_proxy(database.dsn)
    gateway = start_configured(proxy.dsn(database.dsn), QUICK)
    database.execute("ALTER TABLE messages ADD CONSTRAINT few CHECK (body <> '1 13')")
    cut(proxy)
    peer = gateway.connect()
    name = peer.name
    put_aside(peer, SPOOLED[:100])
    peer.send(b"before\nnot text \xff\xfe\nbehind\n")
    assert peer.read_lines(3) == [b"+QUE"] * 3
    mend(proxy)
    good = [body for body in SPOOLED[:100] if body != "1 13"]
    wait_stored(database, [*good, "before", "behind"])
    assert [
        (*row, bytes(frame))
        for *row, frame in database.execute(
            "SELECT sqlstate, error, peer, listener, route, attempts, received_at <= now(), frame"
            " FROM gateway.dead_letter ORDER BY id"
        )
    ] == [
        (
            "23514",
            'new row for relation "messages" violates check constraint "few"',
            *(name, "lines", "messages", 1, True, b"1 13"),
        ),
        (
            None,
            "not UTF-8: invalid start byte at byte 9",
            *(name, "lines", "messages", 1, True, b"not text \xff\xfe"),
        ),
    ]
    gateway.wait_log("2 refused and kept as dead letters")
    assert_takes_again(gateway, peer)
    peer.close()
    assert_quiet(gateway)


TWO_ROUTES = """
[routes.messages]
table = "messages"
create = true
[routes.other]
table = "other"
columns = { body = "@frame" }
"""


def test_a_table_dropped_in_an_outage(
    database: Database, start_proxy: StartProxy, start_configured: Start
) -> None:
    """A route whose table is gone keeps its messages, other routes go on, and it heals."""
    table = "CREATE TABLE other (id bigserial, body text)"
    database.execute(table)
    proxy = start_proxy(database.dsn)
    gateway = start_configured(proxy.dsn(database.dsn), QUICK, more=TWO_ROUTES)
    peer = gateway.connect("commands")
    cut(proxy)
    bodies = [str(number) for number in range(20)]
    for body in bodies:
        peer.send(f"PUT other {body}\r\nPUT messages {body}\r\n".encode())
    assert peer.read_lines(40) == [b"+QUE\r"] * 40
    database.execute("DROP TABLE other")
    mend(proxy)
    wait_stored(database, bodies)
    gateway.wait_log('route other: out of service.*"other"')
    peer.send(b"PUT other late\r\nPUT messages late\r\n")
    refused, stored = peer.read_lines(2)
    assert refused.startswith(b"-TRY ROUTE") and stored == b"+OK\r"
    # Looked at for a while: no line for each attempt.
    assert max(sample(lambda: gateway.log.count("route other"), 1)) == 1
    database.execute(table)
    wait_until(lambda: database.bodies("other") == bodies, "it heals")
    gateway.wait_log("spool: empty, its 40 messages are stored")

    def taken() -> bool:
        peer.send(b"PUT other new\r\n")
        return peer.read_lines(1) == [b"+OK\r"]

    wait_until(taken, "it stores again")
    assert database.bodies("other") == [*bodies, "new"]
    peer.close()
    assert_quiet(gateway)


def test_a_folder_that_vanishes(
    tmp_path: Path, database: Database, start_proxy: StartProxy, start_configured: Start
) -> None:
    """
    Where the data directory is removed under it, nothing is acknowledged that a start would not
    find: peers are told to try later, the log says why in one line, and when the folder is there
    again the spool is made again, with what it held.
    """
    proxy = start_proxy(database.dsn)
    gateway = start_configured(proxy.dsn(database.dsn), QUICK)
    folder = tmp_path / "gateway-data"
    peer = gateway.connect()
    cut(proxy)
    put_aside(peer, SPOOLED[:EACH])
    shutil.rmtree(folder)
    for _ in range(3):
        peer.send(b"lost\n")
        assert peer.read_lines(1)[0].startswith(DOWN + b", and the spool's file is gone")
    folder.mkdir(mode=0o700)
    peer.send(encoded(SPOOLED[EACH : 2 * EACH]))
    assert peer.read_lines(EACH) == [b"+QUE"] * EACH
    assert gateway.log.count("peers are told to try later") == 1
    assert gateway.log.count("No such file or directory); make its folder again") == 1
    assert f"spool.db was removed while the gateway ran; it is made again, with the {EACH}" in (
        gateway.log
    )
    peer.close()
    gateway.process.kill()
    gateway.process.wait()
    assert "Traceback" not in gateway.log
    mend(proxy)
    again = start_configured(proxy.dsn(database.dsn), QUICK)
    wait_stored(database, SPOOLED[: 2 * EACH])
    assert "damaged" not in again.log and "lost" not in again.log
