"""
C{gateway status}: one page about a running gateway.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from gateway.admin.client import AdminClient, NoGateway, Refused
from gateway.commands.admin_socket import no_gateway, socket_options
from gateway.commands.terminal_text import error_text, visible
from gateway.status.status import Status


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@socket_options
def status_command(as_json: bool, path: Path) -> None:
    """Show what comes into a running gateway and what becomes of it.

    Exits with 0 while messages are stored or spooled, with 1 while they are not,
    with 2 where no gateway answers.
    """
    try:
        with AdminClient(path) as client:
            (whole,) = client.ask("SHOW STATUS --json")
            lines = [whole] if as_json else list(client.ask("SHOW STATUS"))
    except NoGateway as error:
        no_gateway(error)
    except Refused as error:
        click.echo(error_text(str(error)), err=True)
        sys.exit(1)
    for line in lines:
        click.echo(visible(line, is_json=as_json))
    sys.exit(0 if msgspec.json.decode(whole, type=Status).is_taking else 1)
