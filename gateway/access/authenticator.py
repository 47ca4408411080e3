"""
Authenticator: verifies tokens on a thread, one at a time, and each right one only once.

To hash a secret takes tens of milliseconds of a processor. That is done by a thread, for
one token at a time, and a limited number may wait for it; others are told that the gateway is
busy. A token that was right is remembered by a digest, under a key that ends with the
process, for as long as the file has its hash, over every reload: a thousand peers that reconnect
cost a dictionary lookup each, and any other secret for it is wrong without a hash.

So a peer that knows an ID and not its secret cannot keep its owner waiting. Until the owner has
connected for the first time, wrong tokens count against the address that they came from: addresses
are served in turn, those that were wrong lately after all others, and these are refused first where
too many wait.
"""

from __future__ import annotations

import secrets
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from hashlib import blake2b
from hmac import compare_digest
from threading import Thread
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.access.tokens import MAX_TOKEN, Token
from gateway.model import wording
from gateway.model.outcome import Outcome

WAITING: Final = 200
"""Secrets that may wait to be hashed: about six seconds of one processor."""

WAITING_EACH: Final = 8
"""Checks of one token from one address that may wait: an address may be that of many peers."""

_REMEMBERED: Final = 60.0
"""Seconds for which wrong tokens count against an address, at most."""

_MAX_BLAMED: Final = 4096
"""Addresses of which that is known at a time."""

Proof = Token | Outcome
"""Result of a verification: the token that was proved, or the last answer to the peer."""

OnProof = Callable[[Proof], None]
"""Gets what came of a token, once."""

Aside = Callable[[Callable[[], bool], Callable[[bool | Failure], None]], None]
"""Does something beside the reactor, then calls back on it with what came of it."""


def in_threads(reactor: Any) -> Aside:
    """
    Run each piece of work on a thread of its own.

    Daemon threads, so that an ending process does not wait for them.
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
    A token that waits to be verified.

    @ivar site: the first address that sent it.
    """

    __slots__ = ("callbacks", "digest", "secret", "site", "token")

    def __init__(
        self, token: Token, secret: bytes, digest: bytes, site: Hashable, on_proof: OnProof
    ) -> None:
        self.token = token
        self.secret = secret
        self.digest = digest
        self.site = site
        self.callbacks = [on_proof]

    @property
    def account(self) -> tuple[Hashable, str]:
        """Key that L{WAITING_EACH} counts by."""
        return self.site, self.token.id


