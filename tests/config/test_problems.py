"""
Problems of a configuration: all in one run, each once, and nothing that follows from another.
"""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.load import draft, load_config
from gateway.config.toml import tables_of
from gateway.daemon.configuration import endpoint_fault, load
from gateway.model.errors import ConfigError

FILE = PurePath("/etc/g.toml")


def problems(text: str) -> list[str]:
    """What is said of a file, without its name."""
    found = draft(tables_of(text, str(FILE)), FILE, endpoint_fault).problems
    assert all(line.startswith(f"{FILE}: ") for line in found)
    assert len(set(found)) == len(found)
    return [line.removeprefix(f"{FILE}: ") for line in found]


def keys(text: str) -> list[str]:
    """The keys that are said to have problems."""
    return [line.split(": ")[0] for line in problems(text)]


LISTENER = '[listeners.a]\nendpoint = "tcp:1"\nroute = "r"\n'
ROUTE = '[routes.r]\ntable = "t"\n'
JSON = f'{ROUTE}format = "json"\n'


def test_a_section_is_judged_to_its_end() -> None:
    """Keys that are mistyped or wrong keep nothing else of their section from being judged."""
    assert problems('[listeners.a]\nframming = "nul"\nwindow = 0\nack = 3\n') == [
        "listeners.a.framming: unknown key; did you mean 'framing'?",
        "listeners.a.window: expected a whole number >= 1",
        "listeners.a.ack: expected a string, got a whole number",
        "listeners.a.endpoint: is missing",
        "listeners.a.route: is missing: a plain listener needs one",
    ]
    assert keys(
        f'{LISTENER}dialcet = 1\nallow = ["x"]\nsocket_owner = ""\nroute_by = "@frame"\n'
        '[listeners.a.tls]\nkey = 1\nminimum = "9"\n'
        f"{JSON}conflict = 'ignore'\ntimezone = 'Nowhere'\nreturning = ['a b']\ndeadletter = 1\n"
        "columns = { a = '@fram', b = { field = 'x', requird = true, default = {} } }\n"
        "[queries.q]\nsql = 'drop table t'\nmax_rows = 0\nparams = { n = { typ = 1 }, m = 1 }\n"
        "[access.grants.g]\nroutes = ['x', 'r']\nqueries = ['p']\nchannels = ['c']\nnets = []\n"
        "[database]\npool_min = 9\npol_max = 3\nidle_timeout = []\n"
        "[channels]\nallow = ['', '!x']\npush_buffer = 1\n"
    ) == [
        *("database.pol_max", "database.idle_timeout"),
        *("channels.push_buffer", "channels.allow", "channels.allow"),
        *("access.grants.g.nets", "routes.r.deadletter"),
        *("listeners.a.dialcet", "listeners.a.tls.key", "listeners.a.tls.minimum"),
        *("listeners.a.tls.certificate", "routes.r.columns.a", "routes.r.columns.b.requird"),
        *("routes.r.returning", "routes.r.key", "routes.r.timezone"),
        *("queries.q.max_rows", "queries.q.params.n.typ", "queries.q.params.m", "queries.q.sql"),
        *("queries.q.params.n", "listeners.a.allow"),
        *("listeners.a.socket_owner", "listeners.a.socket_owner"),
        *("access.grants.g.routes", "access.grants.g.queries", "access.grants.g.channels"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # One word to mend is one problem.
        ('[listeners.a]\nendpont = "tcp:1"\nroute = "messages"', "listeners.a.endpont"),
        ('[listeners.a]\nendpoint = "tcp:1"\nrout = "messages"', "listeners.a.rout"),
        (f'{LISTENER}[routes.r]\ntabel = "t"', "routes.r.tabel"),
        ('[queries.q]\nsqll = "select 1"', "queries.q.sqll"),
        ('[listener.a]\nendpoint = "tcp:1"\nroute = "x"', "listener"),
        (f"{LISTENER}[rotues.r]\ntable = 't'", "rotues"),
        # A value that cannot be read is a problem of no other key.
        ("[database]\npool_min = 9\npool_max = 'x'", "database.pool_max"),
        ("[database]\ndsn = 1\ndsn_file = 'x'", "database.dsn database.dsn_file"),
        ("[database]\nstatement_timeout = '25 d'", "database.statement_timeout"),
        (f"{LISTENER}dialect = 'comand'\nack = 'x'\n{ROUTE}", "listeners.a.dialect"),
        ("[listeners.a]\nendpoint = 'tcp:1'\ndialect = 'comand'", "listeners.a.dialect"),
        (
            "[listeners.a]\nendpoint = 'tcp:1'\nroute_by = 1\nroutes = 1",
            "listeners.a.route_by listeners.a.routes",
        ),
        (
            "[listeners.a]\nendpoint = 1\nroute = 'messages'\nsocket_mode = '600'",
            "listeners.a.endpoint",
        ),
        (
            "[listeners.a]\nendpoint = 'unx:a'\nroute = 'messages'\nsocket_mode = '600'",
            "listeners.a.endpoint",
        ),
        ("listeners = 1", "listeners"),
        ("routes = 1\n[listeners.a]\nendpoint = 'tcp:1'\nroute = 'r'", "routes"),
        (f"{LISTENER}[routes]\nr = 1", "routes.r"),
        (f"{LISTENER}{ROUTE}format = 'jsn'\ncolumns = {{ a = 'b' }}", "routes.r.format"),
        (f"{LISTENER}{ROUTE}format = 'jsn'\nfields = ['a']", "routes.r.format"),
        (f"{LISTENER}{ROUTE}format = 'csv'\nfields = 1\ncolumns.a = 'b'", "routes.r.fields"),
        (f"{LISTENER}{ROUTE}format = 'regex'\npattern = 1\ncolumns.a = 'b'", "routes.r.pattern"),
        (
            f"{LISTENER}{JSON}columns = 1\nconflict = 'ignore'\nkey = ['a']\ncreate = true\n"
            "create_columns = { a = 'int' }",
            "routes.r.columns",
        ),
        (f"{LISTENER}{JSON}columns.a = 1\nconflict = 'ignore'\nkey = ['a']", "routes.r.columns.a"),
        (f"{LISTENER}{JSON}columns.a = 'a'\nconflict = 1\nkey = ['a']", "routes.r.conflict"),
        (f"{LISTENER}{JSON}columns.a = {{ feild = 'a' }}", "routes.r.columns.a.feild"),
        (f"{LISTENER}{ROUTE}create = 1\ncreate_columns = {{ a = 'int' }}", "routes.r.create"),
        (f"{LISTENER}{ROUTE}create = true\ncreate_columns = 1", "routes.r.create_columns"),
        (f"{LISTENER}[routes.r]\nsql = 1\nreturning = ['a']", "routes.r.sql"),
        (f"{LISTENER}[routes.r]\nsql = 'select %(a)s, %(b)s'\ncolumns = 1", "routes.r.columns"),
        (
            "[listeners.a]\nendpoint = 'tcp:1'\nroute_by = 'x'\nroutes = { b = 'r', c = 's' }\n"
            f"{ROUTE}format = 1\n[routes.s]\ntable = 's'\nformat = 'json'\ncolumns.a = 'a'",
            "routes.r.format",
        ),
        ("[queries.q]\nsql = 1\nparams.n.default = 1", "queries.q.sql"),
        (
            "[queries.q]\nsql = 'select %(n)s'\nparams.n = { type = 1, default = 1 }",
            "queries.q.params.n.type",
        ),
        # Grants name what is there but could not be read.
        (
            "routes = 1\nqueries = 1\nchannels = 1\n"
            "[access.grants.g]\nnetworks = ['unix']\n"
            "routes = ['r']\nqueries = ['q']\nchannels = ['c']",
            "channels routes queries",
        ),
        (
            "[channels]\nallow = 1\n[access.grants.g]\nnetworks = ['unix']\nchannels = ['c']",
            "channels.allow",
        ),
        ("[access]\ngrants = 1", "access.grants"),
        ("[access.grants.g]\nnetworks = 1\nroutes = ['*']", "access.grants.g.networks"),
        ("[access.grants.g]\nnetworks = ['unix']\nroutes = 1", "access.grants.g.routes"),
        (f"{LISTENER}auth = true\naccess = 1\n{ROUTE}", "listeners.a.access listeners.a.auth"),
        (f"{LISTENER}auth = true\n{ROUTE}[acess]\ntokens = 'x'", "acess"),
        (
            f"{LISTENER}auth = true\n{ROUTE}"
            "[access]\ntokens = 1\ngrants.g = { networks = ['unix'], routes = ['r'] }",
            "access.tokens",
        ),
        (f"{LISTENER}auth = true\ntls = 1\n{ROUTE}", "listeners.a.tls"),
        (
            f"{LISTENER}auth = true\ntls = {{ certificate = 'a', client_ca = 1 }}\n{ROUTE}",
            "listeners.a.tls.client_ca",
        ),
    ],
)
def test_nothing_follows(text: str, told: str) -> None:
    """What cannot be read is told once, and no check of other keys goes by its default."""
    assert keys(text) == told.split(), problems(text)


