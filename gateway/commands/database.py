"""
Connection and options of the commands that use the database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from gateway.commands.file_options import config_option, data_dir_option, database_option
from gateway.commands.reactor import run
from gateway.config.load import EMBEDDED, Config
from gateway.daemon.configuration import read_config
from gateway.daemon.embedded import EmbeddedServer
from gateway.daemon.process_title import hide
from gateway.model.errors import ConfigError, RouteError, StoreError
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.dsn import dsn_fault
from gateway.postgres.schema.migrations import refuse_newer

DatabaseWork = Callable[[Connection, Config], Awaitable[int]]
"""Does something with a connection; gives the exit status."""

DatabaseAccess = Callable[[DatabaseWork], None]
"""Connects, has it done, and ends the process."""


def database_options(command: Callable[..., None]) -> Callable[..., None]:
    """
    Add the options that name the database; the command gets them as C{access}, a L{DatabaseAccess}.
    """

    @config_option
    @database_option
    @data_dir_option("the embedded server")
    @wraps(command)
    def with_access(
        *arguments: Any, config: Path | None, database: str | None, data_dir: Path, **options: Any
    ) -> None:
        def access(work: DatabaseWork) -> None:
            try:
                if database is not None:
                    hide(database)
                read = read_config(None if config is None else str(config), database)
            except ConfigError as error:
                raise click.ClickException(str(error)) from None
            if database is None:
                refuse_edge(read)
            run(lambda reactor: _connected(read, data_dir.absolute(), reactor, work))

        command(*arguments, access=access, **options)

    return with_access


def refuse_edge(config: Config) -> None:
    """
    Refuse the configuration of an edge.

    @raise click.ClickException: it is one.
    """
    if config.relay is not None:
        raise click.ClickException(
            "this is the configuration of an edge ([relay]), which has no database: do this at the"
            " centre; what that refused after +QUE is in the table dead_letter of the edge's"
            " relay.db"
        )


async def _connected(config: Config, data_dir: Path, reactor: Any, work: DatabaseWork) -> int:
    settings = config.database
    connector = Connector.of_process(settings, reactor)
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
    elif (fault := dsn_fault(dsn, connector.outside)) is not None:
        click.echo(f"{settings.dsn_key}: {fault}", err=True)
        return 1
    try:
        connection = await connector.begin(dsn).connect()
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
