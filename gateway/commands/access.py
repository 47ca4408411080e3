"""
How the commands that look into the database get there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from gateway.commands.running import run
from gateway.config import EMBEDDED, Config
from gateway.embedded import EmbeddedServer
from gateway.errors import ConfigError, RouteError, StoreError
from gateway.loading import read_config
from gateway.postgres.connection import Connection
from gateway.postgres.dsn import dsn_fault
from gateway.postgres.opening import Opener
from gateway.postgres.schema import refuse_newer
from gateway.tap import DATA_DIR
from gateway.title import hide

Work = Callable[[Connection, Config], Awaitable[int]]
"""Does something with a connection; gives the exit status."""

Access = Callable[[Work], None]
"""Connects, has it done, and ends the process."""


def database_options(command: Callable[..., None]) -> Callable[..., None]:
    """
    The options that say where the database is, as one argument C{access}: L{Access}.
    """

    @click.option("--config", "-c", type=click.Path(path_type=Path), help="Configuration file.")
    @click.option("--database", help="libpq URI or conninfo, or 'embedded'; beats the file.")
    @click.option(
        "--data-dir",
        default=DATA_DIR,
        show_default=True,
        type=click.Path(path_type=Path),
        help="Directory of the embedded server.",
    )
    @wraps(command)
    def with_access(
        *arguments: Any, config: Path | None, database: str | None, data_dir: Path, **options: Any
    ) -> None:
        def access(work: Work) -> None:
            try:
                if database is not None:
                    hide(database)
                found = read_config(None if config is None else str(config), database)
            except ConfigError as error:
                raise click.ClickException(str(error)) from None
            run(lambda reactor: _connected(found, data_dir.absolute(), reactor, work))

        command(*arguments, access=access, **options)

    return with_access


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
        click.echo(f"{settings.said_in}: {fault}", err=True)
        return 1
    try:
        connection = await opener.begin(dsn).run()
    except StoreError as error:
        click.echo(f"database: {error}", err=True)
        return 1
    try:
        query = partial(connection.query, timeout=settings.statement_timeout)
        with suppress(RouteError):  # not granted, as to who may only look at dead letters
            await refuse_newer(query)
        return await work(connection, config)
    except StoreError as error:
        click.echo(f"database: {error}", err=True)
        return 1
    finally:
        connection.discard()
