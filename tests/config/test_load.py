"""
Configuration: all problems at once, each with its file, its key and what was meant.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePath
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.python.usage import UsageError

from gateway.access.grants import AccessSection, GrantSection
from gateway.config.channel import ChannelsSection
from gateway.config.listener import Hl7Section, Listener, TlsSection
from gateway.config.load import (
    Config,
    Database,
    Limits,
    NamedDatabase,
    SpoolSection,
    config_of_tables,
    default_config,
    load_config,
)
from gateway.config.operator import AdminSection, HttpSection, LogSection
from gateway.config.route import RouteSection
from gateway.daemon.configuration import endpoint_fault
from gateway.daemon.options import Options
from gateway.model.errors import ConfigError
from gateway.model.route import CONSTANT, Value
from gateway.system.time_zones import LOCAL

SAMPLE = Path(__file__).parents[2] / "etc" / "gateway.toml"


def load(text: str) -> Config:
    return load_config(text, PurePath("/etc/g.toml"), endpoint_fault)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return list(caught.value.problems)


def test_sample_is_accepted_and_complete() -> None:
    """Every key of etc/gateway.toml is accepted, and every accepted key is in it."""
    # What is commented out must be right as well, for whoever takes the # away.
    text = re.sub(r"(?m)^#(?=[^ ])", "", SAMPLE.read_text())
    config = load(text)
    assert config.database == Database() and config.limits == Limits()
    data = tomllib.loads(text)
    used: dict[type[msgspec.Struct], set[str]] = {
        Database: set(data["database"]),
        NamedDatabase: set(data["database"]) | set(data["databases"]["replica"]),
        Limits: set(data["limits"]),
        SpoolSection: set(data["spool"]),
        ChannelsSection: set(data["channels"]),
        HttpSection: set(data["http"]),
        AdminSection: set(data["admin"]),
        LogSection: set(data["log"]),
        Listener: {key for section in data["listeners"].values() for key in section},
        TlsSection: set(data["listeners"]["public"]["tls"]),
        Hl7Section: set(data["listeners"]["hospital"]["hl7"]),
        AccessSection: set(data["access"]),
        GrantSection: set(data["access"]["grants"]["devices"]),
        RouteSection: {key for section in data["routes"].values() for key in section},
    }
    # Explained there for both, since it goes in place of dsn.
    assert text.count("dsn_file = ") > 1
    used[Database].add("dsn_file")
    used[NamedDatabase].add("dsn_file")
    used[ChannelsSection].add("dsn_file")
    for kind, keys in used.items():
        assert keys == {field.encode_name for field in msgspec.structs.fields(kind)}, kind
    assert set(data) == set(Config.__struct_fields__) - {"handshakes", "relay"}


def test_the_default_is_what_the_sample_says() -> None:
    """Without a file there are the three listeners of the sample, into messages."""
    default, sample = default_config(), load(SAMPLE.read_text())
    assert default.routes["messages"] == sample.routes["messages"]
    for name, listener in default.listeners.items():
        assert listener == sample.listeners[name]
    assert load("").routes == default.routes


def test_all_problems_at_once() -> None:
    """Everything that is wrong is named, in one go."""
    found = problems(
        """
        databse = 1
        [database]
        pool_min = 9
        statement_timout = 3
        connect_timeout = "soon"
        [limits]
        bytes_in_flight = 0
        [listeners.a]
        endpoint = "tcp:1"
        framming = "line"
        [listeners.b]
        endpoint = "tcp:8000"
        framing = "netstrng"
        [listeners.c]
        endpoint = "tpc:8000"
        route = "mesages"
        [listeners.d]
        dialect = "command"
        endpoint = "tcp:8000"
        route = "messages"
        [listeners.e]
        endpoint = "tcp:8000"
        route = "messages"
        [listeners.f]
        endpoint = "tcp:9"
        [listeners.g]
        dialect = "command"
        endpoint = "tcp:10"
        route_by = "type"
        [routes.messages]
        table = "messages"
        create = true
        [routes.messages.columns]
        body = "@fram"
        boddy = "@frame"
        [routes.x]
        table = "a."
        create_columns = { id = "int" }
        [routes.x.columns]
        who = "@peer"
        """
    )
    assert all(line.startswith("/etc/g.toml: ") for line in found)
    told = [line.removeprefix("/etc/g.toml: ") for line in found]
    for wanted in [
        "databse: unknown key; did you mean 'database'?",
        "database.statement_timout: unknown key; did you mean 'statement_timeout'?",
        "database.connect_timeout: 'soon' is no duration: write a number of seconds, or"
        ' "500ms", "5s", "5m", "1h", "1d"',
        "limits.bytes_in_flight: expected a whole number >= 1",
        "listeners.a.framming: unknown key; did you mean 'framing'?",
        "listeners.b.framing: 'netstrng' is not one of line, nul, delimited, netstring,"
        " octet-counted, int8, int16, int32; did you mean 'netstring'?",
        "listeners.c.route: there is no route 'mesages'; did you mean 'messages'?",
        'listeners.d.route: is for dialect = "plain"; leave it out',
        "listeners.a.route: is missing: a plain listener needs one",
        "listeners.e.endpoint: is that of listeners.b too; give it its own",
        "listeners.f.route: is missing: a plain listener needs one",
        'listeners.g.route_by: is for dialect = "plain"; leave it out',
        "routes.messages.columns.boddy: 'boddy' is not in the default table; did you mean 'body'?;"
        " add it to [routes.messages.create_columns]",
        "routes.x.table: must be table or schema.table",
        "routes.x.create_columns: is there, but create = true is not",
        'routes.x.columns: no column takes "@frame", so messages would be lost',
    ]:
        assert wanted in told, "\n".join(told)
    assert any(line.startswith("listeners.c.endpoint: 'tpc:8000' is no Twisted") for line in told)
    assert any("'@fram' is no source" in line and "'@frame'" in line for line in told)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listeners = {}", ["listeners: there is none; nobody could connect"]),
        (
            '[listeners.a]\nendpoint = "tcp:1"\nroute = "messages"\nwindow = 0',
            ["listeners.a.window: expected a whole number >= 1"],
        ),
    ],
)
def test_no_listener(text: str, said: list[str]) -> None:
    """That there is none is said, but not where there is one that is faulty."""
    assert [line.removeprefix("/etc/g.toml: ") for line in problems(text)] == said


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("messages_per_second", "1e-320", "0.001"),
        ("messages_per_second", "nan", "0.001"),
        ("bytes_per_second", "0.5", "1.0"),
    ],
)
def test_rates_that_would_stop_everything(key: str, value: str, least: str) -> None:
    """A rate so low that nothing would ever pass is a mistake, and is named as one."""
    text = '[listeners.a]\nendpoint = "tcp:1"\nroute = "messages"\n'
    assert problems(f"{text}{key} = {value}") == [
        f"/etc/g.toml: listeners.a.{key}: expected a number >= {least}"
    ]
    load(f"{text}{key} = {least}")


def test_not_toml() -> None:
    """A syntax error says where."""
    assert "line 2" in problems("[database]\npool_min = = 3")[0]


def test_a_byte_order_mark_begins_a_file() -> None:
    """As editors on Windows write it; within a file it is an error as ever."""
    assert load("\ufeff[database]\npool_max = 3").database.pool_max == 3
    assert "line 1" in problems("[database]\ufeff\npool_max = 3")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "not TOML: nested too deeply"),
        ("x = " + "{a = " * 5000 + "1" + "}" * 5000, "not TOML: nested too deeply"),
        (f"limits.connections = {'9' * 5000}", "not TOML: a number in it has too many digits"),
        (f"limits.connections = 0x{'f' * 5000}", "limits.connections: a number of more than 64"),
        ("x" + ".x" * 500 + " = 1", ".x: nested more than 32 deep"),
        ("x = " + "[" * 99 + "]" * 99, "x: nested more than 32 deep"),
    ],
)
def test_files_that_are_too_much(text: str, said: str) -> None:
    """What is too deep or too long to be read is one line with the file's name."""
    (line,) = problems(text)
    assert line.startswith("/etc/g.toml: ") and said in line


