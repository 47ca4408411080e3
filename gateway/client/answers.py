"""
What a gateway answers, and what goes wrong between a client and it.

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

_EPOCH = re.compile(r"[0-9A-Za-z-]{1,64}")

_CODE = re.compile(r"[A-Z]{1,32}")

_COUNT = re.compile(r"[0-9]{1,19}")

LONGEST_WAIT: Final = 3600.0
"""Seconds that a gateway can have a client wait before it tries again."""

_VALUE = re.compile(r'([^\s="]++)=("(?:[^"\\]++|\\.)*+"|[^\s"]++)(?: |\Z)')


class ClientError(Exception):
    """Base of all; never raised itself."""


class Unsendable(ClientError, ValueError):
    """The message cannot be said in this framing; nothing was sent."""


class Garbled(ClientError):
    """The other end does not speak the protocol: what it said fits nothing that was asked."""


class WrongListener(Garbled):
    """A client met a listener that is not for it; the text says what that seems to be."""


class Closed(ClientError):
    """The client was closed before the answer came; its text says what became of the message."""


class BufferFull(ClientError):
    """The client's buffer has no room; nothing of what was to be sent is kept."""


class BufferHeld(ClientError):
    """Another process has the buffer's file open."""


class BufferBroken(ClientError):
    """The buffer's file cannot be read or written, or belongs to another stream."""


class StreamLost(ClientError):
    """
    The numbers of the gateway and of this client do not fit together any more: another client
    used the stream, the buffer was set back, or the gateway has another database. A person must
    decide.
    """


class StreamTaken(ClientError):
    """Another client said HELLO to this stream; the newer one has it."""


class NotAllowed(ClientError):
    """
    The gateway will not have this client: its token is not good, or nothing is granted to it.
    To try again does not help; a person must act.
    """


class Unknown(ClientError):
    """The connection was lost before the answer: the message is stored once, or not at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One answer.

    @ivar word: C{+OK}, C{+DUP}, C{+QUE}, C{-REJ}, C{-TRY} or C{-BYE}; C{?} where the client
        itself says that the fate is not known (see L{UNKNOWN}).
    @ivar code: the second word of a refusal, such as C{DATA}; empty for what is kept.
    @ivar values: what was told as name=value; C{None} is NULL.
    @ivar text: for people.
    @ivar raw: the frame as it came.
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
        """Whether the message is stored, or on the gateway's disk and will be."""
        return self.word in _KEPT

    @property
    def retry(self) -> float | None:
        """Seconds to wait before it is sent again, where the gateway says so."""
        seconds = _number(self.values.get("retry"))
        return None if seconds is None else min(LONGEST_WAIT, float(seconds))

    @property
    def taken(self) -> bool:
        """Whether another client has begun a new epoch of the stream that was asked for."""
        return self.code == "GAP" and self.values.get("taken") == "true"

    @property
    def seq(self) -> int | None:
        """The last number of the stream that is settled, where the gateway says so."""
        return _number(self.values.get("seq"))

    @property
    def epoch(self) -> str:
        """The word that a stream's numbers belong to, where the gateway says so."""
        text = self.values.get("epoch") or ""
        # It is said again as it is: nothing that would be more than a word.
        return text if _EPOCH.fullmatch(text) else ""


def _number(text: str | None) -> int | None:
    """
    A count, as the protocol has it: no gateway has more than 19 digits to say, and Python refuses
    to read thousands.
    """
    return int(text) if text and _COUNT.fullmatch(text) else None


OK: Final = Answer("+OK", raw=b"+OK")

UNKNOWN: Final = Answer("?", text="the connection was lost before the answer", raw=b"?")


class Refused(ClientError):
    """
    Refused for good: the same message, or the same question, fails again.

    @ivar answer: what the gateway said.
    @ivar message: what it was said of.
    """

    def __init__(self, answer: Answer, message: bytes) -> None:
        super().__init__(str(answer))
        self.answer = answer
        self.message = message


def parse(frame: bytes) -> Answer:
    """
    @raise Garbled: this is no answer.
    """
    if frame == b"+OK":
        return OK
    text = frame.decode("utf-8", "backslashreplace")
    word, _, rest = text.partition(" ")
    if word not in WORDS:
        raise Garbled(f"no answer of a gateway: {text[:100]!r}")
    if word in _KEPT:
        values, left = _values(rest)
        # What is not all values is data: PING's text.
        return Answer(word, "", {}, rest, frame) if left else Answer(word, "", values, "", frame)
    code, _, rest = rest.partition(" ")
    if not _CODE.fullmatch(code):
        raise Garbled(f"no code of a refusal: {text[:100]!r}")
    values, left = _values(rest)
    return Answer(word, code, values, left.removeprefix(":"), frame)


def _values(text: str) -> tuple[dict[str, str | None], str]:
    """
    @return: the values at the head of the text, and what follows them.
    """
    found: dict[str, str | None] = {}
    at = 0
    while (match := _VALUE.match(text, at)) is not None:
        name, value = match.groups()
        if value.startswith('"'):
            try:
                decoded: Any = json.loads(value)
            except ValueError:
                break
            found[name] = decoded
        else:
            found[name] = None if value == "null" else value
        at = match.end()
    return found, text[at:]
