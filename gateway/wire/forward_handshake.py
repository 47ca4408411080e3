"""
Handshake of the forward protocol: a shared key, and a user's name and password.

The gateway begins with C{HELO} and a nonce, the peer answers C{PING} with digests of what it
knows, and the gateway's C{PONG} proves that it has the shared key too. No secret is sent; whoever
listens can try keys and passwords against the digests, so they have to be long where there is no
TLS.

@see: U{https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha512
from hmac import compare_digest
from typing import Final

import msgspec

from gateway.model.errors import FramingError
from gateway.wire.forward import content, elements_of

SALT_BYTES: Final = 16
"""Bytes of a nonce and of a salt, as Fluentd and Fluent Bit have them."""

_NAME: Final = b"gateway"
_OTHER_NAME: Final = b"gateway-server"
"""For a peer whose own name is the first one: senders take that for a loop, and go."""


@dataclass(frozen=True, slots=True)
class HandshakeSecrets:
    """
    Secrets that the peers of a listener have to know.

    @ivar users: name -> password; C{None}: peers need no name.
    """

    shared_key: bytes = field(repr=False)
    users: Mapping[str, bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """
    Result of a handshake.

    @ivar pong: what the peer is told.
    @ivar user: the name that it has proved; C{""}: none was asked for.
    @ivar hostname: what it calls itself, for the log.
    @ivar fault: why it may not send; C{""}: it may.
    """

    pong: bytes
    user: str = ""
    hostname: str = ""
    fault: str = ""


class Handshake:
    """
    Handshake with one peer.
    """

    def __init__(self, secrets: HandshakeSecrets, nonce: bytes, salt: bytes) -> None:
        """
        @param nonce: random, for this connection alone.
        @param salt: likewise, for the password.
        """
        self._shared_key = secrets.shared_key
        self._users = secrets.users
        self._nonce = nonce
        self._salt = salt

    @property
    def helo(self) -> bytes:
        """The first bytes that the peer gets."""
        salt: bytes | str = "" if self._users is None else self._salt
        return msgspec.msgpack.encode(
            ["HELO", {"nonce": self._nonce, "auth": salt, "keepalive": True}]
        )

    def check_ping(self, frame: bytes) -> Result:
        """
        Judge the first frame of the peer.

        @raise FramingError: it is no C{PING}.
        """
        texts = [content(element) for element in elements_of(frame)]
        if len(texts) != 6 or None in texts or texts[0] != b"PING":
            raise FramingError(
                "forward: no PING came; this listener asks for a shared key",
                [],
            )
        _, hostname, salt, digest, user, password_digest = (text or b"" for text in texts)
        name = hostname.decode(errors="replace")
        expected = _digest(salt, hostname, self._nonce, self._shared_key)
        if not compare_digest(expected, digest.lower()):
            return _refused("shared_key mismatch", name)
        if self._users is not None:
            known = self._users.get(user.decode(errors="replace"))
            # An unknown name costs as much time as a wrong password.
            proof = _digest(self._salt, user, known or b"")
            if not compare_digest(proof, password_digest.lower()) or known is None:
                return _refused("username/password mismatch", name)
        own = _NAME if hostname != _NAME else _OTHER_NAME
        proof = _digest(salt, own, self._nonce, self._shared_key)
        pong = msgspec.msgpack.encode(["PONG", True, "", own.decode(), proof.decode()])
        return Result(pong, user.decode() if self._users is not None else "", name)


def _digest(*parts: bytes) -> bytes:
    return sha512(b"".join(parts)).hexdigest().encode()


def _refused(fault: str, hostname: str) -> Result:
    pong = msgspec.msgpack.encode(["PONG", False, fault, "", ""])
    return Result(pong, hostname=hostname, fault=fault)
