"""
Faults between peers and the gateway, and what a slow wire does to either side.
"""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import psycopg2
import pytest

from tests.faults.load import ACKNOWLEDGED
from tests.faults.look import Start, assert_quiet, sample, unread, wait_locked_out
from tests.faults.proxy import FaultProxy
from tests.support import LISTEN, Database, Gateway, Peer, wait_until

MiB = 1024 * 1024


@pytest.fixture
def gateway(database: Database, start_gateway: Start) -> Gateway:
    """A gateway with the default settings."""
    return start_gateway("--database", database.dsn, *LISTEN)


def reset(peer: Peer) -> None:
    """Go away with RST."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def lock(database: Database) -> psycopg2.extensions.connection:
    """Stall the database until the connection is closed."""
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    return locker


def test_reset_before_the_answer(gateway: Gateway, database: Database) -> None:
    """
    Number 2: a peer that was cut off before its answer sends the same key again, and gets
    a definite answer; the key is stored once.
    """
    database.execute("CREATE UNIQUE INDEX once ON messages (body)")
    for turn in range(20):
        key = b"key %d\n" % turn
        locker = lock(database)
        first = gateway.connect()
        first.send(key)
        if turn % 2:
            wait_locked_out(database)
        reset(first)
        again = gateway.connect()
        again.send(key)
        locker.close()
        assert again.read_lines(1)[0].startswith((b"+OK", b"+QUE", b"-REJ CONSTRAINT sqlstate=23"))
        again.close()
    keys = [f"key {turn}" for turn in range(20)]
    wait_until(lambda: sorted(database.bodies()) == sorted(keys), "every key is there")
    assert_quiet(gateway)


def test_pipelined_into_a_stall(database: Database, start_configured: Start) -> None:
    """
    Number 7: of 5,000 netstrings sent at once while the database is stalled the gateway
    reads its window and no more than one read beyond; all are answered afterwards.
    """
    window, size, count, one_read = 100, 1000, 5000, 65536
    gateway = start_configured(database.dsn, listener=f"window = {window}")
    locker = lock(database)
    peer = gateway.connect("netstrings")
    frame = b"%d:%%0%dd," % (size, size)
    stream = b"".join(frame % n for n in range(count))
    length = len(frame % 0)
    peer.socket.setblocking(False)
    sent = 0

    def taken() -> int:
        """Bytes that the gateway has read."""
        nonlocal sent
        with suppress(BlockingIOError):
            sent += peer.socket.send(stream[sent:])
        return sent - unread(peer)

    wait_until(lambda: taken() >= window * length, "it has read its window")
    wait_locked_out(database)
    assert max(sample(taken, 0.5)) <= window * length + one_read
    locker.close()
    wait_until(lambda: taken() >= 0 and sent == len(stream), "everything is sent")
    peer.socket.settimeout(60)
    peer.finish()
    assert peer.read_all() in (b"3:+OK," * count, b"4:+QUE," * count)
    peer.close()
    wait_until(
        lambda: [int(body) for body in database.bodies()] == list(range(count)), "all are there"
    )


FAULTS = ("delay 5", "slice 60", "limit 20000")


@pytest.mark.parametrize("leg", ["peers", "database"])
@pytest.mark.parametrize("fault", FAULTS)
def test_slow_wire(
    database: Database,
    start_gateway: Start,
    start_proxy: Callable[[str], FaultProxy],
    leg: str,
    fault: str,
) -> None:
    """
    Number 8: late, in slices or through a thin pipe, on either leg: every message gets its
    own answer, in its own place. A trigger repeats what it refuses, every third message.
    """
    behind = start_proxy(database.dsn) if leg == "database" else None
    dsn = database.dsn if behind is None else behind.dsn(database.dsn)
    gateway = start_gateway("--database", dsn, *LISTEN)
    before = start_proxy(f"tcp:127.0.0.1:{gateway.port('lines')}") if leg == "peers" else None
    port = gateway.port("lines") if before is None else before.port
    database.execute(
        """
        CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF split_part(NEW.body, ' ', 2)::int % 3 = 0 THEN
                RAISE EXCEPTION 'not %', NEW.body;
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER judge BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION judge();
        """
    )
    for proxy in (behind, before):
        if proxy is not None:
            proxy.tell(f"both {fault}")
    peers = [Peer(port) for _ in range(3)]
    for name, peer in enumerate(peers):
        peer.send(b"".join(b"%d %d\n" % (name, n) for n in range(40)))
    for name, peer in enumerate(peers):
        answers = peer.read_lines(40)
        for n, answer in enumerate(answers):
            refusal = b"-REJ CONSTRAINT sqlstate=P0001 :not %d %d" % (name, n)
            assert answer == (b"+OK" if n % 3 else refusal)
        peer.close()
    for name in range(3):
        got = database.column(
            "SELECT body FROM messages WHERE body LIKE %s ORDER BY id", f"{name} %"
        )
        assert got == [f"{name} {n}" for n in range(40) if n % 3]
    assert_quiet(gateway)


def _line(payload: bytes) -> bytes:
    return payload + b"\n"


def _netstring(payload: bytes) -> bytes:
    return b"%d:%s," % (len(payload), payload)


def _octets(payload: bytes) -> bytes:
    return b"%d %s" % (len(payload), payload)


@pytest.mark.parametrize(
    ("listener", "frame"), [("lines", _line), ("netstrings", _netstring), ("octets", _octets)]
)
def test_end_inside_a_frame(
    database: Database,
    start_configured: Start,
    listener: str,
    frame: Callable[[bytes], bytes],
) -> None:
    """Number 12: wherever a stream ends, whole frames are stored and the rest is not."""
    gateway = start_configured(database.dsn)
    stored = []
    for cut in range(1, len(frame(b"second 00")) + 1):
        first, second = b"first %02d" % cut, b"second %02d" % cut
        stored.append(first.decode())
        if cut == len(frame(second)):
            stored.append(second.decode())
        answer = gateway.connect(listener).ask(frame(first) + frame(second)[:cut])
        assert answer == frame(b"+OK") * (2 if cut == len(frame(second)) else 1)
    for _ in range(3):
        peer = gateway.connect(listener)
        peer.send(frame(b"third")[:-1])
        reset(peer)
    assert gateway.connect(listener).ask(frame(b"last")) == frame(b"+OK")
    assert database.bodies() == [*stored, "last"]
    assert_quiet(gateway)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for a thousand connections in this process and in those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_memory_of_a_stall(database: Database, start_configured: Start) -> None:
    """
    Number 41: a thousand peers send messages of the largest size, 128 MB in all, while the
    database is stalled; memory grows by no more than the cap and an overhead that does not
    depend on how much they send, and all are answered afterwards.
    """
    cap, size, count, each = 16 * MiB, 16384, 1000, 8
    # An unfinished frame for each peer, which the cap does not count, and a fixed part: the
    # text of the statements in flight, buffers for reading, the allocator's slack.
    overhead = count * size + 32 * MiB
    gateway = start_configured(
        database.dsn, limits=f"bytes_in_flight = {cap}", listener=f"max_frame = {size}"
    )
    process = psutil.Process(gateway.process.pid)
    peers = [gateway.connect() for _ in range(count)]
    gateway.connect("commands").ask(b"PING\n")
    locker = lock(database)
    before = process.memory_info().rss
    left = dict.fromkeys(peers, (b"x" * size + b"\n") * each)
    for peer in peers:
        peer.socket.setblocking(False)

    def send() -> int:
        for peer, rest in list(left.items()):
            try:
                left[peer] = rest = rest[peer.socket.send(rest) :]
            except BlockingIOError:
                continue
            if not rest:
                del left[peer]
        return process.memory_info().rss

    most = max(sample(send, 2))
    locker.close()
    wait_until(lambda: send() and not left, "everything is sent")
    for peer in peers:
        peer.socket.settimeout(60)
        assert set(peer.read_lines(each)) <= set(ACKNOWLEDGED)
        peer.close()
    assert most - before < cap + overhead
