"""
What a reload takes over, and what has to wait, in words.
"""

from __future__ import annotations

from pathlib import PurePath

from gateway.config.changes import (
    AT_ONCE,
    NEW_CONNECTIONS,
    REOPENS,
    Changes,
    changes_of,
    moved_places,
)
from gateway.config.listener import Listener
from gateway.config.load import Config, load_config

LISTENER = '[listeners.lines]\nendpoint = "tcp:0"\nroute = "messages"\n'
ROUTE = '[routes.messages]\ntable = "a"\nformat = "json"\n[routes.messages.columns]\n'


def load(text: str) -> Config:
    return load_config(text, PurePath("/etc/g.toml"), lambda endpoint: None)


def compare(before: str, after: str, started: str = "", has_spool: bool = True) -> Changes:
    return changes_of(load(before), load(after), load(started or before), has_spool=has_spool)


def test_every_key_of_a_listener_is_sorted() -> None:
    """Each key of a listener but its endpoint is taken over in one of three ways."""
    keys = [*AT_ONCE, *NEW_CONNECTIONS, *REOPENS, "endpoint"]
    assert sorted(keys) == sorted(Listener.__struct_fields__)


def test_routes_and_queries() -> None:
    """What comes, goes and changes is named with its keys; an order of columns counts."""
    query = "[queries.{}]\nsql = 'select %(a)s, %(b)s'\n"
    a, b = 'params.a.type = "int"\n', 'params.b.type = "int"\n'
    before = ROUTE + 'x = "x"\ny = "y"\n' + query.format("q") + a + b + query.format("gone")
    after = (
        ROUTE.replace('"a"', '"b"').replace("json", "logfmt")
        + 'y = "y"\nx = "x"\n[routes.new]\ntable = "n"\n'
        + query.format("q")
        + b
        + a
    )
    changes = compare(before, after)
    assert changes.lines == [
        "route messages: changed: table, columns, format",
        "route new: added",
        "query q: changed: params",
        "query gone: removed",
    ]
    assert changes.routes == ["messages", "new"] and not changes.removed_routes
    assert changes.queries == ["q"] and not changes.waiting
    back = compare(after, before)
    assert back.lines[1] == "route new: removed" and back.removed_routes == ["new"]
    assert not compare(before, before).lines


def test_listeners() -> None:
    """Values before and after, and for whom they hold."""
    more = '[listeners.more]\nendpoint = "unix:more"\nroute = "messages"\n'
    after = LISTENER.replace("tcp:0", "tcp:9") + (
        'max_frame = "1MiB"\nallow = ["10.0.0.0/8"]\nidle_timeout = "5m"\nbacklog = 7\n' + more
    )
    assert compare(LISTENER, after).lines == [
        "listener lines: endpoint tcp:0 -> tcp:9, its peers are disconnected after their answers",
        "listener lines: max_frame 65536 -> 1048576, for new connections",
        "listener lines: idle_timeout none -> 300, at once",
        "listener lines: allow none -> 10.0.0.0/8, at once",
        "listener lines: backlog none -> 7, its port is opened anew",
        "listener more: added, unix:/etc/more",
    ]
    assert compare(LISTENER + more, LISTENER).lines == [
        "listener more: removed, its peers are disconnected after their answers"
    ]


def test_what_waits_is_named_as_long_as_it_waits() -> None:
    """It is compared with the start; no value of it is shown."""
    after = (
        LISTENER + '[database]\ndsn = "host=db password=hidden"\n[admin]\nendpoint = "off"\n'
        '[log]\nformat = "json"\nslow_commit = 2\n[spool]\npath = "p"\nmax_bytes = "2GB"\n'
        '[http]\nendpoint = "off"\n[channels]\ndsn = "host=c"\nallow = ["c"]\n'
    )
    for before in (LISTENER, after):
        changes = compare(before, after, LISTENER)
        assert [line.split(": ")[0] for line in changes.waiting] == [
            *("database.dsn", "channels.dsn", "spool.path", "http.endpoint", "admin.endpoint"),
        ]
        assert all(line.endswith(": not taken over, needs a restart") for line in changes.waiting)
        assert "hidden" not in str(changes)
    assert compare(LISTENER, after).lines == [
        *("channel c: added", "log.format: text -> json", "log.slow_commit: 1 -> 2"),
        "spool.max_bytes: 1073741824 -> 2147483648",
    ]
    without = compare(LISTENER, after, has_spool=False)
    assert "spool.max_bytes: not taken over, needs a restart" in without.waiting


def test_access_and_limits() -> None:
    """Grants are named, and what changes of them is not."""
    grant = '[access.grants.{}]\nnetworks = ["{}"]\nroutes = ["*"]\n'
    before = LISTENER + grant.format("a", "unix") + grant.format("b", "unix")
    after = LISTENER + grant.format("b", "10.0.0.0/8") + grant.format("c", "unix")
    assert compare(before, after + "[limits]\nconnections = 7\n").lines == [
        *("access.grants.b: changed", "access.grants.c: added", "access.grants.a: removed"),
        "limits.connections: 16384 -> 7",
    ]
    assert compare(LISTENER, before).lines == ["access: added"]


def test_listeners_of_mllp() -> None:
    """What is taken, and what becomes of what cannot be stored now, changes for all peers."""
    before = LISTENER + 'dialect = "mllp"\n'
    after = before + 'try = "AR"\n[listeners.lines.hl7]\nversions = ["2.5"]\n'
    assert compare(before, after).lines == [
        "listener lines: hl7 changed, at once",
        "listener lines: try none -> AR, at once",
    ]


def test_more_databases() -> None:
    """Databases wait for the next start, and until then a query cannot name a new one."""
    one = '[databases.one]\ndsn = "host=a"\n'
    query = '[queries.q]\nsql = "select 1"\ndatabase = "{}"\n'
    before = one + query.format("one")
    two = '[databases.two]\ndsn = "host=b"\n'
    after = one.replace("host=a", "host=c") + "pool_max = 4\n" + two + query.format("two")
    changes = compare(before, after)
    assert changes.lines == ["query q: changed: database"]
    assert changes.waiting == [
        "databases.one.dsn: not taken over, needs a restart",
        "databases.one.pool_max: not taken over, needs a restart",
        "databases.two: not taken over, needs a restart",
    ]
    assert moved_places(load(before), load(before), load(after)) == [
        "queries.q.database: [databases.two] is new, and needs a restart"
    ]
    assert not moved_places(load(before), load(before), load(before))
