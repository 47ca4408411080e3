"""
Forward protocol in memory: what is acknowledged is stored, once, and nothing else is.
"""

from __future__ import annotations

import struct
from hashlib import sha512
from typing import Any, Final

import msgpack
import pytest

from gateway.access.grants import AccessSection, GrantSection
from gateway.dialects.forward import ForwardReader
from gateway.dialects.plain import PlainDialect
from gateway.model.errors import Unavailable
from gateway.model.outcome import Code
from gateway.wire.forward_handshake import HandshakeSecrets
from tests.in_memory import Bench

DEAD: Final = frozenset({"messages"})

TIME: Final = msgpack.ExtType(0, struct.pack(">II", 1_790_000_000, 5))

KEY: Final = b"a shared key"


def bench(**given: Any) -> Bench:
    settings = {"max_frame": 1000, "remember_chunks": 60.0, "dead_letters": DEAD, **given}
    return Bench("forward", reader=ForwardReader, **settings)


def chunk(*texts: str, name: str | bytes | None = "c1", tag: str = "app") -> bytes:
    options = {} if name is None else {"chunk": name}
    entries = b"".join(msgpack.packb([TIME, {"a": text}]) for text in texts)
    return bytes(msgpack.packb([tag, entries, options]))


def record(text: str, tag: str = "app") -> bytes:
    return b'{"@tag":"%b","@time":"2026-09-21T14:13:20.000000005Z","a":"%b"}' % (
        tag.encode(),
        text.encode(),
    )


