"""
C{gateway completion}: script by which a shell completes the command.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands, options, choices and files.

    \b
    bash   gateway completion bash > ~/.local/share/bash-completion/completions/gateway
    zsh    gateway completion zsh > DIR/_gateway, with DIR in $fpath before compinit
    fish   gateway completion fish > ~/.config/fish/completions/gateway.fish

    For the current shell alone: eval "$(gateway completion bash)". bash needs version 4.4.
    """
    root = context.find_root()
    completion_class = get_completion_class(shell)
    if completion_class is None:  # click has had these three since 8.0
        raise click.ClickException(f"this click has no completion for {shell}")
    click.echo(completion_class(root.command, {}, "gateway", "_GATEWAY_COMPLETE").source())
