"""
C{gateway dead-letters}: look at messages that were refused and kept, and decide.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from gateway.config import EMBEDDED, Config
from gateway.embedded import EmbeddedServer
from gateway.errors import ConfigError, RouteError, StoreError
from gateway.postgres.dead_letter import Choice, DeadLetters, Gone, Letter
from gateway.postgres.dsn import dsn_fault
from gateway.postgres.opening import Opener
from gateway.running import run
from gateway.tap import DATA_DIR, read_config

_SHOWN = 60
"""Bytes of a message in a list."""

_AT_ONCE = 200
"""Letters that are read at once."""

Work = Callable[[DeadLetters, Config], Awaitable[int]]


@click.group(name="dead-letters")
@click.option("--config", "-c", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--database", help="libpq URI or conninfo, or 'embedded'; beats the file.")
@click.option(
    "--data-dir",
    default=DATA_DIR,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory of the embedded server.",
)
@click.pass_context
def dead_letters(
    context: click.Context, config: Path | None, database: str | None, data_dir: Path
) -> None:
    """Messages that were refused and kept, in the table gateway.dead_letter.

    A route keeps them with dead_letter = true; what is refused after +QUE is
    always kept.
    """

    def with_letters(work: Work) -> None:
        try:
            found = read_config(None if config is None else str(config))
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
        if database is not None:
            found = replace(found, database=replace(found.database, dsn=database))
        run(lambda reactor: _connected(found, data_dir.absolute(), reactor, work))

    context.obj = with_letters


async def _connected(config: Config, data_dir: Path, reactor: Any, work: Work) -> int:
    settings = config.database
    opener = Opener.of_process(settings, reactor)
    dsn = settings.dsn
    if dsn == EMBEDDED:
        server = EmbeddedServer(data_dir)
        if not server.running:
            click.echo(
                f"the embedded server in {data_dir} is not running; start the gateway, or name"
                " its directory with --data-dir",
                err=True,
            )
            return 1
        dsn = server.dsn
    elif (fault := dsn_fault(dsn, opener.outside)) is not None:
        click.echo(f"database.dsn: {fault}", err=True)
        return 1
    try:
        connection = await opener.begin(dsn).run()
    except StoreError as error:
        click.echo(f"database: {error}", err=True)
        return 1
    try:
        return await work(DeadLetters(connection, settings.statement_timeout), config)
    except StoreError as error:
        click.echo(f"database: {error}", err=True)
        return 1
    finally:
        connection.discard()


_ids = click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
_route = click.option("--route", help="Only those of this route.")
_all = click.option("--all", "everything", is_flag=True, help="All there are.")


@dead_letters.command(name="list")
@_route
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@click.pass_obj
def list_letters(with_letters: Callable[[Work], None], route: str | None, limit: int) -> None:
    """List the oldest ones, one line each."""

    async def work(letters: DeadLetters, config: Config) -> int:
        choice = Choice(route=route)
        if missing := await _missing(letters, choice, config):
            click.echo(missing, err=True)
            return 1
        for letter in await letters.find(choice, limit):
            click.echo(_line(letter))
        number = await letters.count(choice)
        click.echo(f"{number} dead letters" + (f", {limit} shown" if number > limit else ""))
        return 0

    with_letters(work)


@dead_letters.command()
@click.argument("id", type=int)
@click.option("--raw", is_flag=True, help="The message alone, byte for byte.")
@click.pass_obj
def show(with_letters: Callable[[Work], None], id: int, raw: bool) -> None:
    """Show all of one."""

    async def work(letters: DeadLetters, config: Config) -> int:
        found = await letters.find(Choice(ids=[id]), 1)
        if not found:
            click.echo(f"there is no dead letter {id}", err=True)
            return 1
        (letter,) = found
        if raw:
            sys.stdout.buffer.write(letter.frame)
            return 0
        for name in letter.__slots__[:-1]:
            value = getattr(letter, name)
            click.echo(f"{name:<12}{'' if value is None else _clean(str(value))}")
        click.echo(f"{'message':<12}{len(letter.frame)} bytes")
        click.echo(_text(letter.frame))
        return 0

    with_letters(work)


@dead_letters.command()
@_ids
@_route
@_all
@click.pass_obj
def replay(
    with_letters: Callable[[Work], None], ids: tuple[int, ...], route: str | None, everything: bool
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
        while found := await letters.find(choice, _AT_ONCE, after):
            for letter in found:
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
                    click.echo(f"{letter.id}: {_clean(reason)}", err=True)
        click.echo(f"{stored} stored, {refused} refused again")
        return 1 if refused else 0

    with_letters(work)


@dead_letters.command()
@_ids
@_route
@_all
@click.option("--days", type=click.FloatRange(0), help="Only those refused longer ago.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge(
    with_letters: Callable[[Work], None],
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


async def _replayed(letters: DeadLetters, letter: Letter, config: Config) -> str | None:
    """
    @return: why not.
    """
    route = config.routes.get(letter.route)
    if route is None:
        return f"there is no route {letter.route!r} in the configuration"
    try:
        return await letters.replay(letter, route)
    except RouteError as error:
        return str(error)


async def _missing(letters: DeadLetters, choice: Choice, config: Config) -> str | None:
    """
    @return: which of those that were named there are none of, where that is surely a mistake.
    """
    route = choice.route
    if route not in (None, *config.routes) and not await letters.count(Choice(route=route)):
        return f"there is no route {route!r} in the configuration, and no dead letter of one"
    for number in choice.ids:
        if not await letters.count(Choice(ids=[number])):
            return f"there is no dead letter {number}"
    return None


def _choice(
    ids: tuple[int, ...], route: str | None, everything: bool, days: float | None
) -> Choice:
    if not (ids or route is not None or everything or days is not None):
        raise click.UsageError("say which ones: their IDs, --route or --all")
    return Choice(ids, route, days)


def _line(letter: Letter) -> str:
    when = letter.refused_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    code = letter.sqlstate or "-"
    text = _text(letter.frame[:_SHOWN]) + ("..." if len(letter.frame) > _SHOWN else "")
    # A trigger may repeat the message in its error.
    rest = _clean(f"{letter.route}  {letter.peer}  {code}  {letter.error}")
    return f"{letter.id:>6}  {when}  {rest}  {text}"


def _text(frame: bytes) -> str:
    return _clean(frame.decode("utf-8", "backslashreplace"))


def _clean(text: str) -> str:
    """
    For a terminal, which must not be told what to do by a message.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
