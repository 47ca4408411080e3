"""
The files of etc/ that docs/scaling.md names, with the programs that they are for.

The file of HAProxy in front is in C{tests/web/test_balancer.py}; those of Patroni and of HAProxy
behind need a cluster, which starts in a quarter of a minute: C{python -m tests.faults.patroni}.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.faults.look import Start, assert_quiet
from tests.faults.pooler import PgBouncer
from tests.installing import Installer
from tests.support import Database

ETC = Path(__file__).parents[2] / "etc"


def test_pgbouncer(
    database: Database, start_with: Start, installer: Installer, tmp_path: Path
) -> None:
    """A gateway stores through a real PgBouncer with the file of etc/."""
    pooler = PgBouncer(database.dsn, 2, "transaction", tmp_path, installer.server("pgbouncer"))
    try:
        gateway = start_with(
            '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"',
            dsn=pooler.dsn(database.dsn),
        )
        assert gateway.connect().ask(b"one\ntwo\n") == b"+OK\n+OK\n"
        assert database.bodies() == ["one", "two"]
        assert_quiet(gateway)
    finally:
        pooler.end()


def test_haproxy_before_postgres(installer: Installer) -> None:
    """HAProxy takes the file that leads gateways to the leader under Patroni."""
    subprocess.run(
        [installer.program("haproxy"), "-c", "-q", "-f", str(ETC / "haproxy-postgres.cfg")],
        check=True,
    )
