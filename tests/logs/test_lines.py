"""
Lines of the log: text that nobody can forge, and flat JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from gateway.logs.lines import json_line, level_of, package_of, text_lines

WHEN = 1795798332.1237


def event(text: str = "{what} happened", **fields: Any) -> dict[str, Any]:
    """An event as Twisted's logger makes it."""
    return {
        "log_time": WHEN,
        "log_level": LogLevel.warn,
        "log_namespace": "gateway.spool.drain.Drain",
        "log_source": object(),
        "log_format": text,
        "event": "spool-keeping",
        **fields,
    }


def failure(error: Exception) -> Failure:
    """What was raised."""
    try:
        raise error
    except Exception:  # noqa: BLE001 - whatever is given
        return Failure()


@pytest.mark.parametrize(
    ("namespace", "package"),
    [
        ("gateway.spool.outage_spool.OutageSpool", "gateway.spool"),
        ("gateway.postgres.store.executor._Executor", "gateway.postgres.store"),
        ("gateway.daemon.service", "gateway.daemon"),
        ("twisted.scripts._twistd_unix.UnixAppLogger", "twisted.scripts"),
        ("twisted", "twisted"),
        ("stderr", "stderr"),
        ("", ""),
    ],
)
def test_a_namespace_is_shown_as_its_package(namespace: str, package: str) -> None:
    """Neither the class nor the module is in a line's prefix."""
    assert package_of(namespace) == package


def test_a_line_for_people() -> None:
    """Time with its offset, package, level, text."""
    (line,) = text_lines(event(what="it"), "gateway.spool")
    assert re.fullmatch(
        r"2026-11-2\dT\d\d:\d\d:12[+-]\d{4} \[gateway\.spool#warn\] it happened", line
    )


@given(st.text())
def test_nothing_begins_a_line_or_changes_a_terminal(what: str) -> None:
    """Whatever is in a field, it is one line of what can be printed, in either form."""
    (line,) = text_lines(event(what=what), "gateway.spool")
    assert line.isprintable() and line.endswith(" happened")
    line = json_line(event(what=what), "gateway.spool")
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["what"] == what


def test_an_object_is_flat() -> None:
    """The five keys of each object come first, then the event's fields, as JSON has them; what is
    wording, or Twisted's own, is left out."""
    made = event(
        "{what}{_more}",
        what=ValueError("odd"),
        _more="!",
        count=3,
        part=0.5,
        never=float("inf"),
        gone=None,
        yes=True,
        several=["a", 1],
    )
    assert json.loads(json_line(made, "gateway.spool")) == {
        "time": "2026-11-27T16:52:12.123Z",
        "level": "warn",
        "namespace": "gateway.spool",
        "event": "spool-keeping",
        "text": "odd!",
        "what": "odd",
        "count": 3,
        "part": 0.5,
        "never": "inf",
        "gone": None,
        "yes": True,
        "several": "['a', 1]",
    }


def test_a_traceback_is_one_object() -> None:
    """JSON has it in a field, text in lines that are indented."""
    made = event("broken", log_failure=failure(ValueError("odd\nodder\x1b[2J")))
    found = json.loads(json_line(made, "gateway.spool"))
    assert found["text"] == "broken" and found["traceback"].startswith("Traceback")
    assert "ValueError: odd\nodder" in found["traceback"]
    first, *more = text_lines(made, "gateway.spool")
    assert first.endswith("broken") and more[0] == "\tTraceback (most recent call last):"
    assert all(line.startswith("\t") and line[1:].isprintable() for line in more)
    # Twisted's "Unhandled error in Deferred" has its traceback in an event without a text.
    assert json.loads(json_line({**made, "log_format": ""}, ""))["text"] == "ValueError"


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ({"log_namespace": "stdout"}, "stdout"),
        ({"log_namespace": "log_legacy", "log_failure": failure(OSError())}, "failure"),
        ({"log_namespace": "py.warnings", "warning": "old"}, "python-warning"),
        ({"log_namespace": "twisted.internet.tcp.Port"}, "twisted"),
        ({"event": object()}, "twisted"),
    ],
)
def test_events_of_others_have_a_name_too(made: dict[str, Any], name: str) -> None:
    """What the gateway does not log itself is told by its kind, and its fields are left out."""
    found = json.loads(json_line({**made, "secret": "x"}, "p"))
    assert found["event"] == name and "secret" not in found
    assert (found["level"], found["time"]) == ("info", None)


def test_a_level_is_one_of_five() -> None:
    """What has none, as an event of Twisted's old log, counts as info."""
    assert level_of({"log_level": LogLevel.critical}) == "critical"
    assert level_of({}) == level_of({"log_level": None}) == "info"
