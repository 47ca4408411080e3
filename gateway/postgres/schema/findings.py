"""
What was found when a route was held against the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.model.errors import RouteError
from gateway.sql.statement import Insert


class Problem(NamedTuple):
    """
    Problem that keeps a route from being opened.

    @ivar key: of the route's section.
    """

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Findings:
    """
    A route against the database.

    @ivar exists: whether the table is there.
    @ivar insert: what stores; only where there is no problem.
    @ivar problems: with none the route can be opened.
    """

    exists: bool
    insert: Insert | None
    problems: list[Problem]

    @property
    def sound(self) -> Insert:
        """
        What stores.

        @raise RouteError: with every problem.
        """
        if self.insert is None:
            raise RouteError("; ".join(problem.text for problem in self.problems))
        return self.insert
