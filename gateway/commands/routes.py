"""
C{gateway routes}: show the SQL of a configuration's routes.
"""

from __future__ import annotations

from functools import partial

import click

from gateway.commands.database import DatabaseAccess, database_options
from gateway.config.load import Config
from gateway.model.route import Route, table_identifier
from gateway.model.text import meant
from gateway.postgres.connect.connection import Connection
from gateway.postgres.store.catalog import examine
from gateway.sql.statement import FENCE_TYPES, Statement


@click.group(name="routes")
@database_options
@click.pass_context
def routes(context: click.Context, access: DatabaseAccess) -> None:
    """Show the routes of a configuration."""
    context.obj = access


@routes.command()
@click.argument("name")
@click.pass_obj
def show(access: DatabaseAccess, name: str) -> None:
    """Print the SQL that a route runs, as the live table has it.

    Looks only. Exits with 1 where the route could not take messages.
    """

    async def work(connection: Connection, config: Config) -> int:
        route = config.routes.get(name)
        if route is None:
            hint = meant(name, config.routes) or f"; there are {', '.join(config.routes)}"
            click.echo(f"there is no route {name!r}{hint}", err=True)
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
