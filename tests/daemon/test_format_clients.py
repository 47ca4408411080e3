"""
Senders that nobody here wrote: pygelf and graypy, msgpack and cbor2; and functions of the user's.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import cbor2
import graypy
import msgpack
import pygelf
import pynetstring
import pytest

from tests.forking import BIN
from tests.support import Database, Gateway, Peer, wait_until

Start = Callable[..., Gateway]

GELF: Final = """
[listeners.gelf]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "nul"
route = "logs"
ack = "none"
[routes.logs]
table = "logs"
format = "gelf"
dead_letter = true
[routes.logs.columns]
host = "host"
text = "short_message"
trace = "full_message"
at = "timestamp"
level = "level"
order_id = "_order_id"
added = "additional"
"""

GELF_TABLE: Final = """
    CREATE TABLE logs (host text NOT NULL, text text NOT NULL, trace text, at timestamptz,
                       level smallint, order_id bigint, added jsonb)
"""

READINGS: Final = """
    CREATE TABLE readings (at timestamptz, device text, temp double precision, count bigint,
                           exact numeric, raw bytea, id uuid, data jsonb)
"""

COLUMNS: Final = """
[routes.readings.columns]
at = "at"
device = "dev.name"
temp = "temp"
count = "count"
exact = "exact"
raw = "raw"
id = "id"
data = "data"
"""


@pytest.mark.parametrize("library", ["pygelf", "graypy"])
def test_gelf_handlers(library: str, database: Database, start_with: Start) -> None:
    """Python's two handlers for GELF: what is logged is stored, tracebacks and fields with it."""
    database.execute(GELF_TABLE)
    gateway = start_with(GELF)
    where = ("127.0.0.1", gateway.port("gelf"))
    handler: Any
    if library == "pygelf":
        handler = pygelf.GelfTcpHandler(*where, include_extra_fields=True, _site="north")
    else:
        handler = graypy.GELFTCPHandler(*where)
    logger = logging.getLogger(f"test.{library}")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    before = datetime.now(UTC)
    try:
        for number in range(200):
            logger.info("message %d", number, extra={"order_id": number})
        logger.warning("käse, 奶酪\n\x01")
        try:
            raise KeyError("a")
        except KeyError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
        handler.close()
    count = "SELECT count(*) FROM logs"
    wait_until(lambda: database.column(count) == [202], "all that was logged is stored")
    rows = database.execute("SELECT text, level, order_id, trace, at FROM logs ORDER BY at")
    assert [row[:3] for row in rows[:200]] == [(f"message {n}", 6, n) for n in range(200)]
    assert rows[200][:3] == ("käse, 奶酪\n\x01", 4, None)
    assert rows[201][:3] == ("failed", 3, None) and "KeyError: 'a'" in rows[201][3]
    assert all(before <= row[4].astimezone(UTC) <= datetime.now(UTC) for row in rows)
    if library == "pygelf":
        assert database.column("SELECT DISTINCT added->>'site' FROM logs") == ["north"]
    assert database.column("SELECT count(*) FROM gateway.dead_letter") == [0]


def test_a_gelf_message_that_is_none(database: Database, start_with: Start) -> None:
    """What a message lacks is said to its sender, and kept."""
    database.execute(GELF_TABLE)
    gateway = start_with(GELF.replace('ack = "none"\n', ""))
    peer = gateway.connect("gelf")
    said = peer.ask(b'{"host":"h"}\0{"host":"h","short_message":"m"}\0')
    refusal = b"-REJ FORMAT :no GELF message: it has no 'short_message'"
    assert said == refusal + b"\0+OK\0"
    assert database.column("SELECT count(*) FROM gateway.dead_letter") == [1]


def ask(peer: Peer, messages: Sequence[bytes]) -> list[str]:
    """The answers to messages that are sent as netstrings."""
    said = peer.ask(b"".join(map(pynetstring.encode, messages)))
    return [answer.decode() for answer in pynetstring.decode(said)]


