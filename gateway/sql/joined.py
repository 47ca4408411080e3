"""
The statement of a text route: its messages travel joined, a chunk as one string.

One statement stores a whole batch and costs one round trip: its parameters are
arrays with one element for each I{chunk} (joined values, the character between
them, the peer, ...), which PostgreSQL takes apart. So what is the same for a whole
chunk travels once, and not with every row. A batch of a single row is common where
peers wait for each answer, and has a simpler statement: taking arrays apart would
be a fifth of its cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.batch import Slice
from gateway.columns.kind import SqlType
from gateway.columns.literal import all_quoted, nullable_quoted
from gateway.faults import Faults, FramesRefused
from gateway.formats.text import BytesFormat, Joined, TextFormat
from gateway.route import FRAME, Route, Value, identifier, table_identifier
from gateway.sql.metadata import of_chunk
from gateway.sql.statement import FENCE_TYPES, Binding, Names, fence, statement


class JoinedInsert:
    """
    Stores batches of a text route into its table.

    @ivar many: for batches of any size.
    @ivar one: for batches of one row.
    """

    def __init__(self, route: Route, types: Mapping[str, SqlType]) -> None:
        """
        @param types: column -> its type.
        """
        of_frame = [types[c].name for c, v in route.columns.items() if v.source == FRAME]
        binary = bool(of_frame) and all(sql_type == "bytea" for sql_type in of_frame)
        metadata = [v for v in dict.fromkeys(route.columns.values()) if v.source != FRAME]
        self._format: Joined = BytesFormat() if binary else TextFormat()
        self._sources = [of_chunk(value) for value in metadata]
        text = _Text(route, types, binary, metadata)
        self.many = statement(text.many, ["text[]"] * (2 + len(metadata)))
        self.one = statement(text.one, ["text"] * (1 + len(metadata)))
        self.statements = (self.many, self.one)

    def bind(self, slices: Sequence[Slice]) -> Binding:
        """
        In one go: it is little work for any batch.

        @param slices: the rows of a batch.
        @raise FramesRefused: some messages hold what the columns cannot.
        """
        yield from ()
        chunk, start, stop = slices[0]
        if len(slices) == 1 and stop - start == 1:
            text, _ = self._format.encode(chunk.frames[start:stop])
            return self.one, [text, *[source(chunk) for source in self._sources]]
        joined, separators = self._encode(slices)
        return self.many, [
            "{" + all_quoted(joined) + "}",
            "{" + all_quoted(separators) + "}",
            *[
                "{" + nullable_quoted([source(s.chunk) for s in slices]) + "}"
                for source in self._sources
            ],
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


class _Text:
    """
    Writes the SQL of one route.
    """

    def __init__(
        self, route: Route, types: Mapping[str, SqlType], binary: bool, metadata: list[Value]
    ) -> None:
        """
        @param binary: whether frames travel as hexadecimal.
        @param metadata: the values that are the same for a whole chunk.
        """
        self._route = route
        self._types = types
        self._binary = binary
        self._metadata = metadata

    def many(self, places: list[str], names: Names) -> str:
        arrays = ", ".join(f"{place}::text[]" for place in places[len(FENCE_TYPES) :])
        columns = [f"m{i}" for i in range(len(self._metadata))]
        # string_to_array() makes nothing of '', which is one empty message.
        return (
            f"{self._insert('u.frame', [f'c.{name}' for name in columns], names)}"
            f" FROM {fence(places)} AS fence,"
            f" unnest({arrays}) AS c({', '.join(['frames', 'separator', *columns])}),"
            " unnest(CASE c.frames WHEN '' THEN ARRAY['']"
            " ELSE string_to_array(c.frames, c.separator) END) AS u(frame)"
        )

    def one(self, places: list[str], names: Names) -> str:
        frame, *metadata = [f"{place}::text" for place in places[len(FENCE_TYPES) :]]
        return f"{self._insert(frame, metadata, names)} FROM {fence(places)} AS fence"

    def _insert(self, frame: str, metadata: list[str], names: Names) -> str:
        """
        INSERT ... SELECT, up to its FROM.
        """
        values = []
        for column, value in self._route.columns.items():
            sql_type = names(self._types[column].name)
            if value.source != FRAME:
                values.append(f"{metadata[self._metadata.index(value)]}::{sql_type}")
            elif self._binary:
                values.append(f"decode({frame}, 'hex')")
            elif sql_type == "bytea":
                values.append(f"convert_to({frame}, 'UTF8')")
            else:
                values.append(f"{frame}::{sql_type}")
        table = names(table_identifier(self._route.table))
        columns = ", ".join(names(identifier(c)) for c in self._route.columns)
        return f"INSERT INTO {table} ({columns}) SELECT {', '.join(values)}"
