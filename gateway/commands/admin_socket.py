"""
Options of the commands that talk to a running gateway's console.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from gateway.admin.client import NoGateway
from gateway.admin.place import path_of
from gateway.commands.file_options import config_option, data_dir_option
from gateway.commands.terminal_text import error_text
from gateway.config.operator import OFF
from gateway.daemon.configuration import admin_endpoint
from gateway.model.errors import ConfigError

NO_GATEWAY: Final = 2
"""Exit status where no gateway answers."""


def socket_options(command: Callable[..., None]) -> Callable[..., None]:
    """
    Add the options that say where the console is; the command gets its path as C{path}.
    """

    @click.option(
        "--socket",
        type=click.Path(path_type=Path),
        help="The console's socket; beats the others.",
    )
    @config_option
    @data_dir_option("the embedded server and the spool")
    @wraps(command)
    def with_path(
        *arguments: Any, socket: Path | None, config: Path | None, data_dir: Path, **options: Any
    ) -> None:
        try:
            path = socket or _path(config, data_dir.absolute())
        except NoGateway as error:
            no_gateway(error)
        command(*arguments, path=path, **options)

    return with_path


def no_gateway(error: NoGateway) -> NoReturn:
    """End the command, since no gateway answers."""
    click.echo(error_text(str(error)), err=True)
    sys.exit(NO_GATEWAY)


def _path(config: Path | None, data_dir: Path) -> Path:
    try:
        endpoint = admin_endpoint(None if config is None else str(config))
        path = path_of(endpoint, data_dir)
    except ConfigError as error:
        raise NoGateway(str(error)) from None
    except OSError as error:
        raise NoGateway(
            f"{data_dir}: {error.strerror}; name the place with --data-dir or --socket"
        ) from None
    if path is not None:
        return path
    if endpoint == OFF:
        raise NoGateway(f"{config}: [admin] endpoint is off: this gateway has no console")
    raise NoGateway(f"{config}: [admin] endpoint names no path; name it with --socket")
