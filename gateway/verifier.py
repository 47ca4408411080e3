"""
Verifying tokens: beside the reactor, one at a time, and each right one once.

To hash a secret takes tens of milliseconds of a processor. That is done by a thread, for
one token at a time, and so many may wait for it; who comes then is told that the gateway is
busy. A token that was right is remembered by a digest, under a key that ends with the process,
until the file is read again: a thousand peers that reconnect cost a look into a dictionary
each. A wrong one is never remembered, and one whose ID nobody has costs nothing.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import blake2b
from threading import Thread
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.reply import Code, Outcome, goodbye
from gateway.tokens import MAX_TOKEN, Token

WAITING: Final = 200
"""Secrets that may wait to be hashed: about six seconds of one processor."""

WAITING_EACH: Final = 8
"""
Those of one token among them: who knows an ID and no secret must not be able to keep
everybody out.
"""

WRONG: Final = goodbye(Code.AUTH, "no such token")
"""Whatever is wrong with it: who has none should not learn which part was right."""

BUSY: Final = goodbye(Code.BUSY, "too many tokens to look at; connect again later")

_BUG: Final = goodbye(Code.INTERNAL, "the gateway failed; its log says why")

Proof = Token | Outcome
"""Whose token it is, or the last word for who said it."""

Aside = Callable[[Callable[[], bool], Callable[[bool | Failure], None]], None]
"""Does something beside the reactor, then calls back on it with what came of it."""


def in_threads(reactor: Any) -> Aside:
    """
    A thread for each; daemons, so that an ending process does not wait for them.
    """

    def aside(work: Callable[[], bool], done: Callable[[bool | Failure], None]) -> None:
        def run() -> None:
            result: bool | Failure
            try:
                result = work()
            except Exception:  # noqa: BLE001 - who waits is on another thread, and gets it
                result = Failure()
            reactor.callFromThread(done, result)

        Thread(target=run, name="looks at a token", daemon=True).start()

    return aside


class _Check:
    """
    A token that was said, and by whom.
    """

    __slots__ = ("secret", "token", "told")

    def __init__(self, token: Token, secret: bytes, told: Callable[[Proof], None]) -> None:
        self.token = token
        self.secret = secret
        self.told = [told]


class Verifier:
    """
    Says whose a token is.

    @ivar offered: whether there are any.
    """

    _log = Logger()

    def __init__(
        self, tokens: Mapping[str, Token] | None, aside: Aside, wall: Callable[[], float]
    ) -> None:
        """
        @param tokens: by ID; C{None} where there is no file of them.
        @param wall: seconds since 1970.
        """
        self._aside = aside
        self._wall = wall
        self._key = secrets.token_bytes(32)
        self._checks: dict[bytes, _Check] = {}
        self._waiting: Counter[str] = Counter()
        self._busy = False
        self.take(tokens)

    def take(self, tokens: Mapping[str, Token] | None) -> None:
        """
        The file was read again.
        """
        self.offered = tokens is not None
        self._tokens = tokens or {}
        self._right: dict[bytes, str] = {}

    def is_good(self, token_id: str, identity: str) -> bool:
        """
        Whether a token by which somebody proved an identity before still does.
        """
        token = self._tokens.get(token_id)
        return token is not None and token.identity == identity and token.is_good(self._wall())

    def verify(self, said: bytes, told: Callable[[Proof], None]) -> None:
        """
        @param said: by a peer.
        @param told: gets the answer, maybe at once.
        """
        name, _, secret = said.partition(b".")
        token = None
        if len(said) <= MAX_TOKEN:
            token = self._good(name.decode("ascii", "replace"))
        if token is None:
            told(WRONG)
            return
        digest = blake2b(said, key=self._key, digest_size=32).digest()
        check = self._checks.get(digest)
        if self._right.get(digest) == token.id:
            told(token)
        elif check is not None and check.token == token:
            check.told.append(told)
        elif (
            check is not None
            or len(self._checks) >= WAITING
            or self._waiting[token.id] >= WAITING_EACH
        ):
            told(BUSY)
        else:
            self._waiting[token.id] += 1
            self._checks[digest] = _Check(token, secret, told)
            self._next()

    def _good(self, token_id: str) -> Token | None:
        token = self._tokens.get(token_id)
        return token if token is not None and token.is_good(self._wall()) else None

    def _next(self) -> None:
        if self._busy or not self._checks:
            return
        digest, check = next(iter(self._checks.items()))
        self._busy = True
        try:
            self._aside(
                lambda: check.token.fits(check.secret), lambda fits: self._done(digest, fits)
            )
        except RuntimeError:  # no more threads to be had
            self._done(digest, Failure())

    def _done(self, digest: bytes, fits: bool | Failure) -> None:
        self._busy = False
        check = self._checks.pop(digest)
        token = check.token
        self._waiting[token.id] -= 1
        if not self._waiting[token.id]:
            del self._waiting[token.id]
        proof: Proof = WRONG
        if isinstance(fits, Failure):
            self._log.failure("a token could not be looked at", failure=fits)
            proof = _BUG
        elif fits and self._good(token.id) == token:  # it may have been revoked meanwhile
            self._right[digest] = token.id
            proof = token
        self._next()
        for told in check.told:
            told(proof)
