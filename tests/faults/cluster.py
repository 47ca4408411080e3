"""
A primary and a streaming standby, made of the embedded server's binaries.

Both listen on a Unix socket of their own and are found by a connection string that
names both. What happened to which of them is up to the test: stopped, killed, frozen,
promoted, turned into the other's standby.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg2

from gateway.daemon.embedded import as_other_user, find_binaries
from tests.support import Database, wait_until


class Node:
    """
    One of the servers.
    """

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        # Not in the data directory: pg_rewind would take the socket for a file.
        self.socket_dir = folder / "s"
        self._log = folder / "log"
        self._binaries = find_binaries()
        self._frozen: list[psutil.Process] = []
        for path in (folder, self.data, self.socket_dir):
            path.mkdir(mode=0o700)

    @property
    def dsn(self) -> str:
        """How to connect to this one alone."""
        return f"host={self.socket_dir} port=5432 user=gateway dbname=gateway"

    @property
    def database(self) -> Database:
        return Database(self.dsn)

    @property
    def postmaster(self) -> psutil.Process | None:
        """Its first process, where there is one."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            process = psutil.Process(pid)
            return process if process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, psutil.NoSuchProcess):
            return None

    def initialize(self) -> None:
        """Make an empty data directory, and start."""
        auth = ("--auth-local=trust", "--auth-host=reject")
        self.run("initdb", "-D", self.data, "-U", "gateway", "-N", *auth)
        self.start()
        Database(self.dsn.replace("dbname=gateway", "dbname=postgres")).execute(
            "CREATE DATABASE gateway"
        )

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.socket_dir}"
        self.run("pg_ctl", "start", "-w", "-s", "-D", self.data, "-l", self._log, "-o", options)

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one."""
        self.resume()
        postmaster = self.postmaster
        if postmaster is not None:
            postmaster.send_signal(how)
            wait_until(lambda: self.postmaster is None, "PostgreSQL ends")

    def kill(self) -> None:
        """kill -9 of its postmaster; back when all its processes have noticed."""
        kill_postmaster(self.data)

    def pause(self) -> None:
        """Freeze all its processes: it is there, and says nothing."""
        postmaster = self.postmaster
        assert postmaster is not None
        self._frozen = [postmaster, *postmaster.children(recursive=True)]
        for process in self._frozen:
            # A session that was just closed may be ending.
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self._frozen:
            if process.is_running():
                process.resume()
        self._frozen = []

    def set(self, name: str, value: str) -> None:
        """Change a setting that needs no restart."""
        self.database.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.database.execute("SELECT pg_reload_conf()")
        shown = f"SELECT current_setting('{name}')"
        wait_until(lambda: self.database.column(shown) == [value], f"{name} = {value}")

    def make_read_only(self) -> None:
        """Refuse to write (25006), as a server does that was demoted."""
        self.set("default_transaction_read_only", "on")

    def run(self, program: str, *arguments: str | Path) -> None:
        """One of PostgreSQL's own programs."""
        said = self._log.with_suffix(".said")
        # A file: the server inherits it from pg_ctl and would hold a pipe open forever.
        with said.open("wb") as output:
            done = subprocess.run(
                as_other_user([self._binaries / program, *arguments]),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert done.returncode == 0, said.read_text()


class Cluster:
    """
    A primary and its standby.

    @ivar primary: who may be written to.
    @ivar standby: who follows it, or should.
    """

    def __init__(self, folder: Path) -> None:
        """
        @param folder: an empty one.
        """
        self.primary = Node(folder / "a")
        self.standby = Node(folder / "b")

    def start(self) -> None:
        """Make both; the standby has caught up."""
        self.primary.initialize()
        # In place of a replication slot: a standby that is away misses nothing.
        self.primary.set("wal_keep_size", "256MB")
        self.standby.run(
            *("pg_basebackup", "-R", "-c", "fast", "-X", "stream"),
            *("-d", self.primary.dsn, "-D", self.standby.data),
        )
        self.standby.start()
        self.wait_replicating()

    def end(self) -> None:
        for node in (self.standby, self.primary):
            node.stop(signal.SIGQUIT)

    @property
    def dsn(self) -> str:
        """Both hosts; whoever takes writes."""
        folders = sorted(str(node.socket_dir) for node in (self.primary, self.standby))
        return dsn_of_both(self.primary.dsn, [(folder, "5432") for folder in folders])

    def wait_replicating(self, state: str = "streaming") -> None:
        wait_until(
            lambda: state in self.primary.database.column("SELECT state FROM pg_stat_replication"),
            f"the standby is {state}",
        )

    def make_synchronous(self) -> None:
        """From now on a commit returns when the standby has it on its disk."""
        self.primary.set("synchronous_standby_names", "*")
        wait_until(
            lambda: (
                self.primary.database.column("SELECT sync_state FROM pg_stat_replication")
                == ["sync"]
            ),
            "the standby is synchronous",
        )

    def make_asynchronous(self) -> None:
        self.primary.set("synchronous_standby_names", "")

    def promote(self) -> None:
        """The standby takes over, whatever the primary does; they change names."""
        assert self.standby.database.column("SELECT pg_promote()") == [True]
        self.primary, self.standby = self.standby, self.primary

    def demote(self) -> None:
        """After L{promote}: the old primary follows the new one, and loses what only it had."""
        old, new = self.standby, self.primary
        old.stop()
        new.database.execute("CHECKPOINT")  # so that pg_rewind sees the new timeline
        new.set("wal_keep_size", "256MB")
        old.run("pg_rewind", "-R", "-D", old.data, f"--source-server={new.dsn}")
        old.start()
        self.wait_replicating()


def dsn_of_both(dsn: str, hosts: list[tuple[str, str]]) -> str:
    """
    A connection string for several hosts, the first that takes writes.

    @param hosts: host or socket directory, and port; or those of proxies.
    """
    return str(
        psycopg2.extensions.make_dsn(
            dsn,
            host=",".join(host for host, _ in hosts),
            port=",".join(port for _, port in hosts),
            target_session_attrs="read-write",
        )
    )


def kill_postmaster(data: Path) -> None:
    """
    kill -9; the server can be started again when this returns.
    """
    pid_file = data / "postmaster.pid"
    pid, _, _, port, socket_dir, *_ = pid_file.read_text().splitlines()
    postmaster = psutil.Process(int(pid))
    # Else it may start one more that is not seen here.
    postmaster.suspend()
    # These hold the shared memory, which keeps a new postmaster from starting.
    processes = [postmaster, *postmaster.children()]
    postmaster.kill()
    wait_until(lambda: not any(_alive(process) for process in processes), "all of it is gone")
    # Where nobody buries the dead, their numbers stay taken and look like running servers.
    for lock in (pid_file, Path(socket_dir) / f".s.PGSQL.{port}.lock"):
        lock.unlink(missing_ok=True)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
