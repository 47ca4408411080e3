"""
Code blocks that store rows one by one in a single round trip, for rows that one INSERT cannot.

Where a statement fails because of some row, the same rows are stored by a block: a few
at a time, and where these fail, each in a subtransaction of its own, so that only the
ones at fault are left out; all that in one transaction behind the batch's fence. A row that
fails while others pass is at fault, whatever its SQLSTATE; where none passes, SQLSTATE
decides, or the caller, see L{Blame}. The block is an anonymous one (C{DO}): it
needs no right to create anything, nor a session of its own, and PostgreSQL keeps the plans
of its statements while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.sql.literals import quoted_literal
from gateway.sql.sqlstate import MISSING, NOBODYS, PASSING_PATTERN, ROW_PATTERN, SLOW_ROW
from gateway.sql.statement import FENCE_TYPES, ParameterNames, Statement, fence
from gateway.sql.step import BlockRows, Step

_AT_A_TIME: Final = 16
"""
Rows that are first tried together. Of 10,000 rows with 1 % bad ones 8 to 32 took about
60 ms, where the statement itself took 27 ms without a bad one; 64 took 84 ms.
"""


_MOST_SUSPECTS: Final = 64
"""Rows that fail, while none has passed, after which no more are tried."""

_BLAME: Final = "gateway.blame"
_WATCH: Final = "gateway.watch"


class Blame(Enum):
    """
    Rule by which rows that fail are at fault, beside those whose SQLSTATE says so.
    """

    MOST = "where another row passes, and the reason does not pass by itself"
    PASSING = "where another row passes"
    ALL = "all"


_CATCH: Final = "EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN"

_RAISED: Final = "PL/(?!pgSQL)|PL/pgSQL.*RAISE"
"""
First line of an error's context, in all languages, where a function of the user's raised it, as a
regular expression of PostgreSQL's.
"""

_CHECK: Final = "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED;"
"""Constraints that wait for the end of a transaction are to refuse the row that breaks them."""


@dataclass(frozen=True, slots=True)
class Part:
    """
    Rows of one statement in a code block.

    @ivar rows: SQL of the rows.
    @ivar places: of the parameters, those of the fence first.
    @ivar arrival: place of a parameter with the places of the rows among those of all parts, see
        L{gateway.model.arrival}; C{""}: it is the only part.
    @ivar total: place of a parameter with the number of its rows; C{""}: it is the only part.
    """

    rows: BlockRows
    places: Sequence[str]
    arrival: str = ""
    total: str = ""


@dataclass(frozen=True, slots=True)
class _Variables:
    """
    Names of a part's variables in a block.

    @ivar suffix: of the names.
    @ivar grouped: whether C{gw_block} has several rows, as arrays.
    @ivar several: whether there are several parts.
    """

    suffix: str
    grouped: bool
    several: bool

    @property
    def row(self) -> str:
        """SQL of the current row's number in the part, from 1."""
        if not self.grouped:
            return "gw_block.gw_n"
        return "gw_block.gw_n[gw_i]" if self.several else "gw_base + gw_i"

    def inputs(self, count: int) -> list[str]:
        """Return the SQL of the current row's inputs."""
        index = "[gw_i]" if self.grouped else ""
        return [f"gw_block.c{number}{index}" for number in range(count)]

    def declared(self) -> str:
        """Write the declarations."""
        names = {"values": "text", "duplicates": "integer", "refused": "text"}
        lines = [
            f"    gw_{name}{self.suffix} {kind}[] := '{{}}';\n" for name, kind in names.items()
        ]
        lines += [f"    gw_{name}{self.suffix} integer;\n" for name in ("told", "repeated")]
        lines += [f"    gw_{name}{self.suffix} text;\n" for name in ("suspect", "suspicion")]
        return "".join(lines)

    def __call__(self, name: str) -> str:
        """Return the name of a variable that each part has."""
        return f"gw_{name}{self.suffix}"