def test_names_cannot_write_into_the_log() -> None:
    """Control characters of keys, names and values are shown by their escapes."""
    text = """
    "dat\\u001b[31mabase\\n" = 1
    [listeners."\\u001b[31mEVIL\\nlog"]
    endpoint = "tcp:2"
    [listeners.a]
    endpoint = "tcp:1"
    framing = "li\\nne"
    route = "messages"
    "win\\r\\u0085dow" = 1
    """
    found = problems(text)
    assert len(found) == 5 and all(line.isprintable() for line in found)
    assert r"/etc/g.toml: dat\x1b[31mabase\n: unknown key; did you mean 'database'?" in found
    assert r"/etc/g.toml: listeners.\x1b[31mEVIL\nlog: a name has no control characters" in found


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[access]\ntokens = "to\\u0000kens"', "access.tokens"),
        ('[database]\ndsn_file = "d\\u0000sn"', "database.dsn_file"),
        ('[channels]\ndsn_file = "d\\u0000sn"', "channels.dsn_file"),
        ('[spool]\npath = "spool\\u0000"', "spool.path"),
        ('[listeners.a.tls]\ncertificate = "gw\\u0000.pem"', "listeners.a.tls.certificate"),
        ('[listeners.a]\nendpoint = "unix:"\nroute = "messages"', "listeners.a.endpoint"),
        ('[listeners.a]\nendpoint = "unix::mode=600"\nroute = "messages"', "listeners.a.endpoint"),
        ('[listeners.a]\nendpoint = "unix:address="\nroute = "messages"', "listeners.a.endpoint"),
        ('[listeners.a]\nendpoint = "haproxy:unix:"\nroute = "messages"', "listeners.a.endpoint"),
        ('[listeners.a]\nendpoint = "unix:a\\u0000b"', "listeners.a.endpoint"),
        (
            '[listeners.a]\nendpoint = "unix:a"\nsocket_owner = "a\\u0000b"',
            "listeners.a.socket_owner",
        ),
    ],
)
def test_a_path_that_is_none(text: str, key: str) -> None:
    """Where no file can be meant, by a NUL or by nothing at all, the key is named, and nothing is
    opened."""
    if "a.tls" in text:
        text = f'[listeners.a]\nendpoint = "tcp:1"\n{text}'
    (line,) = [line for line in problems(text) if line.startswith(f"/etc/g.toml: {key}: ")]
    assert line.isprintable()


