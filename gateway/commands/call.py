"""
C{gateway call}: call a query of the gateway's configuration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import msgspec
from twisted.internet.defer import TimeoutError as Late
from twisted.python.failure import Failure

from gateway.client.answers import ClientError, Garbled
from gateway.commands.connect import Trust, gateway_options, new_client, reason
from gateway.commands.reactor import run
from gateway.commands.terminal_text import visible

_EPILOG: Final = """\b
Exit status:
  0  the rows are on standard output, maybe none
  1  refused: no such query, wrong arguments, an error of the database, or the token
  2  wrong usage
  3  no answer within --timeout, or what answers is no listener of commands

\b
Examples:
  gateway call last n=10
  gateway call last '{"n": 10}' | jq -r .body
  gateway call --table totals since=2026-01-01 device=a7
"""


@click.command(name="call", epilog=_EPILOG)
@click.argument("query")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]... | [JSON]")
@gateway_options
@click.option("--table", is_flag=True, help="A table for people, instead of JSON.")
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Until then a gateway that is away or busy is asked again.",
)
def call_command(
    query: str,
    arguments: tuple[str, ...],
    endpoint: str,
    framing: str,
    delimiter: bytes | None,
    trust: Trust,
    token: str | None,
    table: bool,
    timeout: float,
) -> None:
    """Ask a QUERY that the gateway's configuration names, and print its rows.

    Each row is one JSON object a line, byte for byte as the gateway said it; on a terminal control
    characters are JSON's escapes. Arguments are NAME=VALUE, or one
    JSON object or array. A VALUE that is a number, true, false, null or a JSON string counts as
    that, any other as text: 007 is text, and the text 5 is NAME='"5"'.
    """
    values = _arguments(arguments)

    async def work(reactor: Any) -> int:
        client = new_client(
            endpoint,
            trust,
            framing=framing,
            delimiter=delimiter,
            token=token,
            reactor=reactor,
            stop_timeout=0.0,
        )
        client.startService()
        why: list[Failure] = []
        client.whenConnected(failAfterFailures=1).addErrback(why.append)
        try:
            rows = await client.rows(query, values).addTimeout(timeout, reactor)
        except Late:
            if why:
                text = f"cannot connect: {reason(why[0].value)}"
            else:
                trouble = client.trouble
                text = f"no answer within {timeout:g} s"
                text += "" if trouble is None else f" ({reason(trouble)})"
            click.echo(f"gateway call: {endpoint}: {text}", err=True)
            return 3
        except Garbled as error:
            click.echo(f"gateway call: {endpoint}: {reason(error)}", err=True)
            return 3
        except (ClientError, ValueError) as error:
            click.echo(f"gateway call: {visible(query)}: {reason(error)}", err=True)
            return 1
        finally:
            await client.stopService()
        try:
            cells = [_cells(number, row) for number, row in enumerate(rows, 1)]
        except Garbled as error:
            click.echo(f"gateway call: {endpoint}: {reason(error)}", err=True)
            return 3
        if table:
            _print_table(cells)
        elif sys.stdout.isatty():
            for row in rows:
                click.echo(visible(row.decode("utf-8", "backslashreplace"), is_json=True))
        else:
            sys.stdout.buffer.writelines(row + b"\n" for row in rows)
            sys.stdout.buffer.flush()
        return 0

    run(work)


def _arguments(words: Sequence[str]) -> Mapping[str, Any] | Sequence[Any] | None:
    """
    Parse the arguments of the command line.
    """
    if not words:
        return None
    if len(words) == 1 and words[0][:1] in ("{", "["):
        try:
            arguments: dict[str, Any] | list[Any] = msgspec.json.decode(words[0])
        except msgspec.DecodeError as error:
            raise click.BadParameter(f"no JSON: {error}", param_hint="ARGUMENTS") from None
        return arguments
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(
                f"{word!r} is not NAME=VALUE; JSON is one word: '{{\"n\": 1}}'",
                param_hint="ARGUMENTS",
            )
        if name in values:
            raise click.BadParameter(f"{name} is there twice", param_hint="ARGUMENTS")
        values[name] = _json_argument(text)
    return values


def _json_argument(text: str) -> Any:
    if text[:1] in ("{", "["):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _cells(number: int, row: bytes) -> dict[str, msgspec.Raw]:
    """
    Parse a row into its values, as JSON.

    @raise Garbled: the row is no JSON object.
    """
    try:
        # As text, so that all of it is checked as UTF-8.
        return msgspec.json.decode(row.decode(), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        cells = _with_half_characters(row)
        if cells is None:
            raise Garbled(f"row {number} is no JSON object: {error}: {row[:40]!r}") from None
        return cells


def _with_half_characters(row: bytes) -> dict[str, msgspec.Raw] | None:
    """
    Parse a row with an escape of half a surrogate pair, as PostgreSQL's C{json} may have; C{None}
    where it is no JSON object.
    """
    try:
        cells = json.loads(row, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(cells, dict):
        return None
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in cells.items()}


def _print_table(rows: Sequence[dict[str, msgspec.Raw]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        numeric = all(_numeric(row.get(name)) for row in rows)
        table.add_column(
            Text(visible(name)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in names))
    console = Console()
    if not console.is_terminal:
        # A file has no width, so nothing is cut.
        console = Console(width=100_000)
    if rows:
        console.print(table)
    rows_ = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    click.echo(rows_, err=True)


def _numeric(value: msgspec.Raw | None) -> bool:
    return value is None or bytes(value)[:1] in (b"-", b"n") or bytes(value)[:1].isdigit()


def _cell(value: msgspec.Raw | None) -> str:
    if value is None or bytes(value) == b"null":
        return ""
    raw = bytes(value).decode()
    try:
        return visible(msgspec.json.decode(raw, type=str) if raw.startswith('"') else raw)
    except msgspec.DecodeError:
        return visible(raw)  # half of a character, as an escape
