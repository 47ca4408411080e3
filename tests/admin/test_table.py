"""
Tables and pages of a made status.
"""

from __future__ import annotations

import json
import re

import pytest
from msgspec.structs import replace

from gateway.admin.grammar import SUBJECTS
from gateway.admin.page import WIDTH, count_text, page
from gateway.admin.table import Column, Kind, Table, bytes_text, json_of, lines_of, seconds_text
from gateway.admin.views import VIEWS, config_table, help_table
from gateway.config.load import Database, default_config
from gateway.status.status import Warning
from tests.admin.made import hostile
from tests.web import made

STATUS = made.status(
    warnings=[Warning(code="refusals", subject="lines", text="67 messages were refused")],
    spool=made.spool(state="keeping", messages=12, size=4096, oldest=made.NOW - 60),
)


def growth(name: str) -> float:
    return {"listener.lines.messages": 12.3}.get(name, 0.0)


def test_a_table_for_people_and_for_programs() -> None:
    """Text stands left and numbers right; JSON has the very values."""
    columns = (Column("name"), Column("n", Kind.COUNT), Column("none"))
    table = Table(columns, [("a", 1234567, None), ("bcd", 1, "")])
    assert lines_of(table) == [
        "name          n  none",
        "a     1,234,567  -",
        "bcd           1  -",
    ]
    assert json.loads(json_of(columns, table.rows[0])) == {"name": "a", "n": 1234567, "none": None}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.00123, "1.2 ms"), (0.5, "500 ms"), (0.9996, "1.0 s"), (9.94, "9.9 s")),
        *((59.4, "59 s"), (59.6, "1 min"), (3599, "59 min 59 s"), (3600, "1 h")),
        *((86399, "23 h 59 min"), (90000, "1 d 1 h"), (400 * 86400, "400 d")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration has one or two units."""
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (1 << 41, "2.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    """A size has the unit that keeps it short."""
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9999, "9,999"), (10_000, "10.0k"), (1_234_567, "1.23M"), (10**12, "1000G")],
)
def test_counts(count: int, text: str) -> None:
    """A count on the page has at most six characters."""
    assert count_text(count) == text


@pytest.mark.parametrize("subject", VIEWS)
def test_each_view(subject: str) -> None:
    """Each view has as many values in its rows as columns, as text and as JSON."""
    table = VIEWS[subject](STATUS, growth)
    assert table.rows
    assert len(lines_of(table)) == 1 + len(table.rows)
    names = [column.name for column in table.columns]
    assert all(list(json.loads(json_of(table.columns, row))) == names for row in table.rows)


def test_stats_tell_what_became_of_it() -> None:
    """Answers count by their first word, whatever their code."""
    (row,) = VIEWS["STATS"](STATUS, growth).rows
    figures = (20, 1_234_567, 12.3, 123_456_789, 1_200_000, 0, 34_000, 567, 0, 0)
    assert row[:-1] == ("lines", *figures) and row[-1] == pytest.approx(0.004)


def test_a_gateway_without_anything() -> None:
    """Without listeners, routes, spool and the rest each view is there, and so is the page."""
    bare = replace(
        STATUS,
        **dict.fromkeys(("listeners", "routes", "pools", "lanes", "queries", "channels"), ()),
        certificates=(),
        warnings=(),
        spool=None,
    )
    for view in VIEWS.values():
        assert lines_of(view(bare, growth))
    assert page(bare, growth)


def test_the_page() -> None:
    """State and warnings come first, then listeners, routes and the rest."""
    lines = page(STATUS, growth)
    assert lines[0] == "gateway 0.1.0, process 4711: ready, storing; for 3 d 11 h"
    assert lines[1] == "! refusals lines: 67 messages were refused"
    text = "\n".join(lines)
    assert re.search(r"^lines +20 +12 +1.20M +0 +34.0k +567 +0 +0 +4.0 ms$", text, re.MULTILINE)
    assert "spool          keeping, 12 messages, oldest 1 min; 4.0 KiB of 1.0 GiB" in text
    expiring = replace(STATUS, certificates=made.troubled().certificates)
    assert "certificate gateway.example.org: 3 d 12 h left" in page(expiring, growth)


def test_no_line_is_too_long_and_no_name_is_believed() -> None:
    """However hostile names are, the page fits 80 columns and has no control characters."""
    lines = page(hostile(), growth)
    assert max(map(len, lines)) <= WIDTH
    (counts,) = [line for line in lines if "1000G" in line and "1.00G" not in line]
    assert counts.endswith("4.0 ms")
    tables = [line for view in VIEWS.values() for line in lines_of(view(hostile(), growth))]
    assert all(line.isprintable() for line in [*lines, *tables])


def test_the_configuration_without_secrets() -> None:
    """A password in a connection string is not shown; all else is."""
    secret = "postgresql://joe:s3cret@db/x?sslpassword=0ther"
    config = replace(default_config(), database=Database(dsn=secret))
    table = config_table(config, lambda dsn: "host=db")
    values = {row[0]: row[1] for row in table.rows}
    assert values["database.dsn"] == "host=db"
    assert values["listeners.lines.endpoint"] == "tcp:8000:interface=127.0.0.1"
    assert values["routes.messages.columns.body.source"] == "@frame"
    assert "s3cret" not in str(values) and "0ther" not in str(values)


def test_help_names_all_that_can_be_shown() -> None:
    """The help has each thing that SHOW shows."""
    commands = [str(row[0]) for row in help_table().rows]
    assert {f"SHOW {subject}" for subject in SUBJECTS} <= set(commands)
