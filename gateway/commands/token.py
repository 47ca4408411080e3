"""
C{gateway token}: add, list and revoke tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from gateway.access.token_file import TokenFile
from gateway.access.tokens import HEADING, Token, issue, read_tokens, token_identity_fault
from gateway.config.units import DURATION
from gateway.model.errors import ConfigError
from gateway.model.text import meant

_SIGHUP: Final = "a running gateway takes it over when it gets SIGHUP"

_EPILOG: Final = """\b
Exit status:
  0  done
  1  the file cannot be used, or has no such token
  2  wrong usage

\b
Examples:
  gateway token add till-3 --expires 90d --file etc/tokens > till-3.token
  gateway token list --config etc/gateway.toml
  gateway token revoke till-3 --file etc/tokens && kill -HUP "$(cat twistd.pid)"
"""


def _lifetime(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    """
    Parse a duration such as C{90d}, in the configuration's units, to a timedelta.
    """
    if value is None:
        return None
    try:
        seconds = DURATION.from_text(value)
    except ValueError:
        units = ", ".join(DURATION.units)
        raise click.BadParameter(
            f"{value!r} is no duration with its unit ({units}); 90d is ninety days"
        ) from None
    if seconds < 1:
        raise click.BadParameter(f"{value!r} is less than a second, by which tokens count")
    try:
        lifetime = timedelta(seconds=seconds)
        datetime.now(UTC) + lifetime
    except OverflowError:
        raise click.BadParameter(
            f"{value!r} is beyond the year 9999; leave --expires out for a token without an end"
        ) from None
    return lifetime


def _with_token_file(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            *("--config", "-c"),
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The gateway's configuration, whose [access] names the file.",
        ),
        click.option(
            *("--file", "-f"),
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="The file of tokens.",
        ),
    ):
        command = option(command)
    return command


@click.group(name="token", epilog=_EPILOG)
def token_command() -> None:
    """Tokens, by which peers prove who they are.

    A peer says its token with AUTH, or as its first frame where a plain listener asks for one.
    The file keeps a hash of each, one line a token, and only its owner may read it. One identity
    may have several: give out the new one, then revoke the old one.
    """


@token_command.command()
@click.argument("identity")
@click.option(
    "--expires",
    callback=_lifetime,
    metavar="DURATION",
    help="After so long, as in 90d, in the units of the configuration; without, never.",
)
@_with_token_file
def add(identity: str, expires: timedelta | None, file: Path | None, config: Path | None) -> None:
    """Make a token for IDENTITY, and print it.

    It is printed this once; nobody can find it out again. Where there is no file yet, it is
    made.
    """
    fault = token_identity_fault(identity)
    if fault is not None:
        raise click.BadParameter(f"{identity!r} {fault}", param_hint="IDENTITY")
    where = _token_file(file, config)
    token, secret = issue(identity, datetime.now(UTC), expires)

    def added(text: str) -> str:
        read_tokens(text, str(where.path))  # a faulty file is not written to
        text = text or HEADING
        return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{token}\n"

    _change(where, added, make=True)
    click.echo(secret)
    until = "" if token.expires is None else f", until {token.expires:%Y-%m-%d %H:%M} UTC"
    click.echo(f"token {token.id} for {identity}{until}; {_SIGHUP}", err=True)


@token_command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_with_token_file
def list_command(as_json: bool, file: Path | None, config: Path | None) -> None:
    """Print who has tokens, and until when."""
    where = _token_file(file, config)
    try:
        tokens = read_tokens(where.read_text(), str(where.path))
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    now = datetime.now(UTC).timestamp()
    for token in tokens.values():
        expires = None if token.expires is None else token.expires.isoformat()
        created = token.created.isoformat()
        if as_json:
            known = {"id": token.id, "identity": token.identity, "created": created}
            click.echo(json.dumps({**known, "expires": expires, "good": token.is_good(now)}))
        else:
            end = "never expires" if expires is None else f"expires {expires}"
            end = end if token.is_good(now) else f"expired {expires}"
            click.echo(f"{token.id}  {token.identity}  created {created}  {end}")


@token_command.command()
@click.argument("which", metavar="ID|IDENTITY")
@_with_token_file
def revoke(which: str, file: Path | None, config: Path | None) -> None:
    """Take a token out of the file, or all that an identity has."""
    where = _token_file(file, config)
    gone: list[Token] = []

    def revoked(text: str) -> str:
        tokens = read_tokens(text, str(where.path))
        gone.extend(token for token in tokens.values() if which in (token.id, token.identity))
        if not gone:
            hint = meant(which, {token.identity for token in tokens.values()} | set(tokens))
            raise click.ClickException(f"{where.path}: there is no token {which!r}{hint}")
        ids = {token.id for token in gone}
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if line.split()[:1] not in ([id_] for id_ in ids))

    _change(where, revoked)
    for token in gone:
        click.echo(f"revoked {token.id} of {token.identity}")
    click.echo(_SIGHUP, err=True)


def _change(file: TokenFile, edit: Callable[[str], str], make: bool = False) -> None:
    try:
        file.change(edit, make)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def _token_file(file: Path | None, config: Path | None) -> TokenFile:
    if (file is None) == (config is None):
        raise click.UsageError("one of --file and --config says where the tokens are")
    if file is not None:
        return TokenFile(file)
    from gateway.daemon.configuration import read_config

    try:
        access = read_config(str(config)).access
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    if access is None or access.tokens is None:
        raise click.ClickException(f"{config}: there is no [access] tokens")
    return TokenFile(Path(access.tokens))
