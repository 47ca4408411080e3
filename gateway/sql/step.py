"""
SQL that a code block runs for its rows, as a statement gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.columns.kind import SqlType


@dataclass(frozen=True, slots=True)
class Step:
    """
    SQL that a block runs for its rows.

    @ivar one: (SQL of the current row's inputs, all of them texts) -> statements for it, which may
        set C{gw_value}, the values to return, as a JSON array.
    @ivar many: (SQL of a row's inputs, what stands behind FROM) -> a statement for several rows;
        C{None}: each row needs an answer of its own.
    @ivar ignores: whether a row for which C{one} finds nothing to do is a duplicate.
    @ivar returns: whether there are values to return.
    @ivar columns: name and type that each input is for, to name the one at fault.
    """

    one: Callable[[Sequence[str]], str]
    many: Callable[[Sequence[str], str], str] | None = None
    ignores: bool = False
    returns: bool = False
    columns: Sequence[tuple[str, SqlType]] = ()


@dataclass(frozen=True, slots=True)
class BlockRows:
    """
    Rows of a statement, as a code block takes them.

    @ivar step: SQL that is run for them.
    @ivar count: of inputs of a row.
    @ivar query: (places of the parameters after the fence) -> a query for the inputs of all rows,
        C{c0}, C{c1} and so on, all of them texts, in order.
    """

    step: Step
    count: int
    query: Callable[[Sequence[str]], str]
