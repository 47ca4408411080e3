"""
Handshake of the forward protocol: who has the key and the password is let in, nobody else.
"""

from __future__ import annotations

from hashlib import sha512
from typing import Any, Final

import msgpack
import pytest

from gateway.model.errors import FramingError
from gateway.wire.forward_handshake import Handshake, HandshakeSecrets

KEY: Final = b"a shared key"
NONCE: Final = bytes(range(16))
SALT: Final = bytes(range(100, 116))
USERS: Final = {"ann": b"her password", "käthe": "ein Wort, größer".encode()}


def sha(*parts: bytes) -> str:
    return sha512(b"".join(parts)).hexdigest()


def ping(
    key: bytes = KEY,
    user: str = "",
    password: bytes = b"",
    hostname: bytes = b"host",
    salt: Any = b"\xff salt of 16 by",
    raw: bool = True,
) -> bytes:
    """As Fluent Bit does (raw: a salt of any bytes in a string), or Fluentd."""
    digest = sha(salt, hostname, NONCE, key)
    secret = sha(SALT, user.encode(), password) if user else ""
    return bytes(
        msgpack.packb(["PING", hostname, salt, digest, user, secret], use_bin_type=not raw)
    )


@pytest.mark.parametrize("raw", [True, False])
def test_the_key_lets_in(raw: bool) -> None:
    """A sender with the key is let in, and sees that the gateway has it too."""
    handshake = Handshake(HandshakeSecrets(KEY, None), NONCE, SALT)
    assert msgpack.unpackb(handshake.helo) == [
        "HELO",
        {"nonce": NONCE, "auth": "", "keepalive": True},
    ]
    result = handshake.check_ping(ping(raw=raw))
    assert (result.fault, result.user, result.hostname) == ("", "", "host")
    digest = sha(b"\xff salt of 16 by", b"gateway", NONCE, KEY)
    assert msgpack.unpackb(result.pong) == ["PONG", True, "", "gateway", digest]


def test_a_wrong_key_does_not() -> None:
    """Another key is refused with the text that Fluentd has for it."""
    result = Handshake(HandshakeSecrets(KEY, None), NONCE, SALT).check_ping(ping(b"another"))
    assert result.fault == "shared_key mismatch"
    assert msgpack.unpackb(result.pong) == ["PONG", False, "shared_key mismatch", "", ""]


@pytest.mark.parametrize("user", sorted(USERS))
def test_a_user_is_known_by_name(user: str) -> None:
    """With users the salt is sent, and the right password proves the name."""
    handshake = Handshake(HandshakeSecrets(KEY, USERS), NONCE, SALT)
    assert msgpack.unpackb(handshake.helo)[1]["auth"] == SALT
    result = handshake.check_ping(ping(user=user, password=USERS[user]))
    assert (result.fault, result.user) == ("", user)
    assert msgpack.unpackb(result.pong)[1] is True


@pytest.mark.parametrize(
    ("user", "password", "key"),
    [("ann", b"wrong", KEY), ("ben", b"her password", KEY), ("", b"", KEY), ("ben", b"", KEY)],
)
def test_a_wrong_password_or_name_is_refused_alike(user: str, password: bytes, key: bytes) -> None:
    """An unknown name, a wrong password and none at all get the same words."""
    result = Handshake(HandshakeSecrets(key, USERS), NONCE, SALT).check_ping(
        ping(key, user, password)
    )
    assert (result.fault, result.user) == ("username/password mismatch", "")


def test_an_unknown_name_has_no_empty_password() -> None:
    """Whoever guesses that an unknown user's password is empty is not let in."""
    handshake = Handshake(HandshakeSecrets(KEY, USERS), NONCE, SALT)
    frame = msgpack.packb(
        [
            *("PING", "host", "salt", sha(b"salt", b"host", NONCE, KEY)),
            *("ben", sha(SALT, b"ben", b"")),
        ]
    )
    assert handshake.check_ping(frame).fault == "username/password mismatch"


def test_no_sender_has_the_gateways_name() -> None:
    """A sender takes its own name in the answer for a loop, so it gets another one."""
    result = Handshake(HandshakeSecrets(KEY, None), NONCE, SALT).check_ping(
        ping(hostname=b"gateway")
    )
    assert msgpack.unpackb(result.pong)[3] == "gateway-server"


@pytest.mark.parametrize(
    "frame",
    [["tag", 1, {}], ["PING"], ["PING", 1, 2, 3, 4, 5], [], ["PONG", "a", "b", "c", "d", "e"]],
    ids=repr,
)
def test_anything_else_is_no_ping(frame: list[Any]) -> None:
    """A sender without a key, whose first frame is a chunk, is told apart from a wrong key."""
    with pytest.raises(FramingError, match="asks for a shared key"):
        Handshake(HandshakeSecrets(KEY, None), NONCE, SALT).check_ping(msgpack.packb(frame))