@pytest.mark.parametrize("text", ["database = 1", "routes = []", "listeners.a = 'tcp:1'"])
def test_tables_that_are_none(text: str) -> None:
    """A value where a table belongs is an error, not a traceback."""
    assert "must be" in problems(text)[0]


def test_paths_are_relative_to_the_file() -> None:
    """A Unix socket's path, as any path in the file."""
    config = load('[listeners.u]\nendpoint = "unix:run/g.sock:mode=600"\nroute = "messages"')
    assert config.listeners["u"].endpoint == "unix:/etc/run/g.sock:mode=600"


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["database", "limits", "listeners", "routes", "dsn", "table", "columns", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=15,
    ).filter(lambda value: isinstance(value, dict))
)
def test_any_tables_are_judged(data: dict[str, object]) -> None:
    """Whatever a file says, it is accepted or refused with reasons."""
    try:
        config_of_tables(data, PurePath("g.toml"), endpoint_fault)
    except ConfigError as error:
        assert error.problems


def options(*words: str) -> Options:
    parsed = Options()
    parsed.parseOptions(list(words))  # type: ignore[no-untyped-call]
    return parsed


def test_an_option_beats_the_file() -> None:
    """Endpoints and the DSN of the command line replace those of the file."""
    config = options(
        *("--config", str(SAMPLE), "--database", "dbname=x"),
        *("--line", "tcp:1", "--line", "tcp:2", "--netstring", "tcp:3", "--command", "tcp:4"),
    ).config
    assert config.database.dsn == "dbname=x"
    assert [(n, x.endpoint, x.framing, x.dialect) for n, x in config.listeners.items()] == [
        ("lines", "tcp:1", "line", "plain"),
        ("lines-2", "tcp:2", "line", "plain"),
        ("netstrings", "tcp:3", "netstring", "plain"),
        ("commands", "tcp:4", "line", "command"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "/nonexistent.toml"), "/nonexistent.toml: cannot be read: No such file"),
        (("--database", "postgres secret"), "--database: is neither a libpq URI"),
        (("--line", "tpc:1"), "listeners.lines.endpoint: 'tpc:1' is no Twisted server endpoint"),
    ],
)
def test_wrong_options(words: tuple[str, ...], said: str) -> None:
    """What is wrong with the command line is one clean error."""
    with pytest.raises(UsageError, match=said):
        options(*words)


