"""
Greeting of a client on each connection: a PING, its token, a check of its route, then HELLO for its
stream.

The commands are sent one after the other, since the gateway may answer -TRY to any of them, and
nothing may follow the PING until it is known who answers it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .answers import Answer, ClientError, Refused
from .numbering import Numbering
from .parcel import Question
from .probe import check_probe, is_probe, probe
from .wire import check_word

MAX_TOKEN: Final = 256
"""Longest token that a gateway looks at, in bytes."""

_AUTH: Final = b"AUTH "

_HELLO: Final = b"HELLO "

_ASK: Final = b"HELP PUT "
"""Answered C{-REJ FORMAT} by a gateway that does not know it: then nothing is known."""

FOR_ALL: Final = frozenset(("ROUTE", "QUERY", "DENIED"))
"""Codes of refusals that meet every message of a route alike, until somebody acts."""


def check_token(token: str) -> None:
    """
    Check a token.

    @raise ValueError: no gateway has such a token; the text does not show it.
    """
    if not 0 < len(token) <= MAX_TOKEN:
        raise ValueError(f"a token has 1 to {MAX_TOKEN} characters, not {len(token)}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token has no spaces, and no characters beside those of ASCII")


class Greeting:
    """
    Greeting of one client.
    """

    def __init__(
        self,
        token: str | None,
        stream: str | None,
        plain: bool,
        framing: str,
        nonce: Callable[[], str],
        asked_route: str | None = None,
    ) -> None:
        """
        @param plain: whether the listener is plain: the token is a frame of its own, and there are
            no streams and no PING.
        @param nonce: returns a new word for each PING.
        @param asked_route: route to check; not with a plain listener.
        @raise ValueError: with the name of the parameter at fault; never with the token.
        """
        self._steps: list[bytes] = []
        if token is not None:
            check_token(token)
            self._steps.append((b"" if plain else _AUTH) + token.encode())
        if asked_route is not None and not plain:
            check_word("route", asked_route)
            self._steps.append(_ASK + asked_route.encode())
        if stream is not None:
            check_word("stream", stream)
            if plain:
                raise ValueError("a stream needs the command dialect, which numbers messages")
            self._steps.append(_HELLO + stream.encode())
        self._left: list[bytes] = []
        self._probe = None if plain else lambda: probe(framing, nonce())

    def restart(self, stream: Numbering | None) -> Question | None:
        """
        Start again, on a new connection; return as L{next} does.
        """
        self._left = [*([] if self._probe is None else [self._probe()]), *self._steps]
        return self.next(stream)

    def next(self, stream: Numbering | None) -> Question | None:
        """
        Return the next command of the greeting.

        @param stream: its state, for HELLO.
        @return: C{None} at the end.
        """
        if not self._left:
            return None
        step = self._left.pop(0)
        return Question(step if stream is None else _with_seen(step, stream), own=True)


def again(question: Question, stream: Numbering | None) -> Question:
    """
    Return the command to send after one was answered -TRY: the same, but HELLO with the current
    state of the stream.
    """
    if stream is None or not question.payload.startswith(_HELLO):
        return question
    return Question(_with_seen(_HELLO + stream.stream.encode(), stream), own=True)


def _with_seen(step: bytes, stream: Numbering) -> bytes:
    return step + stream.seen if step.startswith(_HELLO) else step


def judged(question: Question, answer: Answer, stream: Numbering | None) -> ClientError | None:
    """
    Judge the answer to a command of the greeting.

    @param stream: updated from the answer to HELLO.
    @return: the error that ends the client, which never shows the token; C{None} where the command
        is accepted.
    @raise StreamLost: the numbers of the stream do not agree.
    """
    if is_probe(question.payload):
        return check_probe(question.payload, answer)
    if question.payload.startswith(_ASK):
        return Refused(answer, question.payload) if answer.code in FOR_ALL else None
    if not question.payload.startswith(_HELLO):
        return None if answer.kept else Refused(answer, _AUTH.strip())
    if not answer.kept or answer.seq is None or stream is None:
        return Refused(answer, question.payload)
    stream.greeted(answer.seq, answer.epoch)
    return None
