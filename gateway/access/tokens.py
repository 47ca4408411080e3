"""
Tokens that prove a peer's identity, and the form in which they are kept.

A token is C{ID.SECRET}. The ID finds its line in the file at once, and lets one identity
have several tokens, so that the old one can go when the new one is in place. Of the secret
only a hash is kept. Secrets are made here, at random, so that nobody can guess one; the
hash is slow all the same, for those that somebody may have put into a file by hand.

Pure: the content of a file comes in as text.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHash, VerificationError

from gateway.access.grants import identity_fault
from gateway.model.errors import ConfigError

MAX_TOKEN: Final = 256
"""Longest token that is looked at, in bytes; ours have 56."""

HEADING: Final = (
    "# Tokens of the gateway: ID IDENTITY CREATED EXPIRES HASH; 'gateway token' writes it.\n"
)

_TOKEN_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")

_TOKEN_COLUMNS: Final = ("ID", "IDENTITY", "CREATED", "EXPIRES", "HASH")

_HASHER: Final = PasswordHasher(
    # The least of argon2id in OWASP's "Password Storage Cheat Sheet": 19 MiB, 2 passes,
    # 1 lane. 30 ms of a processor here; a secret of 256 random bits needs no more.
    time_cost=2,
    memory_cost=19456,
    parallelism=1,
    type=Type.ID,
)


@dataclass(frozen=True, slots=True)
class Token:
    """
    Token, as it is kept: its hash, identity and expiry.

    @ivar id: the part before the dot.
    @ivar identity: identity that it proves.
    @ivar expires: when it expires; C{None}: never.
    @ivar hash: hash of the secret, in argon2's own notation.
    """

    id: str
    identity: str
    created: datetime
    expires: datetime | None
    hash: str

    def __repr__(self) -> str:
        return f"<Token {self.id} of {self.identity}>"

    def __str__(self) -> str:
        """Return its line in the file."""
        expires = "-" if self.expires is None else _stamp(self.expires)
        return f"{self.id} {self.identity} {_stamp(self.created)} {expires} {self.hash}"

    @property
    def ends(self) -> float:
        """Expiry, in seconds since 1970; infinite: never."""
        return math.inf if self.expires is None else self.expires.timestamp()

    def is_good(self, now: float) -> bool:
        """
        Say whether it has not expired.

        @param now: seconds since 1970, by the wall clock.
        """
        return now < self.ends

    def has_secret(self, secret: bytes) -> bool:
        """
        Say whether a secret is this token's.

        Takes tens of milliseconds: never on the reactor's thread.
        """
        try:
            return _HASHER.verify(self.hash, secret)
        except (VerificationError, InvalidHash):
            return False


def issue(identity: str, now: datetime, lifetime: timedelta | None) -> tuple[Token, str]:
    """
    Make a token.

    @return: the entry for the file, and the token itself, which is kept nowhere.
    """
    id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    expires = None if lifetime is None else now + lifetime
    return Token(id_, identity, now, expires, _HASHER.hash(secret)), f"{id_}.{secret}"


def token_identity_fault(identity: str) -> str | None:
    """Say why a token cannot be for such an identity; C{None} where it can."""
    if identity and any(map(str.isspace, identity)):
        return "has a space, which the file of tokens cannot say"
    if "*" in identity:
        return "has an asterisk, which stands for anything where things are granted"
    return identity_fault(identity)


def read_tokens(text: str, name: str) -> Mapping[str, Token]:
    """
    Parse a file of tokens, by ID.

    @param text: the file's content.
    @param name: the file's, for messages.
    @raise ConfigError: with every problem; none shows the content, which may be
        a secret in the wrong place.
    """
    by_id: dict[str, Token] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token = _parse_token_line(words)
        if isinstance(token, str):
            problems.append(f"{name}:{number}: {token}")
        elif token.id in by_id:
            problems.append(f"{name}:{number}: an ID that is there already; remove one of them")
        else:
            by_id[token.id] = token
    if problems:
        raise ConfigError(problems)
    return by_id


def _parse_token_line(words: list[str]) -> Token | str:
    """Parse a line; return a token, or what is wrong with it."""
    if len(words) != len(_TOKEN_COLUMNS):
        return (
            f"has {len(words)} words; a token has {len(_TOKEN_COLUMNS)}: {' '.join(_TOKEN_COLUMNS)}"
        )
    id_, identity, created, expires, hashed = words
    if not _TOKEN_ID.fullmatch(id_):
        return "the ID is 8 to 64 letters, digits, - and _"
    fault = token_identity_fault(identity)
    if fault is not None:
        return f"the identity {fault}"
    begin, end = _moment(created), None if expires == "-" else _moment(expires)
    if begin is None:
        return "CREATED is a time such as 2026-01-31T12:00:00Z"
    if end is None and expires != "-":
        return "EXPIRES is a time such as 2026-01-31T12:00:00Z, or - for never"
    try:
        kind = extract_parameters(hashed).type
    except (ValueError, LookupError):
        kind = None
    if kind is not Type.ID:
        return "the hash is not one of argon2id; let 'gateway token add' write it"
    return Token(id_, identity, begin, end, hashed)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        # The calendar's first and last day cannot be converted from every zone.
        return None


def _stamp(moment: datetime) -> str:
    # strftime(3) gives years before 1000 fewer digits than can be read again.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
