"""
What docs/operations.md says of a gateway that runs for years.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.faults.look import Start
from tests.forking import BIN
from tests.support import LISTEN, Database, wait_until


def test_a_log_on_standard_output(database: Database, start_with: Start) -> None:
    """SIGUSR1, which has twistd begin a new log file, does not end a gateway that has none."""
    gateway = start_with("", dsn=database.dsn)
    gateway.process.send_signal(signal.SIGUSR1)
    gateway.wait_log("SIGUSR1 begins a new log file, and this gateway has none: twistd --logfile")
    assert gateway.terminate() == 0


def test_a_log_file_is_begun_anew(database: Database, tmp_path: Path) -> None:
    """In the background, with a log and a pid file of their own: SIGUSR1 begins a new log and keeps
    the one before as .1, SIGTERM ends it and takes the pid file away."""
    log, pid_file = tmp_path / "gateway.log", tmp_path / "gateway.pid"
    subprocess.run(
        [
            *(BIN / "twistd", f"--logfile={log}", f"--pidfile={pid_file}", "gateway"),
            *("--database", database.dsn, "--data-dir", tmp_path / "data", *LISTEN),
        ],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    pid = int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), "a pid file"))
    try:
        wait_until(lambda: "gateway ready" in log.read_text(), "gateway ready")
        os.kill(pid, signal.SIGUSR1)
        before = log.with_name("gateway.log.1")
        wait_until(before.exists, "a log that is kept")
        assert "gateway ready" in before.read_text()
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    assert "gateway ready" not in log.read_text() and "Main loop terminated" in log.read_text()
    assert not pid_file.exists()
