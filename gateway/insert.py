"""
The statement that stores a batch, and its parameters.

The text is written once, when a route is opened; values are always parameters.
One statement stores a whole batch and costs one round trip: its parameters are
arrays with one element for each I{chunk} (joined values, the character between
them, the peer, ...), which PostgreSQL takes apart. So what is the same for a whole
chunk travels once, and not with every row. A batch of a single row is common where
peers wait for each answer, and has a simpler statement: taking arrays apart would
be a fifth of its cost.

The fence is moved by C{gateway.advance} in the same statement. It is in the FROM
clause because every row has to come through it: no row is stored unless it moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.batch import Chunk, Slice
from gateway.formats import BytesFormat, Faults, Format, FramesRefused, TextFormat
from gateway.route import FRAME, Route, identifier, table_identifier

_OF_CHUNK: Final[Mapping[str, Callable[[Chunk], str | None]]] = {
    "@peer": lambda chunk: chunk.origin.peer,
    "@listener": lambda chunk: chunk.origin.listener,
    "@identity": lambda chunk: chunk.origin.identity,
    "@received_at": lambda chunk: repr(chunk.received_at),
}


FENCE_TYPES: Final = ("uuid", "bigint", "bigint")
"""Parameters of C{gateway.advance}: a lane, and the first and the last of its batches."""


@dataclass(frozen=True, slots=True)
class Statement:
    """
    One SQL text.

    @ivar types: SQL types of the parameters; the first are those of the fence.
    @ivar prepared: the text with C{$1}, C{$2}, ... for PREPARE.
    @ivar plain: the text with C{%(p1)s}, C{%(p2)s}, ... for sessions that cannot
        keep a prepared statement.
    """

    types: tuple[str, ...]
    prepared: str
    plain: str


Bound = tuple[Statement, Sequence[str | None]]
"""A statement and its parameters after the fence."""


class Insert:
    """
    Stores batches of a text route into its table.

    @ivar many: for batches of any size.
    @ivar one: for batches of one row.
    """

    def __init__(self, route: Route, types: Mapping[str, str]) -> None:
        """
        @param types: column -> SQL type, without length or precision: an
            explicit cast to C{varchar(3)} would cut the value silently, where
            assigning it is an error.
        """
        of_frame = [types[c] for c, source in route.columns.items() if source == FRAME]
        binary = bool(of_frame) and all(sql_type == "bytea" for sql_type in of_frame)
        metadata = [s for s in dict.fromkeys(route.columns.values()) if s != FRAME]
        self._format: Format = BytesFormat() if binary else TextFormat()
        self._sources = [_OF_CHUNK[source] for source in metadata]
        text = _Text(route, types, binary, metadata)
        self.many = text.statement(text.many, "text[]", 2 + len(metadata))
        self.one = text.statement(text.one, "text", 1 + len(metadata))

    def bind(self, slices: Sequence[Slice]) -> Bound:
        """
        @param slices: the rows of a batch.
        @raise FramesRefused: some messages hold what the columns cannot.
        """
        chunk, start, stop = slices[0]
        if len(slices) == 1 and stop - start == 1:
            text, _ = self._format.encode(chunk.frames[start:stop])
            return self.one, [text, *[source(chunk) for source in self._sources]]
        joined, separators = self._encode(slices)
        return self.many, [
            array_literal(joined),
            array_literal(separators),
            *[_nullable_array([source(s.chunk) for s in slices]) for source in self._sources],
        ]

    def _encode(self, slices: Sequence[Slice]) -> tuple[list[str], list[str]]:
        faults: Faults = []
        joined: list[str] = []
        separators: list[str] = []
        row = 0
        encode = self._format.encode
        for part in slices:
            frames = part.frames
            try:
                text, separator = encode(frames)
            except FramesRefused as refused:
                faults += [(row + i, outcome) for i, outcome in refused.faults]
            else:
                joined.append(text)
                separators.append(separator)
            row += len(frames)
        if faults:
            raise FramesRefused(faults)
        return joined, separators


def array_literal(texts: list[str]) -> str:
    """
    A C{text[]} literal, by three passes at C speed over all texts at once.

    @param texts: one or more, none holds NUL.
    @see: PostgreSQL documentation, section 8.15.6 "Array Input and Output Syntax".
    """
    joined = "\0".join(texts).replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return '{"' + joined + '"}'


def _nullable_array(texts: list[str | None]) -> str:
    known = [text for text in texts if text is not None]
    if len(known) == len(texts):
        return array_literal(known)
    return "{" + ",".join("NULL" if t is None else array_literal([t])[1:-1] for t in texts) + "}"


def _fence(places: list[str]) -> str:
    casts = [f"{place}::{kind}" for place, kind in zip(places, FENCE_TYPES, strict=False)]
    return f"gateway.advance({', '.join(casts)})"


class _Text:
    """
    Writes the SQL of one route.
    """

    def __init__(
        self, route: Route, types: Mapping[str, str], binary: bool, metadata: list[str]
    ) -> None:
        """
        @param binary: whether frames travel as hexadecimal.
        @param metadata: the sources that are the same for a whole chunk.
        """
        self._route = route
        self._types = types
        self._binary = binary
        self._metadata = metadata

    def statement(
        self, write: Callable[[list[str], bool], str], kind: str, count: int
    ) -> Statement:
        """
        @param kind: SQL type of the C{count} parameters after the fence.
        """
        types = (*FENCE_TYPES, *[kind] * count)
        numbers = range(1, len(types) + 1)
        return Statement(
            types,
            write([f"${n}" for n in numbers], False),
            write([f"%(p{n})s" for n in numbers], True),
        )

    def many(self, places: list[str], plain: bool) -> str:
        arrays = ", ".join(f"{place}::text[]" for place in places[len(FENCE_TYPES) :])
        columns = [f"m{i}" for i in range(len(self._metadata))]
        # string_to_array() makes nothing of '', which is one empty message.
        return (
            f"{self._insert('u.frame', [f'c.{name}' for name in columns], plain)}"
            f" FROM {_fence(places)} AS fence,"
            f" unnest({arrays}) AS c({', '.join(['frames', 'separator', *columns])}),"
            " unnest(CASE c.frames WHEN '' THEN ARRAY['']"
            " ELSE string_to_array(c.frames, c.separator) END) AS u(frame)"
        )

    def one(self, places: list[str], plain: bool) -> str:
        frame, *metadata = [f"{place}::text" for place in places[len(FENCE_TYPES) :]]
        return f"{self._insert(frame, metadata, plain)} FROM {_fence(places)} AS fence"

    def _insert(self, frame: str, metadata: list[str], plain: bool) -> str:
        """
        INSERT ... SELECT, up to its FROM.

        @param plain: whether a % in a name of the user's would look like a parameter.
        """
        values = []
        for column, source in self._route.columns.items():
            sql_type = self._name(self._types[column], plain)
            if source != FRAME:
                value = metadata[self._metadata.index(source)]
                if source == "@received_at":
                    value = f"to_timestamp({value}::float8)"
                values.append(f"{value}::{sql_type}")
            elif self._binary:
                values.append(f"decode({frame}, 'hex')")
            elif sql_type == "bytea":
                values.append(f"convert_to({frame}, 'UTF8')")
            else:
                values.append(f"{frame}::{sql_type}")
        table = self._name(table_identifier(self._route.table), plain)
        names = ", ".join(self._name(identifier(c), plain) for c in self._route.columns)
        return f"INSERT INTO {table} ({names}) SELECT {', '.join(values)}"

    @staticmethod
    def _name(name: str, plain: bool) -> str:
        return name.replace("%", "%%") if plain else name
