"""
C{gateway send}: send files, pipes and growing logs, and wait for the answer to each line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from gateway.commands.connect import COMMANDS, ENDPOINT_VARIABLE, Trust, framing_option, tls_options
from gateway.commands.reactor import run
from gateway.commands.send.inputs import CUTTERS
from gateway.commands.send.run import ALL_KEPT, GIVE_UP_SECONDS, Job, send
from gateway.commands.terminal_text import error_text
from gateway.commands.token_option import token_option
from gateway.model.errors import InputError

_EPILOG: Final = """\b
Exit status:
  0    every message is kept (+OK, +DUP or +QUE)
  1    some were refused for good; all others are kept
  2    wrong usage, an input that cannot be read or is not what it should be, or
       a route that the gateway does not have or grant; nothing is lost by that
  3    not all could be delivered; the summary says how many have no answer
  130  ended by Ctrl-C (143: by SIGTERM); the summary says how many have no answer

\b
Examples:
  gateway send access.log
  zcat old.log.gz | gateway send --refused bad.jsonl
  gateway send --stream import-7 --route orders orders.jsonl
  gateway send --follow --stream web1 /var/log/nginx/access.log
  gateway send --input refused bad.jsonl
"""


@click.command(name="send", epilog=_EPILOG)
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(allow_dash=True))
@click.option(
    "-e",
    "--endpoint",
    envvar=ENDPOINT_VARIABLE,
    metavar="ENDPOINT",
    help="Where the gateway listens, as Twisted's client endpoints say it: tcp:HOST:PORT,"
    f" unix:PATH. [default: the environment's {ENDPOINT_VARIABLE}, or where a gateway"
    " without a configuration listens: tcp:127.0.0.1:8000,"
    " 8001 for netstrings, 8002 for the command dialect]",
)
@tls_options
@token_option
@framing_option
@click.option(
    "--dialect",
    type=click.Choice(["plain", "command"]),
    help="The listener's. [default: plain; command with --route or --stream]",
)
@click.option(
    "--route", help="Where the messages go; the command dialect only.  [default: messages]"
)
@click.option(
    "--stream",
    metavar="NAME",
    help="Send as a numbered stream: each message is stored exactly once and in order, over lost"
    " connections and restarts. See above.",
)
@click.option(
    "--window",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Messages that are sent without waiting for an answer.",
)
@click.option(
    "--max-frame",
    default=65536,
    show_default=True,
    type=click.IntRange(1024),
    help="The listener's. Messages that do not fit are refused here; in a stream they have no"
    " number, and are not counted.",
)
@click.option(
    "--input",
    "kind",
    default="lines",
    show_default=True,
    type=click.Choice(list(CUTTERS)),
    help="What the input is made of. netstrings: for messages with line feeds, or of any bytes."
    " refused: what --refused has written.",
)
@click.option(
    "-F",
    "--follow",
    is_flag=True,
    help="Go on when a file grows, is truncated, or another file gets its name; wait for one that"
    " is not there yet.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --follow and --stream: where to keep the place in the file.  [default:"
    " STREAM.json in ~/.local/state/gateway]",
)
@click.option(
    "--again",
    is_flag=True,
    help="With --stream: standard input is the same as in earlier runs, from its first message;"
    " skip what the stream has.",
)
@click.option(
    "--refused",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Append refused messages to FILE, one JSON object a line: file, line, the answer, and the"
    " message.",
)
@click.option(
    "--retry/--no-retry",
    default=True,
    help="Connect again when the connection is lost or cannot be made, with growing pauses; or"
    " stop there with status 3.  [default: retry]",
)
@click.option(
    "--give-up-after",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Stop with status 3 when nothing was answered for so long.  [default: 60; never with"
    " --follow]",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; only what is wrong.")
@click.option("--json", "as_json", is_flag=True, help="A report as one JSON object on stdout.")
def send_command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Send lines to a running gateway and wait for every answer.

    Reads each FILE in turn, or standard input where there is none or where FILE is -. A
    message is a line; its LF, and one CR before that, do not belong to it. On a terminal a bar
    shows rate, refusals and the time left; a summary on standard error comes at the end.

    What holds when a connection is lost: without --stream, messages that had no answer are sent
    again and may then be stored twice; with --no-retry they are not, and the summary says how
    many are not known. -TRY is sent again in any case.

    With --stream NAME nothing is stored twice and nothing is missed, whatever dies. The
    gateway keeps the number of the stream's last message with the data.

    \b
      FILE       The number of a message is that of its line, counted over all
                 FILEs. Run the same command again after a crash or kill -9: it
                 skips what is stored. Lines may have been appended since, but
                 the files must not have changed otherwise.
      stdin      The numbers go on where the stream was. Exactly once over lost
                 connections, but a new run sends whatever it is given; with
                 --again it is given the same from the beginning, and skips.
      --follow   One FILE for each stream. A small file (--state) keeps the
                 place over restarts and rotation by rename or copy; a rotated
                 file is finished before the next one is begun, also where
                 that happened while nobody was looking, as long as it is
                 beside the new one and not compressed. What cannot be found
                 any more is said, with how much it was.
    """
    job = _job(**options)
    bar = not quiet and not as_json and sys.stderr.isatty()

    async def work(reactor: Any) -> int:
        try:
            result = await send(job, reactor, bar)
        except InputError as error:
            click.echo(f"gateway send: {error_text(str(error))}", err=True)
            return 2
        if result.problem:
            click.echo(f"gateway send: {error_text(result.problem)}", err=True)
        if as_json:
            click.echo(json.dumps({**result.report, "status": result.status}))
        elif not quiet or result.status != ALL_KEPT:
            click.echo(result.summary, err=True)
        return result.status

    run(work)


