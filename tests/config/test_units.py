"""
Units of durations and sizes in a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.changes import changes_of
from gateway.config.listener import Listener, TlsSection
from gateway.config.load import Config, SpoolSection, load_config
from gateway.config.query import ParamSection, QuerySection
from gateway.config.reader import SectionReader, unit_of
from gateway.config.route import ColumnSection, RouteSection
from gateway.config.units import DURATION, SIZE, Quantity
from gateway.daemon.configuration import endpoint_fault
from gateway.model.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"

COUNTS = {
    *("Database.pool_min", "Database.pool_max", "Database.query_connections"),
    *("NamedDatabase.pool_min", "NamedDatabase.pool_max", "NamedDatabase.query_connections"),
    *("Limits.connections", "Listener.window", "Listener.backlog", "Listener.max_connections"),
    *("Listener.max_connections_per_address", "Listener.messages_per_second"),
    "QuerySection.max_rows",
}
"""Keys with numbers that are neither durations nor sizes."""

MAY_BE_ZERO = {"Limits.drain_delay", "Listener.remember_chunks"}
"""Keys of which nothing at all is a value."""


def sections() -> Iterator[type[msgspec.Struct]]:
    """Those of a file, each once."""
    found = [RouteSection, ColumnSection, QuerySection, ParamSection]
    waiting: list[Any] = [Config, *found]
    seen = set()
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct) or kind in seen:
            continue
        seen.add(kind)
        waiting += [field.type for field in msgspec.structs.fields(kind)]
        if kind.__struct_config__.forbid_unknown_fields:
            yield kind


def is_number(wanted: Any) -> bool:
    """Whether a key takes numbers and nothing else."""
    if get_origin(wanted) in (Literal, dict, list, tuple):
        return False
    if any(get_origin(part) is Literal for part in get_args(wanted)):
        return False  # it takes words too
    return wanted in (int, float) or any(is_number(part) for part in get_args(wanted))


def keys() -> dict[str, tuple[type[msgspec.Struct], str, Quantity | None]]:
    """Every key of every section that takes a number, with the kind of its units."""
    return {
        f"{kind.__name__}.{field.name}": (kind, field.name, unit_of(field.type))
        for kind in sections()
        for field in msgspec.structs.fields(kind)
        if is_number(field.type)
    }


def read(kind: type[msgspec.Struct], key: str, value: object) -> tuple[object, list[str]]:
    """One key of a section, and the problems of this key."""
    reader = SectionReader("f")
    found = reader.section("s", {key: value}, kind)
    return getattr(found, key), [line for line in reader.problems if f"f: s.{key}: " in line]


def test_every_number_has_units_or_is_a_count() -> None:
    """A key with a number is a duration, a size, or is known to be neither; by its name, too."""
    found = keys()
    assert len(found) > 30 and {Listener, TlsSection, SpoolSection} <= {*sections()}
    assert {key for key, (_, _, unit) in found.items() if unit is None} == COUNTS
    for name, (_, key, unit) in found.items():
        if re.search(r"_timeout|_after|^timeout|^burst|^keepalive|^remember", key):
            assert unit is DURATION, name
        if re.search(r"bytes|_buffer|_frame$|_chunk$", key):
            assert unit is SIZE, name


@pytest.mark.parametrize("name", sorted(set(keys()) - COUNTS))
def test_every_key_takes_its_units(name: str) -> None:
    """As a number or with a unit it is the same value, within the same limits."""
    kind, key, unit = keys()[name]
    text, number = ("2m", 120) if unit is DURATION else ("3MB", 3 * 1024 * 1024)
    assert read(kind, key, text) == read(kind, key, number) == (number, [])
    zeros = () if name in MAY_BE_ZERO else ("0s" if unit is DURATION else "0B",)
    for wrong in (*zeros, "soon", "64 kb/s", "-1s", True):
        value, problems = read(kind, key, wrong)
        assert len(problems) == 1, (name, wrong, value)
    zero, written = read(kind, key, 0), read(kind, key, "0s" if unit is DURATION else "0B")
    assert zero == written
    if unit is SIZE and "bytes_per_second" not in key:
        assert read(kind, key, "9" * 19 + "TB")[1][0].endswith("is more than any size can be")


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_a_count_takes_none(name: str) -> None:
    """What is no duration and no size has no unit."""
    kind, key, _ = keys()[name]
    assert read(kind, key, "4kB")[1] and not read(kind, key, 4)[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("500ms", 0.5), ("250us", 0.00025), ("5s", 5), ("5m", 300), ("5min", 300)),
        *(("1h", 3600), ("1d", 86400), ("1.5h", 5400), ("2 h", 7200), ("0.1s", 0.1)),
    ],
)
def test_durations(text: str, value: float) -> None:
    """PostgreSQL's units, and m for minutes."""
    assert DURATION.from_text(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("100B", 100), ("64k", 65536), ("64K", 65536), ("64kB", 65536), ("64 KiB", 65536)),
        *(("16MiB", 16 << 20), ("16MB", 16 << 20), ("1G", 1 << 30), ("2T", 2 << 40)),
        *(("1.5M", 1536 * 1024), ("0.5kB", 512)),
    ],
)
def test_sizes(text: str, value: int) -> None:
    """Binary multiples, whichever way they are written, as in PostgreSQL."""
    found = SIZE.from_text(text)
    assert found == value and isinstance(found, int)


