"""
Three gateways behind HAProxy that are restarted one after the other, under load.

    python -m tests.faults.rolling                 # a minute
    python -m tests.faults.rolling --rounds 1

By C{etc/haproxy.cfg}, with its intervals shortened, and by the commands in C{docs/scaling.md}:
SIGTERM, wait for the end, start, wait until HAProxy uses it again. Numbered streams
go through HAProxy all the time. Prints what became of them; exits with 1 where the
promise was broken. HAProxy is installed where it is missing, as root.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.faults.streams_soak import ROUTES, StreamPeer
from tests.installing import Installer
from tests.support import Database, Gateway, TemporaryServer, lasting_port, wait_until
from tests.web.test_balancer import HAProxy

_CACHE: Final = Path(__file__).parents[2] / ".pytest_cache" / "d" / "others"

_STREAMS: Final = 8

_CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[http]
endpoint = "tcp:{http}:interface=127.0.0.1"
[limits]
drain_delay = 1.0
[listeners.lines]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "command"
trusted_proxies = ["127.0.0.0/8"]
[routes.messages]
table = "messages"
[routes.others]
table = "others"
"""

_TABLES: Final = """
CREATE SEQUENCE place;
CREATE TABLE messages (id bigint PRIMARY KEY DEFAULT nextval('place'), peer text, body text);
CREATE TABLE others (LIKE messages INCLUDING ALL)
"""


class Balanced:
    """
    The gateways as their peers see them: one port.
    """

    def __init__(self, proxy: HAProxy) -> None:
        self._proxy = proxy

    def port(self, listener: str) -> int:
        """
        @param listener: any.
        """
        return self._proxy.port


def start(folder: Path) -> Gateway:
    """
    Start a gateway, or start it again on what it left.
    """
    gateway = Gateway(("--config", "gateway.toml"), folder)
    gateway.wait_ready()
    return gateway


def restart(gateway: Gateway, proxy: HAProxy, count: int) -> Gateway:
    """
    Restart one of several gateways, without a message lost.

    @param count: of gateways.
    """
    assert gateway.terminate() == 0
    again = start(gateway.cwd)
    wait_until(lambda: proxy.serving("storing") == count, "HAProxy uses it again")
    return again


def roll(folder: Path, rounds: int, seed: int) -> tuple[bool, str]:
    """
    @return: whether the promise was kept, and what became of it.
    """
    (folder / "server").mkdir()
    server = TemporaryServer(folder / "server")
    server.start()
    database = Database(server.embedded.dsn)
    database.execute(_TABLES)
    gateways = []
    peers: list[StreamPeer] = []
    try:
        for name in ("one", "two", "three"):
            (folder / name).mkdir()
            text = _CONFIG.format(dsn=database.dsn, http=lasting_port(), port=lasting_port())
            (folder / name / "gateway.toml").write_text(text)
            gateways.append(start(folder / name))
        _CACHE.mkdir(parents=True, exist_ok=True)
        proxy = HAProxy(Installer(_CACHE).program("haproxy"), folder, gateways)
        try:
            wait_until(lambda: proxy.serving("storing") == len(gateways), "all store")
            balanced = Balanced(proxy)
            peers = [
                StreamPeer(f"s{n}", True, lambda: [balanced], seed + n, 0.0)  # type: ignore[list-item]
                for n in range(_STREAMS)
            ]
            for peer in peers:
                peer.start()
            began = time.monotonic()
            for _ in range(rounds):
                for number, gateway in enumerate(gateways):
                    gateways[number] = restart(gateway, proxy, len(gateways))
            took = time.monotonic() - began
            for peer in peers:
                peer.ending = True
            for peer in peers:
                peer.join(120)
                assert not peer.is_alive(), f"{peer.stream} waits for ever: {peer.last}"
            return _judge(database, peers, rounds * len(gateways), took)
        finally:
            proxy.end()
    finally:
        for peer in peers:
            peer.ending = True
        for gateway in gateways:
            gateway.end()
        server.stop()


def _judge(
    database: Database, peers: list[StreamPeer], restarts: int, took: float
) -> tuple[bool, str]:
    stored = [body for table in ROUTES for body in database.bodies(table)]
    promised = {body for peer in peers for body in peer.promised}
    missing = len(promised - set(stored))
    doubled = len(stored) - len(set(stored))
    queued = sum(peer.queued for peer in peers)
    text = (
        f"{restarts} restarts in {took:.0f} s, {sum(peer.greeted for peer in peers):,} connections,"
        f" {len(promised):,} messages promised, {queued} of them +QUE,"
        f" {missing} missing, {doubled} doubled"
    )
    return bool(promised) and not missing and not doubled, text


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rolling")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gateway-rolling-") as folder:
        kept, text = roll(Path(folder), options.rounds, options.seed)
    print(f"{text}; seed {options.seed}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
