"""
Names of the log's events: each call has one, and docs/logs.md lists them all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import NamedTuple

from gateway.logs.lines import RESERVED, package_of

ROOT = Path(__file__).parents[2]

METHODS = {
    **{level: level for level in ("debug", "info", "warn", "error", "critical")},
    "failure": "critical",
}
"""Methods of a logger, and the level of what they log."""

POOL = "_emit"
"""The pool's own way to log: at a level that depends on whether it is quiet."""


class Call(NamedTuple):
    """
    One call that logs.

    @ivar fields: of the JSON object, beside those that each has.
    """

    event: str
    level: str
    package: str
    fields: frozenset[str]


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """The calls of a module that log, and their level."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, of = node.func.attr, ast.unparse(node.func.value)
        if name in METHODS and of.endswith("_log") and of != "self._repeat_log":
            yield node, METHODS[name]
        elif (name, of) == (POOL, "self") and node.args:
            assert isinstance(node.args[0], ast.Attribute)
            yield node, node.args[0].attr


def logged() -> Iterator[Call]:
    """All calls of the gateway that log."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node, level in calls(path):
            named = {one.arg: one.value for one in node.keywords if one.arg is not None}
            event = named.pop("event", None)
            assert isinstance(event, ast.Constant), f"{path}:{node.lineno} has no event="
            named.pop("failure", None)
            assert not RESERVED & set(named), f"{path}:{node.lineno}"
            text = next(arg for arg in node.args if not isinstance(arg, ast.Attribute))
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                wanted = {name for _, name, _, _ in Formatter().parse(text.value) if name}
                assert wanted <= set(named), f"{path}:{node.lineno} {wanted - set(named)}"
            fields = frozenset(name for name in named if not name.startswith("_"))
            yield Call(str(event.value), level, package_of(module), fields)


def listed() -> set[Call]:
    """The events of docs/logs.md."""
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (\w+) \| `([\w.]+)` \| (.*?) \| .+ \|$",
        (ROOT / "docs" / "logs.md").read_text(),
        re.MULTILINE,
    )
    return {
        Call(event, level, package, frozenset(re.findall("`(.*?)`", fields)))
        for event, level, package, fields in rows
    }


def test_events_are_those_of_the_documentation() -> None:
    """Name, level, package and fields of each event are as docs/logs.md has them."""
    assert set(logged()) == listed()


def test_names_are_plain() -> None:
    """A name is small words with hyphens, and in one package always has the same fields."""
    found = set(logged())
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", one.event) for one in found)
    assert len({(one.event, one.package) for one in found}) == len(found)
    assert len(found) > 60
