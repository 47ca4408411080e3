"""
Option for a token, which is never on the command line, where C{ps} shows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from gateway.client.greeting import MAX_TOKEN, check_token

TOKEN_VARIABLE: Final = "GATEWAY_TOKEN"
"""Environment variable with a token."""


def token_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Add C{--token-file} and the environment variable; the command gets them as C{token}.
    """
    return click.option(
        "--token-file",
        "token",
        callback=_token_of_option,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Say first the token in this file, which proves who you are (gateway token add)."
        f"  [default: the environment's {TOKEN_VARIABLE}]",
    )(command)


def _token_of_option(
    context: click.Context, option: click.Parameter, path: Path | None
) -> str | None:
    if path is None:
        token, source = (
            os.environ.get(TOKEN_VARIABLE) or None,
            f"environment variable {TOKEN_VARIABLE}",
        )
    else:
        token, source = _read_token(path), str(path)
    if token is not None:
        try:
            check_token(token)
        except ValueError as error:
            raise click.UsageError(f"{source}: {error}") from None
    return token


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            # A line's ending may follow, and no more.
            return file.read(MAX_TOKEN + 3).decode("latin-1").rstrip("\r\n")
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be read: {error.strerror}") from None