@pytest.mark.parametrize("format_", ["msgpack", "cbor"])
def test_binary_formats(format_: str, database: Database, start_with: Start) -> None:
    """Every value arrives as it was: bytes, numbers, times, and what is in a document."""
    database.execute(READINGS)
    gateway = start_with(
        '[listeners.b]\nendpoint = "tcp:0:interface=127.0.0.1"\nframing = "netstring"\n'
        'route = "readings"\n[routes.readings]\ntable = "readings"\n'
        f'format = "{format_}"\n{COLUMNS}'
    )
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    message: dict[str, Any] = {
        **{"at": moment, "dev": {"name": "é\n"}, "temp": 0.1, "count": 2**62 + 1},
        **{"raw": bytes(range(256)), "data": {"a": [1, None, "x"], "b": b"\0"}},
    }
    if format_ == "cbor":
        message |= {"exact": Decimal("1.10"), "id": UUID(int=7)}
        pack: Callable[[Any], bytes] = cbor2.dumps
    else:
        message |= {"exact": "1.10", "id": str(UUID(int=7))}
        pack = lambda value: bytes(msgpack.packb(value, datetime=True))  # noqa: E731
    bad = [pack({"count": 2**63}), pack({"temp": b"x"}), pack([1]), b"\xc1\xff", pack({}) + b"\0"]
    peer = gateway.connect("b")
    told = ask(peer, [pack(message), *bad, pack({"temp": float("nan")})])
    assert (told[0], told[-1]) == ("+OK", "+OK")
    assert [answer.partition(" :")[0] for answer in told[1:-1]] == [
        *("-REJ DATA", "-REJ DATA", "-REJ FORMAT", "-REJ FORMAT", "-REJ FORMAT")
    ]
    first, second = database.execute(
        "SELECT at, device, temp, count, exact::text, raw, id::text, data FROM readings"
    )
    assert first[:5] == (moment, "é\n", 0.1, 2**62 + 1, "1.10")
    assert bytes(first[5]) == message["raw"] and first[6] == str(UUID(int=7))
    assert first[7] == {"a": [1, None, "x"], "b": "\\x00"}
    assert str(second[2]) == "nan"


@pytest.mark.parametrize("form", ["msgpack", "cbor"])
def test_routes_chosen_by_a_field(form: str, database: Database, start_with: Start) -> None:
    """A field of a message that is no text chooses its route."""
    database.execute("CREATE TABLE a (v int); CREATE TABLE b (v int)")
    gateway = start_with(
        '[listeners.b]\nendpoint = "tcp:0:interface=127.0.0.1"\nframing = "netstring"\n'
        'route_by = "kind.n"\nroutes = { 7 = "a", x = "b" }\n'
        + "".join(
            f'[routes.{name}]\ntable = "{name}"\nformat = "{form}"\ncolumns = {{ v = "v" }}\n'
            for name in "ab"
        )
    )
    pack = msgpack.packb if form == "msgpack" else cbor2.dumps
    messages = [pack({"kind": {"n": n}, "v": v}) for n, v in ((7, 1), ("x", 2), (8, 3), (7, 4))]
    told = ask(gateway.connect("b"), messages)
    assert told == ["+OK", "+OK", "-REJ ROUTE :no route where 'kind.n' is '8'", "+OK"]
    assert database.column("SELECT v FROM a ORDER BY v") == [1, 4]
    assert database.column("SELECT v FROM b") == [2]


def test_commands_with_binary_messages(database: Database, start_with: Start) -> None:
    """PUT takes any bytes behind the route's name, in a framing that does."""
    database.execute("CREATE TABLE a (v bytea)")
    gateway = start_with(
        '[listeners.b]\nendpoint = "tcp:0:interface=127.0.0.1"\nframing = "netstring"\n'
        'dialect = "command"\n[routes.a]\ntable = "a"\nformat = "msgpack"\n'
        'columns = { v = "v" }\n'
    )
    values = [bytes([n]) * 3 for n in range(256)] + [b" \n\r\0 ", b""]
    messages = [b"PUT a " + bytes(msgpack.packb({"v": value})) for value in values]
    assert set(ask(gateway.connect("b"), messages)) == {"+OK"}
    assert sorted(map(bytes, database.column("SELECT v FROM a"))) == sorted(values)


def package(folder: Path, source: str) -> Path:
    """A folder with an installed package that has an entry point."""
    info = folder / "thermometer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thermometer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gateway.formats]\nthermometer = thermometer:read\n")
    (folder / "thermometer.py").write_text(source)
    return folder