READING = """
[listeners.a]
endpoint = "tcp:1"
route = "r"
[routes.r]
table = "t"
format = "{format}"
{keys}
[routes.r.columns]
{columns}
"""


@pytest.mark.parametrize(
    ("form", "keys", "columns", "said"),
    [
        ("josn", "", 'a = "a"', ".format: 'josn' is not one of text, json, csv, logfmt, regex,"),
        ("json", 'pattern = "x"', 'a = "a"', '.pattern: is for format = "regex"; leave it out'),
        ("csv", "", 'a = "a"', ".fields: is missing; name the values in order"),
        ("csv", 'fields = ["a", "a"]', 'a = "a"', ".fields: names 'a' twice"),
        ("csv", 'fields = ["ab"]', 'a = "ba"', ".columns.a: 'ba' is not in fields"),
        ("csv", 'fields = ["a"]\ndelimiter = "::"', 'a = "a"', ".delimiter: must be one character"),
        ("regex", "", 'a = "a"', ".pattern: is missing; name groups as in (?P<name>.*)"),
        ("regex", "pattern = '(?P<a>'", 'a = "a"', ".pattern: is not a valid pattern"),
        ("regex", "pattern = '(?P<host>.)'", 'a = "hots"', "; did you mean 'host'?"),
        ("syslog", "", 'a = "hostnam"', "'hostnam' "),
        ("influx", "", 'a = "tag."', "'tag.' names no tag"),
        ("hl7", "", 'a = "PID.3.1"', "'PID.3.1' is no path of HL7"),
        ("hl7", 'charset = "8859/99"', 'a = "PID-3"', ".charset: '8859/99' is no character set"),
        ("json", 'charset = "8859/1"', 'a = "a"', '.charset: is for format = "hl7"; leave it out'),
        ("gelf", "", 'a = "user"', "'user' is no field of GELF: there are version, host,"),
        ("json", 'function = "a:b"', 'a = "a"', '.function: is for format = "python"; leave'),
        ("python", "", 'a = "a"', '.function: is missing; name it as in "package.module:name"'),
        (
            "python",
            'function = "a b"',
            'a = "a"',
            ".function: 'a b' is neither package.module:name",
        ),
        ("python", 'function = "a:b"', 'a = "a..b"', "'a..b' has an empty name in its path"),
        ("json", "samples = [1]", 'a = "a"', ".samples"),
        ("python", 'function = "a:b"\nsamples = ["base64:?"]', 'a = "a"', "is not Base64"),
        ("json", "", 'a = "a..b"', "'a..b' has an empty name in its path"),
        ("json", "", 'a = "@fram"', "'@fram' is no source of a json route; did you mean '@frame'?"),
        ("logfmt", "", 'a = "@time"', "'@time' is no source of a logfmt route; there are @frame,"),
        ("json", "", 'a = "@peer"', ".columns: no column takes a field, so messages would be lost"),
        ("json", "", "a = 5", ".columns.a: must be a field, or a table as"),
        ("json", "", 'a = ""', ".columns.a: is empty; name a field"),
        ("json", "", 'a = { feild = "a" }', ".columns.a.feild: unknown key; did you mean 'field'?"),
        ("json", "", "a = {}", ".columns.a: needs either field or value"),
        ("json", "", "a = { value = 1, required = true }", ".columns.a.required: is for a field"),
        (
            *("json", "", 'a = { field = "a", required = true, default = 1 }'),
            ".columns.a: required and default exclude each other",
        ),
        (
            *("json", "", 'a = { field = "@frame", default = 1 }'),
            ".columns.a: required and default are for fields; @frame is none",
        ),
    ],
)
def test_wrong_readings(form: str, keys: str, columns: str, said: str) -> None:
    """What is wrong with a format or a column is said with its key, and nothing else is."""
    found = problems(READING.format(format=form, keys=keys, columns=columns))
    assert len([line for line in found if said in line]) == 1, found
    assert all(line.startswith("/etc/g.toml: routes.r.") for line in found)


