"""
C{gateway routes}: show the SQL of a configuration's routes, and try messages out.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Final

import click

from gateway.commands.database import DatabaseAccess, database_options
from gateway.config.load import Config
from gateway.model.errors import FramingError
from gateway.model.outcome import Word
from gateway.model.route import BINARY_FORMATS, Route, table_identifier
from gateway.model.text import meant, printable
from gateway.postgres.connect.connection import Connection
from gateway.postgres.store.catalog import examine
from gateway.postgres.store.trial import Trial, try_messages
from gateway.sql.statement import FENCE_TYPES, Statement
from gateway.wire.framing import FRAMINGS

WHOLE: Final = "whole"
"""In place of a framing: the input is one message."""


@click.group(name="routes")
@database_options
@click.pass_context
def routes(context: click.Context, access: DatabaseAccess) -> None:
    """Show the routes of a configuration, and try messages out."""
    context.obj = access


@routes.command()
@click.argument("name")
@click.pass_obj
def show(access: DatabaseAccess, name: str) -> None:
    """Print the SQL that a route runs, as the live table has it.

    Looks only. Exits with 1 where the route could not take messages.
    """

    async def work(connection: Connection, config: Config) -> int:
        route = _route(config, name)
        if route is None:
            return 1
        query = partial(connection.query, timeout=config.database.statement_timeout)
        findings = await examine(query, route)
        for problem in findings.problems:
            click.echo(f"routes.{name}.{problem.key}: {problem.text}", err=True)
        if findings.insert is None:
            return 1
        click.echo("\n\n".join(_statement_text(route, each) for each in findings.insert.statements))
        return 0

    access(work)


@routes.command(name="try")
@click.argument("name")
@click.option(
    "--framing",
    type=click.Choice([*FRAMINGS, WHOLE]),
    help="How messages follow one another in the input; 'whole': it is one. Default: line, and"
    " whole for a format that is no text.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a message, for programs.")
@click.pass_obj
def try_command(access: DatabaseAccess, name: str, framing: str | None, as_json: bool) -> None:
    """Show what a route makes of messages.

    Reads messages from standard input, stores them one after the other into the
    live table, shows for each what every column gets and what PostgreSQL says,
    and takes all of it back (only sequences go on). Exits with 1 where one is
    refused.
    """
    data = sys.stdin.buffer.read()

    async def work(connection: Connection, config: Config) -> int:
        route = _route(config, name)
        if route is None:
            return 1
        try:
            frames = _frames(data, framing or _default_framing(route))
        except FramingError as error:
            click.echo(f"standard input: {error}", err=True)
            return 1
        timeout = config.database.statement_timeout
        trials = await try_messages(connection, route, frames, time.time(), timeout, together=True)
        for number, trial in enumerate(trials, 1):
            click.echo(_trial_json(number, trial) if as_json else _trial_text(number, trial))
        if not trials:
            click.echo("there is no message on standard input", err=True)
        good = all(trial.outcome.word in (Word.OK, Word.DUP) for trial in trials)
        return 0 if trials and good else 1

    access(work)


def _route(config: Config, name: str) -> Route | None:
    """
    Return a route; say that there is none.
    """
    route = config.routes.get(name)
    if route is None:
        hint = meant(name, config.routes) or f"; there are {', '.join(config.routes)}"
        click.echo(f"there is no route {name!r}{hint}", err=True)
    return route


def _default_framing(route: Route) -> str:
    return WHOLE if route.reading.format in BINARY_FORMATS else "line"


def _frames(data: bytes, framing: str) -> list[bytes]:
    """
    Split an input into messages.

    @raise FramingError: it is not of the framing.
    """
    if framing == WHOLE:
        return [data] if data else []
    codec = FRAMINGS[framing](max(len(data), 1))
    frames = codec.receive(data)
    if codec.unfinished and framing in ("line", "nul"):
        # The end of the input ends a last message as well.
        frames += codec.receive(codec.frame(b""))
    if codec.unfinished:
        raise FramingError("it ends within a message", frames)
    return frames


def _trial_json(number: int, trial: Trial) -> str:
    answer = bytes(trial.outcome).decode()
    return json.dumps({"message": number, "answer": answer, "columns": trial.values})


def _trial_text(number: int, trial: Trial) -> str:
    lines = [f"message {number}: {printable(bytes(trial.outcome).decode())}"]
    width = max(map(len, trial.values), default=0)
    for column, value in trial.values.items():
        shown = "NULL" if value is None else _cell(value)
        lines.append(f"  {printable(column):{width}}  {shown}")
    return "\n".join(lines)


def _cell(value: str) -> str:
    """
    Show a value in one line; in quotes where it would not be seen as it is.
    """
    plain = value.isprintable() and value and value == value.strip() and value != "NULL"
    return value if plain else json.dumps(value)


def _statement_text(route: Route, statement: Statement) -> str:
    places = {f"p{number}": f"${number}" for number in range(1, len(statement.types) + 1)}
    kinds = [f"${number} {kind}" for number, kind in enumerate(statement.types, 1)]
    fence = len(FENCE_TYPES)
    target = "its own sql" if route.sql else table_identifier(route.table)
    many = all(kind.endswith("[]") for kind in statement.types[fence:])
    lines = [
        f"-- route {route.name}: {route.reading.format} messages, {target};"
        f" {'any number at once' if many else 'one alone'}",
        f"-- {', '.join(kinds[:fence])}: the lane, and its first and last batch",
        f"-- {', '.join(kinds[fence:])}: the messages",
    ]
    if statement.whole:
        lines.append(f"DO $gateway$ {statement.whole % places} $gateway$;")
    else:
        lines.append(f"{statement.prepared};")
    lines += [
        "",
        "-- Where that fails because of a message, or a message has to be told apart:",
        f"DO $gateway$ {statement.block % places} $gateway$;",
    ]
    return "\n".join(lines)
