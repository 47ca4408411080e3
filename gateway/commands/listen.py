"""
C{gateway listen}: print notifications of the database as they come.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.python.failure import Failure

from gateway.client.answers import ClientError, Garbled
from gateway.commands.connect import Trust, gateway_options, new_client, reason
from gateway.commands.interrupts import on_interrupt
from gateway.commands.reactor import run
from gateway.commands.terminal_text import visible

_EPILOG: Final = """\b
Exit status:
  0    --count notifications came, or the reader of the output went away
  1    the gateway refused a channel or the token, or is no listener of commands
  2    wrong usage
  130  ended by Ctrl-C (143: by SIGTERM)

\b
Examples:
  gateway listen orders
  gateway listen --json orders stock | jq -r .payload
  gateway listen --count 1 done
"""


@click.command(name="listen", epilog=_EPILOG)
@click.argument("channels", nargs=-1, required=True, metavar="CHANNEL...")
@gateway_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: channel, payload.")
@click.option("--count", type=click.IntRange(1), help="Stop after so many notifications.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on standard error but errors.")
def listen_command(
    channels: tuple[str, ...],
    endpoint: str,
    framing: str,
    delimiter: bytes | None,
    trust: Trust,
    token: str | None,
    as_json: bool,
    count: int | None,
    quiet: bool,
) -> None:
    """Print notifications of PostgreSQL's channels as they come, each a line: channel payload.

    The gateway's configuration says which channels there are. Connects again when the
    connection is lost. Where notifications may have been missed, it says so on standard error
    (CHANNEL: some may be missing), so that what depends on them can be read again. On a terminal
    control characters are shown as escapes; a file or pipe gets each payload as it is, and --json
    is the one to use where payloads may hold line breaks.
    """
    listening = _Listening(endpoint, as_json, count, quiet)

    async def work(reactor: Any) -> int:
        client = new_client(
            endpoint,
            trust,
            framing=framing,
            delimiter=delimiter,
            token=token,
            reactor=reactor,
            stop_timeout=0.0,
        )
        restore = await on_interrupt(reactor, listening.end)
        client.startService()

        def away(failure: Failure) -> None:
            if failure.check(ClientError):
                return  # this ends the command, with its own message
            text = reason(failure.value)
            listening.print_status(f"cannot connect to {endpoint}: {text}; trying again")

        client.whenConnected(failAfterFailures=1).addErrback(away)
        begun = gatherResults(
            [
                client.listen(name, partial(listening.print_notification, name))
                for name in dict.fromkeys(channels)
            ],
            consumeErrors=True,
        )
        begun.addCallbacks(lambda _: listening.report_begin(channels), listening.failed)
        try:
            return await listening.ended
        finally:
            restore()
            await client.stopService()

    run(work)


class _Listening:
    """
    Output of notifications, and the end of the command.

    @ivar ended: fires with the exit status.
    """

    def __init__(self, endpoint: str, as_json: bool, count: int | None, quiet: bool) -> None:
        self.ended: Deferred[int] = Deferred()
        self._endpoint = endpoint
        self._as_json = as_json
        self._left = count
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()

    def report_begin(self, channels: tuple[str, ...]) -> None:
        """Report that the gateway has begun to listen."""
        self.print_status(f"listening to {', '.join(dict.fromkeys(channels))}")

    def print_notification(self, channel: str, payload: str | None) -> None:
        """Print a notification, or report a gap (C{None})."""
        if payload is None:
            self.print_status(f"{channel}: some may be missing")
        elif not self.ended.called:
            self._print(channel, payload)
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    self.end(0)

    def failed(self, failure: Failure) -> None:
        """End the command after a refusal or a final error."""
        if self.ended.called:
            return
        first = failure.value
        error = first.subFailure.value if isinstance(first, FirstError) else first
        what = reason(error) if isinstance(error, (ClientError, ValueError)) else repr(error)
        if isinstance(error, Garbled):
            what = f"{self._endpoint}: {what}"
        click.echo(f"gateway listen: {what}", err=True)
        self.end(1)

    def end(self, status: int) -> None:
        if not self.ended.called:
            self.ended.callback(status)

    def print_status(self, text: str) -> None:
        """Write one line to standard error, unless C{--quiet}."""
        if not self._quiet:
            click.echo(f"gateway listen: {visible(text)}", err=True)

    def _print(self, channel: str, payload: str) -> None:
        if self._as_json:
            line = json.dumps({"channel": channel, "payload": payload})
        elif self._terminal:
            line = visible(f"{channel} {payload}")
        else:
            line = f"{channel} {payload}"
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader, such as head, has closed the pipe. What is buffered still has to go
            # somewhere: Python flushes it at the end, and since 3.13 says so when it cannot.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            self.end(0)
