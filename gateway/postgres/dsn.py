"""
Connection strings: what is wrong with one, and what may be shown of it.
"""

from __future__ import annotations

from typing import Final

import psycopg2
from psycopg2 import extensions

_SECRET: Final = {"password", "sslpassword", "sslkey", "passfile", "oauth_client_secret"}


def dsn_fault(dsn: str) -> str | None:
    """
    What is wrong with a libpq URI or conninfo; C{None} where it can be tried.

    The text does not repeat the string, which may hold a password.
    """
    try:
        extensions.parse_dsn(dsn)
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
