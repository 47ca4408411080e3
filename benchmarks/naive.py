"""
What one writes first: a LineOnlyReceiver that runs one INSERT for each line.

Its answers mean what the gateway's mean, committed; that is all the two share.

    python -m benchmarks.naive DSN PORT
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from txpostgres import txpostgres


class NaivePeer(LineOnlyReceiver):
    delimiter = b"\n"
    factory: NaiveFactory

    def lineReceived(self, line: bytes) -> None:
        transport: Any = self.transport
        peer = transport.getPeer()
        waiting = self.factory.pool.runOperation(
            "INSERT INTO messages (body, peer) VALUES (%s, %s)",
            (line.decode(), f"{peer.host}:{peer.port}"),
        )
        waiting.addCallbacks(
            lambda _: transport.write(b"+OK\n"), lambda failure: transport.write(b"-TRY DOWN\n")
        )


class NaiveFactory(Factory):
    protocol = NaivePeer  # type: ignore[assignment]  # as every Factory does it
    noisy = False

    def __init__(self, pool: Any) -> None:
        self.pool = pool


def main() -> None:
    dsn, port = sys.argv[1:]
    reactor: Any = global_reactor
    pool = txpostgres.ConnectionPool(None, dsn, min=8)
    started = pool.start()
    started.addCallback(lambda _: reactor.listenTCP(int(port), NaiveFactory(pool)))
    started.addCallback(lambda _: print("ready", flush=True))
    reactor.run()


if __name__ == "__main__":
    main()
