"""
Check connection strings, and remove secrets from them.
"""

from __future__ import annotations

import re
from typing import Final

import psycopg2
from psycopg2 import extensions

from gateway.model.errors import ConfigError
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.hosts import read_hosts

_PASSWORDS: Final = {
    *("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"),
}
"""Keywords whose values libpq itself never shows (C{dispchar} in its table of options)."""

_NOT_SHOWN: Final = _PASSWORDS | {"sslkey", "passfile"}

_POSTGRES_URI: Final = re.compile(r"postgres(?:ql)?://(?:[^@/]*@)?(?P<rest>[^?]*)")
"""URI, split where libpq's C{conninfo_uri_parse_options} ends user and password."""


def dsn_fault(dsn: str, outside: Environment, *, replica: bool = False) -> str | None:
    """
    Return what is wrong with a libpq URI or conninfo, or with the service or PG* variables that
    complete it; C{None} where it can be tried.

    The text does not repeat the string, which may hold a password.

    @param replica: whether the server is only read.
    """
    uri = _POSTGRES_URI.match(dsn)
    if uri is not None and "@" in uri["rest"]:
        # libpq would take what follows the first @ or / for a host's name, and errors show those.
        return (
            "has an @ in the name of a host or database; in a URI the characters @ / ? # % of a"
            " password are written %40 %2F %3F %23 %25"
        )
    try:
        if "\0" in dsn:
            raise ValueError("libpq would read no further")
        read_hosts(dsn, outside, replica=replica)
    except ConfigError as error:
        return str(error)
    except (psycopg2.ProgrammingError, ValueError):
        return (
            "is neither a libpq URI (postgresql://user@host/db) nor a conninfo"
            " (host=... dbname=...) nor 'embedded'"
        )
    return None


def public_dsn(dsn: str) -> str:
    """
    Return a connection string without secrets, as conninfo; C{""} where everything comes from PG*
    variables.
    """
    parsed = extensions.parse_dsn(dsn)
    parts = {key: value for key, value in parsed.items() if key not in _NOT_SHOWN}
    return str(extensions.make_dsn(**parts)) if parts else ""


def has_password(dsn: str) -> bool:
    """
    Say whether a connection string has a password; C{False} where it cannot be parsed.
    """
    try:
        return not _PASSWORDS.isdisjoint(extensions.parse_dsn(dsn))
    except (psycopg2.ProgrammingError, ValueError):
        return False
