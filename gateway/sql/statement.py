"""
Statement that stores a batch behind its fence, and its parameters.

The text is written once, when a route is opened; values are always parameters. The
fence is moved by C{gateway.advance} in the same statement. It is in the FROM clause
because every row has to come through it: no row is stored unless it moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

from gateway.model.batch import Slice
from gateway.sql.step import BlockRows

FENCE_TYPES: Final = ("uuid", "bigint", "bigint")
"""Parameters of C{gateway.advance}: a lane, and the first and the last of its batches."""

_OF_ITS_TIME: Final = re.compile(
    r"(?<![a-z])(?:now(?!\s*\()|today|tomorrow|yesterday)(?![a-z])", re.IGNORECASE
)
"""
Special values of dates and times; not the function C{now()}, which is called each time.

@see: PostgreSQL documentation, section 8.5.1.4 "Special Values".
"""


def is_of_its_time(text: str) -> bool:
    """
    Say whether SQL of the user's may have a constant such as C{'today'}: a prepared statement would
    keep the time when it was prepared.

    A name that looks like one counts, too: quotes cannot be told from comments at a glance.
    """
    return bool(_OF_ITS_TIME.search(text))


class Preparable:
    """
    Statement that a session can keep under a name, the same in every session.

    The name is a hash of the text. Where a pooler shares sessions, another gateway may have
    prepared a statement of its own there; under a shared name it would store our messages into its
    table.

    @ivar prepare: SQL that prepares it, once in a session.
    @ivar execute: SQL that runs it there, with C{%s} for each parameter.
    @ivar plain: the text with C{%(p1)s}, C{%(p2)s}, ... for sessions that cannot keep it.
    @ivar lasts: whether it means the same later; else no session is to keep it.
    """

    __slots__ = ("execute", "lasts", "name", "plain", "prepare")

    def __init__(self, types: Sequence[str], prepared: str, plain: str, lasts: bool = True) -> None:
        """
        @param types: SQL types of the parameters.
        @param prepared: the text with C{$1}, C{$2}, ...
        """
        kinds = f" ({', '.join(types)})" if types else ""
        places = f" ({', '.join(['%s'] * len(types))})" if types else ""
        self.name = f"gateway_{sha256(f'{kinds} {prepared}'.encode()).hexdigest()[:32]}"
        self.prepare = f"PREPARE {self.name}{kinds} AS {prepared}"
        self.execute = f"EXECUTE {self.name}{places}"
        self.plain = plain
        self.lasts = lasts


@dataclass(frozen=True, slots=True)
class Statement:
    """
    Statement that stores a batch.

    @ivar types: SQL types of the parameters; the first are those of the fence.
    @ivar prepared: the text with C{$1}, C{$2}, ... for PREPARE.
    @ivar plain: the text with C{%(p1)s}, C{%(p2)s}, ... for sessions that cannot
        keep a prepared statement.
    @ivar block: the body of a code block with the same parameters as C{plain} that leaves
        out the rows at fault, see L{gateway.sql.block}.
    @ivar joins: whether it may share a commit with those of other routes: it only adds rows, so
        that their order does not matter, and no row needs an answer of its own.
    @ivar whole: body of a code block where C{prepared} is empty, one that stores all rows or none.
    @ivar rows: its rows for a block that stores those of several statements.
    @ivar preparable: C{prepared} and C{plain}; C{None} where these are empty.
    """

    types: tuple[str, ...]
    prepared: str
    plain: str
    block: str
    joins: bool = False
    whole: str = ""
    rows: BlockRows | None = field(default=None, compare=False, repr=False)
    preparable: Preparable | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        found = Preparable(self.types, self.prepared, self.plain) if self.prepared else None
        object.__setattr__(self, "preparable", found)


Bound = tuple[Statement, Sequence[str | None]]
"""A statement and its parameters after the fence."""


Binding = Generator[None, None, Bound]
"""
Makes a L{Bound}, and stops now and then on the way, so that a batch of much work need
not hold up everything else.
"""


class Insert(Protocol):
    """
    Port: the statements that store one route's batches into its table as it is now.

    @ivar statements: all that L{bind} may choose from.
    """

    @property
    def statements(self) -> Sequence[Statement]: ...

    def bind(self, slices: Sequence[Slice]) -> Bound | Binding:
        """
        Return the statement and its parameters for the rows of a batch, or what makes them where
        that is much work.

        @raise FramesRefused: some messages hold what the columns cannot.
        """


def bind_at_once(insert: Insert, slices: Sequence[Slice]) -> Bound:
    """Bind without a stop on the way, for callers that may block."""
    binding = insert.bind(slices)
    if isinstance(binding, tuple):
        return binding
    while True:
        try:
            next(binding)
        except StopIteration as done:
            bound: Bound = done.value
            return bound


class ParameterNames:
    """
    Writer of the user's names into SQL.
    """

    def __init__(self, plain: bool) -> None:
        """
        @param plain: whether a % in a name must be doubled, as it would look like a parameter.
        """
        self._plain = plain

    def __call__(self, name: str) -> str:
        """Return an identifier or a type, quoted where it must be, as the text needs it."""
        return name.replace("%", "%%") if self._plain else name


Write = Callable[[Sequence[str], ParameterNames], str]
"""The places of the parameters, those of the fence first -> SQL."""


def statement(
    text: Write, block: str, types: Sequence[str], joins: bool, rows: BlockRows
) -> Statement:
    """
    Write the statement of a route in all its forms.

    @param block: as in L{Statement}.
    @param types: of all parameters.
    @param joins: whether it may share a commit.
    """
    return Statement(
        tuple(types),
        text([f"${n}" for n in range(1, len(types) + 1)], ParameterNames(False)),
        text(named_places(len(types)), ParameterNames(True)),
        block,
        joins,
        rows=rows,
    )


def named_places(count: int) -> list[str]:
    """Return parameters by name, for L{gateway.sql.literals.filled}."""
    return [f"%(p{number})s" for number in range(1, count + 1)]


def named(values: Sequence[str | int | None]) -> dict[str, str | int | None]:
    """Return values by the names of L{named_places}."""
    return {f"p{number}": value for number, value in enumerate(values, 1)}


def fence(places: Sequence[str]) -> str:
    """Write the call that moves the fence or fails."""
    casts = [f"{place}::{kind}" for place, kind in zip(places, FENCE_TYPES, strict=False)]
    return f"gateway.advance({', '.join(casts)})"
