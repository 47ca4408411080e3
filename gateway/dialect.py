"""
Dialects: what a frame asks for.

Plain: every frame is a message for the listener's route. Command: every frame
begins with a verb, optionally after a tag that the answer repeats::

    [@tag] PUT route payload | PING [text] | HELP | QUIT

A dialect turns the frames of one read into L{Work}, as few pieces as possible:
what goes to one route in a row is one piece, whatever stands between.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.framing import OVERSIZE
from gateway.reply import Code, Outcome, Word, refused

TOOBIG: Final = refused(Code.TOOBIG, "longer than max_frame of this listener")

HELP: Final = (
    "PUT route payload | PING [text] | HELP | QUIT; each may follow @tag, repeated in its answer"
)

MAX_TAG: Final = 64
"""Longest tag, in bytes, the C{@} counted."""

_LATER: Final = frozenset({b"CALL", b"LISTEN", b"UNLISTEN", b"HELLO", b"AUTH", b"QUIET", b"SYNC"})


@dataclass(slots=True)
class Work:
    """
    Frames in a row that are answered together.

    @ivar route: where the messages go.
    @ivar messages: what is to be stored, in order; maybe nothing.
    @ivar gaps: answers known at once: (position among the frames, answer), ascending.
    @ivar tags: what each answer repeats, one for each frame; C{None} for none at all.
    @ivar closes: whether the connection ends after these answers.
    """

    route: str
    messages: list[bytes] = field(default_factory=list)
    gaps: list[tuple[int, Outcome]] = field(default_factory=list)
    tags: list[bytes] | None = None
    closes: bool = False

    @property
    def count(self) -> int:
        """How many frames, so how many answers."""
        return len(self.messages) + len(self.gaps)


class Dialect(Protocol):
    """
    The meaning of frames; one for each listener, without state of a peer.
    """

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        """
        @param frames: one or more.
        @param oversize: whether L{OVERSIZE} may be among them.
        """


class PlainDialect:
    """
    Every frame is a message.
    """

    def __init__(self, route: str) -> None:
        self._route = route

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        if not oversize:
            return [Work(self._route, frames)]
        work = Work(self._route)
        for position, frame in enumerate(frames):
            if frame is OVERSIZE:
                work.gaps.append((position, TOOBIG))
            else:
                work.messages.append(frame)
        return [work]


class CommandDialect:
    """
    Every frame begins with a verb.
    """

    def __init__(self, routes: Collection[str]) -> None:
        """
        @param routes: the names that PUT may use.
        """
        self._routes = {name.encode(): name for name in routes}

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        works: list[Work] = []
        tags: list[bytes] = []
        work = Work("", tags=tags)
        for frame in frames:
            given, verb, rest = _words(frame)
            tag = given or b""
            answer: Outcome | None = None
            route, payload = "", b""
            if frame is OVERSIZE:
                answer = TOOBIG
            elif given is None:
                answer = refused(Code.FORMAT, f"a tag is @ and 1 to {MAX_TAG - 1} bytes")
            elif verb == b"PUT":
                name, space, payload = rest.partition(b" ")
                known = self._routes.get(name)
                if known is None:
                    answer = refused(Code.ROUTE, f"no route {_shown(name)}")
                elif not space:
                    answer = refused(Code.FORMAT, "PUT takes a route, a space and a payload")
                else:
                    route = known
            else:
                answer = _answer(verb, rest)
            if route and work.messages and work.route != route:
                works.append(work)
                tags = []
                work = Work("", tags=tags)
            tags.append(tag)
            if answer is None:
                work.route = route
                work.messages.append(payload)
            else:
                work.gaps.append((len(tags) - 1, answer))
                if verb == b"QUIT" and answer.word is Word.OK:
                    work.closes = True
                    break
        works.append(work)
        return works


def _words(frame: bytes) -> tuple[bytes | None, bytes, bytes]:
    """
    @return: the tag with its C{@} (C{b""}: none; C{None}: not a tag), the verb
        in capitals, and the rest.
    """
    tag: bytes | None = b""
    if frame.startswith(b"@"):
        tag, _, frame = frame.partition(b" ")
        if not 1 < len(tag) <= MAX_TAG:
            tag = None
    verb, _, rest = frame.partition(b" ")
    return tag, verb.upper(), rest


def _answer(verb: bytes, rest: bytes) -> Outcome:
    if verb == b"PING":
        try:
            return Outcome(Word.OK, text=rest.decode())
        except UnicodeDecodeError:
            return refused(Code.DATA, "PING takes text in UTF-8")
    if verb == b"HELP":
        return Outcome(Word.OK, text=HELP)
    if verb == b"QUIT":
        return Outcome(Word.OK)
    if verb in _LATER:
        return refused(Code.QUERY, f"{verb.decode()} is not offered by this gateway; try HELP")
    return refused(Code.FORMAT, f"unknown verb {_shown(verb)}; try HELP")


def _shown(word: bytes) -> str:
    """A peer's word for the text of an answer: short, whatever it holds."""
    text = word.decode("utf-8", "backslashreplace")
    return text if len(text) <= 40 else text[:37] + "..."
