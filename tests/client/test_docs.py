"""
The examples of docs/client.md, run as they stand.
"""

from __future__ import annotations

import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.client.conftest import Authority
from tests.client.server import ModelServer
from tests.support import PATIENCE, Database, Gateway, wait_until

DOCS = Path(__file__).parent.parent.parent / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)

COMMANDS = """
[channels]
allow = ["news"]
[queries.last]
sql = "select id, body from messages order by id desc limit %(n)s"
[queries.last.params.n]
type = "integer"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
"""

Serve = Callable[..., ModelServer]
Start = Callable[..., Gateway]


def run(example: str, port: int, cwd: Path) -> str:
    program = cwd / "example.py"
    program.write_text(example.replace("8002", str(port)))
    said = subprocess.run(
        [sys.executable, str(program)],
        cwd=cwd,
        env={"PYTHONPATH": str(DOCS.parent.parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def find(*words: str) -> list[str]:
    """The examples that hold one of some words."""
    return [example for example in EXAMPLES if any(word in example for word in words)]


def test_sending(start_with: Start, database: Database, tmp_path: Path) -> None:
    """What only sends does so, through a gateway, and prints what the comments say."""
    gateway = start_with(COMMANDS)
    others = find(".call(", ".listen(", "tls=")
    said = [
        run(example, gateway.port("commands"), tmp_path)
        for example in EXAMPLES
        if example not in others
    ]
    assert said == ["+OK\n2 +OK\n", "0 refused\n", "+OK\nDATA\n", ""]
    bodies = database.bodies()
    assert bodies[:3] == ["hello", "one", "two"]
    assert bodies[3:5003] == [f"line {n}" for n in range(5000)]
    assert bodies[5003] == "hello"
    assert bodies[5004:15004] == [str(n) for n in range(10_000)]
    assert bodies[15004:] == ["21.5", "21.6"]


def test_asking(start_with: Start, database: Database, tmp_path: Path) -> None:
    """What asks a query gets its rows."""
    gateway = start_with(COMMANDS)
    database.execute("INSERT INTO messages (peer, body) VALUES ('p', 'a'), ('p', 'b'), ('p', 'c')")
    assert [run(example, gateway.port("commands"), tmp_path) for example in find(".call(")] == [
        "3 c\n2 b\n",
        "['c', 'b']\n",
    ]


def test_listening(start_with: Start, database: Database, tmp_path: Path) -> None:
    """What listens prints what is notified, and ends when nothing comes any more."""
    gateway = start_with(COMMANDS)
    (example,) = find(".listen(")
    program = tmp_path / "listen.py"
    program.write_text(example.replace("8002", str(gateway.port("commands"))))
    listening = subprocess.Popen(
        [sys.executable, "-u", str(program)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(DOCS.parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listening.stdout is not None

    def heard() -> bool:
        database.execute("NOTIFY news, 'rain'")
        assert listening.stdout is not None
        return bool(select.select([listening.stdout], [], [], 0.05)[0])

    wait_until(heard, "a notification is printed")
    assert set(listening.stdout.read().splitlines()) == {"rain"}
    assert listening.wait(PATIENCE) == 0
    listening.stdout.close()


def test_tls(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    """The authority's file is the one beside the program."""
    assert authority.pem == tmp_path / "ca.pem"
    (example,) = find("tls=")
    assert run(example, serve(tls=authority.server).port, tmp_path) == "over TLS\n"
