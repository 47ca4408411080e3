"""
GELF 1.1, the Graylog Extended Log Format: every message is a JSON object of its fields.

Strategy: a message is JSON, read by L{JsonFormat}, whose names are taken whole: the names of
additional fields may hold dots. What the format demands is checked for all messages at once:
C{host} and C{short_message} are text, and a host has a name. Where Graylog takes what some senders
write instead, it is taken here too: C{message} for C{short_message}, any C{version} or none,
numbers as text, control characters within a text, a comma before a closing bracket. Only a message
that is not JSON as it stands is looked through for the last two.

@see: U{https://go2docs.graylog.org/current/getting_in_log_data/gelf.html}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Raw

from gateway.formats.fields import Fields, Tokens, without_rows
from gateway.formats.json import JsonFormat, fault_of_name
from gateway.model.errors import Faults
from gateway.model.outcome import Code, Outcome, refused

OWN: Final = (
    *("version", "host", "short_message", "full_message", "timestamp", "level"),
    *("facility", "line", "file"),
)
"""Fields of the format; the last three are those of version 1.0."""

ADDITIONAL: Final = "additional"
"""All additional fields together, as an object, their names without the underscore."""

_NULL: Final = Raw(b"null")
_DEMANDED: Final = ("host", "short_message", "message")

_decode: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.Encoder().encode

_HOSTS: Final = re.compile(rb'(?:"[^"\\]*?[^"\\\s][^"\\]*+",)*+')
"""Texts without escapes that are not blank, each with a comma behind it."""

_ANY_TEXTS: Final = re.compile(rb'(?:"[^"\\]*+",)*+')

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|,(?=\s*+[\]}])', re.DOTALL)
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")


def fault_of(field: str) -> str | None:
    """
    Say why no message can have such a field; C{None} where some can.
    """
    if field in OWN or field == ADDITIONAL:
        return None
    if not field.startswith("_"):
        return (
            f"is no field of GELF: there are {', '.join(OWN)}, {ADDITIONAL}, and those that a"
            f" sender adds, whose names begin with an underscore; try '_{field}'"
        )
    return fault_of_name(field)


class GelfFormat:
    """
    Reader of the fields of GELF messages.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        """
        @param fields: of L{OWN}, L{ADDITIONAL}, or a name that begins with an underscore.
        """
        self._fields = fields
        names = [field for field in fields if field != ADDITIONAL]
        self._json = JsonFormat(list(dict.fromkeys([*names, *_DEMANDED])), paths=False)

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        read = self._json.parse_frames(frames)
        if read.faults:
            frames = list(frames)
            for row, _ in read.faults:
                frames[row] = _mended(frames[row])
            read = self._json.parse_frames(frames)
        cells = {name: list(tokens.values) for name, tokens in _tokens(read).items()}
        faults: dict[int, Outcome] = dict(read.faults)
        texts = cells["short_message"]
        if _NULL in texts:
            others = cells["message"]
            cells["short_message"] = texts = [
                other if text == _NULL else text for text, other in zip(texts, others, strict=True)
            ]
        _demand(cells["host"], "host", _HOSTS, faults)
        _demand(texts, "short_message", _ANY_TEXTS, faults)
        if ADDITIONAL in self._fields:
            cells[ADDITIONAL] = [
                _NULL if row in faults else _additional(frame) for row, frame in enumerate(frames)
            ]
        found = {name: Tokens(cells[name]) for name in self._fields}
        if faults:
            found = {name: without_rows(tokens, faults) for name, tokens in found.items()}
        refusals: Faults = [(row, faults[row]) for row in sorted(faults)]
        return Fields(found, refusals)


def _tokens(read: Fields) -> dict[str, Tokens]:
    return {name: cells for name, cells in read.cells.items() if isinstance(cells, Tokens)}


def _demand(
    tokens: Sequence[Raw], name: str, good: re.Pattern[bytes], faults: dict[int, Outcome]
) -> None:
    """
    Find messages without a field that the format demands.

    @param good: matches most values as they should be, each with a comma behind it.
    """
    if good.fullmatch(b",".join([*tokens, b""])):
        return
    for row, raw in enumerate(tokens):
        if row in faults:
            continue
        token = bytes(raw)
        if token == b"null":
            fault = f"no GELF message: it has no {name!r}"
        elif not token.startswith(b'"'):
            fault = f"no GELF message: its {name!r} is no text"
        elif name == "host" and not msgspec.json.decode(token).strip():
            fault = "no GELF message: its 'host' is empty"
        else:
            continue
        faults[row] = refused(Code.FORMAT, fault)


def _mended(frame: bytes) -> bytes:
    """
    Return a message as JSON has it, where it holds raw control characters or commas too many.
    """
    return _TOKEN.sub(_mended_token, frame)


def _mended_token(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token == b",":
        return b""
    return _CONTROL.sub(lambda found: b"\\u%04x" % found[0][0], token)


def _additional(frame: bytes) -> Raw:
    added = {name[1:]: raw for name, raw in _decode(frame).items() if name.startswith("_")}
    return Raw(_encode(added)) if added else _NULL


def sample(fields: Mapping[str, object]) -> str:
    """
    Write a message that has these fields.
    """
    own = {"version": "1.1", "host": "host", "short_message": "hello"}
    added = {name: value for name, value in fields.items() if name not in (*own, ADDITIONAL)}
    if ADDITIONAL in fields:
        added["_name"] = fields[ADDITIONAL]
    return msgspec.json.encode({**own, **added}).decode()