def test_what_the_file_names_is_judged_in_the_same_run(tmp_path: Path) -> None:
    """Beside problems of keys those of connection strings, secrets, tokens and certificates."""
    path = tmp_path / "g.toml"
    path.write_text(
        f'{LISTENER}windw = 1\n[listeners.a.tls]\ncertificate = "gone.pem"\n'
        '[database]\ndsn_file = "gone"\n[channels]\ndsn = "nonsense"\n'
        '[access]\ntokens = "none"\ngrants.g = { networks = ["unix"], routes = ["r"] }\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    said = "\n".join(caught.value.problems)
    for part in (
        *("listeners.a.windw: unknown key", "listeners.a.route: there is no route 'r'"),
        *("access.grants.g.routes: there is no route 'r'", "channels.dsn: is neither"),
        *(f"database.dsn_file: {tmp_path / 'gone'}: cannot be read", "gone.pem", "none"),
    ):
        assert part in said, said
    assert len(caught.value.problems) == 7
    assert all(line.startswith(str(tmp_path)) for line in caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        '[database]\ndsn = 3\n[listeners.a]\nendpoint = "tcp:1"\nroute = "messages"\n'
        "tls = { certificate = 1 }",
        '[database]\ndsn = "x"\ndsn_file = "gone"',
        '[channels]\ndsn = "x"\ndsn_file = "gone"',
        '[access]\ntokens = "password=x"\ngrants.g = { networks = ["unix"], routes = ["*"] }',
    ],
)
def test_nothing_is_opened_that_could_not_be_read(text: str, tmp_path: Path) -> None:
    """A file or server of which it is not sure which one is meant is not looked for."""
    path = tmp_path / "g.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert caught.value.problems == tuple(
        draft(tables_of(text, "g"), path, endpoint_fault).problems
    )


