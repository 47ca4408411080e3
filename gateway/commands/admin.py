"""
C{gateway admin}: the console of a running gateway.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Final

import click
from click.shell_completion import CompletionItem

from gateway.admin.client import AdminClient, NoGateway, Refused
from gateway.admin.grammar import JSON, candidates
from gateway.commands.admin_socket import no_gateway, socket_options
from gateway.commands.terminal_text import error_text, visible
from gateway.system.regular_file import own_file

_PROMPT: Final = "gateway> "
_LEAVE: Final = ("quit", "exit", "\\q")
_HISTORY: Final = 1000
"""Lines that are remembered."""


def _complete(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    words = context.params.get("command") or ()
    return [
        CompletionItem(word)
        for word in candidates(words)
        if word.lower().startswith(incomplete.lower())
    ]


@click.command(name="admin")
@click.argument("command", nargs=-1, shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@socket_options
def admin_command(command: tuple[str, ...], as_json: bool, path: Path) -> None:
    """Ask a running gateway, or steer it.

    COMMAND is one of those that SHOW HELP lists, such as SHOW PEERS sort=bytes
    limit=10. Without one there is a prompt; where standard input is no terminal,
    its lines are commands. Exits with 0 where all was carried out, with 1 where
    something was not, with 2 where no gateway answers.
    """
    try:
        with AdminClient(path) as client:
            if command:
                status = _carry_out(client, " ".join(command), as_json)
            elif sys.stdin.isatty():
                status = _converse(client, as_json)
            else:
                status = 0
                for line in sys.stdin:
                    if line.strip():
                        status |= _carry_out(client, line, as_json)
    except NoGateway as error:
        no_gateway(error)
    sys.exit(status)


def _carry_out(client: AdminClient, command: str, as_json: bool) -> int:
    """Give a command and print its answer; return the exit status."""
    try:
        for line in client.ask(f"{command} {JSON}" if as_json else command):
            click.echo(visible(line, is_json=as_json))
    except Refused as error:
        click.echo(error_text(str(error)), err=True)
        return 1
    return 0


def _converse(client: AdminClient, as_json: bool) -> int:
    keep = _prepare_readline()
    click.echo("SHOW HELP lists the commands; quit ends.")
    try:
        while True:
            try:
                line = input(_PROMPT).strip()
            except KeyboardInterrupt:
                click.echo()
                continue
            except EOFError:
                click.echo()
                return 0
            if line.lower().rstrip(";") in _LEAVE:
                return 0
            if line:
                _carry_out(client, line, as_json)
    finally:
        keep()


def _prepare_readline() -> Callable[[], None]:
    """
    Have the prompt complete commands and remember lines, where readline is there.

    @return: function that keeps the lines for the next time.
    """
    try:
        import readline
    except ImportError:
        return lambda: None
    history = _history_path()
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY)
    readline.set_completer(_completer(readline))
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")

    def keep() -> None:
        with suppress(OSError):
            Path(history).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            own_file(Path(history))
            readline.write_history_file(history)

    return keep


def _completer(readline: ModuleType) -> Callable[[str, int], str | None]:
    def complete(text: str, state: int) -> str | None:
        words = readline.get_line_buffer()[: readline.get_begidx()].split()
        fitting = [word for word in candidates(words) if word.lower().startswith(text.lower())]
        if state >= len(fitting):
            return None
        return fitting[state] if fitting[state].endswith("=") else f"{fitting[state]} "

    return complete


def _history_path() -> str:
    return str(Path(click.get_app_dir("gateway", force_posix=True)) / "admin_history")
