"""
Connection strings: what is wrong with one, and what may be shown of it.
"""

from __future__ import annotations

from typing import Final

import psycopg2
from psycopg2 import extensions

from gateway.errors import ConfigError
from gateway.postgres.hosts import Outside, read_hosts

_SECRET: Final = {"password", "sslpassword", "sslkey", "passfile", "oauth_client_secret"}


def dsn_fault(dsn: str, outside: Outside) -> str | None:
    """
    What is wrong with a libpq URI or conninfo, or with what it leaves to a service or
    to PG* variables; C{None} where it can be tried.

    The text does not repeat the string, which may hold a password.
    """
    try:
        read_hosts(dsn, outside)
    except ConfigError as error:
        return str(error)
    except psycopg2.ProgrammingError:
        return (
            "is neither a libpq URI (postgresql://user@host/db) nor a conninfo"
            " (host=... dbname=...) nor 'embedded'"
        )
    return None


def public_dsn(dsn: str) -> str:
    """
    The same without secrets, as conninfo; C{""} where everything comes from PG* variables.
    """
    parts = {key: value for key, value in extensions.parse_dsn(dsn).items() if key not in _SECRET}
    return str(extensions.make_dsn(**parts)) if parts else ""
