"""
A night's drill: whatever happens, all that an operator can look at says so, and says the same.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psycopg2
import pytest

from tests.faults.look import Start, assert_quiet
from tests.faults.proxy import FaultProxy
from tests.issuer import Issuer
from tests.support import Database, Gateway, tool, wait_until

StartProxy = Callable[[str], FaultProxy]

SOON = 5.0
"""Seconds within which everything has to say what happened."""

CONFIG = """
[database]
dsn = '''{dsn}'''
acquire_timeout = 0.3
connect_timeout = 1.0
statement_timeout = 20.0
answer_timeout = 20.0
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[admin]
endpoint = "unix:{admin}"
[log]
slow_commit = 0.5
[spool]
path = "{spool}/spool.db"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.others]
endpoint = "tcp:0:interface=127.0.0.1"
route = "others"
[listeners.limited]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
messages_per_second = 10
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
tls = {{ certificate = "{certificate}", key = "{key}" }}
[routes.messages]
table = "messages"
columns = {{ body = "@frame" }}
[routes.others]
table = "others"
columns = {{ body = "@frame" }}
"""

SMALL_DISK = (
    *("unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c"),
    'mount -t tmpfs -o size=2m tmpfs {} && exec "$0" "$@"',
)
"""A wrapper for which a folder is a disk of 2 MB."""


class Operator:
    """
    Everything that an operator can look at.
    """

    def __init__(self, gateway: Gateway, admin: Path) -> None:
        self._gateway = gateway
        self._admin = admin

    def console(self) -> set[str]:
        """Codes of the warnings on C{gateway status}."""
        said = tool("admin", "--socket", str(self._admin), "SHOW STATUS").stdout
        return set(re.findall(r"(?m)^! ([a-z-]+)", said))

    def page(self) -> set[str]:
        text = self._gateway.get("/")[1]
        return {code for code in CODES if code in text}

    def metrics(self) -> set[str]:
        text = self._gateway.get("/metrics")[1]
        return set(re.findall(r'(?m)^gateway_warnings\{code="([a-z-]+)"\} [1-9]', text))

    def json(self) -> set[str]:
        return {one["code"] for one in json.loads(self._gateway.get("/status.json")[1])["warnings"]}

    def views(self) -> dict[str, set[str]]:
        return {
            "console": self.console() & CODES,
            "page": self.page(),
            "metrics": self.metrics() & CODES,
            "status.json": self.json() & CODES,
        }

    def wait(self, warnings: Collection[str], readyz: int, stored: int, log: str = "") -> None:
        """
        Wait until everything says the same: these warnings, and these codes of health.

        @param log: what the log says of it.
        """
        until = time.monotonic() + SOON
        wanted = {view: set(warnings) for view in ("console", "page", "metrics", "status.json")}
        while True:
            views = self.views()
            health = self._gateway.get("/readyz")[0], self._gateway.get("/readyz?stored")[0]
            if views == wanted and health == (readyz, stored):
                break
            assert time.monotonic() < until, (views, health, self._gateway.get("/readyz"))
        if log:
            self._gateway.wait_log(log)


CODES = {
    *("certificate-expires", "database-away", "rate-limit", "route-out-of-service"),
    *("slow-commit", "spool-refuses", "spooling"),
}
"""Those of the drill; a busy machine may have others, as C{reactor-lag}."""


@pytest.mark.long
def test_a_night(
    database: Database, start_proxy: StartProxy, start_gateway: Start, tmp_path: Path
) -> None:
    """
    A certificate near its end, the database slow, away and back, the spool's disk full, a peer
    that floods, a route's table renamed: page, metrics, JSON, readiness, console and log tell it
    within five seconds, and agree.
    """
    for table in ("messages", "others"):
        database.execute(f"CREATE TABLE {table} (body text)", ())
    spool = tmp_path / "spool"
    spool.mkdir()
    issued = Issuer(tmp_path).issue("localhost", ends=5)
    proxy = start_proxy(database.dsn)
    config = tmp_path / "gateway.toml"
    admin = tmp_path / "admin.sock"
    config.write_text(
        CONFIG.format(
            dsn=proxy.dsn(database.dsn),
            admin=admin,
            spool=spool,
            certificate=issued.file,
            key=issued.file,
        )
    )
    wrapper = (*SMALL_DISK[:-1], SMALL_DISK[-1].format(spool))
    gateway = start_gateway("--config", str(config), wrapper=wrapper)
    operator = Operator(gateway, admin)
    always = {"certificate-expires"}
    operator.wait(always, 200, 200, r"certificate in .* expires in \d days")

    # The database is slow.
    peer = gateway.connect()
    holder = psycopg2.connect(database.dsn)
    try:
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE messages")
            peer.send(b"slow\n")
            operator.wait({*always, "slow-commit"}, 200, 200)
        holder.rollback()
    finally:
        holder.close()
    assert peer.read_lines(1) == [b"+OK"]
    operator.wait(always, 200, 200, "route messages: .*commit.* took .* s")

    # It is away: peers are served by the spool, until that is full.
    proxy.tell("refuse")
    proxy.tell("reset")
    peer.send(b"kept\n")
    assert peer.read_lines(1) == [b"+QUE"]
    operator.wait({*always, "database-away", "spooling"}, 200, 503, r"spool: messages are kept")
    kept = 1
    large = b"x" * 30_000 + b"\n"
    while True:
        peer.send(large)
        answer = peer.read_lines(1)[0]
        if answer.startswith(b"-TRY"):
            break
        kept += 1
    operator.wait({*always, "database-away", "spool-refuses"}, 503, 503, "spool: .* refused|later")

    # It is back.
    proxy.tell("accept")
    wait_until(lambda: len(database.column("SELECT 1 FROM messages")) == 1 + kept, "all is stored")
    operator.wait(always, 200, 200, "spool: empty")

    # One peer floods; everybody else goes on.
    with socket.create_connection(("127.0.0.1", gateway.port("limited"))) as flood:
        flood.sendall(b"flood\n" * 500)
        operator.wait({*always, "rate-limit"}, 200, 200)
        peer.send(b"beside it\n")
        assert peer.read_lines(1) == [b"+OK"]
    always.add("rate-limit")  # for a minute

    # A table is renamed: its route is out of service, the other is not.
    database.execute("ALTER TABLE others RENAME TO elsewhere", ())
    other = gateway.connect("others")
    other.send(b"whither\n")
    assert other.read_lines(1)[0].startswith(b"-TRY ROUTE")
    operator.wait({*always, "route-out-of-service"}, 200, 200, "route others: out of service")
    assert gateway.get("/readyz?route=others")[0] == 503
    database.execute("ALTER TABLE elsewhere RENAME TO others", ())
    operator.wait(always, 200, 200)
    other.send(b"here\n")
    assert other.read_lines(1) == [b"+OK"]
    assert_quiet(gateway)
