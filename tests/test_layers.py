"""
Imports point one way.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"

PURE = ("errors", "framing", "reply", "faults", "dialect", "route", "batch", "store")
PURE_TOO = ("pressure", "config", "direct", "answers", "deadlines", "sockets", "sections", "lock")
PURE_ALSO = ("content", "content_sections", "stream", "moves", "query", "query_sections")
PURE_STILL = ("channel_sections", "pushes", "places", "toml", "networks", "listener_sections")
PURE_ACCESS = ("patterns", "access_sections", "access", "tokens", "token_file")
PURE_DOORS = (
    "units",
    "endpoint_arguments",
    "endpoints",
    "rates",
    "crowd",
    "guest",
    "files",
    "plain_files",
)
PURE_INSIDE = ("spool.record", "spool.mark", "spool.backlog", "spool.room", "spool.file")
PURE_SQL = ("sql.route", "sql.streams", "sql.fates", "columns.kinds", "formats.choice")
PURE_WAY_IN = ("proxy.header", "telnet", "zones", "probe")
PURE_FORMATS = tuple(
    f"formats.{name}" for name in ("json", "csv", "logfmt", "regex", "syslog", "influx")
)
PURE_ASKING = ("sql.arguments", "sql.asking")

PURE_CLIENT = tuple(
    f"client.{name}" for name in ("answers", "wire", "buffer", "session", "dial", "blocking")
)
PURE_MODULES = (
    *(
        *PURE,
        *PURE_TOO,
        *PURE_ALSO,
        *PURE_STILL,
        *PURE_INSIDE,
        *PURE_SQL,
        *PURE_FORMATS,
        *PURE_ASKING,
    ),
    *(*PURE_CLIENT, *PURE_DOORS, *PURE_WAY_IN, *PURE_ACCESS),
)

PACKAGES = ("postgres", "spool", "sql", "columns", "formats", "proxy", "tls", "client", "commands")

ORDER = [
    *("errors", "http", "plain_files", "framing", "telnet", "reply", "units", "sections", "toml"),
    *("zones", "probe", "endpoint_arguments", "endpoints"),
    *("networks", "patterns", "access_sections", "access", "tokens", "token_file", "verifier"),
    *("guest", "pushes", "stream", "dialect", "batch", "moves", "faults", "formats", "columns"),
    *("content", "places", "query", "route"),
    *("sql", "route_sections", "content_sections", "query_sections", "channel_sections"),
    *("listener_sections", "config", "secret_files", "example", "rates", "crowd", "files"),
    *("repeats", "refusals", "admissions"),
    *("direct", "sockets", "deadlines", "sweep", "answers", "pressure", "lock", "store", "memory"),
    *(
        "gate",
        "attempt",
        "company",
        "fences",
        "together",
        "lane",
        "writer",
        "channels",
        "throttle",
        "terms",
    ),
    *("outlet", "farewell", "protocol", "factory", "proxy", "tls", "door", "streams", "command"),
    *("conversation", "token_first", "local", "listening", "listener", "listeners", "spool"),
    *("postgres", "cautions", "title", "embedded_roles", "embedded", "service", "reload"),
    *("loading", "pid_file", "tap"),
    *("client", "commands", "cli"),
]


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def files() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize("module", PURE_MODULES)
def test_pure_modules_are_pure(module: str) -> None:
    """Imported alone, a pure module brings in neither Twisted nor psycopg2."""
    program = (
        f"import sys, gateway.{module};"
        "bad = {'twisted', 'psycopg2', 'txpostgres'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("module", PURE_CLIENT)
def test_scripts_need_the_standard_library_alone(module: str) -> None:
    """Without any installed package what a script copies can be imported, alone."""
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import gateway.{module};"
        "bad = [n for n in sys.modules if n.startswith('gateway.')"
        " and not n.startswith('gateway.client')]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


def test_only_postgres_knows_the_driver() -> None:
    """txpostgres and psycopg2 are imported in gateway/postgres and nowhere else."""
    knowing = {
        path.parent.name
        for path in files()
        if any(name.split(".")[0] in ("psycopg2", "txpostgres") for name in imports(path))
    }
    assert knowing == {"postgres"}


def test_imports_point_one_way() -> None:
    """A module imports only what stands before it in the order of the data's way."""
    rank = {name: place for place, name in enumerate(ORDER)}
    assert {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in files()} == set(rank)
    for path in files():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(path):
            if name.startswith("gateway."):
                other = name.split(".")[1]
                assert rank[other] < rank[own] or other == own in PACKAGES, f"{path}: {name}"


def test_modules_are_small() -> None:
    """A module is one idea; over 600 lines it is two."""
    for path in files():
        assert len(path.read_text().splitlines()) <= 600, path