@pytest.mark.parametrize(
    ("unit", "text", "said"),
    [
        (DURATION, "5", "'5' has no unit: write 5, or '5s'"),
        (DURATION, "5S", "'5S' has an unknown unit 'S'; did you mean '5s'?"),
        (DURATION, "5M", "'5M' has an unknown unit 'M'; did you mean '5m'?"),
        (DURATION, "3 weeks", "'3 weeks' has an unknown unit 'weeks': write a number of seconds"),
        (DURATION, "1h30m", "'1h30m' is no duration: write a number of seconds, or \"500ms\""),
        (DURATION, "", "'' is no duration"),
        (DURATION, "\N{ARABIC-INDIC DIGIT FIVE}s", "is no duration"),
        (DURATION, "1e400s", "is no duration"),
        (SIZE, "64", "'64' has no unit: write 64, or '64B'"),
        (SIZE, "64 kb/s", "'64 kb/s' is no size: write a number of bytes, or \"64kB\""),
        (SIZE, "16m", "'16m' has an unknown unit 'm'; did you mean '16M'?"),
        (SIZE, "64kb", "'64kb' has an unknown unit 'kb'; did you mean '64kB'?"),
        (SIZE, "0.3k", "'0.3k' is no whole number of bytes"),
        (SIZE, "99999999T", "'99999999T' is more than any size can be"),
    ],
)
def test_what_is_none(unit: Quantity, text: str, said: str) -> None:
    """What is not meant is told with what might be."""
    with pytest.raises(ValueError, match=re.escape(said)):
        unit.from_text(text)


@given(st.text(max_size=12), st.sampled_from([DURATION, SIZE]))
def test_any_text(text: str, unit: Quantity) -> None:
    """Whatever it is, it is a number or a reason."""
    try:
        assert unit.from_text(text) >= 0
    except ValueError as error:
        assert str(error)


def test_a_reload_compares_values() -> None:
    """What is written in another way is not changed."""
    text = "[database]\nidle_timeout = {}\n[spool]\nmax_bytes = {}\n"

    def load(*values: str) -> Config:
        return load_config(text.format(*values), PurePath("/etc/g.toml"), endpoint_fault)

    plain = load("300", "1048576")
    for minutes, waiting in (
        (5, []),
        (6, ["database.idle_timeout: not taken over, needs a restart"]),
    ):
        changes = changes_of(plain, load(f'"{minutes}m"', '"1MB"'), plain, has_spool=True)
        assert (changes.lines, changes.waiting) == ([], waiting)
    with pytest.raises(ConfigError, match=r"spool\.max_bytes: expected a whole number >= 1048576"):
        load("300", '"1kB"')


def test_the_documentation_lists_them() -> None:
    """docs/configuration.md names every key that has units, in its place."""
    rows = re.findall(r"(?m)^\| (durations|sizes) \| (.*) \|$", DOCS.read_text())
    listed = {what: {*re.findall(r"`([a-z_]+)`", text)} for what, text in rows}
    for what, unit in (("durations", DURATION), ("sizes", SIZE)):
        assert listed[what] == {key for _, key, found in keys().values() if found is unit}
