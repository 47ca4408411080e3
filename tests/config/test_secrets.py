"""
Secrets: where they come from, who could read them, and that they are nowhere else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import psutil
import pytest

from gateway.config.listener import Listener, TlsSection
from gateway.config.load import Config, Database
from gateway.config.secrets import mode_of, read_secret
from gateway.daemon.configuration import operator_warnings_of, read_config
from gateway.daemon.embedded import find_binaries
from gateway.daemon.security_warnings import ON_THE_COMMAND_LINE, operator_warnings
from gateway.model.errors import ConfigError
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.dsn import dsn_fault, has_password, public_dsn
from gateway.postgres.connect.dsn_audit import dsn_warnings
from tests.forking import BIN
from tests.support import LISTEN, Gateway, tool, wait_until
from tests.tcp_server import PASSWORD, TcpServer

Start = Callable[..., Gateway]

LINES = '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpServer]:
    """A server that asks for a password."""
    server = TcpServer(tmp_path_factory.mktemp("guarded"), find_binaries())
    server.initialize("host all all 127.0.0.1/32 scram-sha-256")
    server.start({})
    yield server
    server.stop()


def around(files: dict[str, str] | None = None, /, **environment: str) -> Environment:
    return Environment(environment, "/home/me", (files or {}).get)


# Connection strings from files.


def write(folder: Path, text: str, **files: str) -> str:
    for name, content in files.items():
        path = folder / name
        path.write_text(content)
        path.chmod(0o600)
    config = folder / "gateway.toml"
    config.write_text(text)
    config.chmod(0o600)
    return str(config)


def test_connection_strings_from_files(tmp_path: Path) -> None:
    """A file says where the database is and where to listen; the space around it does not count."""
    text = '[database]\ndsn_file = "where"\n[channels]\ndsn_file = "there"'
    path = write(tmp_path, text, where="\nhost=db\n  user=u \n", there="host=direct\n")
    config = read_config(path)
    assert config.database.dsn == "host=db\n  user=u"
    assert config.database.dsn_file == str(tmp_path / "where")
    assert config.channels.dsn == "host=direct"


def test_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd hands over is read from where it says."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "dsn").write_text("host=db")
    (credentials / "dsn").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    path = write(tmp_path, '[database]\ndsn_file = "credential:dsn"')
    config = read_config(path)
    assert config.database.dsn == "host=db"
    assert not [line for line in operator_warnings_of(config, path) if "chmod" in line]


def test_the_command_line_needs_no_file(tmp_path: Path) -> None:
    """With --database the file that is not used need not be there."""
    path = write(tmp_path, '[database]\ndsn_file = "gone"')
    database = read_config(path, "host=db").database
    assert (database.dsn, database.dsn_key) == ("host=db", "database.dsn")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"host=\xff", "not UTF-8 at byte 5"),
        (b"x" * 65537, "has more than 65536 bytes; that is no secret"),
    ],
)
def test_a_file_that_will_not_do(tmp_path: Path, content: bytes | None, fault: str) -> None:
    """Each is one line that names the key and the file, and nothing that is in it."""
    path = write(tmp_path, '[database]\ndsn_file = "dsn"')
    if content is not None:
        (tmp_path / "dsn").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert caught.value.problems == (f"{path}: database.dsn_file: {tmp_path / 'dsn'}: {fault}",)


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    """What cannot be opened is one line too."""
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_secret(str(tmp_path))
    assert mode_of(str(tmp_path)) is None


def test_both_are_one_too_many(tmp_path: Path) -> None:
    """dsn and dsn_file together are an error of each section, whichever is right."""
    text = "[{}]\ndsn = 'host=a'\ndsn_file = 'dsn'\n"
    path = write(tmp_path, text.format("database") + text.format("channels"), dsn="host=b")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert sorted(caught.value.problems) == [
        f"{path}: channels.dsn_file: channels.dsn is there too; leave one of them out",
        f"{path}: database.dsn_file: database.dsn is there too; leave one of them out",
    ]


# What is open to others.


def test_files_that_others_may_read(tmp_path: Path) -> None:
    """One line for each file with a secret that is open to group or others; none for 0600."""
    text = f"[database]\ndsn_file = 'dsn'\n[channels]\ndsn = 'password={PASSWORD}'"
    path = write(tmp_path, text, dsn="host=/run")
    assert operator_warnings_of(read_config(path), path) == []
    for mode in (0o640, 0o604, 0o620):
        (tmp_path / "dsn").chmod(mode)
        Path(path).chmod(mode)
        assert operator_warnings_of(read_config(path), path) == [
            "database.dsn_file: group or others may read or change what is secret:"
            f" chmod 600 {tmp_path / 'dsn'}",
            "channels.dsn holds a password: group or others may read or change what is secret:"
            f" chmod 600 {path}",
        ]


def test_keys_that_others_may_read() -> None:
    """The same of a listener's key, or of what it is encrypted with."""
    listeners = {
        "a": TlsSection(certificate="/c", key="/k"),
        "b": TlsSection(certificate="/both"),
        "c": TlsSection(certificate="/c", key="/encrypted", passphrase_file="/p"),
    }
    config = Config(
        listeners={n: Listener(endpoint="tcp:1", tls=tls) for n, tls in listeners.items()}
    )
    found = operator_warnings(config, around(), lambda path: 0o644)
    assert [line.split()[0] + line.split()[-1] for line in found] == [
        *("listeners.a.tls.key:/k", "listeners.b.tls:/both", "listeners.c.tls.passphrase_file:/p"),
    ]
    systemds = PurePath("/")
    assert operator_warnings(config, around(), lambda path: 0o440, credentials=systemds) == []


