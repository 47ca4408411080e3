"""
Parser of the command dialect's frames: tag, verb, names; and the text of HELP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.model import wording
from gateway.model.outcome import Outcome, Word
from gateway.model.text import shortened

MAX_TAG: Final = 64
"""Longest tag, in bytes, the C{@} counted."""

MAX_STREAM: Final = 128
"""Longest name of a stream, in bytes."""

_USAGES: Final[Mapping[str, tuple[str, str]]] = {
    "PUT": ("PUT route [#n] payload", "store the payload by a route; in a stream with its number"),
    "CALL": ("CALL query [json]", "run a query with an object or array of arguments: *N, N rows"),
    "LISTEN": ("LISTEN channel", "be told what is notified there: >channel payload"),
    "UNLISTEN": ("UNLISTEN channel", "be told no more"),
    "HELLO": (
        "HELLO stream [seen=n [epoch=e]]",
        "number what follows: +OK seq=N epoch=E, then PUT route #N+1 payload",
    ),
    "AUTH": ("AUTH token", "prove who you are"),
    "PING": ("PING [text]", "answer the text"),
    "QUIET": ("QUIET", "say no +OK to PUT any more"),
    "SYNC": ("SYNC", "say how many were kept, refused, and to be sent again since the last"),
    "RELAY": ("RELAY id", "for a gateway that relays here: +OK path=ID,ID: where it goes on to"),
    "HELP": ("HELP [verb]", "this; HELP PUT route: whether that route may be used"),
    "QUIT": ("QUIT", "answer everything, then close"),
}


def words_of(frame: bytes) -> tuple[bytes | None, bytes, bytes]:
    """
    Split a frame into tag, verb and rest.

    @return: the tag with its C{@} (C{b""}: none; C{None}: not a tag), the verb
        in capitals, and the rest.
    """
    tag: bytes | None = b""
    if frame.startswith(b"@"):
        tag, _, frame = frame.partition(b" ")
        if not 1 < len(tag) <= MAX_TAG or min(tag) < 0x21:
            tag = None
    verb, _, rest = frame.partition(b" ")
    if verb.upper() in (b"QUIET", b"SYNC", b"QUIT"):
        rest = frame[len(verb) :]  # they take nothing, not even a space
    return tag, verb.upper(), rest


def decode_name(word: bytes, most: int) -> str | None:
    """
    Decode a name; return C{None} where it is not a valid one.

    @param most: bytes that it may have.
    """
    try:
        name = word.decode()
    except UnicodeDecodeError:
        return None
    return name if 0 < len(word) <= most and name.isprintable() and " " not in name else None


def abbreviated(word: bytes) -> str:
    """Return a peer's word for the text of an answer, at most 40 characters."""
    return shortened(word.decode("utf-8", "backslashreplace"), 40)


def ping(rest: bytes) -> Outcome:
    """Return the answer to PING."""
    try:
        text = rest.decode()
    except UnicodeDecodeError:
        return wording.PING_SYNTAX
    return Outcome(Word.OK, text=text)


def help_with(rest: bytes) -> Outcome:
    """Return the answer to HELP."""
    if not rest:
        return Outcome(Word.OK, text=" | ".join(usage for usage, _ in _USAGES.values()))
    usage_and_text = _USAGES.get(rest.strip().decode("utf-8", "replace").upper())
    if usage_and_text is None:
        return wording.unknown_verb(abbreviated(rest))
    return Outcome(Word.OK, text=": ".join(usage_and_text))
