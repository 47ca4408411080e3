"""
Probe of a client of commands: a PING that no listener takes for a message.

The other end may be a plain listener, where each frame is a message, or no gateway at all: a client
that went on would have its commands stored as messages, and take that for success. So nothing
follows this PING, neither a token nor a message, until an answer has come with the same nonce. A
plain listener recognizes the mark and answers which kind of listener it is; one of an earlier
version cannot store the byte behind the mark in a text column.

C{gateway/wire/probe.py} has the same mark; it is not imported, as this folder works by itself.
"""

from __future__ import annotations

import re
from typing import Final

from .answers import Answer, WrongListener

MARK: Final = b"gateway-client-5e2b9c41d7"

NONCE: Final = 16
"""Letters of the word that the answer repeats; listeners know the length of the whole by it."""

MAX_PROBE_ANSWER: Final = 4096
"""Longest frame taken in before the answer, in bytes; none of those that are due is as long."""

BEGINNING: Final = 300
"""Bytes of what came that are kept until it is known who speaks."""

_PING: Final = b"PING " + MARK + b" "

_COMMANDS: Final = (
    'give the endpoint of a listener with dialect = "command", such as tcp:localhost:8002, and the'
    " framing that it has"
)

_MESSAGES: Final = "check the port, and the dialect and framing of its listener"

_ANSWER_WORD: Final = rb"([+-](?:OK|DUP|QUE|REJ|TRY|BYE)\b"

_GATEWAYS: Final = {
    "int32": re.compile(rb"\0[\0-\xff]{3}%b[^\r\n]*)" % _ANSWER_WORD),
    "int16": re.compile(rb"[\0-\x04][\0-\xff]%b[^\r\n]*)" % _ANSWER_WORD),
    "netstring": re.compile(rb"[0-9]{1,6}:%b[^\r\n]*)" % _ANSWER_WORD),
    "octet-counted": re.compile(rb"[0-9]{1,6} %b[^\r\n]*)" % _ANSWER_WORD),
    "nul": re.compile(rb"%b[^\0\n]*)\0" % _ANSWER_WORD),
    "line": re.compile(rb"%b[^\0\n]*)\n" % _ANSWER_WORD),
    # Its delimiter is not known; but a listener that sends the client away says its framing.
    "delimited": re.compile(rb"(-BYE FORMAT :this is listener [^\n]*framing delimited\)[^\n]*)"),
}
"""A gateway's answer, by its framing."""

_OTHER_PROTOCOLS: Final = (
    (re.compile(rb"HTTP/[0-9]|<(?:!doctype|html)", re.IGNORECASE), "an HTTP server"),
    (re.compile(rb"[\x15\x16]\x03"), "a listener with TLS, and this client speaks without"),
    (re.compile(rb"SSH-"), "an SSH server"),
    (re.compile(rb"-ERR |-NOAUTH "), "a Redis server"),
    (re.compile(rb"E(?:\0\0..S|FATAL)", re.DOTALL), "a PostgreSQL server"),
    (re.compile(rb"[1-5][0-9][0-9][ -](?![+-])"), "an SMTP or FTP server"),
)
"""First bytes of servers that are no gateways, or of their error messages -> their names."""


def probe(framing: str, nonce: str) -> bytes:
    """
    Return the PING, with a random word of L{NONCE} letters.
    """
    if framing == "line":
        return _PING + b"\0" + nonce.encode()
    # The LF ends a frame for a listener of lines, which then answers.
    byte = {"nul": b"\x01", "delimited": b"\x05"}.get(framing, b"\0")
    return _PING + byte + nonce.encode() + b"\n"


def is_probe(payload: bytes) -> bool:
    return payload.startswith(_PING)


def check_probe(payload: bytes, answer: Answer) -> WrongListener | None:
    """
    Return why the other end is no listener of commands, by its answer to the PING; C{None} where it
    is one.
    """
    expected = [b"+OK", MARK, payload.removeprefix(_PING).strip(b"\0\x01\x05\n")]
    # Control characters come back as spaces.
    if re.sub(rb"[\0-\x20]+", b" ", answer.raw).split() == expected:
        return None
    stored = ", and may have stored it" if answer.kept else ""
    return WrongListener(
        f"this seems to be a plain listener of an earlier version: it took the client's PING for a"
        f" message{stored} ({str(answer)[:100]}); {_COMMANDS}"
    )


def sent_away(answer: Answer) -> WrongListener:
    """
    Return the error for a listener that answers the PING with -BYE FORMAT.
    """
    return WrongListener(f"{answer.text[:300]}; {_COMMANDS}")


def takes_commands(answer: Answer) -> WrongListener | None:
    """
    Return why a listener takes no bare messages, by its first answer; C{None} where it may.
    """
    if answer.code != "FORMAT" or not answer.text.startswith("unknown verb "):
        return None
    # Its text may hold a token, or a message.
    return WrongListener(
        "this is a listener of commands, and bare messages were sent to it; use dialect command, or"
        " the endpoint of a plain listener"
    )


def stranger(beginning: bytes, framing: str, plain: bool) -> tuple[str, str]:
    """
    Guess what kind of server the other end is.

    @param beginning: first bytes from it, in which no answer was recognized.
    @param framing: framing of this client.
    @return: a description, and the kind: C{gateway}, C{other}, or C{""} where it is unknown.
    """
    advice = _MESSAGES if plain else _COMMANDS
    for its, pattern in _GATEWAYS.items():
        match = pattern.match(beginning)
        if match is not None and its != framing:
            answer_text = match[1].removesuffix(b",").decode("utf-8", "backslashreplace")
            text = f"this is a gateway's listener with framing {its}, not {framing}: {answer_text}"
            return f"{text}; {advice}", "gateway"
        if match is not None:
            break
    else:
        for pattern, name in _OTHER_PROTOCOLS:
            if pattern.match(beginning):
                return f"this seems to be {name}: it says {beginning[:60]!r}; {advice}", "other"
    return f"no answer of a gateway: {beginning[:100]!r}; {advice}", ""


def mute() -> str:
    """
    Describe a connection on which no byte came.
    """
    return (
        "nothing answers the client's PING: this is no gateway, or a listener with another framing"
        f" or with TLS; {_COMMANDS}"
    )