def _job(
    files: tuple[str, ...],
    endpoint: str | None,
    trust: Trust,
    token: str | None,
    framing: str,
    delimiter: bytes | None,
    dialect: str | None,
    route: str | None,
    stream: str | None,
    window: int,
    kind: str,
    follow: bool,
    state: Path | None,
    again: bool,
    refused: str | None,
    retry: bool,
    give_up_after: float | None,
    max_frame: int,
) -> Job:
    names = files or ("-",)
    if dialect == "plain" and (route is not None or stream is not None):
        raise click.UsageError(
            "--route and --stream need --dialect command: a plain listener has a route of its own"
        )
    command = dialect == "command" or route is not None or stream is not None
    if names.count("-") > 1:
        raise click.UsageError("standard input can be read only once")
    if follow and "-" in names:
        raise click.UsageError("--follow needs a FILE; standard input ends by itself")
    if follow and stream is not None and len(names) > 1:
        raise click.UsageError(
            "--follow with --stream takes one FILE: run a command with a stream for each"
        )
    if state is not None and not (follow and stream is not None):
        raise click.UsageError("--state is for --follow with --stream")
    if again and (stream is None or "-" not in names):
        raise click.UsageError("--again is for --stream with standard input")
    if give_up_after is None and not follow:
        give_up_after = GIVE_UP_SECONDS
    kept = None
    if route is not None:
        _check_word("--route", route)
    if stream is not None:
        _check_word("--stream", stream)
        own = _state_folder() / quote(stream, safe="")
        kept = own.with_name(f"{own.name}.again.json")
        if state is not None:
            kept = state.with_name(f"{state.name}.again")
        elif follow:
            state = own.with_name(f"{own.name}.json")
    plain = "tcp:127.0.0.1:8001" if framing == "netstring" else "tcp:127.0.0.1:8000"
    return Job(
        names=names,
        endpoint=endpoint or (COMMANDS if command else plain),
        trust=trust,
        token=token,
        framing=framing,
        delimiter=delimiter,
        dialect="command" if command else "plain",
        route="messages" if route is None else route,
        stream=stream,
        window=window,
        kind=kind,
        follow=follow,
        state=state,
        kept=kept,
        again=again,
        refused=refused,
        retry=retry,
        give_up_after=give_up_after,
        max_frame=max_frame,
    )


def _check_word(option: str, word: str) -> None:
    size = len(word.encode("utf-8", "surrogateescape"))
    if not 1 <= size <= 128 or not word.isprintable() or any(map(str.isspace, word)):
        raise click.BadParameter(
            "1 to 128 bytes of UTF-8 without spaces and control characters",
            param_hint=option,
        )


def _state_folder() -> Path:
    # As the XDG Base Directory Specification has it.
    home = os.environ.get("XDG_STATE_HOME") or ""
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "gateway"
