"""
Read files with secrets, and their permissions.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from gateway.access.grants import identity_fault
from gateway.config.load import Config, NamedDatabase
from gateway.model.errors import ConfigError
from gateway.system.regular_file import read_plain
from gateway.wire.forward_handshake import HandshakeSecrets

OPEN: Final = 0o066
"""Bits of a file's mode that let its group or others read or change it."""

_MOST: Final = 65536
"""Bytes of a connection string; whoever names a device or a log by mistake hears of it soon."""


def read_secret(path: str) -> str:
    """
    Return the text of a file, without surrounding white space.

    @raise ConfigError: with one line, which names the file but shows nothing of its content.
    """
    try:
        content = read_plain(Path(path), _MOST + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(content) > _MOST:
        raise ConfigError([f"{path}: has more than {_MOST} bytes; that is no secret"])
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 at byte {error.start}"]) from None
    if not text:
        raise ConfigError([f"{path}: is empty"])
    return text


def mode_of(path: str) -> int | None:
    """
    Return the permissions of a regular file; C{None} where it is none, or stat(2) fails.
    """
    try:
        status = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return stat.S_IMODE(status) if stat.S_ISREG(status) else None


def with_secrets(config: Config) -> tuple[Config, list[str]]:
    """
    Return the configuration with the connection strings from C{dsn_file} and the secrets of
    listeners, and the problems of these files.
    """
    handshakes, problems = _read_handshakes(config)
    config = replace(config, handshakes=handshakes)
    for name in ("database", "channels"):
        section = getattr(config, name)
        if section.dsn_file is not None:
            try:
                section = replace(section, dsn=read_secret(section.dsn_file))
            except ConfigError as error:
                problems.append(f"{name}.dsn_file: {error}")
            config = replace(config, **{name: section})
    databases, faults = _read_dsn_files(config)
    return replace(config, databases=databases), problems + faults


def _read_dsn_files(config: Config) -> tuple[dict[str, NamedDatabase], list[str]]:
    """
    Read the connection strings of named databases.

    @return: the databases, and problems.
    """
    databases = dict(config.databases)
    problems = []
    for name, database in databases.items():
        if database.dsn_file is not None:
            try:
                databases[name] = replace(database, dsn=read_secret(database.dsn_file))
            except ConfigError as error:
                problems.append(f"databases.{name}.dsn_file: {error}")
    return databases, problems


def _read_handshakes(config: Config) -> tuple[dict[str, HandshakeSecrets], list[str]]:
    """
    Read the files of listeners with shared keys and users.

    @return: secrets by listener, and problems.
    """
    handshakes = {}
    problems = []
    for name, listener in config.listeners.items():
        if listener.shared_key_file is None:
            continue
        key, users = "", None
        try:
            key = read_secret(listener.shared_key_file)
        except ConfigError as error:
            problems.append(f"listeners.{name}.shared_key_file: {error}")
        if listener.users_file is not None:
            try:
                users = _read_users(listener.users_file)
            except ConfigError as error:
                problems += [f"listeners.{name}.users_file: {line}" for line in error.problems]
        handshakes[name] = HandshakeSecrets(key.encode(), users)
    return handshakes, problems


def _read_users(path: str) -> dict[str, bytes]:
    """
    Read a file of lines C{name:password}; empty ones and those that begin with C{#} are comments.

    @raise ConfigError: with one line for each problem, which shows no password.
    """
    users: dict[str, bytes] = {}
    problems = []
    for number, line in enumerate(read_secret(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not colon or not password:
            problems.append(f"{path}: line {number}: is not name:password")
        elif (fault := identity_fault(name)) is not None:
            problems.append(f"{path}: line {number}: the name {name!r} {fault}")
        elif name in users:
            problems.append(f"{path}: line {number}: {name!r} is there twice")
        else:
            users[name] = password.encode()
    if not users and not problems:
        problems.append(f"{path}: has no line name:password")
    if problems:
        raise ConfigError(problems)
    return users
