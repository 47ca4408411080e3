"""
Load a configuration with all files that it names: secrets, tokens, certificates.

Every problem is reported at once, whichever file it is in. Checks that depend on a file that could
not be read are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import serverFromString

from gateway.access.token_file import tokens_of
from gateway.access.tokens import Token
from gateway.config.listener import Listener
from gateway.config.load import (
    EMBEDDED,
    Config,
    Draft,
    check_endpoints,
    default_config,
    draft,
    dsn_key_of,
)
from gateway.config.secrets import mode_of, with_secrets
from gateway.config.toml import tables_of
from gateway.daemon.security_warnings import operator_warnings
from gateway.daemon.worker_advice import worker_warnings
from gateway.formats.python import load_function, name_fault
from gateway.model.errors import ConfigError
from gateway.postgres.connect.connector import outside_of_process
from gateway.postgres.connect.dsn import dsn_fault
from gateway.system.endpoint_arguments import (
    DATAGRAM_TYPE,
    EndpointArguments,
    named_arguments,
    split_endpoint,
)
from gateway.system.endpoint_text import error_words, text_fault
from gateway.system.regular_file import read_plain
from gateway.tls.contexts import HTTP, Contexts
from gateway.tls.registry import read_contexts


class Loaded(NamedTuple):
    """
    Configuration without problems, with its tokens and certificates.

    @ivar tokens: by ID, from the token file; C{None} where none is named.
    @ivar contexts: by the name of the listener, for those with TLS.
    """

    config: Config
    tokens: Mapping[str, Token] | None
    contexts: Mapping[str, Contexts]


def load(
    path: str | None,
    database: str | None = None,
    listeners: Callable[[Config], dict[str, Listener]] | None = None,
    imports: bool = True,
) -> Loaded:
    """
    Load a configuration and the files that it names.

    @param path: of the file; C{None}: the default configuration.
    @param database: connection string of the command line, which overrides the file's.
    @param listeners: returns those of the command line, which replace the file's.
    @param imports: whether functions that routes name are imported.
    @raise ConfigError: with every problem.
    """
    config, problems = _drafted(path, database)
    if listeners is not None:
        config = replace(config, listeners=listeners(config))
        problems += check_endpoints(config, endpoint_fault)
    problems += _dsn_faults(config, path, database)
    if imports:
        problems += [_problem_of_file(path, problem) for problem in _function_faults(config)]
    tokens: Mapping[str, Token] | None = None
    contexts: Mapping[str, Contexts] = {}
    try:
        sections = {name: listener.tls for name, listener in config.listeners.items()}
        contexts = read_contexts({**sections, HTTP: config.http.tls}, path, time.time)
    except ConfigError as error:
        problems += error.problems
    try:
        tokens = tokens_of(config.access)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Loaded(config, tokens, contexts)


def read_config(path: str | None, database: str | None = None) -> Config:
    """
    Return the configuration of a file, or the default, with the connection strings from
    C{dsn_file}.

    @param database: connection string that overrides the file's.
    @raise ConfigError: with every problem.
    """
    config, problems = _drafted(path, database)
    if problems:
        raise ConfigError(problems)
    return config


def admin_endpoint(path: str | None) -> str | None:
    """
    Return where a configuration file has the console; C{None}: in the data directory.

    Whatever else is wrong with the file is no matter: a running gateway has another one in force,
    and credentials of a service are there for the service alone.

    @raise ConfigError: the file cannot be read.
    """
    return None if path is None else _read_file(path).config.admin.endpoint


def operator_warnings_of(config: Config, path: str | None, overridden: bool = False) -> list[str]:
    """
    Return warnings about a configuration for the operator, one line each.

    @param overridden: whether the connection string comes from the command line.
    """
    file = None if path is None or overridden else Path(path).absolute()
    return [
        *operator_warnings(config, outside_of_process(), mode_of, file, _credentials()),
        *worker_warnings(config),
    ]


def endpoint_fault(endpoint: str) -> str | None:
    """
    Return why Twisted refuses an endpoint string; C{None}: it does not.
    """
    fault = text_fault(endpoint, listening=True)
    if fault is not None:
        return fault
    arguments = split_endpoint(endpoint)
    if arguments is not None and arguments.kind in ("udp", "unixgram"):
        return _datagram_fault(arguments)
    try:
        server = serverFromString(global_reactor, endpoint.replace(DATAGRAM_TYPE, ""))
    except Exception as error:  # noqa: BLE001 - each kind raises what it likes, OpenSSL's too
        return error_words(error)
    if arguments is not None and arguments.kind == "tls":
        folder = arguments.values[0] if arguments.values else dict(arguments.named)["path"]
        if not Path(folder).is_dir():
            return f"{folder}: is no directory of certificates (*.pem)"
    path = getattr(getattr(server, "_wrappedEndpoint", server), "_address", None)
    if path is not None and (not path or path.endswith("/")):
        return "it names no file for its Unix socket"
    return None


def _datagram_fault(endpoint: EndpointArguments) -> str | None:
    """Return what is wrong with an endpoint of our own kinds, beyond the form of its values."""
    named = named_arguments(endpoint)
    if endpoint.kind == "udp":
        return None if "port" in named else "a port is missing"
    path = named.get("address", "")
    return "it names no file for its Unix socket" if not path or path.endswith("/") else None


def _drafted(path: str | None, database: str | None) -> Draft:
    config, problems = Draft(default_config(), []) if path is None else _read_file(path)
    if database is not None and config.relay is not None:
        problems.append("--database: an edge has no database; leave it out, or [relay]")
    elif database is not None:
        config = replace(config, database=replace(config.database, dsn=database, dsn_file=None))
    config, more = with_secrets(config)
    return Draft(config, [*problems, *(_problem_of_file(path, problem) for problem in more)])


def _read_file(path: str) -> Draft:
    file = Path(path).absolute()
    try:
        handed_over = str(file) == "/dev/stdin" or file.is_relative_to("/dev/fd")
        # The shell may pass a pipe, as with <(command).
        content = file.read_bytes() if handed_over else read_plain(file)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 at byte {error.start}"]) from None
    tables = tables_of(text, str(file))
    return draft(tables, file, endpoint_fault, _credentials(), os.environ)


def _dsn_faults(config: Config, path: str | None, database: str | None) -> list[str]:
    problems = []
    dsn = config.database.dsn
    if dsn != EMBEDDED and (fault := dsn_fault(dsn, outside_of_process())) is not None:
        problem = f"{config.database.dsn_key}: {fault}"
        problems.append(
            f"--database: {fault}" if database is not None else _problem_of_file(path, problem)
        )
    for name, place in config.databases.items():
        fault = dsn_fault(place.dsn, outside_of_process(), replica=place.is_replica)
        # One that is "embedded" here has a problem already.
        if place.dsn != EMBEDDED and fault is not None:
            key = dsn_key_of(name, place)
            problems.append(_problem_of_file(path, f"{key}: {fault}"))
    dsn = config.channels.dsn or ""
    if dsn and (fault := dsn_fault(dsn, outside_of_process())) is not None:
        problems.append(_problem_of_file(path, f"{config.channels.dsn_key}: {fault}"))
    return problems


def _function_faults(config: Config) -> list[str]:
    """
    Import the functions of routes; return the problems.
    """
    problems = []
    for route in config.routes.values():
        function = route.reading.function
        if route.reading.format == "python" and function and name_fault(function) is None:
            try:
                load_function(function)
            except ValueError as error:
                problems.append(f"routes.{route.name}.function: {error}")
    return problems


def _problem_of_file(path: str | None, problem: str) -> str:
    return problem if path is None else f"{Path(path).absolute()}: {problem}"


def _credentials() -> Path | None:
    """Return systemd's folder of credentials, if there is one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None
