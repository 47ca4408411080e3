"""
The embedded server: which one is ours.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor

from gateway.embedded import EmbeddedServer
from tests.support import Database, TemporaryServer

CLOCK = cast(Any, reactor)


@pytest.fixture
def embedded(tmp_path: Path, template: Path) -> Iterator[EmbeddedServer]:
    """A server that was made and is not running."""
    server = TemporaryServer(tmp_path, template)
    server.start()
    server.stop()
    yield server.embedded
    if server.embedded.running:
        server.stop()


def left_behind(embedded: EmbeddedServer, number: int) -> None:
    """What a server that was killed leaves, where another process has got its number."""
    folder = embedded.socket_dir
    text = f"{number}\n{embedded.data}\n1700000000\n5432\n{folder}\n\n  123456  99\nready   \n"
    (embedded.data / "postmaster.pid").write_text(text)


@pytest_twisted.ensureDeferred
async def test_another_clusters_server_is_left_alone(
    embedded: EmbeddedServer, server: TemporaryServer
) -> None:
    """Its number in our file makes it neither found, nor stopped, nor in our way."""
    number = int((server.embedded.data / "postmaster.pid").read_text().split()[0])
    left_behind(embedded, number)
    assert not embedded.running
    await embedded.stop(CLOCK)
    assert server.embedded.running
    left_behind(embedded, number)
    assert embedded.start() and embedded.running
    assert not embedded.start(), "it is found again"
    assert Database(embedded.dsn).column("SELECT pg_backend_pid() > 0") == [True]
    await embedded.stop(CLOCK)
    assert not embedded.running and server.embedded.running


@pytest.fixture
def sleeper(embedded: EmbeddedServer) -> Iterator[subprocess.Popen[bytes]]:
    """A process that works in the data directory and is no server."""
    with subprocess.Popen(["sleep", "60"], cwd=embedded.data) as process:
        yield process
        process.kill()


@pytest_twisted.ensureDeferred
async def test_any_other_process_is_left_alone(
    embedded: EmbeddedServer, sleeper: subprocess.Popen[bytes]
) -> None:
    """Nor is one that is no server at all in our way, or stopped."""
    left_behind(embedded, sleeper.pid)
    assert not embedded.running and embedded.start()
    await embedded.stop(CLOCK)
    assert sleeper.poll() is None


def test_children_that_are_left_keep_it_from_starting(embedded: EmbeddedServer) -> None:
    """What tells PostgreSQL of them stays in the file: only the number is another one."""
    left_behind(embedded, 1)
    before = (embedded.data / "postmaster.pid").read_text().splitlines()
    embedded._disown()
    after = (embedded.data / "postmaster.pid").read_text().splitlines()
    assert after[1:] == before[1:] and int(after[0]) > 4_194_304
