"""
One line that shows how a listener is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from gateway.formats.choice import FormatName, Reading
from gateway.listener_sections import Listener
from gateway.route import Route

_TEXT: Final = "hello"
_ONE: Final = 1  # any column that is a number, a text or a time takes it


def example(listener: Listener, routes: Mapping[str, Route]) -> str:
    """
    What a peer may send to a listener, as an argument of printf(1).
    """
    if listener.dialect == "command":
        first = next(iter(routes.values()), None)
        message = "PING you" if first is None else f"PUT {first.name} {sample(first)}"
    elif listener.route_by is not None and listener.routes:
        value, name = next(iter(listener.routes.items()))
        message = sample(routes[name], (listener.route_by, value))
    else:
        message = sample(routes[listener.route or ""])
    if not listener.auth:
        return _printed(listener.framing, message)
    token = "AUTH TOKEN" if listener.dialect == "command" else "TOKEN"
    return _printed(listener.framing, token, message)


def sample(route: Route, choice: tuple[str, str] | None = None) -> str:
    """
    A message that a route can read, though its table may want other values.

    @param choice: where a field chooses the route, that field and a value for it.
    """
    fields: dict[str, Any] = dict.fromkeys(route.fields, _ONE)
    if choice is not None:
        fields = {choice[0]: choice[1], **fields}
    make = _SAMPLES.get(route.reading.format)
    return _TEXT if make is None else make(fields, route.reading)


def _json(fields: Mapping[str, Any], reading: Reading) -> str:
    message: dict[str, Any] = {}
    for path, value in fields.items():
        *parents, name = path.split(".")
        place = message
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                inner = place[parent] = {}
            place = inner
        place.setdefault(name, value)
    return msgspec.json.encode(message).decode()


def _csv(fields: Mapping[str, Any], reading: Reading) -> str:
    delimiter = " " if reading.delimiter == "whitespace" else reading.delimiter
    return delimiter.join(str(fields.get(name, _ONE)) for name in reading.names)


def _logfmt(fields: Mapping[str, Any], reading: Reading) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _influx(fields: Mapping[str, Any], reading: Reading) -> str:
    own = ("measurement", "timestamp", "tags", "fields")
    named = {name: value for name, value in fields.items() if name not in own}
    tags = [f",{n.removeprefix('tag.')}={v}" for n, v in named.items() if n.startswith("tag.")]
    rest = [
        f"{name.removeprefix('field.')}={value}"
        for name, value in named.items()
        if not name.startswith("tag.")
    ]
    return f"{fields.get('measurement', 'm')}{''.join(tags)} {','.join(rest) or 'value=1'}"


_SAMPLES: Final[Mapping[FormatName, Callable[[Mapping[str, Any], Reading], str]]] = {
    "json": _json,
    "csv": _csv,
    "logfmt": _logfmt,
    "influx": _influx,
    "syslog": lambda fields, reading: "<13>1 2026-01-01T00:00:00Z host app - - - hello",
}


def _printed(framing: str, *messages: str) -> str:
    """
    Frames as an argument of printf(1), quoted for a shell.
    """
    text = "".join(_framed(framing, message) for message in messages)
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _framed(framing: str, message: str) -> str:
    text = message.replace("\\", "\\\\").replace("%", "%%")
    if framing == "netstring":
        return f"{len(message.encode())}:{text},"
    if framing == "octet-counted":
        return f"{len(message.encode())} {text}"
    return text + (r"\000" if framing == "nul" else r"\n")
