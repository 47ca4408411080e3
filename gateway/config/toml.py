"""
Parse TOML to tables, or raise an error of one line.

Strategy: beyond TOML's own rules, the depth of a file and the size of its numbers are bounded, so
that later code needs no bounds of its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, Final

from gateway.model.errors import ConfigError
from gateway.model.text import printable

DEEPEST: Final = 32
"""Tables and lists in one another; no key that is known is in more than five."""

_RANGE: Final = range(-(2**63), 2**63)
"""Whole numbers; TOML 1.0 asks for these, and for an error where one cannot be kept."""


def tables_of(text: str, name: str) -> dict[str, Any]:
    """
    Parse the text of a file.

    @param name: the file's name, for messages.
    @raise ConfigError: with one line.
    """
    try:
        # Editors on Windows begin a file with a byte order mark, which TOML 1.0 does not know.
        data = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{name}: not TOML: {printable(str(error))}"]) from None
    except RecursionError:
        raise ConfigError([f"{name}: not TOML: nested too deeply"]) from None
    except ValueError:
        # Python does not convert numbers of thousands of digits; there is no other cause here.
        raise ConfigError([f"{name}: not TOML: a number in it has too many digits"]) from None
    _check(data, name)
    return data


def _check(data: Mapping[str, Any], name: str) -> None:
    """
    Check depth and numbers of all values, without recursion.
    """
    waiting: list[tuple[str, Any, int]] = [(key, value, 1) for key, value in data.items()]
    while waiting:
        where, value, depth = waiting.pop()
        inner: list[tuple[str, Any]] = []
        if isinstance(value, Mapping):
            inner = [(f"{where}.{key}", each) for key, each in value.items()]
        elif isinstance(value, list):
            inner = [(where, each) for each in value]
        elif isinstance(value, int) and value not in _RANGE:
            raise ConfigError([f"{name}: {printable(where)}: a number of more than 64 bits"])
        if inner and depth >= DEEPEST:
            raise ConfigError([f"{name}: {printable(where)}: nested more than {DEEPEST} deep"])
        waiting += [(key, each, depth + 1) for key, each in inner]