@pytest.mark.parametrize(
    ("dsn", "environment", "hosts"),
    [
        ("host=db", {}, "sslmode=prefer lets everything go unencrypted to db:5432;"),
        (
            "host=db sslmode=allow port=7",
            {},
            "sslmode=allow lets everything go unencrypted to db:7",
        ),
        ("host=db,/run,db2", {"PGSSLMODE": "disable"}, "to db:5432, db2:5432; say"),
        ("hostaddr=10.0.0.1", {}, "to 10.0.0.1:5432;"),
        ("service=s", {}, "to far:5432;"),
        ("host=db sslmode=''", {}, "sslmode=prefer lets"),
        ("host=db sslmode=require", {}, ""),
        ("host=db sslmode=verify-full", {"PGSSLMODE": "disable"}, ""),
        ("host=db", {"PGSSLMODE": "verify-full"}, ""),
        ("host=db sslrootcert=system", {}, ""),
        ("service=t", {}, ""),
        ("host=/run/postgresql", {}, ""),
        ("host=localhost,127.0.0.2,::1", {}, ""),
        ("host=db hostaddr=127.0.0.1", {}, ""),
        ("", {}, ""),
    ],
)
def test_ways_that_may_be_unencrypted(dsn: str, environment: dict[str, str], hosts: str) -> None:
    """A line for hosts of a network to which libpq would also talk without TLS."""
    services = "[s]\nhost=far\n[t]\nhost=far\nsslmode=verify-ca\n"
    outside = around({"/home/me/.pg_service.conf": services}, **environment)
    found = dsn_warnings(dsn, outside, lambda path: None)
    assert [hosts in line and "say sslmode=verify-full" in line for line in found] == (
        [True] if hosts else []
    )


@pytest.mark.parametrize(
    ("dsn", "environment", "ignored"),
    [
        ("", {}, "/home/me/.pgpass"),
        ("", {"PGPASSFILE": "/a"}, "/a"),
        ("passfile=/b", {"PGPASSFILE": "/a"}, "/b"),
        ("password=p", {}, ""),
        ("", {"PGPASSWORD": "p"}, ""),
    ],
)
def test_a_password_file_that_libpq_ignores(
    dsn: str, environment: dict[str, str], ignored: str
) -> None:
    """One line where it would be used; libpq reads it only if its owner alone may."""
    for mode in (0o640, 0o604, 0o610, 0o666):
        found = dsn_warnings(
            dsn, around(**environment), {"/home/me/.pgpass": mode, "/a": mode, "/b": mode}.get
        )
        expected = f"libpq ignores {ignored}, which others than its owner may use:"
        assert found == ([f"{expected} chmod 600 {ignored}"] if ignored else [])
    assert dsn_warnings(dsn, around(**environment), lambda path: 0o600) == []


