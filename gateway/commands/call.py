"""
C{gateway call}: ask a query of the gateway's configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import msgspec
from twisted.internet.defer import TimeoutError as Late
from twisted.python.failure import Failure

from gateway.client.answers import ClientError
from gateway.commands.dial import Trust, gateway_options, new_client, reason
from gateway.commands.running import run

_EPILOG: Final = """\b
Exit status:
  0  the rows are on standard output, maybe none
  1  refused: no such query, wrong arguments, an error of the database, or the token
  2  wrong usage
  3  no answer within --timeout

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
    trust: Trust,
    token: str | None,
    table: bool,
    timeout: float,
) -> None:
    """Ask a QUERY that the gateway's configuration names, and print its rows.

    Each row is one JSON object a line, as the gateway said it. Arguments are NAME=VALUE, or one
    JSON object or array. A VALUE that is a number, true, false, null or a JSON string counts as
    that, any other as text: 007 is text, and the text 5 is NAME='"5"'.
    """
    values = _arguments(arguments)

    async def work(reactor: Any) -> int:
        client = new_client(
            endpoint, trust, framing=framing, token=token, reactor=reactor, stop_timeout=0.0
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
                text = f"no answer within {timeout:g} s"
            click.echo(f"gateway call: {endpoint}: {text}", err=True)
            return 3
        except (ClientError, ValueError) as error:
            click.echo(f"gateway call: {query}: {reason(error)}", err=True)
            return 1
        finally:
            await client.stopService()
        if table:
            _print_table(rows)
        else:
            sys.stdout.buffer.writelines(row + b"\n" for row in rows)
            sys.stdout.buffer.flush()
        return 0

    run(work)


def _arguments(words: Sequence[str]) -> Mapping[str, Any] | Sequence[Any] | None:
    """
    What the words of the command line say.
    """
    if not words:
        return None
    if len(words) == 1 and words[0][:1] in ("{", "["):
        try:
            found: dict[str, Any] | list[Any] = msgspec.json.decode(words[0])
        except msgspec.DecodeError as error:
            raise click.BadParameter(f"no JSON: {error}", param_hint="ARGUMENTS") from None
        return found
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
        values[name] = _value(text)
    return values


def _value(text: str) -> Any:
    if text[:1] in ("{", "["):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _print_table(rows: Sequence[bytes]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = [msgspec.json.decode(row, type=dict[str, msgspec.Raw]) for row in rows]
    table = Table()
    names = list(dict.fromkeys(name for row in found for name in row))
    for name in names:
        numeric = all(_numeric(row.get(name)) for row in found)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in found:
        table.add_row(*(Text(_cell(row.get(name))) for name in names))
    console = Console()
    if not console.is_terminal:
        # Nothing is cut because nobody said how wide a file is.
        console = Console(width=100_000)
    if found:
        console.print(table)
    rows_ = "1 row" if len(found) == 1 else f"{len(found):,} rows"
    click.echo(rows_, err=True)


def _numeric(value: msgspec.Raw | None) -> bool:
    return value is None or bytes(value)[:1] in (b"-", b"n") or bytes(value)[:1].isdigit()


def _cell(value: msgspec.Raw | None) -> str:
    if value is None or bytes(value) == b"null":
        return ""
    raw = bytes(value).decode()
    text = msgspec.json.decode(raw) if raw.startswith('"') else raw
    # A terminal must not be told what to do by a row.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
