"""
Connection strings taken apart, with libpq itself as the oracle where it can be one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn, parse_dsn
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from gateway.config.load import Database
from gateway.model.errors import ConfigError
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.dsn import dsn_fault
from gateway.postgres.connect.hosts import DEFAULTS, Host, read_hosts
from gateway.postgres.connect.resolver import ThreadedResolver, look_up

SERVICES = """
# comment
[other]
host=wrong
 [metrics]  
  host=a,b
port=1,2
port=9
user=x=y
[metrics]
dbname=late
[ldap]
ldap://example.org/dc=x
[broken]
nonsense
"""  # noqa: W291 - libpq strips what ends a line


def outside(files: dict[str, str] | None = None, /, **environment: str) -> Environment:
    return Environment(environment, "/home/me", (files or {}).get)


def walk(dsn: str, **environment: str) -> list[tuple[str, str, str]]:
    hosts = read_hosts(dsn, outside(**environment)).walk
    return [(host.host, host.hostaddr, host.port) for host in hosts]


# libpq as the oracle: addresses nobody listens on, and what it says of each in turn.

NOWHERE = st.sampled_from(["/nonexistent/a", "/nonexistent/b", "127.0.0.1", "::1", "@nowhere"])
LOOPBACK = st.sampled_from(["127.0.0.1", "127.0.0.2", "::1"])
# Below 1024 nobody has a PostgreSQL.
PORTS = st.integers(1, 9).map(str)


def listed(elements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(elements, min_size=1, max_size=3).map(",".join)


RANK = st.fixed_dictionaries(
    {}, optional={"host": listed(NOWHERE), "hostaddr": listed(LOOPBACK), "port": listed(PORTS)}
)

_REASON = re.compile(
    r'server (?:on socket "(?P<socket>.*?)/?\.s\.PGSQL\.(?P<number>\d+)"'
    r'|at "(?P<host>.*?)"(?: \((?P<address>.*?)\))?, port (?P<port>\d+)) failed'
)


def libpq_walk(dsn: str) -> list[tuple[str, str]] | None:
    """
    (address or socket directory, port) of each place that libpq tries; C{None} where it
    refuses the list.
    """
    with pytest.raises(psycopg2.OperationalError) as caught:
        psycopg2.connect(dsn)
    text = str(caught.value)
    if "could not match" in text:
        return None
    return [
        (m["address"] or m["host"] or m["socket"], m["port"] or m["number"])
        for m in _REASON.finditer(text)
    ]


@settings(max_examples=200, deadline=None)
@given(own=RANK, service=RANK, environment=RANK, named=st.sampled_from(["", "own", "env"]))
def test_the_walk_is_libpqs(
    tmp_path_factory: pytest.TempPathFactory,
    own: dict[str, str],
    service: dict[str, str],
    environment: dict[str, str],
    named: str,
) -> None:
    """Whatever dsn, service file and environment say together, the walk is libpq's own."""
    variables = {f"PG{key.upper()}": value for key, value in environment.items()}
    # So that libpq never knocks at a port where somebody may be.
    variables.setdefault("PGPORT", "7")
    own = {**own, "user": "u", "sslmode": "disable", "gssencmode": "disable"}
    if not own.keys() & {"host", "hostaddr"}:
        own["host"] = "/nonexistent/c"
    if named == "own":
        own["service"] = "s"
    if named == "env":
        variables["PGSERVICE"] = "s"
    text = "\n".join(["[s]", *(f"{key}={value}" for key, value in service.items())])
    file = tmp_path_factory.getbasetemp() / "pg_service.conf"
    variables["PGSERVICEFILE"] = str(file)
    dsn = make_dsn(**own)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PG")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        file.write_text(text)
        expected = libpq_walk(dsn)
    around = outside({str(file): text}, **variables)
    if expected is None:
        with pytest.raises(ConfigError, match="for"):
            read_hosts(dsn, around)
    else:
        found = read_hosts(dsn, around).walk
        assert [(host.hostaddr or host.host, host.port) for host in found] == expected


def test_what_is_left_to_libpq() -> None:
    """Empty hosts and ports are libpq's own defaults, said so that no variable fills them."""
    assert walk("") == [("", "", "")]
    assert walk("host=a,,b port=1,,3") == [("a", "", "1"), ("", "", ""), ("b", "", "3")]
    assert walk("postgresql://a,b:2/db") == [("a", "", ""), ("b", "", "2")]
    assert walk("host=''", PGHOST="wrong", PGPORT="1") == [("", "", "1")]
    hosts = read_hosts("host='' dbname=d", outside(PGHOST="wrong"))
    said = parse_dsn(hosts.conninfo(hosts.walk[0]))
    assert (said["host"], said["hostaddr"], said["port"]) == ("", "", "")


