"""
Advice about several workers, for C{gateway check} and the start.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.load import Config
from gateway.config.process import share_of, sum_of_shares


def connections_line(config: Config, workers: int) -> str:
    """
    Return a line that says how many connections to each database the workers open together.
    """
    parts = []
    for name, database in {"database": config.database, **config.databases}.items():
        for_messages = sum_of_shares(database.pool_max, workers)
        for_queries = sum_of_shares(database.query_connections, workers)
        each = share_of(database.pool_max, 1, workers)
        parts.append(
            f"{name}: at most {for_messages} connections for messages ({each} a worker at most)"
            f" and {for_queries} for queries"
        )
    return f"{workers} workers; {'; '.join(parts)}; {workers} that listen"


def worker_warnings(config: Config) -> Iterator[str]:
    """
    Warn of routes whose rows may depend on an order that workers do not keep, and of connections
    that are more than the configuration says.
    """
    workers = config.process.workers
    if workers == 1:
        return
    if config.spool.on_outage == "spool":
        for name, route in config.routes.items():
            if route.conflict == "update":
                yield (
                    f'routes.{name}.conflict: "update" with several workers and a spool: after an'
                    " outage a worker may store an older message of its spool when another has"
                    " stored a newer one of the same key. Number the messages (HELLO) where that"
                    ' matters, or set spool.on_outage = "refuse"'
                )
    if workers == "auto":
        return
    for name, database in {"database": config.database, **config.databases}.items():
        section = name if name == "database" else f"databases.{name}"
        for key in ("pool_max", "query_connections"):
            total = getattr(database, key)
            if total < workers:
                yield (
                    f"{section}.{key}: each of {workers} workers has one at least, so that there"
                    f" are up to {workers} and not {total}"
                )
