"""
C{gateway dead-letters}: list, replay and remove messages that were refused and kept.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Final

import click

from gateway.commands.database import DatabaseAccess, database_options
from gateway.commands.terminal_text import visible
from gateway.config.load import Config
from gateway.model.errors import RouteError
from gateway.model.route import by_database
from gateway.postgres.connect.connection import Connection
from gateway.postgres.store.dead_letter import DeadLetter, DeadLetters, DeadLetterSelection, Gone

_MAX_LIST_BYTES = 60
"""Bytes of a message in a list."""

_LETTERS_AT_ONCE = 200
"""Letters that are read at once."""

DeadLetterWork = Callable[[DeadLetters, Config], Awaitable[int]]


@click.group(name="dead-letters")
@database_options
@click.pass_context
def dead_letters(context: click.Context, access: DatabaseAccess) -> None:
    """Messages that were refused and kept, in the table gateway.dead_letter.

    A route keeps them with dead_letter = true; what is refused after +QUE is
    always kept.
    """

    def with_letters(work: DeadLetterWork) -> None:
        async def connected(connection: Connection, config: Config) -> int:
            timeout = config.database.statement_timeout
            return await work(DeadLetters(connection, timeout), config)

        access(connected)

    context.obj = with_letters


_LETTER_ID: Final = click.IntRange(1, 2**63 - 1)
"""A bigint of PostgreSQL."""

_ids = click.argument("ids", nargs=-1, type=_LETTER_ID, metavar="[ID]...")
_route_option = click.option("--route", help="Only those of this route.")
_all = click.option("--all", "everything", is_flag=True, help="All there are.")


@dead_letters.command(name="list")
@_route_option
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10**9))
@click.pass_obj
def list_letters(
    with_letters: Callable[[DeadLetterWork], None], route: str | None, limit: int
) -> None:
    """List the oldest dead letters, one line each."""

    async def work(letters: DeadLetters, config: Config) -> int:
        choice = DeadLetterSelection(route=route)
        if missing := await _missing(letters, choice, config):
            click.echo(missing, err=True)
            return 1
        for letter in await letters.find(choice, limit):
            click.echo(_letter_line(letter))
        number = await letters.count(choice)
        click.echo(f"{number} dead letters" + (f", {limit} shown" if number > limit else ""))
        return 0

    with_letters(work)


@dead_letters.command()
@click.argument("id", type=_LETTER_ID)
@click.option("--raw", is_flag=True, help="The message alone, byte for byte.")
@click.pass_obj
def show(with_letters: Callable[[DeadLetterWork], None], id: int, raw: bool) -> None:
    """Show all of one."""

    async def work(letters: DeadLetters, config: Config) -> int:
        page = await letters.find(DeadLetterSelection(ids=[id]), 1)
        if not page:
            click.echo(f"there is no dead letter {id}", err=True)
            return 1
        (letter,) = page
        if raw:
            sys.stdout.buffer.write(letter.frame)
            return 0
        for name in letter.__slots__[:-1]:
            value = getattr(letter, name)
            click.echo(f"{name:<12}{'' if value is None else visible(str(value))}")
        click.echo(f"{'message':<12}{len(letter.frame)} bytes")
        click.echo(_frame_text(letter.frame))
        return 0

    with_letters(work)


@dead_letters.command()
@_ids
@_route_option
@_all
@click.pass_obj
def replay(
    with_letters: Callable[[DeadLetterWork], None],
    ids: tuple[int, ...],
    route: str | None,
    everything: bool,
) -> None:
    """Store them after all, in order, each with the removal of its letter.

    What is refused again stays, with one more attempt. Exits with 1 where any
    was.
    """
    choice = _choice(ids, route, everything, None)

    async def work(letters: DeadLetters, config: Config) -> int:
        if missing := await _missing(letters, choice, config):
            click.echo(missing, err=True)
            return 1
        stored = refused = after = 0
        while page := await letters.find(choice, _LETTERS_AT_ONCE, after):
            for letter in page:
                after = letter.id
                try:
                    reason = await _replayed(letters, letter, config)
                except Gone:
                    click.echo(f"{letter.id}: another replay has taken it", err=True)
                    continue
                if reason is None:
                    stored += 1
                else:
                    refused += 1
                    click.echo(f"{letter.id}: {visible(reason)}", err=True)
        click.echo(f"{stored} stored, {refused} refused again")
        return 1 if refused else 0

    with_letters(work)


@dead_letters.command()
@_ids
@_route_option
@_all
@click.option("--days", type=click.FloatRange(0, 3_650_000), help="Only those refused longer ago.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge(
    with_letters: Callable[[DeadLetterWork], None],
    ids: tuple[int, ...],
    route: str | None,
    everything: bool,
    days: float | None,
    yes: bool,
) -> None:
    """Remove them for good."""
    choice = _choice(ids, route, everything, days)

    async def work(letters: DeadLetters, config: Config) -> int:
        if missing := await _missing(letters, choice, config):
            click.echo(missing, err=True)
            return 1
        number = await letters.count(choice)
        if not yes and not click.confirm(f"Remove {number} dead letters for good?"):
            return 1
        click.echo(f"{await letters.purge(choice)} removed")
        return 0

    with_letters(work)


async def _replayed(letters: DeadLetters, letter: DeadLetter, config: Config) -> str | None:
    """
    Replay one dead letter; return why it is not stored.
    """
    route = by_database(config.routes).get(letter.route)
    if route is None:
        return f"there is no route {letter.route!r} in the configuration"
    try:
        return await letters.replay(letter, route)
    except RouteError as error:
        return str(error)


async def _missing(letters: DeadLetters, choice: DeadLetterSelection, config: Config) -> str | None:
    """
    Return an error if a named route or ID has no dead letter, where that must be a mistake.
    """
    route = choice.route
    if route not in (None, *by_database(config.routes)) and not await letters.count(
        DeadLetterSelection(route=route)
    ):
        return f"there is no route {route!r} in the configuration, and no dead letter of one"
    for number in choice.ids:
        if not await letters.count(DeadLetterSelection(ids=[number])):
            return f"there is no dead letter {number}"
    return None


def _choice(
    ids: tuple[int, ...], route: str | None, everything: bool, days: float | None
) -> DeadLetterSelection:
    if not (ids or route is not None or everything or days is not None):
        raise click.UsageError("say which ones: their IDs, --route or --all")
    return DeadLetterSelection(ids, route, days)


def _letter_line(letter: DeadLetter) -> str:
    when = letter.refused_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    code = letter.sqlstate or "-"
    text = _frame_text(letter.frame[:_MAX_LIST_BYTES]) + (
        "..." if len(letter.frame) > _MAX_LIST_BYTES else ""
    )
    # A trigger may repeat the message in its error.
    rest = visible(f"{letter.route}  {letter.peer}  {code}  {letter.error}")
    return f"{letter.id:>6}  {when}  {rest}  {text}"


def _frame_text(frame: bytes) -> str:
    return visible(frame.decode("utf-8", "backslashreplace"))
