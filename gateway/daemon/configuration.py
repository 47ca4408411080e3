"""
Load a configuration, with all that it names: secrets, tokens, certificates.

Every problem is told at once, whichever file it is in. Where something could not be read, what
hangs on it is left alone.
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
from gateway.config.load import EMBEDDED, Config, Draft, check_endpoints, default_config, draft
from gateway.config.secrets import mode_of, with_secrets
from gateway.config.toml import tables_of
from gateway.daemon.security_warnings import operator_warnings
from gateway.model.errors import ConfigError
from gateway.postgres.connect.connector import outside_of_process
from gateway.postgres.connect.dsn import dsn_fault
from gateway.system.endpoint_arguments import split_endpoint
from gateway.system.endpoint_text import error_words, text_fault
from gateway.system.regular_file import read_plain
from gateway.tls.contexts import Contexts
from gateway.tls.registry import read_contexts


class Loaded(NamedTuple):
    """
    A configuration without a problem.

    @ivar tokens: those of the file that it names; C{None} where it names none.
    @ivar contexts: for the listeners with TLS.
    """

    config: Config
    tokens: Mapping[str, Token] | None
    contexts: Mapping[str, Contexts]


def load(
    path: str | None,
    database: str | None = None,
    listeners: Callable[[Config], dict[str, Listener]] | None = None,
) -> Loaded:
    """
    A configuration and the files that it names.

    @param path: of its file; C{None}: the default.
    @param database: a connection string of the command line, which beats what the file says.
    @param listeners: those of the command line, which take the place of the file's.
    @raise ConfigError: with every problem.
    """
    config, problems = _drafted(path, database)
    if listeners is not None:
        config = replace(config, listeners=listeners(config))
        problems += check_endpoints(config, endpoint_fault)
    problems += _dsn_faults(config, path, database)
    tokens: Mapping[str, Token] | None = None
    contexts: Mapping[str, Contexts] = {}
    try:
        contexts = read_contexts(config.listeners, path, time.time)
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
    The configuration in a file, or the default, with the connection strings that it has in files.

    @param database: a connection string that beats what the file says.
    @raise ConfigError: with every problem.
    """
    config, problems = _drafted(path, database)
    if problems:
        raise ConfigError(problems)
    return config


def operator_warnings_of(config: Config, path: str | None, overridden: bool = False) -> list[str]:
    """
    What the operator should know of a configuration before it is used, one line each.

    @param overridden: whether the database is not that of the file.
    """
    file = None if path is None or overridden else Path(path).absolute()
    return operator_warnings(config, outside_of_process(), mode_of, file, _credentials())


def endpoint_fault(endpoint: str) -> str | None:
    """
    What is wrong with an endpoint string, as Twisted sees it.
    """
    fault = text_fault(endpoint, listening=True)
    if fault is not None:
        return fault
    try:
        found = serverFromString(global_reactor, endpoint)
    except Exception as error:  # noqa: BLE001 - each kind raises what it likes, OpenSSL's too
        return error_words(error)
    arguments = split_endpoint(endpoint)
    if arguments is not None and arguments.kind == "tls":
        folder = arguments.values[0] if arguments.values else dict(arguments.named)["path"]
        if not Path(folder).is_dir():
            return f"{folder}: is no directory of certificates (*.pem)"
    path = getattr(getattr(found, "_wrappedEndpoint", found), "_address", None)
    if path is not None and (not path or path.endswith("/")):
        return "it names no file for its Unix socket"
    return None


def _drafted(path: str | None, database: str | None) -> Draft:
    config, problems = Draft(default_config(), []) if path is None else _read_file(path)
    if database is not None:
        config = replace(config, database=replace(config.database, dsn=database, dsn_file=None))
    config, more = with_secrets(config)
    return Draft(config, [*problems, *(_of_file(path, problem) for problem in more)])


def _read_file(path: str) -> Draft:
    file = Path(path).absolute()
    try:
        handed_over = str(file) == "/dev/stdin" or file.is_relative_to("/dev/fd")
        # What a shell hands over may well be a pipe.
        content = file.read_bytes() if handed_over else read_plain(file)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 at byte {error.start}"]) from None
    return draft(tables_of(text, str(file)), file, endpoint_fault, _credentials())


def _dsn_faults(config: Config, path: str | None, database: str | None) -> list[str]:
    problems = []
    dsn = config.database.dsn
    if dsn != EMBEDDED and (fault := dsn_fault(dsn, outside_of_process())) is not None:
        problem = f"{config.database.dsn_key}: {fault}"
        problems.append(f"--database: {fault}" if database is not None else _of_file(path, problem))
    dsn = config.channels.dsn or ""
    if dsn and (fault := dsn_fault(dsn, outside_of_process())) is not None:
        problems.append(_of_file(path, f"{config.channels.dsn_key}: {fault}"))
    return problems


def _of_file(path: str | None, problem: str) -> str:
    return problem if path is None else f"{Path(path).absolute()}: {problem}"


def _credentials() -> Path | None:
    """Where systemd puts what it hands to the service."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None
