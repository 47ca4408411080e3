"""
C{gateway top}: the page of C{gateway status}, live.
"""

from __future__ import annotations

import select
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Final

import click
import msgspec

from gateway.admin.client import AdminClient, NoGateway, Refused
from gateway.admin.page import page
from gateway.admin.views import Growth
from gateway.commands.admin_socket import NO_GATEWAY, no_gateway, socket_options
from gateway.commands.terminal_text import visible
from gateway.status.status import Status
from gateway.status.warnings import totals_of

_LEAVE: Final = ("q", "Q", "\x03", "\x04")
_FIRST: Final = 0.3
"""Seconds to the second look, from which there are rates."""


@click.command(name="top")
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="Seconds between two looks.",
)
@socket_options
def top_command(interval: float, path: Path) -> None:
    """Show what comes into a running gateway and what becomes of it, live.

    Rates are those since the look before. q or Ctrl-C ends. Exits with 0, or with 2
    where no gateway answers.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo("top needs a terminal; gateway status shows the same page once", err=True)
        sys.exit(NO_GATEWAY)
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    looks = Looks(path)
    try:
        looks.look()
    except NoGateway as error:
        no_gateway(error)
    terminal = Console(highlight=False)
    wait = _FIRST
    with _keys(), Live(console=terminal, screen=True, auto_refresh=False) as live:
        while not _left(wait):
            wait = interval
            try:
                lines = looks.look()
            except NoGateway as error:
                lines = ["no gateway answers; looking again", "", *wrap(str(error), terminal.width)]
            room = terminal.size.height
            if len(lines) > room:
                lines = [*lines[: room - 1], f"... {len(lines) - room + 1} more lines"]
            text = Text("\n".join(visible(line) for line in lines), no_wrap=True, overflow="crop")
            live.update(text, refresh=True)


class Looks:
    """
    Looks at a gateway, one after the other.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client: AdminClient | None = None
        self._before: tuple[float, Mapping[str, float]] | None = None

    def look(self) -> list[str]:
        """
        Look once more; return the page.

        @raise NoGateway: there is none now; the next look connects again.
        """
        try:
            if self._client is None:
                self._client = AdminClient(self._path)
            (whole,) = self._client.ask("SHOW STATUS --json")
        except (NoGateway, Refused) as error:
            if self._client is not None:
                self._client.close()
            self._client = self._before = None
            raise NoGateway(str(error)) from None
        status = msgspec.json.decode(whole, type=Status)
        now = status.time, totals_of(status)
        growth = _growth(self._before or now, now)
        self._before = now
        return page(status, growth)


def _growth(
    before: tuple[float, Mapping[str, float]], now: tuple[float, Mapping[str, float]]
) -> Growth:
    seconds = now[0] - before[0]
    if seconds <= 0:
        return lambda name: 0.0
    return lambda name: max(0.0, now[1].get(name, 0.0) - before[1].get(name, 0.0)) / seconds


@contextmanager
def _keys() -> Iterator[None]:
    """Have keys at once, and not only whole lines."""
    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _left(seconds: float) -> bool:
    """Wait for so long; say whether a key was pressed that ends."""
    try:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(ready) and sys.stdin.read(1) in ("", *_LEAVE)
    except KeyboardInterrupt:
        return True
