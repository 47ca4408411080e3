"""
Statement of a structured route: an array for each column, an element for each row.

One statement stores a whole batch and costs one round trip. PostgreSQL reads each
element with its type's own input function, as COPY does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial

from gateway.columns.column import Column, Misfits
from gateway.columns.kind import Kind, Misfit, SqlType
from gateway.columns.kinds import kind_of
from gateway.columns.literal import NULL, quoted_element
from gateway.columns.scalars import Bytea, octets
from gateway.columns.structured import plain
from gateway.formats.fields import Fields, Format, Texts
from gateway.model.batch import Slice
from gateway.model.errors import Faults, FramesRefused, RouteError
from gateway.model.outcome import Code, refused
from gateway.model.route import CONSTANT, FRAME, SOURCES, Route, Value
from gateway.sql.metadata import of_chunk
from gateway.sql.statement import Binding, ParameterNames
from gateway.sql.table import SqlRows, table_statement

_Piece = Callable[[Slice, Fields, Misfits], str]
"""Gives the elements of one column for the rows of a slice."""


class Arrays:
    """
    Conversion of a structured route's messages to array literals.

    @ivar kinds: of its columns, in order.
    @ivar columns: name and type of each.
    """

    def __init__(self, route: Route, types: Mapping[str, SqlType], form: Format):
        """
        @param types: column or parameter -> its type.
        @param form: reads the fields that the columns name.
        @raise RouteError: a value of the configuration does not fit its column.
        """
        self._format = form
        self.kinds: list[Kind] = []
        self._pieces: list[_Piece] = []
        compact = route.reading.format == "hl7"
        for name, value in route.columns.items():
            try:
                kind = kind_of(types[name], route.timezone, compact)
                kind, piece = _kind_and_elements(name, value, kind)
            except Misfit as error:
                raise RouteError(f"column {name!r}: configured value {error}") from None
            self.kinds.append(kind)
            self._pieces.append(piece)
        self.columns = [(name, types[name]) for name in route.columns]

    def bind(self, slices: Sequence[Slice]) -> Generator[None, None, list[str]]:
        """
        Return an array literal for each column, of the rows of a batch.

        @raise FramesRefused: some messages hold what the columns cannot.
        """
        columns: list[list[str]] = []
        faults: Faults = []
        by_type = False
        row = 0
        for part in slices:
            fields = self._format.parse_frames(part.frames)
            misfits: Misfits = {}
            columns.append([piece(part, fields, misfits) for piece in self._pieces])
            by_type = by_type or bool(misfits)
            if misfits or fields.faults:
                row_faults = {i: refused(Code.DATA, text) for i, text in misfits.items()}
                # A message that could not be read has no fields to judge.
                row_faults.update(fields.faults)
                faults += [(row + i, row_faults[i]) for i in sorted(row_faults)]
            row += part.stop - part.start
            yield
        if faults:
            raise FramesRefused(faults, by_type)
        return ["{" + ",".join(pieces) + "}" for pieces in zip(*columns, strict=True)]


class ArrayInsert:
    """
    Statement that stores batches of a structured route into its table.
    """

    def __init__(self, route: Route, types: Mapping[str, SqlType], form: Format) -> None:
        """
        @param types: column -> its type.
        @param form: reads the fields that the route's columns name.
        @raise RouteError: a value of the configuration does not fit its column.
        """
        self._arrays = Arrays(route, types, form)
        self._kinds = self._arrays.kinds
        rows = SqlRows(
            types=[kind.parameter for kind in self._kinds],
            inputs=[f"u.c{number}" for number in range(len(self._kinds))],
            source=self._source,
            values=self._values,
            declared={name: types[name].declared for name in route.columns},
            columns=self._arrays.columns,
        )
        self.many = table_statement(route, rows)
        self.statements = (self.many,)

    def bind(self, slices: Sequence[Slice]) -> Binding:
        """
        Return the statement and its parameters for the rows of a batch.

        @raise FramesRefused: some messages hold what the columns cannot.
        """
        return self.many, (yield from self._arrays.bind(slices))

    def _source(self, places: Sequence[str], as_text: bool) -> str:
        arrays = [
            f"{place}::{'text[]' if as_text else kind.parameter}"
            for place, kind in zip(places, self._kinds, strict=True)
        ]
        aliases = ", ".join(f"c{number}" for number in range(len(self._kinds)))
        return f"unnest({', '.join(arrays)}) AS u({aliases})"

    def _values(self, inputs: Sequence[str], names: ParameterNames, as_text: bool) -> list[str]:
        return [
            kind.sql_type.sql_from_text(name, names) if kind.cast or as_text else name
            for name, kind in zip(inputs, self._kinds, strict=True)
        ]


def _kind_and_elements(name: str, value: Value, kind: Kind) -> tuple[Kind, _Piece]:
    """
    Return the kind of a column, and the function that gives its elements.

    @raise Misfit: the configured value does not fit.
    """
    if value.source == FRAME:
        if isinstance(kind, Bytea):
            return kind, _octets
        return kind, partial(_frames, Column(name, FRAME, kind))
    if value.source == CONSTANT:
        constant = NULL if value.default is None else kind.element(value.default)
        return kind, _repeat_element(lambda part: constant)
    if value.source in SOURCES:
        # The server converts the text to the column's type.
        tell = of_chunk(value)
        return Kind(kind.sql_type), _repeat_element(lambda part: _nullable(tell(part.chunk)))
    required = value.required or kind.sql_type.not_null
    column = Column(name, value.source, kind, value.default, required)
    return kind, lambda part, fields, misfits: column.encode(fields.cells[value.source], misfits)


def _nullable(text: str | None) -> str:
    return NULL if text is None else quoted_element(text)


def _repeat_element(element: Callable[[Slice], str]) -> _Piece:
    return lambda part, fields, misfits: ",".join([element(part)] * (part.stop - part.start))


def _octets(part: Slice, fields: Fields, misfits: Misfits) -> str:
    return ",".join(map(octets, part.frames))


def _frames(column: Column, part: Slice, fields: Fields, misfits: Misfits) -> str:
    texts: list[str | None] = []
    for row, frame in enumerate(part.frames):
        try:
            texts.append(frame.decode())
        except UnicodeDecodeError as error:
            texts.append(None)
            misfits.setdefault(row, f"column {column.name!r}: {plain(error)}")
    return column.encode(Texts(texts), misfits)
