"""
A PostgreSQL on a disk of 256 MB that can be filled up.

The disk is a tmpfs in a mount namespace of the program's own, so it needs no rights,
nobody else sees it, and it is gone with the last of the processes::

    unshare --user --map-root-user --mount python -m tests.faults.disk SOCKET_DIR WAL_DIR

Only the tables are on it. The log of changes and the socket are outside: without
space for the former PostgreSQL ends itself, which is another fault.

Commands: C{fill} leaves no room at all, C{free} gives it back.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from gateway.daemon.embedded import as_other_user, find_binaries
from tests.faults.command import Program
from tests.support import Database, wait_until

_SIZE = "256m"


class SmallDisk(Program):
    """
    The server and its disk.
    """

    def __init__(self, folder: Path) -> None:
        self._socket_dir = folder / "s"
        self._socket_dir.mkdir(mode=0o700)
        wal = folder / "wal"
        wal.mkdir(mode=0o700)
        super().__init__(
            "disk",
            *(str(self._socket_dir), str(wal)),
            wrapper=("unshare", "--user", "--map-root-user", "--mount", "--"),
        )

    @property
    def database(self) -> Database:
        return Database(f"host={self._socket_dir} user=gateway dbname=postgres")


def main() -> None:
    socket_dir, wal = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0777", "tmpfs", folder], check=True
        )
        try:
            _serve(Path(folder), socket_dir, wal)
        finally:
            subprocess.run(["umount", folder], check=True)


def _serve(disk: Path, socket_dir: str, wal: str) -> None:
    data = disk / "data"
    binaries = find_binaries()
    subprocess.run(
        as_other_user(
            [
                *(binaries / "initdb", "-D", data, "--waldir", wal, "-U", "gateway", "-N"),
                *("-E", "UTF8", "--locale=C", "--auth-local=trust", "--auth-host=reject"),
            ]
        ),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    server = subprocess.Popen(
        as_other_user(
            [
                *(binaries / "postgres", "-D", data, "-c", "listen_addresses="),
                *("-c", f"unix_socket_directories={socket_dir}", "-c", "log_min_messages=panic"),
            ]
        ),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until((Path(socket_dir) / ".s.PGSQL.5432").exists, "PostgreSQL listens")
        _say("port 5432")
        filler = disk / "filler"
        for line in sys.stdin:
            if line == "fill\n":
                with filler.open("ab", buffering=0) as file, suppress(OSError):
                    while file.write(bytes(65536)) == 65536:
                        pass
                    while file.write(bytes(4096)):
                        pass
            else:
                filler.unlink()
            _say(f"ok {line.strip()}")
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
