"""
Imports point one way.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"

FLOORS = (
    "model",
    "metrics",
    "system",
    "logs",
    "wire",
    "formats",
    "columns",
    "sql",
    "access",
    "dialects",
    "commit",
    "spool",
    "peers",
    "config",
    "tls",
    "postgres.connect",
    "postgres.schema",
    "postgres.store",
    "postgres.queries",
    "client",
    "relay",
    "listeners",
    "status",
    "web",
    "admin",
    "workers",
    "daemon",
    "commands",
    "commands.send",
    "cli",
)
"""The packages, ground floor first: each imports from itself and from those before it."""

PURE = ("model", "metrics", "wire", "formats", "columns", "sql", "config")
"""Packages without I/O: nothing in them brings in Twisted or psycopg2."""

PURE_TOO = (
    "system.endpoint_arguments",
    "commit.attempt",
    *(f"system.{n}" for n in ("addresses", "endpoint_text", "file_limit", "lock", "regular_file")),
    *(f"system.{n}" for n in ("socket_options", "time_zones")),
    *(f"access.{n}" for n in ("connection_limit", "grants", "patterns", "peer_info", "rates")),
    *(f"access.{n}" for n in ("rights", "token_file", "tokens")),
    *(f"dialects.{n}" for n in ("base", "by_content", "command_parser", "plain")),
    "commit.inflight_limit",
    *(f"spool.{n}" for n in ("backlog", "database", "disk_space", "file", "inventory", "mark")),
    *(f"spool.{n}" for n in ("mover", "reader", "record", "salvage")),
    "logs.last_reason",
    *(f"peers.{n}" for n in ("output", "timeouts")),
    *(f"workers.{n}" for n in ("messages", "reloading")),
    *(f"web.{n}" for n in ("answer", "hosts", "markup", "units")),
    *(f"client.{n}" for n in ("answers", "blocking", "buffer", "dial", "session", "wire")),
)
"""Modules of other packages that are pure as well."""

SCRIPTS = ("answers", "blocking", "buffer", "dial", "session", "wire")
"""What scripts use of the client."""


def name_of(path: Path) -> str:
    """A module's name below C{gateway}."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {
    name_of(path): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
"""Name -> source, of all but what is in packages themselves."""


def imports(module: str, source: str) -> set[str]:
    """
    What a module imports, anywhere in it, also where only types are checked.

    @return: those of the gateway without C{gateway.}.
    """
    package = f"gateway.{module}".split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            found.add(whole)
            # "from gateway.formats import json" is a module, too.
            found |= {f"{whole}.{alias.name}" for alias in node.names}
    return {name.removeprefix("gateway.") for name in found}


def graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> those of the gateway that it imports."""
    return {own: imports(own, source) & set(modules) for own, source in modules.items()}


def floor_of(module: str) -> int:
    """
    @raise ValueError: it is in no package of the list.
    """
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        package = ".".join(parts[:length])
        if package in FLOORS:
            return FLOORS.index(package)
    raise ValueError(f"gateway.{module} is in no package of FLOORS")


def upward(modules: Mapping[str, str]) -> list[str]:
    """Imports that go up the list."""
    return [
        f"{own} imports {other}"
        for own, others in graph(modules).items()
        for other in sorted(others)
        if floor_of(other) > floor_of(own)
    ]


def cycle(modules: Mapping[str, str]) -> list[str]:
    """Modules that import one another in a circle; empty where there are none."""
    needs = graph(modules)
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            for other in sorted(needs[module]):
                if found := walk(other, [*way, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(needs) if (found := walk(module, []))), [])


def test_imports_point_one_way() -> None:
    """A module imports from its own package and from those before it in the list."""
    assert not upward(MODULES)


def test_every_package_is_in_the_list() -> None:
    """The list has all the packages that there are, and no others."""
    assert {floor_of(module) for module in MODULES} == set(range(len(FLOORS)))


def test_modules_import_each_other_in_no_circle() -> None:
    """Within a package too there is an order."""
    assert not cycle(MODULES)


def test_few_modules_are_in_no_package() -> None:
    """gateway/ itself has three modules at most."""
    assert len([name for name in MODULES if "." not in name]) <= 3


def test_pure_modules_are_pure() -> None:
    """Imported one after the other, none of the pure modules brings in Twisted or psycopg2."""
    pure = [*(name for name in sorted(MODULES) if name.split(".")[0] in PURE), *PURE_TOO]
    program = f"""
import importlib, sys
for module in {pure}:
    importlib.import_module(f"gateway.{{module}}")
    brought = {{"twisted", "psycopg2", "txpostgres"}} & set(sys.modules)
    assert not brought, f"{{module}} brings in {{brought}}"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("module", SCRIPTS)
def test_scripts_need_the_standard_library_alone(module: str) -> None:
    """Without any installed package what a script copies can be imported, alone."""
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import gateway.client.{module};"
        "bad = [n for n in sys.modules if n.startswith('gateway.')"
        " and not n.startswith('gateway.client')]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


def test_only_postgres_knows_the_driver() -> None:
    """txpostgres and psycopg2 are imported in gateway/postgres and nowhere else."""
    knowing = {
        name.split(".")[0]
        for name, source in MODULES.items()
        if any(one.split(".")[0] in ("psycopg2", "txpostgres") for one in imports(name, source))
    }
    assert knowing == {"postgres"}


def test_modules_are_small() -> None:
    """A module is one idea; over 600 lines it is two."""
    for name, source in MODULES.items():
        assert len(source.splitlines()) <= 600, name


def test_the_checks_see_what_they_are_for() -> None:
    """An import that goes up is found, within a function too; and so is a circle."""
    late = "def late() -> None:\n    from gateway.sql import route\n"
    assert upward({**MODULES, "model.new": late}) == ["model.new imports sql.route"]
    assert cycle({"model.a": "from .b import B\n", "model.b": "import gateway.model.a\n"}) == [
        *("model.a", "model.b", "model.a")
    ]
