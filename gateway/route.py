"""
Routes: where a message's values go, and the SQL text that takes them there.

The text is written once, when a route is opened; values are always parameters.
One statement stores a whole batch and costs one round trip: its parameters are
arrays with one element for each I{chunk} (joined values, the character between
them, the peer, ...), which PostgreSQL takes apart. So what is the same for a whole
chunk travels once, and not with every row.

The fence is moved by C{gateway.advance} in the same statement. It is in the FROM
clause because every row has to come through it: no row is stored unless it moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.batch import Chunk, Slice
from gateway.formats import BytesFormat, Faults, Format, FramesRefused, TextFormat

FRAME: Final = "@frame"

SOURCES: Final = (FRAME, "@peer", "@listener", "@received_at", "@identity")
"""Where a column's value may come from, beside the message's own fields."""

DEFAULT_COLUMNS: Final = {
    "id": "bigint generated always as identity primary key",
    "received_at": "timestamptz not null default now()",
    "peer": "text",
    "body": "text not null",
}
"""The table that C{create = true} makes where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Route:
    """
    A route as configured.

    @ivar table: C{table} or C{schema.table}, each name taken as it is written.
    @ivar columns: column -> source, see L{SOURCES}.
    @ivar create_columns: column -> SQL type, or C{None}: the table is not created.
    """

    name: str
    table: str
    columns: Mapping[str, str]
    create_columns: Mapping[str, str] | None = None


def identifier(name: str) -> str:
    """
    A name, quoted for SQL, exactly as it is written.
    """
    return '"' + name.replace('"', '""') + '"'


def table_identifier(table: str) -> str:
    """
    C{schema.table} or C{table}, quoted for SQL.
    """
    return ".".join(identifier(part) for part in table.split(".", 1))


def create_sql(route: Route) -> str:
    """
    Makes the route's table if it is missing.
    """
    columns = ", ".join(
        f"{identifier(name)} {sql_type}" for name, sql_type in (route.create_columns or {}).items()
    )
    return f"CREATE TABLE IF NOT EXISTS {table_identifier(route.table)} ({columns})"


def _received_at(chunk: Chunk) -> str:
    return repr(chunk.received_at)


_OF_CHUNK: Final[Mapping[str, Callable[[Chunk], str | None]]] = {
    "@peer": lambda chunk: chunk.origin.peer,
    "@listener": lambda chunk: chunk.origin.listener,
    "@identity": lambda chunk: chunk.origin.identity,
    "@received_at": _received_at,
}


class InsertStatement:
    """
    What stores a batch of a text route into its table.

    @ivar types: SQL types of the parameters; the first two are the fence.
    @ivar prepared: the text with C{$1}, C{$2}, ... for PREPARE.
    @ivar plain: the text with C{%s}, for sessions that cannot keep a prepared statement.
    """

    def __init__(self, route: Route, types: Mapping[str, str]) -> None:
        """
        @param types: column -> SQL type, without length or precision: an
            explicit cast to C{varchar(3)} would cut the value silently, where
            assigning it is an error.
        """
        of_frame = [types[c] for c, source in route.columns.items() if source == FRAME]
        binary = bool(of_frame) and all(sql_type == "bytea" for sql_type in of_frame)
        self._format: Format = BytesFormat() if binary else TextFormat()
        self._sources = [
            _OF_CHUNK[source] for source in dict.fromkeys(route.columns.values()) if source != FRAME
        ]
        self.types = ("uuid", "bigint", *["text[]"] * (2 + len(self._sources)))
        self.prepared = _insert(route, types, binary, [f"${i + 1}" for i in range(len(self.types))])
        # A % in a name of the user's must not look like a parameter.
        self.plain = _insert(
            route,
            {column: sql_type.replace("%", "%%") for column, sql_type in types.items()},
            binary,
            ["%s"] * len(self.types),
            lambda text: text.replace("%", "%%"),
        )

    def values(self, slices: list[Slice]) -> list[str]:
        """
        The arrays of a batch, as array literals, in the order of C{types} after the fence.

        @raise FramesRefused: some messages hold what the columns cannot.
        """
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
        return [
            array_literal(joined),
            array_literal(separators),
            *[_nullable_array([source(s.chunk) for s in slices]) for source in self._sources],
        ]


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


def _insert(
    route: Route,
    types: Mapping[str, str],
    binary: bool,
    places: list[str],
    escape: Callable[[str], str] = str,
) -> str:
    metadata = [s for s in dict.fromkeys(route.columns.values()) if s != FRAME]
    values = []
    for column, source in route.columns.items():
        sql_type = types[column]
        if source == FRAME:
            if binary:
                values.append("decode(u.frame, 'hex')")
            elif sql_type == "bytea":
                values.append("convert_to(u.frame, 'UTF8')")
            else:
                values.append(f"u.frame::{sql_type}")
        elif source == "@received_at":
            values.append(f"to_timestamp(c.m{metadata.index(source)}::float8)::{sql_type}")
        else:
            values.append(f"c.m{metadata.index(source)}::{sql_type}")
    names = ", ".join(escape(identifier(column)) for column in route.columns)
    arrays = ", ".join(f"{place}::text[]" for place in places[2:])
    aliases = ", ".join(["frames", "separator", *[f"m{i}" for i in range(len(metadata))]])
    # string_to_array() makes nothing of '', which is one empty message.
    return (
        f"INSERT INTO {escape(table_identifier(route.table))} ({names})"
        f" SELECT {', '.join(values)}"
        f" FROM gateway.advance({places[0]}::uuid, {places[1]}::bigint) AS fence,"
        f" unnest({arrays}) AS c({aliases}),"
        " unnest(CASE c.frames WHEN '' THEN ARRAY['']"
        " ELSE string_to_array(c.frames, c.separator) END) AS u(frame)"
    )
