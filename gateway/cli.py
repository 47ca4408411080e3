"""
The C{gateway} command.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectError

from gateway.client.answers import ClientError
from gateway.commands.bench import BenchReport, Load, bench
from gateway.commands.reactor import run
from gateway.commands.token_option import token_option
from gateway.model.errors import ConfigError
from gateway.wire.framing import FRAMINGS

_ELSEWHERE: Final = {
    "admin": "gateway.commands.admin:admin_command",
    "call": "gateway.commands.call:call_command",
    "completion": "gateway.commands.completion:completion_command",
    "dead-letters": "gateway.commands.dead_letters:dead_letters",
    "listen": "gateway.commands.listen:listen_command",
    "reload": "gateway.commands.reload:reload_command",
    "routes": "gateway.commands.routes:routes",
    "send": "gateway.commands.send.command:send_command",
    "spool": "gateway.commands.spool:spool_command",
    "status": "gateway.commands.status:status_command",
    "token": "gateway.commands.token:token_command",
    "top": "gateway.commands.top:top_command",
}
"""Commands in modules of their own: only the one that is used is imported, at each TAB too."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, name = _ELSEWHERE[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Group)
@click.version_option(version("txgateway"), prog_name="gateway")
def main() -> None:
    """Sockets in, committed rows and answers out. The daemon is: twistd -n gateway"""


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--data-dir",
    default="gateway-data",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory of the embedded server, where the file's dsn says 'embedded'.",
)
@click.option(
    "--import",
    "imports",
    is_flag=True,
    help='Import the functions of routes with format = "python", and try their samples.',
)
def check(file: Path, data_dir: Path, imports: bool) -> None:
    """Check a configuration FILE, then the live database it names.

    Names every problem with its key and what to do. Exits with 0 where there is
    none, with 1 where there is one, with 3 where there is none in the file and
    the database could not be asked.
    """
    # Imported here: only this command needs the database.
    from gateway.commands.check import PROBLEMS, check_database, sample_problems
    from gateway.commands.check_centre import check_centre
    from gateway.config.load import EMBEDDED
    from gateway.daemon.configuration import load, operator_warnings_of
    from gateway.daemon.embedded import EmbeddedServer
    from gateway.daemon.worker_advice import connections_line

    try:
        config, _, tls = load(str(file), imports=imports)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        sys.exit(PROBLEMS)
    click.echo(f"{file}: no problem in the file itself")
    for contexts in tls.values():
        for note in contexts.notes():
            click.echo(f"{contexts.key}: {note}")
        for warning in contexts.warnings():
            click.echo(f"warning: {contexts.key}: {warning}")
    dsn = config.database.dsn
    workers = config.process.count(len(os.sched_getaffinity(0)))
    if workers > 1:
        click.echo(connections_line(config, workers))
    for caution in operator_warnings_of(config, str(file)):
        click.echo(f"warning: {caution}")
    if dsn == EMBEDDED and config.relay is None:
        server = EmbeddedServer(data_dir.absolute())
        if not server.running:
            problems = sample_problems(config.routes.values(), imports)
            for problem in problems:
                click.echo(f"{file}: {problem}", err=True)
            click.echo(
                f"database: the embedded server in {data_dir} is not running, so it was not checked"
            )
            sys.exit(PROBLEMS if problems else 0)
        dsn = server.dsn

    async def work(reactor: Any) -> int:
        if config.relay is not None:
            findings = await check_centre(config, reactor)
        else:
            findings = await check_database(config, dsn, reactor, imports)
        for note in findings.notes:
            click.echo(note)
        for problem in (*findings.problems, *findings.unasked):
            click.echo(f"{file}: {problem}", err=True)
        return findings.status

    run(work)


@main.command(name="bench")
@click.argument("endpoint", default="tcp:127.0.0.1:8000", envvar="GATEWAY_ENDPOINT")
@click.option("--connections", default=16, show_default=True, type=click.IntRange(1))
@click.option(
    "--window",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Unanswered messages of each connection.",
)
@click.option(
    "--size", default=100, show_default=True, type=click.IntRange(1), help="Bytes of a message."
)
@click.option(
    "--framing",
    default="line",
    show_default=True,
    type=click.Choice([name for name in FRAMINGS if name not in ("delimited", "int8")]),
)
@click.option("--route", help="PUT the messages there; for a listener of the command dialect.")
@token_option
@click.option("--count", type=click.IntRange(1), help="Messages in all, instead of --duration.")
@click.option(
    "--duration",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def bench_command(endpoint: str, as_json: bool, **options: Any) -> None:
    """Put load on a running gateway and measure.

    ENDPOINT is a Twisted client endpoint, such as tcp:127.0.0.1:8000 or
    unix:gateway.sock; without one that of the environment's GATEWAY_ENDPOINT,
    or tcp:127.0.0.1:8000. The messages are stored: do not point this at a table you
    care about. Exits with 1 where a message got no answer or was not stored.
    """
    # Imported here, to keep other commands and completion fast.
    from gateway.commands.connect import Trust, check_endpoint, new_client, reason

    check_endpoint(endpoint)
    load = Load(**options)

    async def work(reactor: Any) -> int:
        try:
            if load.route is not None:
                # At a plain listener each PUT would be a message, and look like success.
                client = new_client(
                    endpoint, Trust(), framing=load.framing, token=load.token, reactor=reactor
                )
                client.startService()
                try:
                    await client.whenConnected(failAfterFailures=1)
                finally:
                    await client.stopService()
            report = await bench(lambda: clientFromString(reactor, endpoint), load, reactor)
        except (ConnectError, ConnectionError, ValueError) as error:
            click.echo(f"{endpoint}: cannot connect: {reason(error)}", err=True)
            return 1
        except ClientError as error:
            click.echo(f"{endpoint}: {reason(error)}", err=True)
            return 1
        click.echo(json.dumps(asdict(report)) if as_json else _table(report))
        return 0 if set(report.answers) == {"+OK"} and not report.unanswered else 1

    run(work)


def _table(report: BenchReport) -> str:
    answers = ", ".join(f"{kind} {count:,}" for kind, count in sorted(report.answers.items()))
    return "\n".join(
        [
            f"messages    {report.sent:,} sent, {report.unanswered:,} without an answer",
            f"answers     {answers or 'none'}",
            f"rate        {report.rate:,.0f} messages/s for {report.seconds:.2f} s",
            f"latency     p50 {report.p50 * 1e3:.2f} ms, p99 {report.p99 * 1e3:.2f} ms,"
            f" max {report.longest * 1e3:.2f} ms",
        ]
    )
