"""
What the README says is what happens: its commands are run as they stand.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from gateway.daemon.embedded import find_binaries
from tests.installing import LAZY, Installer
from tests.support import PATIENCE, Database, wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SETUPS = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
LOOK = re.findall(r"^\$ (psql .*)$", README, re.MULTILINE)
SESSIONS = re.findall(r"^\$ (printf .*)\n((?:[^$`\n].*\n)+)```", README, re.MULTILINE)


def taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def anonymous(answers: str) -> str:
    """Answers, save the words that are made up anew each time."""
    return re.sub(r"epoch=[0-9a-f-]{36}", "epoch=...", answers.rstrip("\n"))


def test_there_are_two_commands() -> None:
    """One runs the gateway, one passes the tests, and they install the same."""
    run, test = SETUPS
    assert run.rpartition(" && ")[0] == test.rpartition(" && ")[0]
    assert run.endswith(".venv/bin/twistd -n gateway") and test.endswith(".venv/bin/pytest")
    # Nothing is installed whose bytes are not known before.
    for install in re.findall(r"pip install (.*?) &&", run):
        assert "--require-hashes -r requirements.lock" in install or install.endswith(
            "--no-deps --no-build-isolation -e ."
        )
    assert "bash .ci/run" not in README
    assert re.search(r"^test=.*README\.md", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.long
@pytest.mark.skipif(
    any(map(taken, (8000, 8001, 8002))), reason="the README's ports are in use on this machine"
)
def test_the_run_command_and_the_sessions(installer: Installer, tmp_path: Path) -> None:
    """From a clean copy of the repository to the answers the README shows."""
    installer.program("nc")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, files)):
        if (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        gateway = subprocess.Popen(
            SETUPS[0],
            shell=True,
            cwd=tmp_path,
            env={**os.environ, **LAZY},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: "gateway ready" in log_path.read_text() or gateway.poll() is not None,
            "gateway ready",
            300,
        )
        assert gateway.poll() is None, log_path.read_text()
        assert len(SESSIONS) == 4
        for command, shown in SESSIONS:
            said = subprocess.run(
                command, shell=True, capture_output=True, text=True, timeout=PATIENCE, check=True
            )
            assert anonymous(said.stdout) == anonymous(shown), command
        stored = Database(f"host={tmp_path}/gateway-data/postgres user=gateway")
        assert stored.bodies() == ["hello", "world", "hello", "two\nlines", "hello", "tea"]
        path = f"{os.environ['PATH']}:{find_binaries()}"
        (look,) = LOOK
        said = subprocess.run(
            look,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert said.returncode == 0 and " world\n" in said.stdout, said.stderr
    finally:
        os.killpg(gateway.pid, signal.SIGINT)
        assert gateway.wait(PATIENCE) in (0, -signal.SIGINT), log_path.read_text()
    assert "Traceback" not in log_path.read_text()
