"""
Wire what stores messages: one writer, or one for each database where there are several.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.placed_writer import PlacedWriter
from gateway.commit.slow_commit_log import SlowCommitLog
from gateway.commit.writer import Writer
from gateway.config.load import Config
from gateway.metrics.counters import RouteCounters
from gateway.model.route import by_database
from gateway.model.store import Spooler
from gateway.postgres.store.databases import Databases


def build_writer(
    config: Config,
    reactor: Any,
    databases: Databases,
    inflight_limit: InflightLimit,
    breakers: CircuitBreakers,
    spooler: Spooler | None,
) -> Writer | PlacedWriter:
    """
    Build the writer of a gateway.
    """
    counters = defaultdict[str, RouteCounters](RouteCounters)
    slow_commits = SlowCommitLog(reactor)
    places = databases.places

    def writer(lanes: int, answer_timeout: float) -> Writer:
        return Writer(
            databases.store,
            reactor,
            lanes,
            inflight_limit,
            time.time,
            breakers,
            spooler,
            dead_letter_routes(config),
            answer_timeout,
            counters=counters,
            slow_commits=slow_commits,
            is_spread=places is not None,
        )

    home = config.database
    if places is None:
        return writer(home.pool_max, home.answer_timeout)
    writers = {
        name: writer(lanes, config.databases.get(name, home).answer_timeout)
        for name, lanes in places.lanes.items()
    }
    return PlacedWriter(writers, places, counters, slow_commits)


def dead_letter_routes(config: Config) -> frozenset[str]:
    """
    Return the names of routes, inner ones in place of sharded ones, whose refused messages are
    kept.
    """
    routes = by_database(config.routes)
    return frozenset(name for name, route in routes.items() if route.dead_letter)