@pytest.mark.parametrize(
    ("host", "unresolved", "text"),
    [
        (Host("db1", "", "5433"), True, "db1:5433"),
        (Host("db1", "10.0.0.1", ""), False, "db1 (10.0.0.1:5432)"),
        (Host("db1", "fe80::1%eth0", "1"), False, "db1 ([fe80::1%eth0]:1)"),
        (Host("10.0.0.1", "", "1"), False, "10.0.0.1:1"),
        (Host("::1", "", "1"), False, "[::1]:1"),
        (Host("", "10.0.0.1", "1"), False, "10.0.0.1:1"),
        (Host("/run/postgresql", "", "1"), False, "/run/postgresql:1"),
        (Host("@abstract", "", "1"), False, "@abstract:1"),
        (Host("", "", ""), False, "default host:5432"),
    ],
)
def test_a_host(host: Host, unresolved: bool, text: str) -> None:
    """Only names need resolving; each kind of place is shown as people write it."""
    assert (host.unresolved, str(host)) == (unresolved, text)


FILE = {"/home/me/.pg_service.conf": SERVICES}
SYSTEM = {"/etc/postgresql-common/pg_service.conf": "[metrics]\nhost=system\n"}


@pytest.mark.parametrize(
    ("files", "environment", "host"),
    [
        (FILE, {}, "a"),
        (FILE, {"PGHOST": "wrong"}, "a"),
        ({**FILE, "/f": "[metrics]\nhost=f\n"}, {"PGSERVICEFILE": "/f"}, "f"),
        ({**FILE, "/f": "[else]\nhost=f\n", **SYSTEM}, {"PGSERVICEFILE": "/f"}, "system"),
        (SYSTEM, {}, "system"),
        ({**SYSTEM, "/sys/pg_service.conf": "[metrics]\nhost=s"}, {"PGSYSCONFDIR": "/sys"}, "s"),
    ],
)
def test_where_a_service_is_found(
    files: dict[str, str], environment: dict[str, str], host: str
) -> None:
    """The user's file or PGSERVICEFILE first, then the system's; the file beats the environment."""
    around = outside(files, **environment)
    assert read_hosts("service=metrics", around).walk[0].host == host
    around = outside(files, PGSERVICE="metrics", **environment)
    assert read_hosts("", around).walk[0].host == host


@pytest.mark.parametrize(
    ("dsn", "environment", "fault"),
    [
        ("nonsense", {}, "is neither a libpq URI"),
        ("host=a,b,c port=1,2", {}, "has 2 ports (port) for 3 hosts; give one port, or as many"),
        ("host=a,b,c", {"PGPORT": "1,2"}, "has 2 ports (PGPORT) for 3 hosts"),
        ("host=a,b", {"PGHOSTADDR": "::1"}, "has 2 in host for 1 in PGHOSTADDR; give as many"),
        ("target_session_attrs=writable", {}, "target_session_attrs must be one of any, read-"),
        ("", {"PGTARGETSESSIONATTRS": "x"}, "PGTARGETSESSIONATTRS must be one of any, read-"),
        ("target_session_attrs=standby", {}, "standby asks for a server that takes no writes"),
        ("target_session_attrs=read-only", {}, "read-only asks for a server that takes no"),
        ("load_balance_hosts=yes", {}, "load_balance_hosts must be disable or random"),
        ("service=x", {}, "names the service 'x', but [x] is not in /home/me/.pg_service.conf"),
        ("service=x", {"PGSERVICEFILE": "/f"}, "there is no service file: neither /f nor /etc/"),
        ("", {"PGSERVICE": "x"}, "names the service 'x', but [x] is not in"),
        ("service=broken", {}, "/home/me/.pg_service.conf:15 is not keyword=value"),
        ("service=ldap", {}, "/home/me/.pg_service.conf:13 looks it up in LDAP"),
        # libpq takes pa for a port here, and in the next.
        ("postgresql://user:pa/ss@host/db", {}, "has an @ in the name of a host or database; in"),
        ("postgresql://user:pa/ss", {}, "has in port what is no number from 1 to 65535"),
        ("port=65536", {}, "has in port what is no number from 1 to 65535"),
        ("port=0", {}, "has in port what is no number from 1 to 65535"),
        *((f"target_session_attrs={a}", {}, None) for a in ("any", "read-write", "primary")),
        ("target_session_attrs=prefer-standby host=a,b port=1,2", {}, None),
    ],
)
def test_what_a_person_gets_wrong(dsn: str, environment: dict[str, str], fault: str | None) -> None:
    """Each fault is one line that names it, and no piece of a password."""
    found = dsn_fault(dsn, outside(FILE, **environment))
    if fault is None:
        assert found is None
    else:
        assert found is not None and fault in found and "\n" not in found
        assert "pa" not in found.split() and "ss@host" not in found