def test_a_connection_string_that_is_wrong_has_no_cautions() -> None:
    """Whoever looks at it finds what is wrong; here it is passed by."""
    config = Config(database=Database(dsn="nonsense"))
    assert operator_warnings(config, around(), lambda path: 0o666, PurePath("/f")) == []


# What may be shown.


def test_what_may_be_shown() -> None:
    """All of a connection string but what is secret, and where secrets are."""
    dsn = f"postgresql://u:{PASSWORD}@h/d?sslpassword=s3cret&sslkey=/k&passfile=/p&sslmode=require"
    assert public_dsn(dsn) == "user=u dbname=d host=h sslmode=require"
    assert has_password(dsn) and has_password("sslpassword=x") and not has_password("host=h")
    assert not has_password("nonsense")


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:x@{PASSWORD}@h/d",
        f"postgres://u:1/{PASSWORD}@h/d",
        f"postgresql://u:x/{PASSWORD}@h/d",
        f"postgresql://u:%zz{PASSWORD}@h/d",
        f"postgresql://u:?{PASSWORD}=1",
        f"password=a {PASSWORD} host=h",
        f"{PASSWORD}",
        f"{PASSWORD}=1",
        f"host=h\0{PASSWORD}",
        f"host='h {PASSWORD}",
        f"host=h port={PASSWORD}",
        f"target_session_attrs={PASSWORD}",
        f"load_balance_hosts={PASSWORD}",
    ],
)
def test_a_mistyped_connection_string_is_not_repeated(dsn: str) -> None:
    """Where a password may have slipped to a wrong place, one line says so without it."""
    found = dsn_fault(dsn, around())
    assert found and PASSWORD not in found and "\n" not in found


@pytest.mark.parametrize(
    "dsn", ["postgresql://h/d?user=a@b", "postgresql://a@h/d?port=1", "postgresql://u:a%40b@h:1/d"]
)
def test_an_at_sign_in_its_place(dsn: str) -> None:
    """What libpq reads as it is meant is not refused for its @."""
    assert "@" not in (dsn_fault(dsn, around()) or "")


# The one that looks everywhere.


def seen_from_outside(gateway: Gateway) -> str:
    """What other users of the machine can see of its processes."""
    process = psutil.Process(gateway.process.pid)
    family = [process, *process.children(recursive=True)]
    shown = [Path(f"/proc/{one.pid}/{file}").read_bytes() for one in family for file in _PROC]
    listed = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, check=True).stdout
    return (b"\n".join(shown) + listed).decode("utf-8", "replace")


_PROC = ("cmdline", "comm", "stat", "status")


