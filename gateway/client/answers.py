"""
Parse a gateway's answers, and define the errors of clients.

Pure: bytes of one frame to a frozen L{Answer}. C{docs/protocol.md} has the grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

WORDS: Final = frozenset(("+OK", "+DUP", "+QUE", "-REJ", "-TRY", "-BYE"))

_KEPT: Final = frozenset(("+OK", "+DUP", "+QUE"))

_STREAM_EPOCH = re.compile(r"[0-9A-Za-z-]{1,64}")

_REASON_CODE = re.compile(r"[A-Z]{1,32}")

_COUNT = re.compile(r"[0-9]{1,19}")

LONGEST_WAIT: Final = 3600.0
"""Seconds that a gateway can have a client wait before it tries again."""

_NAMED_VALUE = re.compile(r'([^\s="]++)=("(?:[^"\\]++|\\.)*+"|[^\s"]++)(?: |\Z)')


class ClientError(Exception):
    """Base of all errors; never raised itself."""


class Unsendable(ClientError, ValueError):
    """The framing cannot carry the message; nothing was sent."""


class Garbled(ClientError):
    """The other end does not speak the protocol: its answer fits no request."""


class WrongListener(Garbled):
    """The listener is not of the client's kind; the text says what it seems to be."""


class Closed(ClientError):
    """The client was closed before the answer came; the text says what became of the message."""


class BufferFull(ClientError):
    """The client's buffer has no room; none of the messages is kept."""


class BufferHeld(ClientError):
    """Another process has the buffer's file open."""


class BufferBroken(ClientError):
    """The buffer's file cannot be read or written, or belongs to another stream."""


class StreamLost(ClientError):
    """
    The numbers of the gateway and of this client no longer agree: another client used the stream,
    the buffer was set back, or the gateway has another database. A person must decide.
    """


class StreamTaken(ClientError):
    """Another client said HELLO for this stream, and owns it now."""


class NotAllowed(ClientError):
    """
    The gateway refuses this client: its token is not valid, or it has no rights. Trying again does
    not help; a person must act.
    """


class Unknown(ClientError):
    """The connection was lost before the answer: the message is stored once, or not at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Answer of the gateway.

    @ivar word: C{+OK}, C{+DUP}, C{+QUE}, C{-REJ}, C{-TRY} or C{-BYE}; C{?} where the client
        itself says that the fate is not known (see L{UNKNOWN}).
    @ivar code: second word of a refusal, such as C{DATA}; empty for messages that are kept.
    @ivar values: name -> value; C{None} is NULL.
    @ivar text: description for people.
    @ivar raw: frame as received.
    """

    word: str
    code: str = ""
    values: Mapping[str, str | None] = field(default_factory=dict)
    text: str = ""
    raw: bytes = b""

    def __str__(self) -> str:
        return self.raw.decode("utf-8", "backslashreplace")

    @property
    def kept(self) -> bool:
        """True if the message is stored, or is in the gateway's spool and will be."""
        return self.word in _KEPT

    @property
    def retry(self) -> float | None:
        """Seconds to wait before sending again; C{None} if the gateway gives none."""
        seconds = _parse_count(self.values.get("retry"))
        return None if seconds is None else min(LONGEST_WAIT, float(seconds))

    @property
    def taken(self) -> bool:
        """True if another client has begun a new epoch of the stream."""
        return self.code == "GAP" and self.values.get("taken") == "true"

    @property
    def seq(self) -> int | None:
        """Last settled number of the stream; C{None} if the gateway gives none."""
        return _parse_count(self.values.get("seq"))

    @property
    def epoch(self) -> str:
        """Epoch of the stream's numbers; empty if the gateway gives none."""
        text = self.values.get("epoch") or ""
        # It is sent back in HELLO, so it must be one word.
        return text if _STREAM_EPOCH.fullmatch(text) else ""


def _parse_count(text: str | None) -> int | None:
    """
    Parse a count; C{None} where it is none. No gateway sends more than 19 digits, and Python
    refuses to parse thousands.
    """
    return int(text) if text and _COUNT.fullmatch(text) else None


OK: Final = Answer("+OK", raw=b"+OK")

UNKNOWN: Final = Answer("?", text="the connection was lost before the answer", raw=b"?")


class Refused(ClientError):
    """
    Refused for good: the same message or command would be refused again.

    @ivar answer: answer of the gateway.
    @ivar message: message or command that was refused.
    """

    def __init__(self, answer: Answer, message: bytes) -> None:
        super().__init__(str(answer))
        self.answer = answer
        self.message = message


def parse(frame: bytes) -> Answer:
    """
    Parse one frame.

    @raise Garbled: it is no answer.
    """
    if frame == b"+OK":
        return OK
    text = frame.decode("utf-8", "backslashreplace")
    word, _, rest = text.partition(" ")
    if word not in WORDS:
        raise Garbled(f"no answer of a gateway: {text[:100]!r}")
    if word in _KEPT:
        values, left = _values(rest)
        # A rest without values is data: the text of PING.
        return Answer(word, "", {}, rest, frame) if left else Answer(word, "", values, "", frame)
    code, _, rest = rest.partition(" ")
    if not _REASON_CODE.fullmatch(code):
        raise Garbled(f"no code of a refusal: {text[:100]!r}")
    values, left = _values(rest)
    return Answer(word, code, values, left.removeprefix(":"), frame)


def _values(text: str) -> tuple[dict[str, str | None], str]:
    """
    Return the values at the start of a text, and the rest of it.
    """
    values: dict[str, str | None] = {}
    at = 0
    while (match := _NAMED_VALUE.match(text, at)) is not None:
        name, value = match.groups()
        if value.startswith('"'):
            try:
                decoded: Any = json.loads(value)
            except ValueError:
                break
            values[name] = decoded
        else:
            values[name] = None if value == "null" else value
        at = match.end()
    return values, text[at:]
