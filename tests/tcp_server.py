"""
A PostgreSQL on TCP that asks for a password, with TLS where its binaries have it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
from psycopg2.extensions import make_dsn

from gateway.daemon.embedded import as_other_user
from tests.support import Database, lasting_port, wait_until

USER: Final = "gateway"

PASSWORD: Final = "correct-horse-battery"


def system_binaries() -> Path | None:
    """Those of the newest PostgreSQL of the system: unlike the embedded one it knows TLS."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: float(path.parent.parent.name),
    )
    if found:
        return found[-1].parent
    elsewhere = shutil.which("postgres")
    return Path(elsewhere).resolve().parent if elsewhere else None


class TcpServer:
    """
    @ivar port: on 127.0.0.1.
    @ivar data: its data directory, for files that its settings name.
    """

    def __init__(self, folder: Path, binaries: Path) -> None:
        """
        @param folder: an empty one.
        """
        self.port = lasting_port()
        self.data = folder / "data"
        self._folder = folder
        self._binaries = binaries
        self.data.mkdir(mode=0o700)

    @property
    def database(self) -> Database:
        """As its owner, without a password."""
        return Database(f"host={self._folder} port={self.port} user={USER} dbname=postgres")

    def dsn(self, host: str = "127.0.0.1", **more: str) -> str:
        """How a gateway gets there."""
        said = {"host": host, "port": str(self.port), "user": USER, "dbname": "postgres", **more}
        return str(make_dsn(**said))

    def initialize(self, rules: str) -> None:
        """
        Make the data directory.

        @param rules: of C{pg_hba.conf}, for TCP.
        """
        password = self._folder / "password"
        password.write_text(PASSWORD)
        auth = ("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}")
        self._run("initdb", "-D", self.data, "-U", USER, "-N", *auth)
        (self.data / "pg_hba.conf").write_text(f"local all all trust\n{rules}\n")

    def start(self, settings: Mapping[str, str]) -> None:
        said = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            **settings,
        }
        options = " ".join(f"-c {key}={value}" for key, value in said.items())
        log = self._folder / "log"
        self._run("pg_ctl", "start", "-w", "-s", "-D", self.data, "-l", log, "-o", options)

    def stop(self) -> None:
        """End it at once; nothing in it is needed any more."""
        pid_file = self.data / "postmaster.pid"
        with suppress(OSError, psutil.NoSuchProcess):
            postmaster = psutil.Process(int(pid_file.read_text().splitlines()[0]))
            postmaster.send_signal(signal.SIGQUIT)
            wait_until(lambda: not pid_file.exists(), "PostgreSQL ends")

    def _run(self, program: str, *arguments: str | Path) -> None:
        said = self._folder / "said"
        # A file: the server inherits it from pg_ctl and would hold a pipe open forever.
        with said.open("wb") as output:
            done = subprocess.run(
                as_other_user([self._binaries / program, *arguments]),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert done.returncode == 0, said.read_text()
