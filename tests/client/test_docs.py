"""
The examples of docs/client.md, run as they stand.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.client.conftest import Authority
from tests.client.model import Model
from tests.client.server import ModelServer
from tests.support import PATIENCE, Database, Gateway

DOCS = Path(__file__).parent.parent.parent / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)

COMMANDS = """
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
"""

Serve = Callable[..., ModelServer]


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


def test_sending(start_with: Callable[..., Gateway], database: Database, tmp_path: Path) -> None:
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


def test_asking(serve: Serve, tmp_path: Path) -> None:
    """What asks a query gets its rows."""
    server = serve()
    server.model.queries["last"] = lambda arguments: [
        {"id": 2, "body": "b"},
        {"id": 1, "body": str(arguments)},
    ]
    assert [run(example, server.port, tmp_path) for example in find(".call(")] == [
        "2 b\n1 {'n': 2}\n",
        "['b', \"{'n': 2}\"]\n",
    ]


def test_listening(serve: Serve, tmp_path: Path) -> None:
    """What listens prints what comes, and ends in time."""

    class Talking(Model):
        """Something is told as soon as somebody listens."""

        def listened(self, channel: str) -> None:
            self.notify(channel, "rain")
            self.gap(channel)

    (example,) = find(".listen(")
    began = time.monotonic()
    assert run(example, serve(Talking()).port, tmp_path) == "rain\nsome may be missing\n"
    assert time.monotonic() - began >= 1.0


def test_tls(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    """The authority's file is the one beside the program."""
    assert authority.pem == tmp_path / "ca.pem"
    (example,) = find("tls=")
    assert run(example, serve(tls=authority.server).port, tmp_path) == "over TLS\n"
