"""
Progress of C{gateway send} on a terminal.

Strategy: drawn a few times a second from the counts, not for each message, and on standard error
only if that is a terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click
from twisted.internet.task import LoopingCall

from gateway.commands.send.send_counts import SendCounts
from gateway.commands.terminal_text import error_text, visible

REFRESH: Final = 0.25
"""Seconds between two looks; more often cannot be read."""


class Quiet:
    """
    Output without a progress bar.
    """

    def print_line(self, text: str) -> None:
        """Print one line for people."""
        click.echo(error_text(text), err=True)

    def stop(self) -> None:
        """Do nothing at the end of the run."""


class Bar:
    """
    Progress bar: rate, refusals, queued messages; and, for files, the share done and the time left.
    """

    def __init__(
        self, counts: SendCounts, total: Callable[[], int | None], name: str, reactor: Any
    ) -> None:
        """
        @param total: returns the bytes of the whole input; C{None} where unknown.
        """
        # rich takes longer to import than everything else: only where there is a terminal.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._counts = counts
        self._total = total
        self._seconds = reactor.seconds
        self._seen = (reactor.seconds(), 0)
        self._rate = 0.0
        columns: list[Any] = [TextColumn("{task.description}", markup=False)]
        if total() is not None:
            columns += [BarColumn(20), TextColumn("{task.percentage:>3.0f}%")]
        columns.append(TextColumn("{task.fields[figures]}", markup=False))
        if total() is not None:
            columns.append(TimeRemainingColumn(compact=True))
        self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        self._task = self._bar.add_task(visible(name), total=total(), figures="")
        self._bar.start()
        self._loop = LoopingCall(self._draw)
        self._loop.clock = reactor
        self._loop.start(REFRESH)

    def print_line(self, text: str) -> None:
        """Print one line for people, above the bar."""
        self._bar.console.print(error_text(text), markup=False, highlight=False)

    def stop(self) -> None:
        """Draw the final state."""
        self._loop.stop()
        self._draw()
        self._bar.stop()

    def _draw(self) -> None:
        counts = self._counts
        now, count = self._seconds(), counts.settled
        then, before = self._seen
        if now > then:
            current = (count - before) / (now - then)
            # Smoothed over about a second, so that it can be read.
            self._rate += (current - self._rate) * 0.3 if before else current
            self._seen = (now, count)
        parts = [f"{count:,} answered", f"{self._rate:,.0f}/s"]
        if counts.refused:
            parts.append(f"{counts.refused:,} refused")
        if counts.words["+QUE"]:
            parts.append(f"{counts.words['+QUE']:,} queued")
        parts.append(f"{counts.unanswered:,} in flight")
        self._bar.update(
            self._task, completed=counts.size, total=self._total(), figures=", ".join(parts)
        )
        self._bar.refresh()