def acks(said: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(said)
    return list(unpacker)


def stored(one: Bench) -> list[bytes]:
    return [frame for _, frame in one.store.rows]


def test_nothing_is_acknowledged_before_the_commit() -> None:
    """The acknowledgement follows the commit, and has the chunk's id."""
    one = bench()
    one.peer.dataReceived(chunk("x", "y"))
    assert one.said == b""
    assert one.store.waiting_writes == 1
    one.commit_all()
    assert one.said == msgpack.packb({"ack": "c1"})
    assert stored(one) == [record("x"), record("y")]
    assert not one.transport.disconnecting


def test_a_chunk_of_any_mode_is_acknowledged_once() -> None:
    """A message, a Forward chunk and a packed one behind each other have one answer each."""
    one = bench(held=False)
    one.peer.dataReceived(
        msgpack.packb(["app", TIME, {"a": "1"}, {"chunk": "m"}])
        + msgpack.packb(["app", [[TIME, {"a": "2"}], [TIME, {"a": "3"}]], {"chunk": b"f"}])
        + chunk("4", name="p")
        + msgpack.packb(["app", [], {"chunk": "e"}])
        + b"\xc0"
    )
    assert acks(one.said) == [{"ack": "m"}, {"ack": b"f"}, {"ack": "p"}, {"ack": "e"}]
    assert stored(one) == [record(text) for text in "1234"]


def test_without_an_id_nothing_is_said() -> None:
    """Chunks without an id are stored in one commit for a read, and not acknowledged."""
    one = bench(held=False)
    one.peer.dataReceived(chunk("1", name=None) + chunk("2", name=None, tag="b"))
    assert one.said == b""
    assert stored(one) == [record("1"), record("2", "b")]
    assert one.store.writes == [2]


def test_records_without_an_id_are_stored_together() -> None:
    """Single records of one read, of whatever tags, are one commit, in their order."""
    one = bench(held=False)
    tags = ["a", "a", "b", "a", "b", "b"]
    one.peer.dataReceived(
        b"".join(msgpack.packb([tag, TIME, {"a": str(n)}]) for n, tag in enumerate(tags))
        + chunk("6", name=None)
        + msgpack.packb(["c", TIME, {"a": "7"}])
    )
    assert stored(one) == [record(str(n), tag) for n, tag in enumerate([*tags, "app", "c"])]
    assert one.store.writes == [8]


def test_order_is_kept_between_kinds() -> None:
    """What stands before a chunk with an id is stored before it, what stands behind after it."""
    one = bench(held=False)
    one.peer.dataReceived(
        chunk("1", name=None) + chunk("2") + chunk("3", name=None) + chunk("4", name="c2")
    )
    assert stored(one) == [record(text) for text in "1234"]
    assert acks(one.said) == [{"ack": "c1"}, {"ack": "c2"}]


def test_a_chunk_sent_again_is_stored_once() -> None:
    """The same chunk over another connection is acknowledged again, and not stored again."""
    one = bench(held=False)
    one.peer.dataReceived(chunk("1"))
    peer, transport = one.connect()
    peer.dataReceived(chunk("1"))
    assert acks(transport.value()) == [{"ack": "c1"}]
    assert stored(one) == [record("1")]


@pytest.mark.parametrize(
    "other",
    [
        chunk("2"),
        chunk("1", name="c2"),
        chunk("1", name=b"c1"),
        chunk("1", tag="other"),
        chunk("1", "1"),
    ],
    ids=["content", "id", "type of the id", "tag", "length"],
)
def test_another_chunk_is_another(other: bytes) -> None:
    """A chunk that differs in its tag, its id or its content is none that was stored."""
    one = bench(held=False)
    one.peer.dataReceived(chunk("1") + other)
    assert len(acks(one.said)) == 2
    assert len(stored(one)) > 1


def test_compression_does_not_count() -> None:
    """A chunk is the same however it was compressed: Ruby's gzip writes the time into it."""
    import gzip

    one = bench(held=False)
    entries = msgpack.packb([TIME, {"a": "1"}])
    for time in (1, 2):
        packed = gzip.compress(entries, mtime=time)
        one.peer.dataReceived(msgpack.packb(["app", packed, {"chunk": "c1", "compressed": "gzip"}]))
    one.peer.dataReceived(chunk("1"))
    assert acks(one.said) == [{"ack": "c1"}] * 3
    assert stored(one) == [record("1")]


def test_chunks_need_not_be_remembered() -> None:
    """With remember_chunks = 0 a chunk that is sent again is stored again."""
    one = bench(held=False, remember_chunks=0.0)
    one.peer.dataReceived(chunk("1") * 2)
    assert acks(one.said) == [{"ack": "c1"}] * 2
    assert stored(one) == [record("1")] * 2


def test_a_refused_record_is_kept_and_acknowledged() -> None:
    """A record that the database refuses is a dead letter, and its chunk is acknowledged."""
    one = bench(held=False)
    one.store.poison.add(b"bad")
    one.peer.dataReceived(chunk("1", "bad", "2"))
    assert acks(one.said) == [{"ack": "c1"}]
    assert stored(one) == [record("1"), record("2")]
    assert [frame for frame, _ in one.store.dead_letters] == [record("bad")]


def test_a_record_that_is_too_long_is_kept() -> None:
    """A record over max_frame is a dead letter, whole; the others of its chunk are stored."""
    one = bench(held=False, max_frame=50)
    one.peer.dataReceived(chunk("1", "x" * 60, "2"))
    assert acks(one.said) == [{"ack": "c1"}]
    assert stored(one) == [record("1"), record("2")]
    assert [(frame, fate.code) for frame, fate in one.store.dead_letters] == [
        (record("x" * 60), Code.TOOBIG)
    ]


def test_what_is_not_stored_is_not_acknowledged() -> None:
    """Where the database is away nothing is said, and the connection ends; nothing behind it is
    stored."""
    one = bench(held=False)
    one.store.failures.append(Unavailable("away"))
    one.peer.dataReceived(chunk("1") + chunk("2", name="c2"))
    one.wait(1)
    assert one.said == b""
    assert stored(one) == []
    assert one.transport.disconnecting


def test_a_fault_ends_the_connection_after_what_was_before() -> None:
    """Garbage behind a chunk ends the connection, when the chunk is stored and acknowledged."""
    one = bench()
    one.peer.dataReceived(chunk("1") + b"GET / HTTP/1.1\r\n")
    assert not one.transport.disconnecting
    one.commit_all()
    assert acks(one.said) == [{"ack": "c1"}]
    assert one.transport.disconnecting


@pytest.mark.parametrize(
    "bad",
    [
        msgpack.packb(["app", b"\xc1", {"chunk": "b"}]),
        msgpack.packb(["app", b"", {"chunk": "b", "fluent_signal": 1}]),
        msgpack.packb(["app", b"x" * 20_000]),
        msgpack.packb([1]),
    ],
    ids=["broken entries", "metrics", "over max_chunk", "no chunk"],
)
def test_what_is_no_chunk_is_not_acknowledged(bad: bytes) -> None:
    """A frame that is no chunk of logs ends the connection; what came before it is stored."""
    one = bench(held=False)
    first = msgpack.packb(["app", TIME, {"a": "0"}]) + chunk("1", name=None)
    one.peer.dataReceived(first + bad + chunk("2", name="c2"))
    assert one.said == b""
    assert stored(one) == [record("0"), record("1")]
    assert one.transport.disconnecting


def test_a_peer_that_is_told_to_go_sends_the_rest_again() -> None:
    """While the gateway stops, a chunk in flight is acknowledged, and none behind it is begun."""
    from gateway.model.wording import LISTENER_CLOSES

    one = bench()
    one.peer.dataReceived(chunk("1") + chunk("2", name="c2"))
    one.factory.close_all(LISTENER_CLOSES)
    one.commit_all()
    assert acks(one.said) == [{"ack": "c1"}]
    assert stored(one) == [record("1")]
    assert one.transport.disconnecting


def test_a_long_chunk_lets_others_have_their_turn() -> None:
    """A chunk of many thousand records is made in steps, between which time passes for others."""
    one = bench(held=False, max_chunk=10**6)
    entries = msgpack.packb([1, {}]) * 20_000
    one.peer.dataReceived(msgpack.packb(["app", entries, {"chunk": "c1"}]))
    assert not one.store.rows
    one.wait(0.2)
    assert len(one.store.rows) == 20_000
    assert acks(one.said) == [{"ack": "c1"}]


# The handshake.


def sha(*parts: bytes) -> str:
    return sha512(b"".join(parts)).hexdigest()


def ping(said: bytes, key: bytes = KEY, user: str = "", password: str = "") -> bytes:
    (helo,) = acks(said)
    assert helo[0] == "HELO"
    nonce, salt = helo[1]["nonce"], helo[1]["auth"]
    proof = sha(salt, user.encode(), password.encode()) if salt else ""
    return bytes(msgpack.packb(["PING", "host", "s", sha(b"s", b"host", nonce, key), user, proof]))


def test_the_handshake_comes_first() -> None:
    """A listener with a shared key speaks first, and takes chunks behind the right answer."""
    one = bench(held=False, handshake=HandshakeSecrets(KEY))
    one.peer.dataReceived(ping(one.said) + chunk("1"))
    _, pong, ack = acks(one.said)
    assert (pong[0], pong[1], ack) == ("PONG", True, {"ack": "c1"})
    assert stored(one) == [record("1")]


@pytest.mark.parametrize("first", ["ping", "chunk"])
def test_without_the_key_nothing_is_stored(first: str) -> None:
    """A wrong key is told in words, a missing handshake ends the connection; both store nothing."""
    one = bench(held=False, handshake=HandshakeSecrets(KEY))
    one.peer.dataReceived((ping(one.said, b"other") if first == "ping" else b"") + chunk("1"))
    assert not one.store.rows
    assert one.transport.disconnecting
    if first == "ping":
        assert acks(one.said)[1] == ["PONG", False, "shared_key mismatch", "", ""]


ACCESS: Final = AccessSection(
    grants={"ann": GrantSection(identities=("ann",), routes=("messages",))}
)


@pytest.mark.parametrize(
    ("user", "password", "is_let_in"),
    [("ann", "pa", True), ("ann", "pb", False), ("ben", "pb", False), ("", "", False)],
)
def test_a_user_has_the_rights_of_its_name(user: str, password: str, is_let_in: bool) -> None:
    """A user's name is its identity, by which grants say what it may do."""
    secrets = HandshakeSecrets(KEY, {"ann": b"pa", "ben": b"pb"})
    one = bench(held=False, handshake=secrets, access=ACCESS, proves=True)
    one.peer.dataReceived(ping(one.said, KEY, user, password) + chunk("1"))
    assert bool(one.store.rows) == is_let_in
    assert one.transport.disconnecting != is_let_in
    if is_let_in:
        assert one.peer.peer_info.identity == "ann"
        assert one.peer.peer_info.proof == "a password"


def test_a_user_is_the_same_from_anywhere() -> None:
    """A user's chunk is known from whatever address it comes again; another user's is another."""
    secrets = HandshakeSecrets(KEY, {"ann": b"pa", "ben": b"pb"})
    one = bench(held=False, handshake=secrets, proves=True)
    for user in ("ann", "ben", "ann"):
        peer, transport = one.connect()
        peer.dataReceived(ping(transport.value(), KEY, user, f"p{user[0]}") + chunk("1"))
        assert acks(transport.value())[-1] == {"ack": "c1"}
    assert stored(one) == [record("1")] * 2


@pytest.mark.parametrize(
    ("after", "stays"),
    [
        (HandshakeSecrets(KEY, {"ann": b"pa"}), True),
        (HandshakeSecrets(KEY, {"ann": b"new"}), False),
        (HandshakeSecrets(KEY, {"ben": b"pb"}), False),
        (HandshakeSecrets(b"new", {"ann": b"pa", "ben": b"pb"}), False),
        (HandshakeSecrets(KEY), True),
        (None, True),
    ],
    ids=["another is gone", "password", "it is gone", "key", "no users", "no handshake"],
)
def test_a_reload_disconnects_who_may_not_stay(after: HandshakeSecrets | None, stays: bool) -> None:
    """After a reload those go whose key, name or password is not in force any more."""
    one = bench(
        held=False, handshake=HandshakeSecrets(KEY, {"ann": b"pa", "ben": b"pb"}), proves=True
    )
    one.peer.dataReceived(ping(one.said, KEY, "ann", "pa"))
    other = bench(handshake=after)
    one.factory.replace_dialect(other.factory.dialect, ["messages"])
    assert one.transport.disconnecting != stays


def test_a_gateway_without_a_handshake_says_nothing_first() -> None:
    """Without a shared key the peer hears nothing before its first acknowledgement."""
    assert bench().said == b""


def test_a_peer_without_rights_gets_no_acknowledgement() -> None:
    """A chunk for a route that is not granted is not acknowledged."""
    access = AccessSection(
        grants={"some": GrantSection(networks=("127.0.0.0/8",), routes=("others",))}
    )
    one = bench(held=False, access=access, dialect=PlainDialect("messages"))
    one.peer.dataReceived(chunk("1"))
    assert one.said == b""
    assert one.transport.disconnecting
