"""
What the READMEs of the examples say is what happens: their commands are run as they stand.

Each example is copied and its gateway listens on ports that the system chooses; these
then take the place of the fixed ones in the copy. One PostgreSQL serves all of them but
the first, which starts a server of its own as a reader would.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from tests.forking import BIN
from tests.installing import Installer
from tests.python_client import LOGSTASH
from tests.support import PATIENCE, Database, Gateway, TemporaryServer, wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/README.md"))

BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
"""Commands, and what they print if the README shows it right below."""

Play = Callable[..., "Example"]


@pytest.fixture(autouse=True)
def programs(installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the READMEs use beside Python and psql."""
    for name in ("nc", "rsyslogd", "logger"):
        installer.program(name)
    # Where the package rsyslog-relp has its plugin, a reader's rsyslog finds it by itself.
    monkeypatch.setenv("RSYSLOG_MODDIR", installer.plugins("omrelp"))


def endpoints(name: str) -> dict[str, str]:
    """The listeners of an example, each with its endpoint."""
    with (ROOT / "examples" / name / "gateway.toml").open("rb") as file:
        listeners = tomllib.load(file)["listeners"]
    return {listener: keys["endpoint"] for listener, keys in listeners.items()}


def trimmed(text: str) -> list[str]:
    """Its lines without the blanks at their ends, which psql writes and editors drop."""
    return [line.rstrip() for line in text.strip("\n").splitlines()]


class Example:
    """
    A copy of an example's folder, its gateway running.

    @ivar blocks: the README's commands after the one that starts the gateway, each with
        what it prints.
    """

    def __init__(
        self, name: str, root: Path, env: dict[str, str], start: Callable[[list[str]], Gateway]
    ) -> None:
        self._root = root
        self._env = env
        folder = root / "examples" / name
        shutil.copytree(ROOT / "examples" / name, folder)
        config = folder / "gateway.toml"
        config.write_text(re.sub(r'"tcp:\d+:', '"tcp:0:', config.read_text()))
        command = shlex.split(BLOCK.findall((folder / "README.md").read_text())[0][0])
        assert command[:3] == [".venv/bin/twistd", "-n", "gateway"]
        assert command[3:] == ["--config", f"examples/{name}/gateway.toml"]
        self.gateway = start(command[3:])
        for listener, endpoint in endpoints(name).items():
            chosen = str(self.gateway.port(listener))
            for file in filter(Path.is_file, folder.iterdir()):
                fixed = endpoint.split(":")[1]
                file.write_text(re.sub(rf"\b{fixed}\b", chosen, file.read_text()))
        self.blocks: list[tuple[str, str]] = BLOCK.findall((folder / "README.md").read_text())[1:]

    def says(self, command: str) -> str:
        """Run commands as a reader does, and stop at the first that fails."""
        said = subprocess.run(
            ["bash", "-ec", command],
            cwd=self._root,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert said.returncode == 0, f"{command}\n{said.stdout}"
        return said.stdout

    def check(self, seen: Callable[[str], list[str]] = trimmed) -> None:
        """Every block prints what is shown."""
        for command, shown in self.blocks:
            assert seen(self.says(command)) == seen(shown), command
        assert "Traceback" not in self.gateway.log

    @contextmanager
    def running(self, command: str, made: str) -> Iterator[None]:
        """
        A command of its own terminal, ended with Ctrl-C.

        @param made: the file that is there once it is ready.
        """
        log_path = self._root / "running.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                shlex.split(command), cwd=self._root, env=self._env, stdout=log, stderr=log
            )
        try:
            there = self._root / made
            wait_until(lambda: there.exists() or process.poll() is not None, command)
            assert process.poll() is None, log_path.read_text()
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0, log_path.read_text()
        finally:
            process.kill()
            process.wait()


