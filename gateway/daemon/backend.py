"""
Backend of the gateway: PostgreSQL, or at an edge another gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from msgspec.structs import replace
from twisted.internet import reactor as global_reactor

from gateway.commit.attempt import retry_delay
from gateway.config.load import Config, Database
from gateway.dialects.command_parser import MAX_STREAM
from gateway.model.route import HOME
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.pool import Pool
from gateway.postgres.store.databases import routes_in
from gateway.postgres.store.store import PostgresStore
from gateway.relay.ledger import Ledger
from gateway.relay.names import longest_stream
from gateway.relay.peer_streams import MAX_STREAMS
from gateway.relay.store import RelayStore
from gateway.relay.upstream import Upstream
from gateway.spool.queue import OwnThread

LEDGER: Final = "relay.db"
"""File of an edge in the data directory."""


AnyPool = Pool | Upstream
"""Connections to PostgreSQL, or to the centre."""

AnyStore = PostgresStore | RelayStore
"""Store of the messages."""


class Backend(NamedTuple):
    """
    Store of the messages, and the connections to it.

    @ivar upstream: the centre, where this gateway is at an edge; else C{None}.
    @ivar max_stream: longest name of a peer's stream, in bytes.
    @ivar most: most connections to it.
    """

    pool: AnyPool
    store: AnyStore
    upstream: Upstream | None
    max_stream: int
    most: int

    def relay_path(self) -> Sequence[str]:
        """Return the identifiers of the edges that messages go over from here on."""
        return () if self.upstream is None else self.upstream.path

    def databases(self, config: Config) -> Sequence[Database]:
        """Return all databases, each with the connections that it may take of this process."""
        home = replace(config.database, pool_max=self.most)
        return [home, *config.databases.values()]

    def primary(self, share: Pool) -> Pool:
        """
        Return the connections with which standbys are compared; at an edge there is none.

        @param share: those for queries.
        """
        return self.pool if isinstance(self.pool, Pool) else share


def backend_of(
    config: Config, data_dir: Path, connector: Connector, reactor: Any, *, spools: bool
) -> Backend:
    """
    Build the backend; open nothing.

    @param connector: makes connections to PostgreSQL.
    @param spools: whether there is a spool.
    """
    most = config.database.pool_max
    if config.relay is None:
        pool = Pool(config.database, reactor, retry_delay, connector)
        store = PostgresStore(pool, routes_in(config.routes, HOME), config.database)
        return Backend(pool, store, None, MAX_STREAM, most)
    edge = config.relay.stream
    most += MAX_STREAMS + 1
    upstream = Upstream(config.relay, reactor, retry_delay, uuid4().hex, most)
    relayed = RelayStore(
        upstream,
        Ledger(data_dir / LEDGER),
        OwnThread(global_reactor),
        reactor,
        edge,
        config.routes,
        spools=spools,
    )
    return Backend(upstream, relayed, upstream, longest_stream(edge), most)
