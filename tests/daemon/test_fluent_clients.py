"""
Fluent's own clients: each sends to a gateway, and is told that what it sent is stored.
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import fluent.handler
import fluent.sender
import pytest
import trustme

from tests.faults.look import assert_quiet
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway, wait_until

CLIENTS: Final = Path(__file__).parent.parent / "clients"

CONFIG: Final = """
[listeners.forward]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "forward"
route = "logs"
{listener}
[listeners.forward.tls]
{tls}
[routes.logs]
table = "logs"
format = "json"
dead_letter = true
create = true
[routes.logs.columns]
tag = "@tag"
time = "@time"
message = "message"
number = "number"
record = "@frame"
[routes.logs.create_columns]
id = "bigint generated always as identity primary key"
tag = "text not null"
time = "timestamptz not null"
message = "text"
number = "integer"
record = "jsonb not null"
"""

KEY: Final = "a key that both know"

Start = Callable[..., Gateway]


def config(listener: str = "", tls: str = "") -> str:
    text = CONFIG.format(listener=listener, tls=tls)
    return text if tls else text.replace("[listeners.forward.tls]\n", "")


def send(installer: Installer, **settings: Any) -> list[str]:
    """
    @return: what @fluent-org/logger printed of each message, by their numbers.
    """
    node, folder = installer.node(CLIENTS)
    done = subprocess.run(
        [node, str(folder / "fluent.mjs"), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return sorted(done.stdout.splitlines(), key=lambda line: int(line[1:].split(" ")[0]))


MESSAGES: Final[list[dict[str, Any]]] = [
    {"message": "hello", "number": 1},
    {"message": "käse, 奶酪 \U0001f600 \u0001", "number": -(2**31)},
    {"message": None, "deep": [1, {"a": [True, 1.5, ""]}], "@tag": "another"},
    {},
]


@pytest.mark.parametrize("mode", ["Message", "Forward", "PackedForward", "CompressedPackedForward"])
def test_fluent_org_logger(
    installer: Installer, start_with: Start, database: Database, mode: str
) -> None:
    """@fluent-org/logger of npm, in each of its modes, waits for acknowledgements and gets them."""
    gateway = start_with(config())
    options = {"eventMode": mode, "ack": {"ackTimeout": 20_000}, "milliseconds": True}
    said = send(
        installer, port=gateway.port("forward"), tag="app.web", options=options, messages=MESSAGES
    )
    assert said == ["+0", "+1", "+2", "+3"]
    rows = database.execute("SELECT tag, message, record FROM logs ORDER BY id")
    assert [tag for tag, _, _ in rows] == ["app.web"] * 4
    records = [record for _, _, record in rows]
    for record, sent in zip(records, MESSAGES, strict=True):
        assert record.pop("@tag") == "app.web" and record.pop("@time")
        assert record == {name: value for name, value in sent.items() if name != "@tag"}
    assert_quiet(gateway)


@pytest.mark.parametrize(
    ("security", "is_let_in"),
    [
        ({"sharedKey": KEY, "username": "ann", "password": "pa: ss"}, True),
        ({"sharedKey": KEY, "username": "ann", "password": "no"}, False),
        ({"sharedKey": "another", "username": "ann", "password": "pa: ss"}, False),
    ],
    ids=["right", "wrong password", "wrong key"],
)
def test_fluent_org_logger_with_a_key(
    installer: Installer,
    start_with: Start,
    database: Database,
    tmp_path: Path,
    security: dict[str, str],
    is_let_in: bool,
) -> None:
    """With a shared key and users it is let in by the right ones, over TLS; and by no others."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "users").write_text("# name:password\nann:pa: ss\nben:other\n")
    for name in ("key", "users"):
        (tmp_path / name).chmod(0o600)
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "cert.pem")
    )
    (tmp_path / "cert.pem").chmod(0o600)
    gateway = start_with(
        config('shared_key_file = "key"\nusers_file = "users"', tls='certificate = "cert.pem"')
        + '[access.grants.ann]\nidentities = ["ann"]\nroutes = ["logs"]\n'
    )
    options = {
        "ack": {"ackTimeout": 20_000 if is_let_in else 1500},
        "security": {"clientHostname": "client", **security},
        "socket": {
            "host": "localhost",
            "tls": {"ca": authority.cert_pem.bytes().decode(), "servername": "localhost"},
            "disableReconnect": not is_let_in,
        },
    }
    if not is_let_in:
        options["disconnect"] = {"waitForPending": False}
        options["sendQueueNotFlushableLimit"] = {"length": 0}
    said = send(
        installer,
        port=gateway.port("forward"),
        tag="app",
        options=options,
        messages=MESSAGES[:1],
    )
    assert [line[0] for line in said] == ["+" if is_let_in else "-"]
    assert database.column("SELECT message FROM logs") == (["hello"] if is_let_in else [])
    if is_let_in:
        gateway.wait_log("ann.*a password")
        assert_quiet(gateway)


@pytest.mark.parametrize("nanoseconds", [False, True])
def test_fluent_logger(start_with: Start, database: Database, nanoseconds: bool) -> None:
    """fluent-logger of PyPI, which asks for no acknowledgement: what it sends is stored."""
    gateway = start_with(config())
    sender = fluent.sender.FluentSender(
        "app", "127.0.0.1", gateway.port("forward"), nanosecond_precision=nanoseconds
    )
    for number in range(100):
        assert sender.emit("py", {"number": number, "message": "käse", "raw": b"bytes"})
    sender.close()
    wait_until(lambda: database.column("SELECT count(*) FROM logs") == [100], "all are stored")
    rows = database.execute("SELECT tag, number, message, record->>'raw' FROM logs ORDER BY id")
    assert rows == [("app.py", number, "käse", "bytes") for number in range(100)]
    (age,) = database.column("SELECT extract(epoch FROM now() - max(time)) FROM logs")
    assert -2 < age < PATIENCE
    assert_quiet(gateway)


def test_python_logging(start_with: Start, database: Database) -> None:
    """Its handler for Python's logging works as it is documented."""
    gateway = start_with(config())
    handler = fluent.handler.FluentHandler("app", "127.0.0.1", gateway.port("forward"))
    handler.setFormatter(fluent.handler.FluentRecordFormatter({"level": "%(levelname)s"}))
    log = logging.Logger("one")
    log.addHandler(handler)
    log.warning("hello %s", "you")
    handler.close()
    wait_until(lambda: database.column("SELECT count(*) FROM logs") == [1], "it is stored")
    assert database.execute("SELECT message, record->>'level' FROM logs") == [
        ("hello you", "WARNING")
    ]
