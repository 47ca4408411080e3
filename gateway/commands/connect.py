"""
Options that commands need to reach a gateway, and their client.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import clientFromString

from gateway.client.service import GatewayClient
from gateway.commands.terminal_text import MAX_ERROR_CHARACTERS, error_text
from gateway.commands.token_option import token_option
from gateway.system.endpoint_text import endpoint_hint, error_words, text_fault
from gateway.wire.framing import FRAMINGS, MAX_DELIMITER

COMMANDS: Final = "tcp:127.0.0.1:8002"
"""Endpoint where a gateway without a configuration takes commands."""

ENDPOINT_VARIABLE: Final = "GATEWAY_ENDPOINT"
"""Environment variable with the endpoint to use where no other is given."""

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Trust:
    """
    TLS settings of a client.
    """

    tls: object = None
    certificate: Path | None = None
    key: Path | None = None


def tls_options(command: Command) -> Command:
    """
    Add C{--tls}, C{--ca}, C{--certificate} and C{--key}; the command gets them as C{trust}.
    """

    @wraps(command)
    def trusting(
        *, tls: bool, ca: Path | None, certificate: Path | None, key: Path | None, **options: Any
    ) -> Any:
        if key is not None and certificate is None:
            raise click.UsageError("--key is for --certificate FILE, which is missing")
        secure = tls or certificate is not None or None
        trust = Trust(secure if ca is None else str(ca), certificate, key)
        return command(trust=trust, **options)

    wrapped: Command = trusting
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in (
        click.option(
            "--key",
            type=file,
            metavar="FILE",
            help="The key to --certificate, where it is in a file of its own.",
        ),
        click.option(
            "--certificate",
            type=file,
            metavar="FILE",
            help="Show this PEM file's certificate to the gateway. Implies --tls.",
        ),
        click.option(
            "--ca",
            type=file,
            metavar="FILE",
            help="Trust the authorities in this PEM file instead of the system's. Implies --tls.",
        ),
        click.option(
            "--tls",
            is_flag=True,
            help="Speak TLS; the certificate must be of a known authority and of the host's name.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([nrt0\\]))")
_ESCAPED: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class _Delimiter(click.ParamType[bytes]):
    """
    Delimiter on the command line, where control characters are written as escapes.
    """

    name = "text"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> bytes:
        if isinstance(value, bytes):
            return value
        found = _ESCAPE.sub(_unescaped, str(value).encode("utf-8", "surrogateescape"))
        if not 0 < len(found) <= MAX_DELIMITER:
            self.fail(f"a delimiter has 1 to {MAX_DELIMITER} bytes", param, context)
        return found


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPED[match[2]]


def framing_option(command: Command) -> Command:
    """Add C{--framing} and C{--delimiter}."""
    framing = click.option(
        "--framing",
        default="line",
        show_default=True,
        type=click.Choice(list(FRAMINGS)),
        help="The listener's.",
    )
    return framing(
        click.option(
            "--delimiter",
            type=_Delimiter(),
            help=r"The listener's, for --framing delimited; may have \r \n \t \0 and \xHH.",
        )(command)
    )


def gateway_options(command: Command) -> Command:
    """
    Add C{--endpoint}, C{--framing}, C{--token-file} and the options of TLS, for commands that need
    the command dialect.
    """
    return click.option(
        "-e",
        "--endpoint",
        default=COMMANDS,
        envvar=ENDPOINT_VARIABLE,
        metavar="ENDPOINT",
        help="A listener with the command dialect, as Twisted's client endpoints say it:"
        " tcp:HOST:PORT or unix:PATH. "
        f" [default: the environment's {ENDPOINT_VARIABLE}, or {COMMANDS}]",
    )(framing_option(tls_options(token_option(command))))


def new_client(endpoint: str, trust: Trust, **options: Any) -> GatewayClient:
    """
    Return a client, and report errors in its parameters as wrong usage.

    @raise click.UsageError: the endpoint or the TLS options cannot be used.
    """
    check_endpoint(endpoint)
    try:
        return GatewayClient(
            endpoint, tls=trust.tls, certificate=trust.certificate, key=trust.key, **options
        )
    except (ValueError, OSError) as error:
        raise click.UsageError(f"{endpoint_source()} {endpoint}: {error}") from None


def endpoint_source() -> str:
    """
    Return the option, argument or variable that gave the current command's endpoint.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return "--endpoint"
    if context.get_parameter_source("endpoint") is ParameterSource.ENVIRONMENT:
        return ENDPOINT_VARIABLE
    own = next((each for each in context.command.params if each.name == "endpoint"), None)
    return "ENDPOINT" if isinstance(own, click.Argument) else "--endpoint"


def check_endpoint(endpoint: str) -> None:
    """
    Check a client endpoint string.

    @raise click.UsageError: it is none; with the option that gave it, and a suggestion.
    """
    fault = client_endpoint_fault(endpoint)
    if fault is not None:
        hint = endpoint_hint(endpoint, client_endpoint_fault, listening=False)
        raise click.UsageError(f"{endpoint_source()} {endpoint}: {fault}{hint}")


def client_endpoint_fault(endpoint: str) -> str | None:
    """
    Return what is wrong with a client endpoint string; C{None}: nothing.
    """
    fault = text_fault(endpoint, listening=False)
    if fault is not None:
        return fault
    try:
        clientFromString(global_reactor, endpoint)
    except Exception as error:  # noqa: BLE001 - each kind raises what it likes, OpenSSL's too
        return error_words(error)
    return None


def reason(error: BaseException | None) -> str:
    """Return an error as one line for people."""
    queue = error.args[0] if error is not None and error.args else None
    if isinstance(queue, list) and queue and isinstance(queue[-1], tuple):
        # OpenSSL's queue of (library, function, reason); the last one is the outermost call's.
        return error_text(str(queue[-1][-1]))
    # Cut first: what the other end says may be long.
    text = (
        " ".join(str(error)[: 2 * MAX_ERROR_CHARACTERS].split()).rstrip(".:")
        or type(error).__name__
    )
    return error_text(text)
