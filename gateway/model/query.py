"""
Queries that peers may call by name, and the port that answers the calls.

The SQL is the operator's, the arguments are the peer's: these are bound, never part
of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.model.outcome import Listing, Outcome


@dataclass(frozen=True, slots=True)
class Param:
    """
    Parameter of a query.

    @ivar type: its SQL type, as the configuration names it.
    @ivar required: whether a call without it is refused.
    @ivar default: its value where a call leaves it out, as text; C{None}: NULL.
    """

    type: str = "text"
    required: bool = True
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """
    Query as configured.

    @ivar sql: one statement, with parameters as C{%(name)s}.
    @ivar params: every parameter, in the order in which an array of arguments gives them.
    @ivar max_rows: most rows of an answer.
    @ivar max_bytes: most bytes of an answer, as JSON.
    @ivar timeout: seconds that the database may take.
    @ivar read_only: whether it runs in a transaction that cannot write.
    @ivar database: name of one of C{[databases]} that answers it; C{None}: C{[database]}.
    """

    name: str
    sql: str
    params: Mapping[str, Param] = field(default_factory=dict)
    max_rows: int = 1000
    max_bytes: int = 16 * 1024 * 1024
    timeout: float = 5.0
    read_only: bool = True
    database: str | None = None


OnOutcome = Callable[[Outcome | Listing], None]
"""Takes the answer of a call, maybe at once."""


class Queries(Protocol):
    """
    Port that answers calls of queries.
    """

    def ask(self, name: str, arguments: bytes, on_outcome: OnOutcome) -> None:
        """
        Run a query and hand its answer to a callback.

        A plain callback, no Deferred: a peer that waits for each answer pays for every layer.

        @param name: of the query, as the peer wrote it.
        @param arguments: a JSON object or array; C{b""} for none.
        @param on_outcome: called with the rows, each a JSON object, or with why there are none,
            whatever the peer or the database does.
        """
