"""
Lines of the log: what an event becomes as text for people, and as JSON for programs.

An event of the gateway has a stable name, its C{event}, beside the text and its fields. A field
whose name begins with an underscore is wording, such as a plural: it is in the text alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from twisted.logger import formatEvent, formatTime

from gateway.model.text import printable

LEVELS: Final = ("debug", "info", "warn", "error", "critical")
"""Levels of events, the lowest first."""

RESERVED: Final = frozenset(("time", "level", "namespace", "event", "text", "traceback"))
"""Keys of each JSON object, which no event may have as fields."""

Event = Mapping[str, Any]


def package_of(namespace: str) -> str:
    """
    Return the package of a logger's namespace, without the module and the class in it.
    """
    parts = namespace.split(".")
    while len(parts) > 1 and parts[-1].lstrip("_")[:1].isupper():
        parts.pop()
    return ".".join(parts[:-1] if len(parts) > 2 else parts)


def level_of(event: Event) -> str:
    """Return the level of an event, one of L{LEVELS}."""
    name = getattr(event.get("log_level"), "name", "info")
    return name if name in LEVELS else "info"


def text_lines(event: Event, package: str, worker: int | None = None) -> Sequence[str]:
    """
    Return the lines of an event for people: one, and its traceback indented.

    @param worker: number of the worker that it is of.

    Control characters are escaped, so that no text begins a line or changes a terminal.
    """
    of = "" if worker is None else f"worker {worker}: "
    text = f"{formatTime(event.get('log_time'))} [{package}#{level_of(event)}] {of}{_text(event)}"
    traceback = _traceback(event) or ""
    return [text, *(f"\t{printable(line)}" for line in traceback.splitlines())]


def json_line(event: Event, package: str, worker: int | None = None) -> str:
    """
    Return an event as a JSON object without nested ones, in ASCII.

    @param worker: number of the worker that it is of.
    """
    line: dict[str, object] = {
        "time": _utc(event.get("log_time")),
        "level": level_of(event),
        "namespace": package,
        "event": _name(event),
        "text": _text(event),
    }
    if worker is not None:
        line["worker"] = worker
    if isinstance(event.get("event"), str):
        for key, value in event.items():
            if not key.startswith(("log_", "_")) and key not in RESERVED:
                line[key] = _plain(value)
    traceback = _traceback(event)
    if traceback is not None:
        line["traceback"] = traceback
    return json.dumps(line)


def _name(event: Event) -> str:
    """Return the stable name of an event; Twisted's have none, and are told by their kind."""
    name = event.get("event")
    if isinstance(name, str):
        return name
    namespace = event.get("log_namespace")
    if namespace in ("stdout", "stderr"):
        return str(namespace)
    if "log_failure" in event:
        return "failure"
    return "python-warning" if "warning" in event else "twisted"


def _text(event: Event) -> str:
    text = formatEvent(dict(event))
    failure = event.get("log_failure")
    if not text and failure is not None:
        text = failure.type.__name__
    return printable(text)


def _traceback(event: Event) -> str | None:
    failure = event.get("log_failure")
    if failure is None:
        return None
    try:
        return str(failure.getTraceback()).rstrip()
    except Exception as error:  # noqa: BLE001 - an odd exception must not cost the line
        return f"(no traceback: {type(error).__name__})"


def _plain(value: object) -> object:
    """Return a field's value as JSON has it."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    return str(value)


def _utc(time: float | None) -> str | None:
    if time is None:
        return None
    moment = datetime.fromtimestamp(time, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