@given(
    st.dictionaries(
        st.sampled_from(["endpoint", "route", "routes", "route_by", "dialect", "tls", "x", "auth"]),
        st.one_of(st.integers(), st.text(max_size=3), st.just({}), st.booleans()),
    ),
    st.dictionaries(
        st.sampled_from(["table", "sql", "format", "columns", "key", "conflict", "create", "x"]),
        st.one_of(st.integers(), st.sampled_from(["json", "ignore", ""]), st.just({}), st.none()),
    ),
)
def test_any_sections_are_judged_whole(
    listener: dict[str, object], route: dict[str, object]
) -> None:
    """Whatever is in a section, each problem has its key, and none is there twice."""
    data = {"listeners": {"a": listener}, "routes": {"r": route}}
    found = draft(data, FILE, endpoint_fault).problems
    assert found and len(set(found)) == len(found)
    assert all(line.startswith(f"{FILE}: ") and line.isprintable() for line in found)


def test_what_is_right_has_no_problem() -> None:
    """Sections without a problem are taken as before."""
    text = f"{LISTENER}{JSON}columns.a = 'a'"
    config = load_config(text, FILE, endpoint_fault)
    assert (config.listeners["a"].route, config.routes["r"].table) == ("r", "t")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('framing = "int8"\nack = "ok"\nnak = "no"', []),
        ('framing = "int8"\nack = "none"', []),
        ('framing = "int8"\nack = "ok"', ["nak: is missing: framing int8 has no room"]),
        (f'framing = "int8"\nack = "{"k" * 256}"\nnak = "no"', ["ack: has over 255 bytes"]),
        ('delimiter = ";"', ["delimiter: is for framing"]),
        ('framing = "delimited"', ['delimiter: is missing: framing = "delimited" needs one']),
        ('framing = "delimited"\ndelimiter = ""', ["delimiter: has 1 to 16 bytes"]),
        ('framing = "delimited"\ndelimiter = "ääääääääa"', ["delimiter: has 1 to 16 bytes"]),
        ('framing = "delimited"\ndelimiter = ";"', []),
        ('framing = "delimited"\ndelimiter = "END"', ["delimiter: 'END' may be in the words"]),
        ('framing = "delimited"\ndelimiter = "END"\nack = "k"\nnak = "n"', []),
        ('framing = "delimited"\ndelimiter = ";"\nack = "k;"', ["delimiter: ';' is in ack or nak"]),
        ('framing = "delimited"\ndelimiter = 3', ["delimiter: expected a string"]),
    ],
)
def test_framings(keys: str, said: list[str]) -> None:
    """What a framing needs, and what it has no use for."""
    found = [line.removeprefix("listeners.a.") for line in problems(f"{LISTENER}{keys}\n{ROUTE}")]
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True)), found


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('framing = "int8"', "framing: int8 is for dialect"),
        ('framing = "delimited"\ndelimiter = ";"', "delimiter: ';' may be in an answer"),
        ('framing = "delimited"\ndelimiter = "\\u0005"', "delimiter: has the byte 5"),
        ('framing = "delimited"\ndelimiter = "\\r\\n"', ""),
        ('framing = "int16"', ""),
    ],
)
def test_framings_of_commands(keys: str, said: str) -> None:
    """A listener of commands has answers that any framing must be able to carry."""
    found = problems(f'[listeners.a]\nendpoint = "tcp:1"\ndialect = "command"\n{keys}\n')
    assert [line.startswith(f"listeners.a.{said}") for line in found] == ([True] if said else [])