def body(parts: Sequence[Part], *, careful: bool, ordered: bool = True) -> str:
    """
    Write the body of a code block, which stores the rows of all parts in order of arrival.

    It raises L{SLOW_ROW} where a row takes most of C{statement_timeout} and L{settings} say to
    watch; not where there are several parts.

    @param careful: whether rows at fault are left out; else the first one makes the block fail.
    @param ordered: whether the order between parts makes a difference where all rows pass.
    """
    several = len(parts) > 1
    both = [
        (part, _Variables(f"_{number}" if several else "", careful, several))
        for number, part in enumerate(parts, 1)
    ]
    rows = _merged(parts) if several else _numbered(parts[0])
    place = "gw_p" if several else "gw_n"
    # Not indented: there may be texts of more than one line in the user's SQL.
    if careful:
        count = max(part.rows.count for part in parts)
        columns = ["gw_r", "gw_n", *[f"c{number}" for number in range(count)]]
        arrays = ", ".join(
            f"array_agg({column} ORDER BY {place}) AS {column}"
            for column in (columns if several else columns[2:])
        )
        key = "gw_p" if several else "(gw_n - 1)"
        rows = (
            f"SELECT {arrays} FROM ({rows}) AS gw_numbered"
            f" GROUP BY {key} / {_AT_A_TIME} ORDER BY {key} / {_AT_A_TIME}"
        )
        length = "cardinality(gw_block.c0)"
        each = _tried(both, length, ordered)
        each += f"\ngw_base := gw_base + {length};"
    else:
        rows = f"SELECT * FROM ({rows}) AS gw_numbered ORDER BY {place}"
        each = _chosen([_recording_sql(part.rows, names) for part, names in both], "gw_block.gw_r")
    fences = "\n".join(f"    PERFORM {fence(part.places)};" for part in parts)
    ends = "".join(_ended(part, names) for part, names in both)
    return f"""
#variable_conflict use_column
DECLARE
    gw_block record;
    gw_result record;
    gw_base integer := 0;
    gw_value text;
    gw_row text[];
    gw_state text;
    gw_text text;
    gw_type text;
    gw_column text;
    gw_context text;
    gw_since timestamptz;
    gw_blame text := coalesce(current_setting('{_BLAME}', true), '');
    gw_watch boolean := current_setting('{_WATCH}', true) = 'on';
{"".join(names.declared() for _, names in both)}BEGIN
{fences}
    FOR gw_block IN {rows} LOOP
{each}
    END LOOP;
{ends}END
"""


def _numbered(part: Part) -> str:
    """Write the query for the rows of a part with their numbers, C{gw_n}, from 1."""
    query = part.rows.query(part.places[len(FENCE_TYPES) :])
    return f"SELECT *, row_number() OVER () AS gw_n FROM ({query}) AS gw_rows"


def _merged(parts: Sequence[Part]) -> str:
    """
    Write the query for the rows of several parts: the number of the part, C{gw_r}, that of the row
    in it, C{gw_n}, its place, C{gw_p}, and the inputs.
    """
    most = max(part.rows.count for part in parts)
    texts = []
    for number, part in enumerate(parts, 1):
        cells = [f"c{n}" if n < part.rows.count else f"NULL::text AS c{n}" for n in range(most)]
        texts.append(
            f"SELECT {number} AS gw_r, gw_n::integer, ({part.arrival}::integer[])[gw_n] AS gw_p,"
            f" {', '.join(cells)} FROM ({_numbered(part)}) AS gw_part"
        )
    return " UNION ALL ".join(texts)


def _chosen(rows: Sequence[str], part: str) -> str:
    """
    Write what is done for the current row.

    @param rows: for the rows of each part.
    @param part: SQL of the number of the row's part.
    """
    if len(rows) == 1:
        return rows[0]
    choice = "".join(f"ELSIF {part} = {number} THEN\n{row}\n" for number, row in enumerate(rows, 1))
    return f"{choice.removeprefix('ELS')}END IF;"