def test_fields_that_begin_as_our_sources_do() -> None:
    """Senders of JSON have such names, as Beats have @timestamp."""
    columns = 'a = "@timestamp"\nb = { field = "@metadata.beat", required = true }\nc = "@frame"'
    text = READING.format(format="json", keys="", columns=columns)
    assert load(text).routes["r"].fields == ["@timestamp", "@metadata.beat"]


@pytest.mark.parametrize("form", ["msgpack", "cbor"])
@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("hex:8", ".samples[1]: what follows hex: is not hexadecimal"),
        ("base64:gA", ".samples[1]: what follows base64: is not Base64"),
        ("{}", '.samples[1]: a message of FORM is no text; write "hex:..." or "base64:..."'),
        ("hexa:80", '.samples[1]: a message of FORM is no text; write "hex:..." or "base64:..."'),
    ],
)
def test_samples_that_are_none(form: str, sample: str, said: str) -> None:
    """A sample of a format that is no text is written in one of two ways."""
    keys = f'samples = ["hex: 80 ", "{sample}"]'
    found = problems(BINARY.format(format=form, framing="netstring", keys=keys))
    assert found == [f"/etc/g.toml: routes.r{said.replace('FORM', form)}"]


BINARY = READING.replace('route = "r"', 'route = "r"\nframing = "{framing}"').format(
    format="{format}", keys="{keys}", columns='a = "a"', framing="{framing}"
)


def test_samples() -> None:
    """A sample is a message, of formats that are no text by its bytes."""
    text = READING.format(format="json", keys=r"""samples = ["{}", 'hex:"x"']""", columns='a = "a"')
    assert load(text).routes["r"].samples == (b"{}", b'hex:"x"')
    text = BINARY.format(
        format="msgpack", framing="netstring", keys='samples = ["hex: 80", "base64:gA =="]'
    )
    assert load(text).routes["r"].samples == (b"\x80", b"\x80")
    keys = 'function = "a:b"\nsamples = ["hex:00", "base64:AA==", "x:y", "é"]'
    text = READING.format(format="python", keys=keys, columns='a = "a"')
    assert load(text).routes["r"].samples == (b"\0", b"\0", b"x:y", "é".encode())


@pytest.mark.parametrize("form", ["msgpack", "cbor"])
def test_framings_that_would_cut(form: str) -> None:
    """A framing that ends a message at a byte is none for a format that may hold it."""
    for framing in ("line", "nul"):
        assert problems(BINARY.format(format=form, framing=framing, keys="")) == [
            f"/etc/g.toml: listeners.a.framing: {framing} ends a message at a byte that {form} may"
            ' hold; use "netstring", "octet-counted" or "int32"'
        ]
    for framing in ("netstring", "octet-counted", "int16", "int32"):
        load(BINARY.format(format=form, framing=framing, keys=""))
    datagrams = READING.replace("tcp:1", "udp:1")
    load(datagrams.format(format=form, keys="", columns='a = "a"'))
    by = BINARY.replace('route = "r"', 'route_by = "a"\nroutes = {{ x = "r" }}')
    assert len(problems(by.format(format=form, framing="line", keys=""))) == 1