@pytest.mark.parametrize(
    ("endpoint", "keys", "wrong"),
    [
        ("udp:514", "", []),
        ("udp:514:interface=127.0.0.1", 'gelf = true\nreceive_buffer = "8MB"', []),
        ("unixgram:log.sock", 'socket_mode = "0622"\ntrim_end = false', []),
        ("unixgram:/run/log.sock:mode=622", "messages_per_second = 5", []),
        ("udp:514", 'allow = ["10.0.0.0/8"]\nreuse_port = true', []),
        ("udp:514", 'window = 5\nack = "none"\nkeepalive = 5', ["window", "ack", "keepalive"]),
        ("udp:514", 'framing = "nul"\nauth = true', ["framing", "auth"]),
        ("udp:514", "max_connections = 5\ntelnet = true", ["telnet", "max_connections"]),
        ("udp:514", "tls = { certificate = 'x' }", ["tls"]),
        ("udp:514", 'socket_mode = "0600"', ["socket_mode"]),
        ("unixgram:x", "reuse_port = true", ["reuse_port"]),
        ("tcp:514", "gelf = true\ntrim_end = true", ["gelf", "trim_end"]),
        ("udp:", "", ["endpoint"]),
        ("udp:interface=127.0.0.1", "", ["endpoint"]),
        ("udp:514:backlog=5", "", ["endpoint"]),
        ("udp:99999", "", ["endpoint"]),
        ("unixgram:", "", ["endpoint"]),
        ("unixgram:/folder/", "", ["endpoint"]),
        ("unixgram:x:mode=9", "", ["endpoint"]),
        ("systemd:domain=INET:name=x:type=stream", "", ["endpoint"]),
    ],
)
def test_datagrams(endpoint: str, keys: str, wrong: list[str]) -> None:
    """A listener for datagrams has keys of its own, and none of those for connections."""
    found = problems(f'[listeners.a]\nendpoint = "{endpoint}"\nroute = "r"\n{keys}\n{ROUTE}')
    named = [line.split(": ")[0].removeprefix("listeners.a.") for line in found]
    assert sorted(set(named)) == sorted(wrong), found


def test_datagrams_have_no_answers() -> None:
    """So commands make no sense there, and neither does the status page or the console."""
    found = keys('[listeners.a]\nendpoint = "udp:1"\ndialect = "command"\n')
    assert found == ["listeners.a.dialect"]
    (line,) = problems(f'{LISTENER}{ROUTE}[http]\nendpoint = "udp:8009"\n')
    assert line.startswith("http.endpoint: ") and "datagrams" in line
    assert keys(f'{LISTENER}{ROUTE}[admin]\nendpoint = "unixgram:x"\n') == ["admin.endpoint"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("upd:514", "udp:514"),
        ("udp:127.0.0.1:514", "udp:514:interface=127.0.0.1"),
        ("udp:localhost:514", "udp:514:interface=127.0.0.1"),
        ("udp://0.0.0.0:514", "udp:514"),
        ("UDP:514", "udp:514"),
        ("unixgrm:log.sock", "unixgram:log.sock"),
    ],
)
def test_a_datagram_endpoint_that_is_mistyped(text: str, meant: str) -> None:
    """The one that is meant is named."""
    found = problems(f'[listeners.a]\nendpoint = "{text}"\nroute = "r"\n{ROUTE}')
    assert len(found) == 1 and f'did you mean "{meant}"?' in found[0]