def _tried(both: Sequence[tuple[Part, _Variables]], length: str, ordered: bool) -> str:
    """
    Write the SQL that stores the rows of C{gw_block} all together, and each by itself where that
    fails.

    @param length: SQL of their number.
    """
    plainly, alone = [], []
    keep = undo = ""
    for part, names in both:
        step = part.rows.step
        # Variables do not go back with a subtransaction.
        keep_part = undo_part = ""
        if step.returns:
            told, kept = names("values"), names("told")
            keep_part += f"{kept} := cardinality({told});\n"
            undo_part += f"{told} := {told}[1:{kept}];\n"
        if step.ignores:
            told, kept = names("duplicates"), names("repeated")
            keep_part += f"{kept} := cardinality({told});\n"
            undo_part += f"{told} := {told}[1:{kept}];\n"
        keep += keep_part
        undo += undo_part
        plainly.append(_recording_sql(part.rows, names))
        refuse = undo_part + _refuse(names, part.rows.count, step)
        alone.append(
            f"gw_since := clock_timestamp();\n{keep_part}BEGIN\n{plainly[-1]}\n{_CHECK}"
            f"\nEXCEPTION WHEN QUERY_CANCELED THEN\n{_slow(names)}"
            f"\nWHEN OTHERS OR ASSERT_FAILURE THEN\n{refuse}\nEND;"
        )
    several = len(both) > 1

    def loop(rows: Sequence[str]) -> str:
        choice = _chosen(rows, "gw_block.gw_r[gw_i]")
        return f"FOR gw_i IN 1 .. {length} LOOP\n{choice}\nEND LOOP;"

    together = loop(plainly)
    tells = any(part.rows.step.many is None for part, _ in both)
    if not tells and not (ordered and several):
        together = " ".join(
            _many(part, number if several else 0) for number, (part, _) in enumerate(both, 1)
        )
    return (
        f"{keep}BEGIN\nIF gw_watch THEN RAISE SQLSTATE 'ZG000'; END IF;\n{together}\n{_CHECK}\n"
        f"{_CATCH}\n{undo}{loop(alone)}\nEND;"
    )


def _many(part: Part, number: int) -> str:
    """
    Write the statement for all rows of C{gw_block} that are of one part.

    @param number: of the part; 0: it is the only one.
    """
    assert part.rows.step.many is not None
    names = [f"c{number}" for number in range(part.rows.count)]
    row = [f"gw_u.{name}" for name in names]
    where = ""
    if number:
        names.append("gw_r")
        where = f" WHERE gw_u.gw_r = {number}"
    arrays = ", ".join(f"gw_block.{name}" for name in names)
    source = f"unnest({arrays}) AS gw_u({', '.join(names)}){where}"
    return f"{part.rows.step.many(row, source)};"


def _ended(part: Part, names: _Variables) -> str:
    """
    Write the end of a part: it fails where none of its rows is good, or what became of its rows is
    kept.
    """
    refused = names("refused")
    lists = {kind: names(kind) for kind in ("duplicates", "refused", "values")}
    told = " + ".join(f"cardinality({name})" for name in lists.values())
    json = " || ',' || ".join(
        f"'\"{kind}\":[' || array_to_string({name}, ',') || ']'" for kind, name in lists.items()
    )
    return f"""\
    IF {names("suspect")} IS NOT NULL AND cardinality({refused}) = {part.total or "gw_base"} THEN
        RAISE EXCEPTION
            USING ERRCODE = {names("suspect")}, MESSAGE = {names("suspicion")};
    END IF;
    IF {told} > 0 THEN
        PERFORM gateway.remember({part.places[0]}::{FENCE_TYPES[0]}, '{{' || {json} || '}}');
    END IF;
"""


def _slow(names: _Variables) -> str:
    """
    Write the SQL for the end of C{statement_timeout}: a row that took most of it is the one.
    """
    return f"""
IF gw_watch AND 2000 * extract(epoch FROM clock_timestamp() - gw_since)
   >= (SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout')
THEN
    RAISE EXCEPTION 'this row took too long' USING ERRCODE = '{SLOW_ROW}', DETAIL = {names.row};
END IF;
RAISE;"""


def _recording_sql(rows: BlockRows, names: _Variables) -> str:
    """Write the SQL of L{Step.one}, and what records its result."""
    step, one = rows.step, rows.step.one(names.inputs(rows.count))
    values, duplicates = names("values"), names("duplicates")
    tell = f"{values} := array_append({values}, coalesce(gw_value, 'null'));"
    if step.ignores:
        duplicate = f"{duplicates} := array_append({duplicates}, {names.row});"
        otherwise = f" ELSE {tell}" if step.returns else ""
        return f"{one}\nIF NOT FOUND THEN {duplicate}{otherwise} END IF;"
    return f"{one}\n{tell}" if step.returns else one