def test_values_of_columns() -> None:
    """Constants and defaults are what a message would write."""
    columns = """
        a = "x.y"
        b = { field = "x", default = 1.5 }
        c = { value = true }
        d = { value = 2026-11-21T10:00:00Z }
        e = { value = { k = [1, "x"] } }
        f = { value = inf }
        g = { field = "g", required = true }
    """
    config = load(READING.format(format="json", keys="", columns=columns))
    assert config.routes["r"].columns == {
        "a": Value("x.y"),
        "b": Value("x", "1.5"),
        "c": Value(CONSTANT, "true"),
        "d": Value(CONSTANT, "2026-11-21T10:00:00+00:00"),
        "e": Value(CONSTANT, '{"k":[1,"x"]}'),
        "f": Value(CONSTANT, "inf"),
        "g": Value("g", None, True),
    }
    assert config.routes["r"].fields == ["x.y", "x", "g"]


MLLP = """
[listeners.a]
endpoint = "tcp:1"
dialect = "mllp"
route = "r"
{keys}
[routes.r]
table = "t"
format = "hl7"
[routes.r.columns]
a = "MSH-10"
"""


def test_mllp() -> None:
    """What an MLLP listener takes, and what becomes of what cannot be stored now."""
    (listener,) = load(MLLP.format(keys="")).listeners.values()
    assert (listener.hl7, listener.try_) == (None, None)
    keys = """try = "AR"
    [listeners.a.hl7]
    message_types = ["ADT", "ORU^R01"]
    versions = ["2.3", "2.5.1"]
    processing_ids = ["P"]"""
    (listener,) = load(MLLP.format(keys=keys)).listeners.values()
    assert listener.try_ == "AR"
    assert listener.hl7 == Hl7Section(
        message_types=("ADT", "ORU^R01"), versions=("2.3", "2.5.1"), processing_ids=("P",)
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('try = "AE"', ".try: 'AE' is not one of AR"),
        ('tyr = "AR"', ".tyr: unknown key; did you mean 'try'?"),
        ('framing = "line"', ".framing: is what mllp brings itself; leave it out"),
        ('hl7.message_types = ["adt"]', ".hl7.message_types: 'adt' is neither \"ADT\" nor"),
        ('hl7.message_types = ["ADT_A04"]', ".hl7.message_types: 'ADT_A04' is neither"),
        ('hl7.versions = ["3.0"]', ".hl7.versions: '3.0' is no version of HL7 v2"),
        ('hl7.processing_ids = ["production"]', ".hl7.processing_ids: 'production' is none;"),
        ("hl7.processing_ids = []", ".hl7.processing_ids: has none, so no message would be taken"),
        ("hl7 = 1", ".hl7: must be a table: [listeners.a.hl7]"),
    ],
)
def test_wrong_mllp(keys: str, said: str) -> None:
    """What is wrong with a listener of MLLP is said with its key, and nothing else is."""
    found = problems(MLLP.format(keys=keys))
    assert len(found) == 1 and said in found[0], found


@pytest.mark.parametrize("key", ['try = "AR"', 'hl7.versions = ["2.5"]'])
def test_keys_of_mllp_elsewhere(key: str) -> None:
    """They are for MLLP alone."""
    found = problems(MLLP.format(keys=key).replace('dialect = "mllp"', 'dialect = "plain"'))
    (line,) = found
    assert line.endswith('is for dialect = "mllp"; leave it out')


@pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "Etc/GMT+5"])
def test_timezone(name: str) -> None:
    """The zone of a route is one of the IANA's."""
    config = load(READING.format(format="json", keys=f'timezone = "{name}"', columns='a = "x"'))
    assert config.routes["r"].timezone == ZoneInfo(name)


