"""
C{gateway reload}: have a running gateway read its configuration again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.admin.client import AdminClient, NoGateway, Refused
from gateway.commands.admin_socket import no_gateway, socket_options
from gateway.commands.terminal_text import error_text, visible

REFUSED = 1
"""Exit status where the configuration from before stays in force."""


@click.command(name="reload")
@socket_options
def reload_command(path: Path) -> None:
    """Have a running gateway read its configuration again, and wait for the outcome.

    All of it is taken over, or nothing. Prints what changed, one line each, and what
    needs a restart; or every problem. Exits with 0 where the configuration is in force,
    with 1 where the one from before stays in force, with 2 where no gateway answers.
    """
    lines: list[str] = []
    try:
        with AdminClient(path) as client:
            lines.extend(client.ask("RELOAD"))
    except NoGateway as error:
        no_gateway(error)
    except Refused as error:
        for line in lines:
            click.echo(error_text(line), err=True)
        click.echo(error_text(str(error)), err=True)
        sys.exit(REFUSED)
    for line in lines:
        click.echo(visible(line))