def test_the_password_is_nowhere(guarded: TcpServer, start_gateway: Start, tmp_path: Path) -> None:
    """
    With a password on the command line, in a file, and with a wrong one: no gateway shows it
    to ps, in its log or to a peer, nor does gateway check.
    """
    dsn = guarded.dsn(password=PASSWORD)
    # With a command line of its own, which is what a title is written over.
    commanded = start_gateway("--database", dsn, *LISTEN, wrapper=("env",))
    wait_until(lambda: PASSWORD not in seen_from_outside(commanded), "the title is without it")
    assert "--database user=gateway" in seen_from_outside(commanded)
    assert ON_THE_COMMAND_LINE in commanded.log
    said = commanded.connect().ask(b"hello\n\xff\n") + commanded.connect("commands").ask(b"HELP\n")
    assert said.startswith(b"+OK\n-REJ DATA") and PASSWORD.encode() not in said
    commanded.terminate()

    text = f"[database]\ndsn_file = 'dsn'\nacquire_timeout = 0.1\n{LINES}"
    path = write(tmp_path, text, dsn=dsn)
    filed = start_gateway("--config", path)
    assert PASSWORD not in seen_from_outside(filed) and "chmod" not in filed.log
    filed.terminate()
    wrong = "not-" + PASSWORD
    (tmp_path / "dsn").chmod(0o644)
    (tmp_path / "dsn").write_text(guarded.dsn(password=wrong))
    refused = Gateway(("--config", path), tmp_path)
    try:
        refused.wait_log("password authentication failed")
        assert "database.dsn_file: group or others may read" in refused.log
        said = refused.connect().ask(b"hello\n")
        assert said.startswith(b"+QUE") or said.startswith(b"-TRY"), said
        seen = seen_from_outside(refused)
    finally:
        refused.end()
    checks = []
    for content in (dsn, guarded.dsn(password=wrong), f"password=a {PASSWORD}", dsn + " x=1"):
        (tmp_path / "dsn").write_text(content)
        done = tool("check", path)
        checks.append(done.stdout + done.stderr)
    assert all("warning: database.dsn_file: group or others" in said for said in checks[:2])
    assert "connected to postgres" in checks[0]
    assert "password authentication failed" in checks[1]
    assert checks[2].count("is neither a libpq URI") == checks[3].count("is neither") == 1
    logs = commanded.log + filed.log + refused.log
    assert PASSWORD not in "\n".join([logs, seen, *checks])


def test_a_bad_start_does_not_tell(tmp_path: Path) -> None:
    """A connection string or configuration that is wrong ends the start without being repeated."""
    bad = [
        ("--database", f"postgresql://u:x@{PASSWORD}@h/d"),
        ("--database", f"host=h password=a {PASSWORD}"),
        ("--config", write(tmp_path, f'[database]\ndsn = "password={PASSWORD}" x')),
    ]
    for arguments in bad:
        started = Gateway(arguments, tmp_path)
        assert started.process.wait(60) == 1
        assert PASSWORD not in started.log and "Traceback" not in started.log, started.log
    for text in (f'[database]\ndsn = ["{PASSWORD}"]', f'[database]\npassword = "{PASSWORD}"'):
        done = tool("check", write(tmp_path, text))
        assert done.returncode == 1 and PASSWORD not in done.stdout + done.stderr


BUG = """
import os
import sys
from twisted.internet import reactor
from twisted.python import log
log.startLogging(sys.stdout)
from gateway.postgres.connect.connector import Connector
from gateway.daemon.tap import Options, makeService

def connect(self, connection, conninfo, is_read_only):
    assert "correct-horse" in conninfo
    raise ZeroDivisionError("a bug")

Connector.connect = connect
options = Options()
options.parseOptions(["--database", sys.argv[1], "--line", "tcp:0:interface=127.0.0.1"])
service = makeService(options)
service.privilegedStartService()
service.startService()

def end():
    sys.stdout.flush()
    os._exit(0)

log.addObserver(lambda event: event["isError"] and reactor.callLater(0, end))
reactor.run()
"""


def test_a_traceback_does_not_tell(guarded: TcpServer, tmp_path: Path) -> None:
    """A bug right where the password is in use: the log has its traceback, not its variables."""
    dsn = guarded.dsn(password=PASSWORD)
    done = subprocess.run(
        [sys.executable, "-c", BUG, dsn], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert re.search("Traceback.*ZeroDivisionError: a bug", done.stdout, re.S), done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_commands_hide_it_too(guarded: TcpServer, tmp_path: Path) -> None:
    """A command that connects with a password from its command line takes it out of ps."""
    arguments = ("dead-letters", "--database", guarded.dsn(password=PASSWORD), "purge", "--all")
    running = subprocess.Popen(
        [str(BIN / "gateway"), *arguments],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert running.stdout is not None
    try:
        # It asks whether to go on, or says that there is nothing to ask about.
        said = running.stdout.read(1)
        shown = Path(f"/proc/{running.pid}/cmdline").read_bytes()
        assert said and PASSWORD.encode() not in shown
    finally:
        running.communicate(b"n\n", timeout=60)
