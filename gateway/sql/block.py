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

from gateway.columns.kind import SqlType
from gateway.sql.literals import quoted_literal
from gateway.sql.sqlstate import MISSING, NOBODYS, PASSING_PATTERN, ROW_PATTERN, SLOW_ROW
from gateway.sql.statement import FENCE_TYPES, ParameterNames, fence

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
class Step:
    """
    SQL that a block runs for its rows.

    Input C{k} of the current row is C{gw_block.ck[gw_i]}, a text.

    @ivar one: statements for the current row; may set C{gw_value}, the values to return,
        as a JSON array.
    @ivar many: a statement for all rows of C{gw_block}, where no row needs an answer of its own.
    @ivar ignores: whether a row for which C{one} finds nothing to do is a duplicate.
    @ivar returns: whether there are values to return.
    @ivar columns: name and type that each input is for, to name the one at fault.
    """

    one: str
    many: str = ""
    ignores: bool = False
    returns: bool = False
    columns: Sequence[tuple[str, SqlType]] = ()


def inputs(count: int) -> list[str]:
    """Return the SQL of the current row's inputs, for L{Step.one}."""
    return [f"gw_block.c{number}[gw_i]" for number in range(count)]


def body(
    places: Sequence[str], names: ParameterNames, rows: str, count: int, step: Step, careful: bool
) -> str:
    """
    Write the body of a code block.

    It raises L{SLOW_ROW} where a row takes most of C{statement_timeout} and L{settings} say to
    watch.

    @param places: of the parameters, those of the fence first.
    @param rows: a query for the inputs of all rows, C{c0}, C{c1} and so on, in order.
    @param count: of inputs.
    @param careful: whether rows at fault are left out; else the first one makes the block fail.
    """
    lane = f"{places[0]}::{FENCE_TYPES[0]}"
    row = _recording_sql(step)
    if careful:
        refuse = _refuse(names, count, step)
        row = (
            f"gw_since := clock_timestamp();\nBEGIN\n{row}\n{_CHECK}"
            f"\nEXCEPTION WHEN QUERY_CANCELED THEN\n{_SLOW}"
            f"\nWHEN OTHERS OR ASSERT_FAILURE THEN\n{refuse}\nEND;"
        )
    # Not indented: there may be texts of more than one line in the user's SQL.
    each = f"FOR gw_i IN 1 .. cardinality(gw_block.c0) LOOP\n{row}\nEND LOOP;"
    if careful and step.many:
        one_by_one = "IF gw_watch THEN RAISE SQLSTATE 'ZG000'; END IF;"
        each = f"BEGIN\n{one_by_one} {step.many};\n{_CHECK}\n{_CATCH}\n{each}\nEND;"
    columns = [f"c{number}" for number in range(count)]
    arrays = ", ".join(f"array_agg({column} ORDER BY gw_n) AS {column}" for column in columns)
    return f"""
#variable_conflict use_column
DECLARE
    gw_block record;
    gw_result record;
    gw_base integer := 0;
    gw_value text;
    gw_values text[] := '{{}}';
    gw_duplicates integer[] := '{{}}';
    gw_refused text[] := '{{}}';
    gw_row text[];
    gw_state text;
    gw_text text;
    gw_type text;
    gw_column text;
    gw_context text;
    gw_since timestamptz;
    gw_suspect text;
    gw_suspicion text;
    gw_blame text := coalesce(current_setting('{_BLAME}', true), '');
    gw_watch boolean := current_setting('{_WATCH}', true) = 'on';
BEGIN
    PERFORM {fence(places)};
    FOR gw_block IN
        SELECT {arrays}
          FROM (SELECT *, row_number() OVER () AS gw_n FROM ({rows}) AS gw_rows) AS gw_numbered
         GROUP BY (gw_n - 1) / {_AT_A_TIME} ORDER BY (gw_n - 1) / {_AT_A_TIME}
    LOOP
{each}
        gw_base := gw_base + cardinality(gw_block.c0);
    END LOOP;
    IF gw_suspect IS NOT NULL AND cardinality(gw_refused) = gw_base THEN
        RAISE EXCEPTION USING ERRCODE = gw_suspect, MESSAGE = gw_suspicion;
    END IF;
    IF cardinality(gw_values) + cardinality(gw_duplicates) + cardinality(gw_refused) > 0 THEN
        PERFORM gateway.remember({lane},
            '{{"duplicates":[' || array_to_string(gw_duplicates, ',')
            || '],"refused":[' || array_to_string(gw_refused, ',')
            || '],"values":[' || array_to_string(gw_values, ',') || ']}}');
    END IF;
END
"""


_SLOW: Final = f"""
IF gw_watch AND 2000 * extract(epoch FROM clock_timestamp() - gw_since)
   >= (SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout')
THEN
    RAISE EXCEPTION 'this row took too long' USING ERRCODE = '{SLOW_ROW}', DETAIL = gw_base + gw_i;
END IF;
RAISE;"""
"""At the end of C{statement_timeout}: a row that took most of it is the one."""


def _recording_sql(step: Step) -> str:
    """Write the SQL of L{Step.one}, and what records its result."""
    tell = "gw_values := array_append(gw_values, coalesce(gw_value, 'null'));"
    if step.ignores:
        duplicate = "gw_duplicates := array_append(gw_duplicates, gw_base + gw_i);"
        otherwise = f" ELSE {tell}" if step.returns else ""
        return f"{step.one}\nIF NOT FOUND THEN {duplicate}{otherwise} END IF;"
    return f"{step.one}\n{tell}" if step.returns else step.one


def _refuse(names: ParameterNames, count: int, step: Step) -> str:
    """
    Write the SQL that records why a row is left out, or raises the error if no row is at fault.
    """
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
    gw_row := ARRAY[{", ".join(inputs(count))}];
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
    gw_suspect := coalesce(gw_suspect, gw_state);
    gw_suspicion := coalesce(gw_suspicion, gw_text);
    IF gw_state ~ {quoted_literal(PASSING_PATTERN)} AND gw_blame <> '{Blame.PASSING.name}'
       OR cardinality(gw_refused) = gw_base + gw_i - 1 AND gw_base + gw_i > {_MOST_SUSPECTS}
    THEN
        RAISE;
    END IF;
END IF;
gw_refused := array_append(gw_refused,
    json_build_array(gw_base + gw_i, gw_state, gw_column, gw_text)::text);"""


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
