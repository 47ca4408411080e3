"""
Statement of a text route: the messages of a chunk travel joined, as one string.

One statement stores a whole batch and costs one round trip: its parameters are
arrays with one element for each I{chunk} (joined values, the character between
them, the peer, ...), which PostgreSQL splits. So a value that is the same for a whole
chunk travels once, and not with every row. A batch of a single row is common where
peers wait for each answer, and has a simpler statement: splitting arrays would
be a fifth of its cost.

The frames are joined with a character that none of them holds and
decoded as a whole, which is valid if and only if each frame is; PostgreSQL splits
the string again with C{string_to_array}. So a message costs neither an
object of its own nor escaping, and only a chunk that fails is checked frame by
frame, to name the bad ones.

A PostgreSQL C{text} holds any UTF-8 but the character NUL (documentation,
section 8.3); what it cannot hold is refused for that message alone, never
changed silently. A C{bytea} holds any bytes; those travel as hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, Protocol

from gateway.columns.kind import Misfit, SqlType
from gateway.columns.kinds import kind_of
from gateway.columns.literal import all_quoted, nullable_quoted
from gateway.model.batch import Slice
from gateway.model.errors import Faults, FramesRefused, RouteError
from gateway.model.outcome import Code, Outcome, refused
from gateway.model.route import CONSTANT, FRAME, Route, Value
from gateway.sql.metadata import of_chunk
from gateway.sql.statement import Bound, ParameterNames
from gateway.sql.table import SqlRows, table_statement


class Joined(Protocol):
    """
    Format of whole frames that joins those of a chunk into one string.
    """

    def encode(self, frames: Sequence[bytes]) -> tuple[str, str]:
        """
        Join one or more frames.

        @return: the joined values, and the one character between them.
        @raise FramesRefused: some of the frames hold what the columns cannot.
        """


def _separators() -> Iterator[str]:
    # The control characters that ASCII has for this, then the private use planes.
    return chain("\x1f\x1e\x1d\x1c", map(chr, range(0xF0000, 0xFFFFE)))


class TextFormat:
    """
    Format of messages that are UTF-8 text, stored byte for byte.
    """

    def encode(self, frames: Sequence[bytes]) -> tuple[str, str]:
        try:
            text = b"\n".join(frames).decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise FramesRefused(
                [(i, fault) for i, frame in enumerate(frames) if (fault := _text_fault(frame))]
            )
        # Line framing never lets an LF into a frame, so this is nearly always it.
        if text.count("\n") == len(frames) - 1:
            return text, "\n"
        separator = next((s for s in _separators() if s not in text), None)
        if separator is None:
            # Over 260 KiB of nothing but private use characters: nobody's data.
            raise FramesRefused([(i, _NO_SEPARATOR) for i in range(len(frames))])
        return separator.join([frame.decode() for frame in frames]), separator


_NUL: Final = refused(Code.DATA, "text cannot hold the character NUL (byte 0)")
_NO_SEPARATOR: Final = refused(
    Code.DATA, "the messages read at once hold every character of Unicode's private use plane 15"
)


def _text_fault(frame: bytes) -> Outcome | None:
    try:
        frame.decode()
    except UnicodeDecodeError as error:
        return refused(Code.DATA, f"not UTF-8: {error.reason} at byte {error.start}")
    return _NUL if b"\0" in frame else None


class BytesFormat:
    """
    Format of messages of any bytes, for columns of type C{bytea}.
    """

    def encode(self, frames: Sequence[bytes]) -> tuple[str, str]:
        return "\n".join([frame.hex() for frame in frames]), "\n"


class JoinedInsert:
    """
    Statements that store batches of a text route into its table.

    @ivar many: for batches of any size.
    @ivar one: for batches of one row.
    """

    def __init__(self, route: Route, types: Mapping[str, SqlType]) -> None:
        """
        @param types: column -> its type.
        @raise RouteError: a value of the configuration does not fit its column.
        """
        of_frame = [types[c].base for c, v in route.columns.items() if v.source == FRAME]
        binary = bool(of_frame) and all(base == "bytea" for base in of_frame)
        metadata = [v for v in dict.fromkeys(route.columns.values()) if v.source != FRAME]
        for column, value in route.columns.items():
            if value.source == CONSTANT and value.default is not None:
                try:
                    kind_of(types[column], route.timezone).element(value.default)
                except Misfit as error:
                    raise RouteError(f"column {column!r}: configured value {error}") from None
        self._format: Joined = BytesFormat() if binary else TextFormat()
        self._sources = [of_chunk(value) for value in metadata]
        text = _Text(route, types, binary, metadata)
        self.many = table_statement(route, text.many)
        # The statement for one row cannot tell duplicates or returned values, so it is used
        # only where rows need no answer of their own.
        self.one = self.many
        if route.conflict == "error" and not route.returning:
            self.one = table_statement(route, text.one)
        self.statements = tuple({self.many, self.one})

    def bind(self, slices: Sequence[Slice]) -> Bound:
        """
        Return the statement and its parameters for the rows of a batch.

        At once: it is little work for any batch.

        @raise FramesRefused: some messages hold what the columns cannot.
        """
        chunk, start, stop = slices[0]
        if len(slices) == 1 and stop - start == 1 and self.one is not self.many:
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
    SQL of one text route's rows.

    @ivar many: for batches of any size.
    @ivar one: for batches of one row.
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
        declared = {column: types[column].declared for column in route.columns}
        names = [f"m{number}" for number in range(len(metadata))]
        self.many = SqlRows(
            types=["text[]"] * (2 + len(metadata)),
            inputs=["u.frame", *[f"c.{name}" for name in names]],
            source=self._joined,
            values=self._values,
            declared=declared,
        )
        self.one = SqlRows(
            types=["text"] * (1 + len(metadata)),
            inputs=[f"u.{name}" for name in ("frame", *names)],
            source=self._single,
            values=self._values,
            declared=declared,
        )

    def _joined(self, places: Sequence[str], as_text: bool) -> str:
        arrays = ", ".join(f"{place}::text[]" for place in places)
        columns = ["frames", "separator", *[f"m{n}" for n in range(len(self._metadata))]]
        # string_to_array() makes nothing of '', which is one empty message.
        return (
            f"unnest({arrays}) AS c({', '.join(columns)}),"
            " unnest(CASE c.frames WHEN '' THEN ARRAY['']"
            " ELSE string_to_array(c.frames, c.separator) END) AS u(frame)"
        )

    def _single(self, places: Sequence[str], as_text: bool) -> str:
        columns = ["frame", *[f"m{n}" for n in range(len(self._metadata))]]
        return f"(VALUES ({', '.join(f'{p}::text' for p in places)})) AS u({', '.join(columns)})"

    def _values(self, inputs: Sequence[str], names: ParameterNames, as_text: bool) -> list[str]:
        frame, *metadata = inputs
        values = []
        for column, value in self._route.columns.items():
            sql_type = self._types[column]
            if value.source != FRAME:
                values.append(sql_type.sql_from_text(metadata[self._metadata.index(value)], names))
            elif self._binary:
                values.append(f"decode({frame}, 'hex')")
            elif sql_type.base == "bytea":
                values.append(f"convert_to({frame}, 'UTF8')")
            else:
                values.append(sql_type.sql_from_text(frame, names))
        return values
