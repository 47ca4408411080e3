"""
Read files with secrets, and their permissions.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from gateway.config.load import Config
from gateway.model.errors import ConfigError
from gateway.system.regular_file import read_plain

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
    Return the configuration with the connection strings from C{dsn_file}, and the problems of these
    files.
    """
    problems = []
    for name in ("database", "channels"):
        section = getattr(config, name)
        if section.dsn_file is not None:
            try:
                section = replace(section, dsn=read_secret(section.dsn_file))
            except ConfigError as error:
                problems.append(f"{name}.dsn_file: {error}")
            config = replace(config, **{name: section})
    return config, problems
