"""
The options with which commands reach a gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

COMMANDS = "tcp:127.0.0.1:8002"
"""Where a gateway without a configuration takes commands."""


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
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
            help="Speak TLS; the host's name and certificate are verified.",
        ),
    ):
        command = option(command)
    return command


def trust(tls: bool, ca: Path | None) -> object | None:
    """What the client takes as C{tls}."""
    return str(ca) if ca is not None else tls or None