def test_timezone_of_this_machine() -> None:
    """It may be that of the gateway's machine; without the key it is left to the format."""
    config = load(READING.format(format="json", keys='timezone = "local"', columns='a = "x"'))
    assert config.routes["r"].timezone is LOCAL
    config = load(READING.format(format="json", keys="", columns='a = "x"'))
    assert config.routes["r"].timezone is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Europe/Berln", "there is no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?"),
        ("CEST", "there is no time zone 'CEST'; did you mean 'EST'?"),
        ("", 'there is no time zone \'\'; try "Europe/Berlin", "UTC" or "local"'),
        ("../../etc/passwd", "there is no time zone '../../etc/passwd'; "),
        ("Europe", "there is no time zone 'Europe'; did you mean "),
    ],
)
def test_wrong_timezones(name: str, said: str) -> None:
    """A zone that is none is named with its key, and what may be meant."""
    found = problems(READING.format(format="json", keys=f'timezone = "{name}"', columns='a = "x"'))
    assert len(found) == 1
    assert found[0].startswith(f"/etc/g.toml: routes.r.timezone: {said}")


BY_CONTENT = """
[listeners.a]
endpoint = "tcp:1"
{keys}
[routes.text]
table = "t"
[routes.json]
table = "t"
format = "json"
columns = {{ a = "a" }}
[routes.json2]
table = "t"
format = "json"
columns = {{ b = "b" }}
[routes.csv]
table = "t"
format = "csv"
fields = ["kind", "n"]
columns = {{ n = "n" }}
[routes.csv2]
table = "t"
format = "csv"
fields = ["kind", "m"]
delimiter = ";"
columns = {{ m = "m" }}
[routes.regex]
table = "t"
format = "regex"
pattern = '(?P<kind>.)(?P<n>.)'
columns = {{ n = "n" }}
"""

UNLIKE = "routes that a field chooses among must read messages alike"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            'route_by = "type"',
            ['routes: is missing: route_by needs some; try value = "route"'],
        ),
        (
            'route_by = "type"\nroutes = {}',
            ['routes: names no route: route_by needs some; try value = "route"'],
        ),
        (
            'routes = { a = "json" }',
            ["route_by: is missing: the field whose value chooses among routes"],
        ),
        (
            'route = "txt"\nroute_by = "a..b"\nroutes = { a = "josn", b = "json", c = "text" }',
            [
                "route: there is no route 'txt'; did you mean 'text'?",
                "routes.a: there is no route 'josn'; did you mean 'json'?",
                "routes.c: 'text' is a text route, which has no fields",
                "route_by: 'a..b' has an empty name in its path",
            ],
        ),
        (
            'route_by = "kind"\nroutes = { a = "json", b = "csv", c = "json2", d = "regex" }',
            [
                f"routes: 'json' and 'csv' differ in format (json, csv); {UNLIKE}",
                f"routes: 'json' and 'regex' differ in format (json, regex); {UNLIKE}",
            ],
        ),
        (
            'route_by = "kind"\nroutes = { a = "csv", b = "csv2" }',
            [f"routes: 'csv' and 'csv2' differ in fields and delimiter; {UNLIKE}"],
        ),
        (
            'route_by = "kin"\nroutes = { a = "csv" }',
            ["route_by: 'kin' is not in fields; did you mean 'kind'?"],
        ),
        (
            'route_by = "kin"\nroutes = { a = "regex" }',
            ["route_by: 'kin' is no field: the pattern has no group 'kin'; did you mean 'kind'?"],
        ),
        (
            'route_by = "@peer"\nroutes = { a = "json" }',
            ["route_by: '@peer' is no field of a message"],
        ),
        ('route_by = ""\nroutes = { a = "csv" }', ["route_by: '' is no field of a message"]),
    ],
)
def test_wrong_routing_by_content(keys: str, said: list[str]) -> None:
    """Each problem of C{route_by} and C{routes} is named with its key, and nothing else is."""
    found = problems(BY_CONTENT.format(keys=keys))
    assert found == [f"/etc/g.toml: listeners.a.{line}" for line in said]