def environment(server: TemporaryServer, **variables: str) -> dict[str, str]:
    """What a reader's shell may have, without settings that change what psql prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # Where pip puts programs of packages.
    path = f"{BIN}:{os.environ['PATH']}:{server.embedded.binaries}"
    fixed = {"PATH": path, "LC_ALL": "C.UTF-8", "PGTZ": "UTC", "PSQLRC": os.devnull}
    return {**kept, **fixed, **variables}


@pytest.fixture
def play(
    server: TemporaryServer,
    database: Database,
    start_gateway: Callable[..., Gateway],
    tmp_path: Path,
) -> Play:
    """Starts an example whose server is that of all tests, found where its own would be."""
    (tmp_path / "gateway-data").mkdir()
    (tmp_path / "gateway-data" / "postgres").symlink_to(server.embedded.socket_dir)
    env = environment(server, PGDATABASE=parse_dsn(database.dsn)["dbname"])

    def start(arguments: list[str]) -> Gateway:
        return start_gateway(*arguments, "--database", database.dsn, cwd=tmp_path)

    return lambda name, **variables: Example(name, tmp_path, {**env, **variables}, start)


def recent(moment: datetime) -> bool:
    return abs(moment - datetime.now(UTC)) < timedelta(hours=1)


def test_every_example_is_listed() -> None:
    """The README leads to each of them, and here is a test for each."""
    listed = re.findall(r"^\| \[[^]]*\]\(examples/([^/)]*)\)", README, re.MULTILINE)
    assert sorted(listed) == EXAMPLES
    tests = [name.removeprefix("test_").replace("_", "-") for name in globals()]
    assert set(EXAMPLES) <= set(tests)


def test_every_example_has_ports_of_its_own() -> None:
    """All of them can run beside each other, and beside the README's gateway."""
    used = [endpoint for name in EXAMPLES for endpoint in endpoints(name).values()]
    used += [f"tcp:{port}:interface=127.0.0.1" for port in (8000, 8001, 8002, 8003)]
    assert len(set(used)) == len(used)


