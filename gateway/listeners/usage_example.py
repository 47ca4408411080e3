"""
Build a line that shows how a listener is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.config.listener import Listener
from gateway.formats.registry import FORMATS
from gateway.model.route import Route
from gateway.wire.framing import make_framing
from gateway.wire.protocols import PROTOCOLS

_SAMPLE_TEXT: Final = "hello"
_ONE: Final = 1  # any column that is a number, a text or a time takes it

_MAX_EXAMPLE_BYTES: Final = 65536
"""Bytes of a message; no example has so many."""

_UNSEEN: Final = re.compile(r"[\0-\x1f\x7f\udc80-\udcff]")
_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def example(listener: Listener, routes: Mapping[str, Route]) -> str:
    """
    Return an example of what a peer may send, as an argument of printf(1); C{""} for a protocol
    that nobody types.
    """
    if listener.dialect in PROTOCOLS:
        return ""
    if listener.dialect == "command":
        first = next(iter(routes.values()), None)
        message = b"PING you"
        if first is not None:
            message = f"PUT {first.name} ".encode() + sample_message(first)
    elif listener.route_by is not None and listener.routes:
        value, name = next(iter(listener.routes.items()))
        message = sample_message(routes[name], (listener.route_by, value))
    else:
        message = sample_message(routes[listener.route or ""])
    if not listener.auth:
        return _printed(listener, message)
    token = b"AUTH TOKEN" if listener.dialect == "command" else b"TOKEN"
    return _printed(listener, token, message)


def sample_message(route: Route, choice: tuple[str, str] | None = None) -> bytes:
    """
    Return a message that a route can parse, though its table may need other values.

    @param choice: field that chooses the route, and a value for it; C{None} where none does.
    """
    fields: dict[str, Any] = dict.fromkeys(route.fields, _ONE)
    if choice is not None:
        fields = {choice[0]: choice[1], **fields}
    make = FORMATS[route.reading.format].sample
    message = _SAMPLE_TEXT if make is None else make(route.reading, fields)
    return message.encode() if isinstance(message, str) else message


def _printed(listener: Listener, *messages: bytes) -> str:
    """
    Return frames as an argument of printf(1), quoted for a shell.
    """
    if listener.is_datagram:
        return _quoted(messages[-1])
    delimiter = None if listener.delimiter is None else listener.delimiter.encode()
    framing = make_framing(listener.framing, _MAX_EXAMPLE_BYTES, delimiter)
    frames = [framing.frame(message) for message in messages]
    return _quoted(b"".join(frames))


def _quoted(data: bytes) -> str:
    """Return bytes as an argument of printf(1), quoted for a shell."""
    # A binary length may be no UTF-8.
    text = data.decode(errors="surrogateescape")
    text = text.replace("\\", "\\\\").replace("%", "%%")
    text = _UNSEEN.sub(lambda match: _ESCAPES.get(match[0], f"\\{ord(match[0]) & 255:03o}"), text)
    if text.startswith("-"):
        text = r"\055" + text[1:]  # a length, and no option of printf(1)
    return "'" + text.replace("'", "'\"'\"'") + "'"
