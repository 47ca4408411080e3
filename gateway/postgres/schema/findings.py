"""
Result of a route's examination against the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.model.errors import RouteError
from gateway.sql.statement import Insert


class Problem(NamedTuple):
    """
    Problem that keeps a route from being opened.

    @ivar key: key in the route's section.
    """

    key: str
    text: str


class Relation(NamedTuple):
    """
    Table of a route.

    @ivar oid: its oid.
    @ivar simple: whether what is inserted into it goes there and nowhere else: it is no view and
        no partition, and has no rules and no triggers of the user's.
    """

    oid: int
    simple: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """
    Findings about a route.

    @ivar exists: whether the table exists.
    @ivar insert: statement that stores; C{None} where there are problems.
    @ivar problems: empty if the route can be opened.
    @ivar relation: its table; C{None} for SQL of the user's own.
    """

    exists: bool
    insert: Insert | None
    problems: list[Problem]
    relation: Relation | None = None

    @property
    def sound(self) -> Insert:
        """
        Statement that stores messages into the route's table.

        @raise RouteError: with every problem.
        """
        if self.insert is None:
            raise RouteError("; ".join(problem.text for problem in self.problems))
        return self.insert
