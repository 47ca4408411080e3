"""
PostgreSQL servers under a real Patroni, with etcd, and HAProxy behind the gateways.

Patroni comes from PyPI, etcd and HAProxy from Debian, PostgreSQL is the embedded server's. The
configurations are those of C{etc/}, with addresses and folders of the test in place of theirs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import psutil

from gateway.daemon.embedded import as_other_user, find_binaries
from tests.faults.cluster import kill_postmaster
from tests.installing import Installer
from tests.support import Database, lasting_port, wait_until

ETC: Final = Path(__file__).parents[2] / "etc"

PATRONI: Final = ("patroni[etcd3] == 4.1.*", "psycopg2-binary")

NAMES: Final = ("one", "two", "three")

_PASSWORD: Final = "secret"

_ENVIRONMENT: Final = {
    f"PATRONI_{user}_PASSWORD": _PASSWORD for user in ("SUPERUSER", "REPLICATION", "REWIND")
}

_START: Final = 90.0
"""Seconds in which a server has to be made, copied or rewound, on a machine that is busy."""


class PatroniNode:
    """
    One server and the Patroni that steers it.
    """

    def __init__(self, number: int, folder: Path, packages: Path, etcd: int, ttl: int) -> None:
        """
        @param number: from 0 on.
        @param packages: folder that has Patroni.
        @param etcd: its port.
        @param ttl: seconds after which a leader that is silent is replaced.
        """
        self.name = NAMES[number]
        self.port, self.api = lasting_port(), lasting_port()
        self.data = folder / "data"
        self._folder = folder
        self._packages = packages
        self._frozen: list[psutil.Process] = []
        self._patroni: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700)
        text = (ETC / "patroni.yml").read_text()
        for old, new in (
            ("name: one", f"name: {self.name}"),
            ("10.0.0.21:8008", f"127.0.0.1:{self.api}"),
            ("10.0.0.21:5432", f"127.0.0.1:{self.port}"),
            ("10.0.0.31:2379,10.0.0.32:2379,10.0.0.33:2379", f"127.0.0.1:{etcd}"),
            ("/var/lib/postgresql/18/metrics", str(self.data)),
            ("/usr/lib/postgresql/18/bin", str(find_binaries())),
            ("10.0.0.0/24", "127.0.0.1/32"),
            ("ttl: 20", f"ttl: {ttl}"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        self._config = folder / "patroni.yml"
        self._config.write_text(
            f"{text}  pgpass: {folder / 'pgpass'}\n"
            f"  parameters:\n    unix_socket_directories: {folder}\n"
        )

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._patroni = subprocess.Popen(
                as_other_user([sys.executable, "-m", "patroni", self._config]),
                cwd=self._folder,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(self._packages)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, str]:
        """
        Ask its Patroni.

        @return: status and text; 0 where it does not answer.
        """
        connection = HTTPConnection("127.0.0.1", self.api, timeout=60.0)
        try:
            connection.request(method, path, json.dumps(body) if body else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, HTTPException):
            return 0, ""
        finally:
            connection.close()

    @property
    def leads(self) -> bool:
        return self.ask("GET", "/primary")[0] == 200

    def _processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        pids = [self._patroni.pid] if self._patroni is not None else []
        with suppress(OSError, ValueError):
            pids.append(int((self.data / "postmaster.pid").read_text().split()[0]))
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                found += [process, *process.children(recursive=True)]
        return found

    def kill_server(self) -> None:
        """kill -9 of PostgreSQL alone: Patroni starts it again."""
        kill_postmaster(self.data)

    def kill(self) -> None:
        """kill -9 of all of it, as when the machine is gone; its connections are reset."""
        assert self._patroni is not None
        self._patroni.kill()
        self._patroni.wait()
        kill_postmaster(self.data)

    def freeze(self) -> None:
        """Stop all its processes, as when the machine hangs: connections stay, nothing is said."""
        self._frozen = self._processes()
        for process in self._frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        for process in self._frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._frozen = []

    def end(self) -> None:
        self.thaw()
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        if self._patroni is not None:
            self._patroni.wait()
        psutil.wait_procs(processes, timeout=10)


class PatroniCluster:
    """
    Servers under Patroni, etcd, and a HAProxy that leads to the leader.

    @ivar nodes: the servers.
    """

    def __init__(self, folder: Path, installer: Installer, servers: int = 2, ttl: int = 20) -> None:
        """
        @param folder: an empty one.
        @param servers: 2 or 3.
        """
        self._folder = folder
        self._haproxy = installer.program("haproxy")
        self._etcd = installer.server("etcd")
        self._client, self._peers = lasting_port(), lasting_port()
        self.balanced = lasting_port()
        self._others: list[subprocess.Popen[bytes]] = []
        packages = installer.packages(*PATRONI)
        self.nodes = [
            PatroniNode(number, folder / NAMES[number], packages, self._client, ttl)
            for number in range(servers)
        ]

    def start(self) -> None:
        """Start everything; all standbys have caught up, and there is a database."""
        self._start_etcd()
        first, *others = self.nodes
        first.start()
        self._wait(lambda: first.leads, "it leads")
        administrator = Database(first_dsn(first.port, "postgres", "postgres"))
        administrator.execute(f"CREATE ROLE gateway LOGIN PASSWORD '{_PASSWORD}'")
        administrator.execute("CREATE DATABASE metrics OWNER gateway")
        for node in others:
            node.start()
        self.wait_whole()
        self._start_haproxy()

    def _start_etcd(self) -> None:
        client, peers = (f"http://127.0.0.1:{port}" for port in (self._client, self._peers))
        self._start(
            *(self._etcd, "--data-dir", self._folder / "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", f"default={peers}"),
        )

        def answers() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._client)):
                return True
            return False

        self._wait(answers, "etcd answers")

    def _start_haproxy(self) -> None:
        text = (ETC / "haproxy-postgres.cfg").read_text()
        text = text.replace("bind 127.0.0.1:5000", f"bind 127.0.0.1:{self.balanced}")
        text = text.replace("bind 127.0.0.1:5001", f"bind 127.0.0.1:{lasting_port()}")
        text = text.replace("check port 8008 inter", "check inter")
        for number, name in enumerate(NAMES, 1):
            if number <= len(self.nodes):
                node = self.nodes[number - 1]
                there = f"server {name} 127.0.0.1:{node.port} port {node.api}"
                text = text.replace(f"server {name} 10.0.0.2{number}:5432", there)
            else:
                text = text.replace(f"    server {name} 10.0.0.2{number}:5432\n", "")
        assert "10.0.0." not in text.partition("global")[2]
        config = self._folder / "haproxy.cfg"
        config.write_text(text)
        self._start(self._haproxy, "-db", "-f", config)

    def _start(self, *command: str | Path) -> None:
        with (self._folder / f"{Path(command[0]).name}.log").open("wb") as log:
            self._others.append(
                subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
            )

    @property
    def leader(self) -> PatroniNode:
        """The one that leads; waited for."""

        def look() -> PatroniNode | None:
            return next((node for node in self.nodes if node.leads), None)

        found: PatroniNode = self._wait(look, "one of them leads")
        return found

    def wait_whole(self) -> None:
        """Wait until all servers run, and a standby is synchronous."""

        def whole() -> bool:
            status, text = self.nodes[0].ask("GET", "/cluster")
            members = json.loads(text)["members"] if status == 200 else []
            roles = sorted(member["role"] for member in members)
            states = {member["state"] for member in members}
            return (
                len(members) == len(self.nodes)
                and {"leader", "sync_standby"} <= set(roles)
                and states <= {"running", "streaming"}
            )

        self._wait(whole, "all servers run and one is synchronous")

    def switch_over(self) -> None:
        """Have a standby lead, as C{patronictl switchover} does."""
        leader = self.leader
        status, text = leader.ask("POST", "/switchover", {"leader": leader.name})
        assert status == 200, text

    def dsn(self) -> str:
        """How gateways connect: all servers, whichever takes writes."""
        hosts = ",".join("127.0.0.1" for _ in self.nodes)
        ports = ",".join(str(node.port) for node in self.nodes)
        return (
            f"host={hosts} port={ports} user=gateway password={_PASSWORD} dbname=metrics"
            " target_session_attrs=read-write"
        )

    def balanced_dsn(self) -> str:
        """How gateways connect through HAProxy."""
        return first_dsn(self.balanced, "gateway", "metrics")

    @property
    def database(self) -> Database:
        return Database(self.dsn())

    def _wait(self, condition: Any, what: str) -> Any:
        try:
            return wait_until(condition, what, _START)
        except AssertionError as error:
            logs = [
                f"{node.name}:\n{node.log[-3000:]}" for node in self.nodes if node.data.exists()
            ]
            raise AssertionError("\n".join([str(error), *logs])) from None

    def end(self) -> None:
        for node in self.nodes:
            node.end()
        for process in self._others:
            process.kill()
            process.wait()


def first_dsn(port: int, user: str, name: str) -> str:
    """
    Return a connection string for one address.
    """
    return f"host=127.0.0.1 port={port} user={user} password={_PASSWORD} dbname={name}"
