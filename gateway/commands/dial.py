"""
How commands reach a gateway: their options, and the first connection.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from gateway.client.service import GatewayClient
from gateway.commands.proof import token_option
from gateway.framing import FRAMINGS

COMMANDS: Final = "tcp:127.0.0.1:8002"
"""Where a gateway without a configuration takes commands."""

Command = Callable[..., Any]


def tls_options(command: Command) -> Command:
    """
    C{--tls} and C{--ca}, as C{tls} and C{ca}.
    """
    for option in (
        click.option(
            "--ca",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Trust the authorities in this PEM file instead of the system's. Implies --tls.",
        ),
        click.option(
            "--tls",
            is_flag=True,
            help="Speak TLS; the certificate must be of a known authority and of the host's name.",
        ),
    ):
        command = option(command)
    return command


def framing_option(command: Command) -> Command:
    """C{--framing}."""
    return click.option(
        "--framing",
        default="line",
        show_default=True,
        type=click.Choice(list(FRAMINGS)),
        help="The listener's.",
    )(command)


def gateway_options(command: Command) -> Command:
    """
    For commands that need the command dialect: C{--endpoint}, C{--framing}, C{--tls}, C{--ca},
    C{--token-file}.
    """
    return click.option(
        "-e",
        "--endpoint",
        default=COMMANDS,
        show_default=True,
        metavar="ENDPOINT",
        help="A listener with the command dialect, as Twisted's client endpoints say it:"
        " tcp:HOST:PORT or unix:PATH.",
    )(framing_option(tls_options(token_option(command))))


def new_client(endpoint: str, **options: Any) -> GatewayClient:
    """
    A client, with its mistakes told as the user's.

    @raise click.UsageError: the endpoint, or how to trust it, makes no sense.
    """
    try:
        return GatewayClient(endpoint, **options)
    except (ValueError, OSError) as error:
        raise click.UsageError(f"--endpoint {endpoint}: {error}") from None


def trust(tls: bool, ca: Path | None) -> object:
    """What the client takes as C{tls}."""
    return str(ca) if ca is not None else tls or None


def reason(error: BaseException | None) -> str:
    """One line for people."""
    return " ".join(str(error).split()).rstrip(".:") or type(error).__name__