def _refuse(variables: _Variables, count: int, step: Step) -> str:
    """
    Write the SQL that records why a row is left out, or raises the error if no row is at fault.
    """
    names, row = ParameterNames(True), variables.row
    refused, suspect, suspicion = map(variables, ("refused", "suspect", "suspicion"))
    probe = ""
    if step.columns:
        columns = ", ".join(quoted_literal(names(column)) for column, _ in step.columns)
        values = ", ".join(
            quoted_literal(kind.fitted(kind.sql_from_text("$1", names), names))
            for _, kind in step.columns
        )
        # PostgreSQL does not say which value it could not read.
        probe = f"""
IF gw_state ~ '^(22|42)' OR gw_type <> '' THEN
    gw_row := ARRAY[{", ".join(variables.inputs(count))}];
    FOR gw_k IN 1 .. {count} LOOP
        BEGIN
            EXECUTE 'SELECT ' || (ARRAY[{values}])[gw_k] USING gw_row[gw_k];
        {_CATCH}
            gw_column := (ARRAY[{columns}])[gw_k];
            EXIT;
        END;
    END LOOP;
END IF;"""
    return f"""GET STACKED DIAGNOSTICS gw_state = RETURNED_SQLSTATE, gw_text = MESSAGE_TEXT,
    gw_type = PG_DATATYPE_NAME, gw_context = PG_EXCEPTION_CONTEXT;
IF gw_state IN {NOBODYS} AND split_part(gw_context, chr(10), 1) !~ {quoted_literal(_RAISED)} THEN
    RAISE;
END IF;
-- Some input functions (jsonpath) quote half a character, which nobody could read again.
BEGIN
    PERFORM convert_from(convert_to(gw_text, 'UTF8'), 'UTF8');
{_CATCH}
    gw_text := 'a value that its type does not take';
END;
gw_column := NULL;{probe}
IF (gw_state !~ {quoted_literal(ROW_PATTERN)} OR gw_state = '{MISSING}') AND gw_column IS NULL
   AND gw_blame <> '{Blame.ALL.name}'
THEN
    {suspect} := coalesce({suspect}, gw_state);
    {suspicion} := coalesce({suspicion}, gw_text);
    IF gw_state ~ {quoted_literal(PASSING_PATTERN)} AND gw_blame <> '{Blame.PASSING.name}'
       OR cardinality({refused}) = {row} - 1 AND {row} > {_MOST_SUSPECTS}
    THEN
        RAISE;
    END IF;
END IF;
{refused} := array_append({refused},
    json_build_array({row}, gw_state, gw_column, gw_text)::text);"""


def merged_body(statements: Sequence[Statement], *, careful: bool, ordered: bool) -> str:
    """
    Write the body of a code block that stores the rows of several statements in order of arrival.

    Of the first statement C{%(r1p1)s}, C{%(r1p2)s} and so on are the parameters, C{%(r1a)s} the
    places of its rows, C{%(r1t)s} their number; of the second one these begin with C{r2}.

    @param careful: as for L{body}.
    @param ordered: as for L{body}.
    """
    parts = []
    for number, statement in enumerate(statements, 1):
        assert statement.rows is not None
        places = [f"%(r{number}p{n})s" for n in range(1, len(statement.types) + 1)]
        parts.append(Part(statement.rows, places, f"%(r{number}a)s", f"%(r{number}t)s"))
    return body(parts, careful=careful, ordered=ordered)


def settings(blame: Blame, watch: bool = False) -> str:
    """
    Return the statements that stand before a block, in its transaction.

    @param watch: whether rows are stored one at a time, to find the slow one.
    """
    text = f"SELECT set_config('{_WATCH}', 'on', true); " if watch else ""
    if blame is not Blame.MOST:
        text += f"SELECT set_config('{_BLAME}', '{blame.name}', true); "
    return text


def every_setting(blame: Blame, watch: bool) -> str:
    """
    Return a statement that does the same as L{settings} for one of several blocks: what is set
    lasts until the end of their transaction.
    """
    watching = "on" if watch else "off"
    return (
        f"SELECT set_config('{_BLAME}', '{blame.name}', true),"
        f" set_config('{_WATCH}', '{watching}', true)"
    )
