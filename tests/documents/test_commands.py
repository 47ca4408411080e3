"""
What docs/commands.md shows is what happens.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import click

from gateway.cli import main
from tests.forking import BIN
from tests.support import LISTEN, PATIENCE, Database, Gateway

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text()
SESSION = "\n".join(re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))

_TIME = re.compile(r"; [\d.]+ s, [\d,]+ messages/s")


def test_the_sessions(
    database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """One after the other, on a new gateway, they say what the page says."""
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).+\n)*)", SESSION, re.MULTILINE)
    assert len(steps) == 11
    for command, shown in steps:
        listener = "lines" if "--stream" not in command and "call" not in command else "commands"
        to = f"--endpoint tcp:127.0.0.1:{gateway.port(listener)}"
        done = subprocess.run(
            re.sub(r"gateway (send|call)", rf"gateway \1 {to}", command),
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert _TIME.sub("", done.stdout.strip()) == _TIME.sub("", shown.strip()), command


def test_every_command_is_there() -> None:
    """The page's table names all commands, and each explains itself."""
    context = click.Context(main)
    for name in main.list_commands(context):
        assert re.search(rf"^\| \[?`{name}\b", PAGE, re.MULTILINE), name
        command = main.get_command(context, name)
        assert command is not None and command.help


def test_every_exit_status_is_there() -> None:
    """Help and page agree on them."""
    context = click.Context(main)
    for name in ("send", "call", "listen"):
        command = main.get_command(context, name)
        assert command is not None and command.epilog is not None
        (section,) = re.findall(rf"^## gateway {name}\n(.*?)(?=^## )", PAGE, re.M | re.DOTALL)
        for status in re.findall(r"^  (\d+)  ", command.epilog, re.MULTILINE):
            assert re.search(rf"\b{status}\b", section), f"{name}: {status}"