class _Turns:
    """
    Queue of checks by address: addresses in turn, those that were wrong lately after all others.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        # In the order of their turns.
        self._waiting: dict[Hashable, deque[_Check]] = {}
        self._wrong: Counter[Hashable] = Counter()
        self._since = wall()

    def blame(self, site: Hashable) -> None:
        """Count a wrong token against an address."""
        self._forget()
        self._wrong[site] += 1

    def add(self, check: _Check) -> None:
        self._waiting.setdefault(check.site, deque()).append(check)

    def next(self) -> _Check | None:
        """Take out the next check; C{None} where none waits."""
        if not self._waiting:
            return None
        self._forget()
        site = min(self._waiting, key=self._wrong.__getitem__)
        checks = self._waiting.pop(site)
        check = checks.popleft()
        if checks:
            self._waiting[site] = checks
        return check

    def give_way(self, site: Hashable) -> _Check | None:
        """
        Take out the check that one more from an address displaces.

        It is the last of the address that was wrong most often, or has most that wait.

        @return: C{None}: none, since no other address is worse.
        """
        if not self._waiting:
            return None
        self._forget()
        worst = max(self._waiting, key=self._weight)
        wrong, waiting = self._weight(site)
        if self._weight(worst) <= (wrong, waiting + 1):
            return None
        checks = self._waiting[worst]
        check = checks.pop()
        if not checks:
            del self._waiting[worst]
        return check

    def _forget(self) -> None:
        now = self._wall()
        if not 0 <= now - self._since < _REMEMBERED or len(self._wrong) >= _MAX_BLAMED:
            self._wrong.clear()
            self._since = now

    def _weight(self, site: Hashable) -> tuple[int, int]:
        return self._wrong[site], len(self._waiting.get(site, ()))


class Authenticator:
    """
    Authenticator of tokens.

    @ivar offered: whether a file of tokens is configured.
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
        self._tokens: Mapping[str, Token] = {}
        # ID -> digest of the token that was right.
        self._right: dict[str, bytes] = {}
        self._checks: dict[bytes, _Check] = {}
        self._each: Counter[tuple[Hashable, str]] = Counter()
        self._turns = _Turns(wall)
        self._busy = False
        self.replace_tokens(tokens)

    def replace_tokens(self, tokens: Mapping[str, Token] | None) -> None:
        """Replace the tokens after the file was read again."""
        before, self._tokens = self._tokens, tokens or {}
        self.offered = tokens is not None
        self._right = {
            token_id: digest
            for token_id, digest in self._right.items()
            if token_id in self._tokens and self._tokens[token_id].hash == before[token_id].hash
        }

    def current(self, token: Token) -> Token | None:
        """
        Return the present entry of a token that was verified before; C{None}: it is valid no more.
        """
        now = self._good(token.id)
        same = now is not None and (now.identity, now.hash) == (token.identity, token.hash)
        return now if same else None

    def verify(self, token_bytes: bytes, site: Hashable, on_proof: OnProof) -> None:
        """
        Verify a token and hand the result to a callback.

        @param token_bytes: the token as the peer sent it.
        @param site: the peer's address, as limits take it.
        @param on_proof: called with the result, maybe at once.
        """
        name, _, secret = token_bytes.partition(b".")
        token = None
        if len(token_bytes) <= MAX_TOKEN:
            token = self._good(name.decode("ascii", "replace"))
        if token is None:
            self._turns.blame(site)
            on_proof(wording.WRONG_TOKEN)
            return
        digest = blake2b(token_bytes, key=self._key, digest_size=32).digest()
        right = self._right.get(token.id)
        check = self._checks.get(digest)
        if right is not None:
            on_proof(self._compared(token, right, digest, site))
        elif check is not None and check.token.hash == token.hash:
            check.callbacks.append(on_proof)
        else:
            new = _Check(token, secret, digest, site, on_proof)
            if check is not None or not self._admit(new):
                on_proof(wording.TOO_MANY_TOKENS)
                return
            self._each[new.account] += 1
            self._checks[digest] = new
            self._turns.add(new)
            self._next()

    def _admit(self, check: _Check) -> bool:
        """Say whether one more check may wait; another one may be refused for it."""
        if self._each[check.account] >= WAITING_EACH:
            return False
        if len(self._checks) >= WAITING:
            other = self._turns.give_way(check.site)
            if other is None:
                return False
            self._answer(other, wording.TOO_MANY_TOKENS)
        return True

    def _compared(self, token: Token, right: bytes, digest: bytes, site: Hashable) -> Proof:
        if compare_digest(right, digest):
            return token
        self._turns.blame(site)
        return wording.WRONG_TOKEN

    def _good(self, token_id: str) -> Token | None:
        token = self._tokens.get(token_id)
        return token if token is not None and token.is_good(self._wall()) else None

    def _next(self) -> None:
        while not self._busy and (check := self._turns.next()) is not None:
            self._begin(check)

    def _begin(self, check: _Check) -> None:
        token = self._good(check.token.id)
        if token is None or token.hash != check.token.hash:
            self._answer(check, wording.WRONG_TOKEN)
            return
        right = self._right.get(token.id)
        if right is not None:
            # Its owner was verified meanwhile.
            self._answer(check, self._compared(token, right, check.digest, check.site))
            return
        self._busy = True
        try:
            self._aside(
                lambda: token.has_secret(check.secret), lambda fits: self._done(check, fits)
            )
        except RuntimeError:  # no more threads to be had
            self._done(check, Failure())

    def _done(self, check: _Check, fits: bool | Failure) -> None:
        self._busy = False
        proof: Proof = wording.WRONG_TOKEN
        if isinstance(fits, Failure):
            self._log.failure("a token could not be looked at", event="token-failed", failure=fits)
            proof = wording.COMMAND_FAILED
        elif fits:
            token = self._good(check.token.id)
            if token is not None and token.hash == check.token.hash:
                self._right[token.id] = check.digest
                proof = token
            # Else it was revoked meanwhile.
        else:
            self._turns.blame(check.site)
        try:
            self._answer(check, proof)
        finally:
            self._next()

    def _answer(self, check: _Check, proof: Proof) -> None:
        del self._checks[check.digest]
        self._each[check.account] -= 1
        if not self._each[check.account]:
            del self._each[check.account]
        for on_proof in check.callbacks:
            on_proof(proof)
