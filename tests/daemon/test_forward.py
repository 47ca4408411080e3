"""
Forward protocol with a real database: what is refused is kept, and each fault is one line.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from hashlib import sha512
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from tests.faults.look import assert_quiet
from tests.support import PATIENCE, Database, Gateway

CONFIG: Final = """
[listeners.forward]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "forward"
{listener}
[routes.logs]
table = "logs"
format = "json"
dead_letter = true
create = true
columns = {{ tag = "@tag", time = "@time", number = "number", record = "@frame" }}
[routes.logs.create_columns]
id = "bigint generated always as identity primary key"
tag = "text not null"
time = "timestamptz not null"
number = "integer"
record = "jsonb not null"
[routes.audit]
table = "audit"
format = "json"
dead_letter = true
create = true
columns = {{ number = "number" }}
[routes.audit.create_columns]
number = "integer primary key"
"""

Start = Callable[..., Gateway]


def say(gateway: Gateway, *frames: bytes) -> bytes:
    """
    @return: all that was answered until the gateway or we ended.
    """
    with socket.create_connection(("127.0.0.1", gateway.port("forward")), PATIENCE) as peer:
        peer.sendall(b"".join(frames))
        peer.shutdown(socket.SHUT_WR)
        said = b""
        while data := peer.recv(65536):
            said += data
    return said


def chunk(*entries: Any, tag: str = "app", name: str = "c1", **options: Any) -> bytes:
    packed = b"".join(e if isinstance(e, bytes) else msgpack.packb(e) for e in entries)
    return bytes(msgpack.packb([tag, packed, {"chunk": name, **options}]))


def dead(database: Database) -> list[tuple[bytes, str]]:
    """Dead letters, with what was said of them."""
    rows = database.execute("SELECT frame, error FROM gateway.dead_letter ORDER BY id")
    return [(bytes(frame), reason) for frame, reason in rows]


def test_what_is_refused_is_kept(start_with: Start, database: Database) -> None:
    """Of a chunk the good records are stored, each other one is a dead letter, and the chunk is
    acknowledged once all of it is."""
    gateway = start_with(CONFIG.format(listener='route = "logs"\nmax_frame = 200'))
    entries = [
        [1, {"number": 1}],
        [2, {"number": "many"}],
        b"\x92\x03\x81\xa1a\xa2\xff\xfe",
        [4, {"a": msgpack.ExtType(7, b"x")}],
        [5, {"a": "x" * 300}],
        "no entry",
        [1_700_000_000_000, {"number": 7}],
        [8, {"number": 8}],
    ]
    assert msgpack.unpackb(say(gateway, chunk(*entries))) == {"ack": "c1"}
    assert database.column("SELECT number FROM logs ORDER BY id") == [1, 7, 8]
    # Seconds of a year that no calendar has were milliseconds.
    assert database.column("SELECT extract(year FROM time) FROM logs WHERE number = 7") == [2023]
    letters = dict(dead(database))
    begin = b'{"@tag":"app","@time":"1970-01-01T00:00:0%dZ",'
    said = {
        begin % 2 + b'"number":"many"}': "number",
        begin % 3 + b'"a":"\xff\xfe"}': "not JSON: not UTF-8",
        begin % 5 + b'"a":"%b"}' % (b"x" * 300): "longer than max_frame|too long",
        msgpack.packb("no entry"): "not JSON",
    }
    (packed,) = letters.keys() - said.keys()
    assert msgpack.unpackb(packed) == {
        "@tag": "app",
        "@time": "1970-01-01T00:00:04Z",
        "a": msgpack.ExtType(7, b"x"),
    }
    for frame, words in {**said, packed: "not JSON"}.items():
        assert re.search(words, letters[frame]), (frame, letters[frame])
    assert_quiet(gateway)


def test_a_route_of_messagepack_gets_records_as_they_are(
    start_with: Start, database: Database
) -> None:
    """Binary data reaches a column of bytea byte for byte, where the route reads MessagePack."""
    config = CONFIG.format(listener='route = "logs"')
    config = config.replace('format = "json"', 'format = "msgpack"', 1)
    config = config.replace('record = "@frame"', 'raw = "raw"')
    gateway = start_with(config.replace('record = "jsonb not null"', 'raw = "bytea"'))
    raw = bytes(range(256))
    sent = chunk(
        [1, {"number": 1, "raw": raw}], [[2, {"m": 1}], {"raw": b""}], [3, {"number": "x"}]
    )
    assert msgpack.unpackb(say(gateway, sent)) == {"ack": "c1"}
    rows = database.execute(
        "SELECT tag, extract(epoch FROM time), number, raw FROM logs ORDER BY id"
    )
    assert [(*row, bytes(value)) for *row, value in rows] == [
        ("app", 1, 1, raw),
        ("app", 2, None, b""),
    ]
    ((letter, _),) = dead(database)
    assert msgpack.unpackb(letter)["number"] == "x"
    assert_quiet(gateway)


def test_a_chunk_over_two_routes_is_one(start_with: Start, database: Database) -> None:
    """The tag chooses the route, or a field; a chunk of both is stored as one, and once."""
    listener = 'route = "logs"\nroute_by = "kind"\n[listeners.forward.routes]\naudit = "audit"'
    gateway = start_with(CONFIG.format(listener=listener))
    sent = chunk(
        [1, {"number": 1}],
        [1, {"number": 2, "kind": "audit"}],
        [1, {"number": 3}],
        [1, {"number": 2, "kind": "audit"}],
    )
    for _ in range(2):
        assert msgpack.unpackb(say(gateway, sent)) == {"ack": "c1"}
    assert database.column("SELECT number FROM logs ORDER BY id") == [1, 3]
    assert database.column("SELECT number FROM audit") == [2]
    assert len(dead(database)) == 1
    assert_quiet(gateway)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b'["app",1,{}]', "forward: JSON text"),
        (chunk(b"", fluent_signal=1), "forward: metrics .* only logs are taken"),
        (chunk(b"", compressed="zstd"), "forward: compressed = 'zstd'; only gzip is read"),
        (chunk(b"\xc1"), "record 1 of a chunk is not MessagePack"),
        (chunk(b"x" * 5000), "a chunk is over max_chunk, 4000 bytes"),
    ],
)
def test_a_fault_is_one_line(
    start_with: Start, database: Database, frame: bytes, words: str
) -> None:
    """What is no chunk of logs is not acknowledged, and the log says why in one line."""
    gateway = start_with(CONFIG.format(listener='route = "logs"\nmax_chunk = 4000'))
    good = chunk([1, {"number": 1}])
    assert msgpack.unpackb(say(gateway, good, frame)) == {"ack": "c1"}
    gateway.wait_log(words)
    assert len(re.findall(words, gateway.log)) == 1, gateway.log
    assert database.column("SELECT number FROM logs") == [1]
    assert_quiet(gateway)


def handshake(peer: socket.socket, password: str) -> bool:
    """
    @return: whether ann is let in.
    """
    _, options = msgpack.unpackb(peer.recv(1000))
    key = sha512(b"s" + b"host" + options["nonce"] + b"a key").hexdigest()
    proof = sha512(options["auth"] + b"ann" + password.encode()).hexdigest()
    peer.sendall(msgpack.packb(["PING", "host", "s", key, "ann", proof]))
    return bool(msgpack.unpackb(peer.recv(1000))[1])


def test_a_reload_takes_over_other_users(start_with: Start, tmp_path: Path) -> None:
    """With SIGHUP another password is in force, and who knew the old one is disconnected."""
    (tmp_path / "key").write_text("a key")
    (tmp_path / "users").write_text("ann:old\nben:b")
    keys = 'route = "logs"\nshared_key_file = "key"\nusers_file = "users"'
    gateway = start_with(CONFIG.format(listener=keys))
    address = ("127.0.0.1", gateway.port("forward"))
    with socket.create_connection(address, PATIENCE) as peer:
        assert handshake(peer, "old")
        peer.sendall(chunk([1, {"number": 1}]))
        assert msgpack.unpackb(peer.recv(100)) == {"ack": "c1"}
        (tmp_path / "users").write_text("ann:new\nben:b")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_log("listener forward: shared key or users changed")
        assert peer.recv(100) == b""
    for password in ("old", "new"):
        with socket.create_connection(address, PATIENCE) as peer:
            assert handshake(peer, password) == (password == "new")
    assert_quiet(gateway)


def test_who_does_not_know_the_key_is_named(start_with: Start, tmp_path: Path) -> None:
    """A sender with another key, or with none, is one line with what it calls itself."""
    (tmp_path / "key").write_text("a key")
    gateway = start_with(CONFIG.format(listener='route = "logs"\nshared_key_file = "key"'))
    said = say(gateway, msgpack.packb(["PING", "web-1", "salt", "0" * 128, "", ""]))
    unpacker = msgpack.Unpacker()
    unpacker.feed(said)
    assert [one[0] for one in unpacker] == ["HELO", "PONG"]
    gateway.wait_log("shared_key mismatch.*'web-1'")
    say(gateway, chunk([1, {"number": 1}]))
    gateway.wait_log("no PING came; this listener asks for a shared key")
    assert_quiet(gateway)