def test_our_defaults_yield() -> None:
    """Keepalives, user timeout and our name are asked for where the dsn and service do not say."""
    files = {"/home/me/.pg_service.conf": "[s]\nkeepalives_idle=7\n"}
    hosts = read_hosts("service=s tcp_user_timeout=0 host=a", outside(files))
    said = parse_dsn(hosts.conninfo(Host("a", "10.0.0.1", "1")))
    assert "keepalives_idle" not in said and said["service"] == "s"
    assert said["tcp_user_timeout"] == "0" and said["keepalives_count"] == "3"
    assert said["fallback_application_name"] == "gateway"
    assert (said["host"], said["hostaddr"], said["port"]) == ("a", "10.0.0.1", "1")
    assert said["target_session_attrs"] == "any"
    plain = read_hosts("", outside())
    assert plain.parameters == DEFAULTS


def test_the_order_of_the_walk() -> None:
    """As listed, but the host that last took us first; random order where that was asked for."""
    connector = Connector(Database(), Clock(), outside(), lambda name: Deferred(), list.reverse)
    hosts = read_hosts("host=a,b,c", outside())
    a, b, c = hosts.walk
    assert connector.order(hosts) == [a, b, c]
    connector.remember(b, Host("b", "10.0.0.2"))
    assert connector.order(hosts) == [b, a, c]
    assert connector.prefer(["10.0.0.1", "10.0.0.2", "10.0.0.3"])[0] == "10.0.0.2"
    shuffled = read_hosts("host=a,b,c", outside(PGLOADBALANCEHOSTS="random"))
    assert connector.order(shuffled) == [c, b, a]


# Names.


@pytest_twisted.ensureDeferred
async def test_names_are_looked_up() -> None:
    """An address for a name that has one, libpq's kind of error for one that has none."""
    assert set(await ThreadedResolver(reactor)("localhost")) & {"127.0.0.1", "::1"}
    assert "127.0.0.1" in look_up("127.0.0.1")
    with pytest.raises(OSError, match=r"."):
        await ThreadedResolver(reactor)("nowhere.invalid")


@pytest_twisted.ensureDeferred
async def test_one_thread_for_a_name() -> None:
    """Many who wait share one lookup; who gives up takes nothing from the others."""
    release = threading.Event()
    calls: list[str] = []

    def lookup(name: str) -> list[str]:
        calls.append(name)
        release.wait(30)
        if name == "bug":
            raise ZeroDivisionError
        return ["10.0.0.1"]

    names = ThreadedResolver(reactor, lookup)
    waiting = [names("db") for _ in range(50)]
    bug = names("bug")
    for each in waiting[:49]:
        each.addErrback(lambda failure: failure.trap(CancelledError) and None)
        each.cancel()
    waiting.append(names("db"))
    assert sum(t.name == "resolves db" for t in threading.enumerate()) == 1
    release.set()
    assert [await each for each in waiting[49:]] == [["10.0.0.1"]] * 2
    with pytest.raises(ZeroDivisionError):
        await bug
    assert await names("db") == ["10.0.0.1"]
    assert sorted(calls) == ["bug", "db", "db"]


STUCK = """
import threading
from twisted.internet import reactor
from gateway.postgres.connect.resolver import ThreadedResolver
begun = threading.Event()
def never(name):
    begun.set()
    threading.Event().wait()
ThreadedResolver(reactor, never)("db")
begun.wait()
reactor.callLater(0, reactor.stop)
reactor.run()
print("ended")
"""


def test_the_end_waits_for_no_name() -> None:
    """A process whose resolver hangs stops all the same."""
    done: Any = subprocess.run(
        [sys.executable, "-c", STUCK], timeout=30, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("ended\n", "")