@pytest.mark.parametrize(
    "keys",
    [
        'route_by = "type"\nroutes = { a = "json", b = "json2", c = "json" }',
        'route = "text"\nroute_by = "data.type"\nroutes = { "" = "json" }',
        'route = "csv2"\nroute_by = "kind"\nroutes = { a = "csv" }',
        'route_by = "kind"\nroutes = { a = "regex" }',
    ],
)
def test_routing_by_content(keys: str) -> None:
    """A table of routes that are read alike is accepted, whatever format its fallback has."""
    listener = load(BY_CONTENT.format(keys=keys)).listeners["a"]
    assert listener.route_by and listener.routes


def test_more_databases() -> None:
    """Databases have the keys of [database] and a lag; the embedded server is none of them."""
    config = load(
        """
        [databases.replica]
        dsn = "host=replica"
        max_lag = "10s"
        pool_max = 3
        [queries.q]
        sql = "select 1"
        database = "replica"
        """
    )
    assert config.databases == {
        "replica": NamedDatabase(dsn="host=replica", max_lag=10, pool_max=3)
    }
    assert config.databases["replica"].is_replica
    assert config.queries["q"].database == "replica"


def test_problems_of_more_databases() -> None:
    """Each wrong name, place and pool of a database is told, with the names that there are."""
    found = problems(
        """
        [databases.database]
        dsn = "embedded"
        [databases.replica]
        dsn = ""
        dsn_file = "x"
        pool_min = 9
        max_lag = 0
        [databases.none]
        [queries.a]
        sql = "select 1"
        database = "replika"
        [queries.b]
        sql = "select 1"
        database = "other"
        read_only = false
        [databases.other]
        dsn = ""
        max_lag = 1
        """
    )
    assert [line.removeprefix("/etc/g.toml: ") for line in found] == [
        "databases.replica.max_lag: expected a number > 0.0",
        "databases.database: is no name: give it one that is not empty and not 'database'",
        "databases.database.dsn: the embedded server is [database] alone; name another one",
        "databases.replica.dsn_file: databases.replica.dsn is there too; leave one of them out",
        "databases.replica.pool_min: 9 is over pool_max = 8",
        "databases.none.dsn: is missing; it or dsn_file says where it is",
        "queries.a.database: there is no [databases.replika]; there is database, replica, none,"
        " other; did you mean 'replica'?",
        "queries.b.read_only: a query that writes cannot be answered by other, a standby"
        " (max_lag); leave out its database",
    ]


def test_problems_of_shards() -> None:
    """Wrong shards and databases of routes, and units over several databases, are told."""
    found = problems(
        """
        [databases.one]
        dsn = ""
        [databases.replica]
        dsn = ""
        max_lag = 1
        [routes.a]
        table = "t"
        shard_by = "x"
        shards = ["one"]
        database = "one"
        [routes.b]
        table = "t"
        format = "json"
        shards = ["one", "other"]
        [routes.c]
        table = "t"
        format = "json"
        key = ["k"]
        conflict = "ignore"
        shard_by = "x"
        shards = ["one", "database"]
        columns = { k = "y" }
        [routes.d]
        table = "t"
        database = "replica"
        [routes.e]
        table = "t"
        format = "json"
        shard_by = "x"
        shards = ["one", "database"]
        dead_letter = true
        columns = { k = "y" }
        [listeners.l]
        endpoint = "tcp:1"
        dialect = "beats"
        route = "e"
        """
    )
    assert [line.removeprefix("/etc/g.toml: ") for line in found] == [
        "routes.a.shards: must name two or more databases, each once",
        "routes.a.database: goes with neither shard_by nor shards; leave it out",
        "routes.a.shard_by: a text message has no fields; the route needs a format",
        "routes.b.shard_by: is missing: the field whose value chooses among shards",
        "routes.c.shard_by: 'x' is no field of the key ['k']: rows with one key could be in several"
        " databases",
        "routes.b.shards: there is no [databases.other]; there is one, replica",
        "routes.d.database: replica is a standby (max_lag), in which nothing can be stored",
        "listeners.l.route: leads into several databases (one, database): what beats acknowledges"
        " together is stored together, which one database alone can do; have the routes of one"
        " listener in one database",
    ]