def test_users(
    server: TemporaryServer, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """Names by nc and by the client that the README shows, on a server of its own."""

    def start(arguments: list[str]) -> Gateway:
        return start_gateway(*arguments, cwd=tmp_path)

    example = Example("users", tmp_path, environment(server), start)
    example.check()
    own = Database(f"host={tmp_path}/gateway-data/postgres user=gateway")
    names = own.column("SELECT name FROM users ORDER BY id")
    assert names == ["Ann", "Ben", "Carla", "Jörg Müller"]
    folder = ROOT / "examples" / "users"
    code = (folder / "client.py").read_text().partition("\n\n")[2]
    assert f"```python\n{code}```\n" in (folder / "README.md").read_text()


def test_sensors(play: Play, database: Database) -> None:
    """JSON and line protocol become values of their columns' types; a bad reading is kept."""
    play("sensors").check()
    ten = datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert database.execute("TABLE readings") == [
        (ten, "hall", 21.5, 7, {"door": "open"}),
        (ten + timedelta(minutes=1), "hall", 21.25, 1, None),
    ]
    assert database.execute("TABLE weather") == [
        (ten, "roof", 3.5, 81, {"station": "roof", "side": "north"})
    ]
    assert [bytes(frame) for frame in database.column("SELECT frame FROM gateway.dead_letter")] == [
        b'{"time":1795255320,"device":{"name":"hall"},"temp":"warm"}'
    ]


def test_syslog(play: Play, database: Database) -> None:
    """The real rsyslog and logger, in frames and in lines; nothing of it is refused."""
    example = play("syslog")
    (rsyslogd, _), (send, _), look = example.blocks
    with example.running(rsyslogd, "gateway-data/rsyslog.sock"):
        assert example.says(send) == ""
        wait_until(
            lambda: len(database.column("SELECT id FROM logs WHERE app = 'demo'")) >= 4,
            "logged messages are stored",
        )
    example.blocks = [look]
    example.check()
    # The old format of the lines has no zone.
    sent = dict(database.execute("SELECT message, at FROM logs WHERE app = 'demo'"))
    assert recent(sent["by way of rsyslog"]) and recent(sent["a frame"])
    assert database.execute("TABLE gateway.dead_letter") == []


def test_hl7(play: Play, database: Database) -> None:
    """mllp_send of PyPI's hl7: what is refused is kept, what nobody wants is not."""
    play("hl7").check()
    assert database.column("SELECT control_id FROM admissions") == ["4711"]
    (frame,) = map(bytes, database.column("SELECT frame FROM gateway.dead_letter"))
    assert b"|R-2|" in frame


def test_relp(play: Play, database: Database) -> None:
    """The real rsyslog over RELP; what the table refuses is kept, and rsyslog goes on."""
    example = play("relp")
    (rsyslogd, _), (send, _), look = example.blocks
    with example.running(rsyslogd, "gateway-data/relp.sock"):
        assert example.says(send) == ""
        wait_until(
            lambda: "behind it" in database.column("SELECT message FROM events"),
            "logged messages are stored",
        )
    example.blocks = [look]
    example.check()
    sent = dict(database.execute("SELECT message, at FROM events WHERE app = 'demo'"))
    assert recent(sent["by way of RELP"]) and recent(sent["behind it"])


def test_gelf(play: Play, database: Database, tmp_path: Path) -> None:
    """A program logs by pygelf as it would to Graylog; what is no GELF is kept with its reason."""
    (tmp_path / ".venv").symlink_to(BIN.parent)
    example = play("gelf")
    (program, _), (refused, _), look = example.blocks
    for command, count in ((program, 2), (refused, 3)):
        assert example.says(command) == ""
        wait_until(lambda count=count: kept(database) == count, "what was sent is kept")
    example.blocks = [look]
    example.check()
    assert recent(database.column("SELECT max(at) FROM logs")[0])


def kept(database: Database) -> int:
    """Messages of the example that are stored, or dead letters."""
    rows = "SELECT (SELECT count(*) FROM logs) + (SELECT count(*) FROM gateway.dead_letter)"
    return int(database.column(rows)[0])


def test_graphite(play: Play, database: Database) -> None:
    """Metrics of this machine; what they are today is not what the README shows."""
    play("graphite").check(lambda text: trimmed(re.sub(r"\d+(\.\d+)?", "0", text)))
    rows = database.execute("SELECT path, value, at FROM metrics ORDER BY path")
    assert [path for path, _, _ in rows] == ["local.load", "local.processes"]
    assert all(isinstance(value, float) and value >= 0 and recent(at) for _, value, at in rows)


def test_cron_of_graphite(play: Play, database: Database) -> None:
    """What cron would mail: nothing after an answer, a line where there is no gateway."""
    example = play("graphite")
    text = (ROOT / "examples" / "graphite" / "README.md").read_text()
    [line] = re.findall(r"^    \* \* \* \* \*  /path/to/(.*)$", text, re.MULTILINE)
    assert example.says(line) == ""
    assert database.column("SELECT path FROM metrics") == ["local.load"]
    example.gateway.terminate()
    assert example.says(line) == "load: not stored\n"


def test_beats(play: Play, database: Database, installer: Installer) -> None:
    """The handler of python-logstash-async, which keeps what is not acknowledged in a file."""
    example = play("beats", PYTHONPATH=str(installer.packages(LOGSTASH)))
    example.check()
    ats = database.column("SELECT at FROM events WHERE event->>'message' = message")
    assert len(ats) == 2 and all(map(recent, ats))
    assert database.execute("TABLE gateway.dead_letter") == []


def test_fluent(play: Play, database: Database, tmp_path: Path) -> None:
    """Python's log by fluent-logger, with the time that it was logged at."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    example = play("fluent")
    (log, _), look = example.blocks
    assert example.says(log) == ""
    wait_until(lambda: database.column("SELECT count(*) FROM logs") == [2], "both are stored")
    example.blocks = [look]
    example.check()
    assert all(map(recent, database.column("SELECT time FROM logs")))
    assert database.execute("TABLE gateway.dead_letter") == []


def test_csv_from_psql(play: Play, database: Database, server: TemporaryServer) -> None:
    """Every row that has an amount arrives as it was, the others are refused."""
    source = Database(make_dsn(server.embedded.dsn, dbname="postgres"))
    try:
        play("csv-from-psql").check()
        rows = source.execute("SELECT * FROM orders WHERE amount IS NOT NULL ORDER BY id")
    finally:
        source.execute("DROP TABLE IF EXISTS orders")
    assert len(rows) == 998 and isinstance(rows[0][2], Decimal)
    assert database.execute("SELECT * FROM orders ORDER BY id") == rows