SOURCE: Final = """
import time

def read(frame):
    device, temp = frame.split(b"|")
    if temp == b"slow":
        time.sleep(0.15)
        temp = b"0"
    celsius = int(temp, 16) / 10
    if celsius > 100:
        raise ValueError(f"{celsius} degrees are too many")
    return {"device": device.decode(), "temp": celsius}
"""

PYTHON: Final = """
[listeners.p]
endpoint = "tcp:0:interface=127.0.0.1"
route = "temps"
[routes.temps]
table = "temps"
format = "python"
function = "{function}"
samples = ["a|ff", "b|0"]
columns = {{ device = "device", temp = "temp" }}
"""


def test_a_function_of_the_users(database: Database, start_gateway: Start, tmp_path: Path) -> None:
    """An installed package reads messages; an exception is an answer and one line of the log."""
    database.execute("CREATE TABLE temps (device text, temp numeric)")
    site = package(tmp_path / "site", SOURCE)
    config = tmp_path / "g.toml"
    config.write_text(
        f"[database]\ndsn = '''{database.dsn}'''\n{PYTHON.format(function='thermometer')}"
    )
    gateway = start_gateway(
        "--config", str(config), wrapper=("env", f"PYTHONPATH={site}"), cwd=tmp_path
    )
    told = gateway.connect("p").ask(b"a|fb\nb|fff\nc\nd|slow\n").decode().splitlines()
    assert told == [
        "+OK",
        "-REJ FORMAT :409.5 degrees are too many",
        "-REJ FORMAT :not enough values to unpack (expected 2, got 1)",
        "+OK",
    ]
    assert database.execute("SELECT device, temp::text FROM temps ORDER BY 1") == [
        *(("a", "25.1"), ("d", "0.0"))
    ]
    gateway.wait_log(r"route temps: reading the messages of one chunk took 0\.\d+ s")
    assert gateway.log.count("degrees are too many") == 1


def test_nothing_is_run_that_only_lies_there(database: Database, tmp_path: Path) -> None:
    """A module in the working directory is not imported, by check or by the daemon."""
    database.execute("CREATE TABLE temps (device text, temp numeric)")
    trace = tmp_path / "ran"
    package(tmp_path, f"open({str(trace)!r}, 'w')\n{SOURCE}")
    config = tmp_path / "g.toml"
    for function, command in {
        "thermometer:read": [str(BIN / "gateway"), "check", "--import", str(config)],
        "thermometer": [str(BIN / "twistd"), "-n", "gateway", "--config", str(config)],
        "thermometer:SOURCE": [sys.executable, "-m", "twisted", "gateway", "-c", str(config)],
    }.items():
        text = PYTHON.format(function=function)
        config.write_text(f"[database]\ndsn = '''{database.dsn}'''\n{text}")
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode, done
        assert "routes.temps.function: " in done.stdout + done.stderr, done
    assert not trace.exists()


def test_check_imports_only_when_told(database: Database, tmp_path: Path) -> None:
    """Without --import the function is not run, and that is said; with it samples are tried."""
    database.execute("CREATE TABLE temps (device text, temp numeric(3,1))")
    trace = tmp_path / "ran"
    site = package(tmp_path / "site", f"open({str(trace)!r}, 'w')\n{SOURCE}")
    config = tmp_path / "g.toml"
    text = PYTHON.format(function="thermometer").replace('"b|0"', '"b|fff", "hex:617c30", "hex:zz"')
    config.write_text(f"[database]\ndsn = '''{database.dsn}'''\n{text}")

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["env", f"PYTHONPATH={site}", str(BIN / "gateway"), "check", *options, str(config)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert "routes.temps.samples[3]: what follows hex: is not hexadecimal" in check().stderr
    config.write_text(config.read_text().replace(', "hex:zz"', ""))
    done = check()
    assert (done.returncode, done.stderr) == (0, "")
    assert "routes.temps: thermometer was not imported, and its samples were not" in done.stdout
    assert not trace.exists()
    done = check("--import")
    assert done.returncode == 1 and trace.exists()
    assert done.stderr.splitlines() == [
        f"{config}: routes.temps.samples[1]: is refused: -REJ FORMAT :409.5 degrees are too many"
    ]
    assert "routes.temps: PostgreSQL takes 2 samples" in done.stdout
