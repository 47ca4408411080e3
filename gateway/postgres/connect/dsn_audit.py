"""
Audit a connection string for what it exposes to others, without connecting.

Pure: the environment, and a function for a file's permissions, are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Final

from gateway.postgres.connect.conninfo import ConnInfo, Environment
from gateway.postgres.connect.hosts import read_hosts

_PLAIN: Final = ("disable", "allow", "prefer")
"""C{sslmode}s that do without TLS (PostgreSQL documentation, "SSL Support")."""

_TOO_OPEN: Final = 0o077
"""Bits of a password file's mode with which libpq does not read it (C{passwordFromFile})."""

Mode = Callable[[str], int | None]
"""A path -> the permissions of the plain file there, if there is one."""


def dsn_warnings(dsn: str, outside: Environment, mode: Mode) -> list[str]:
    """
    Return warnings about a connection string.

    @param dsn: one in which L{gateway.postgres.connect.dsn.dsn_fault} finds no fault.
    @return: one line each, with what to do.
    """
    conninfo = ConnInfo(dsn, outside)
    problems = []
    # Authorities of the system's choice are of use only to verify-full, which libpq then takes.
    least = "verify-full" if conninfo.value("sslrootcert") == "system" else "prefer"
    sslmode = conninfo.value("sslmode", least) or least
    if sslmode in _PLAIN:
        hosts = [
            str(host) for host in read_hosts(dsn, outside, replica=True).walk if not host.local
        ]
        if hosts:
            problems.append(
                f"sslmode={sslmode} lets everything go unencrypted to {', '.join(hosts)};"
                " say sslmode=verify-full"
            )
    passfile = conninfo.value("passfile") or str(PurePath(outside.home) / ".pgpass")
    permissions = None if conninfo.value("password") else mode(passfile)
    if permissions is not None and permissions & _TOO_OPEN:
        problems.append(
            f"libpq ignores {passfile}, which others than its owner may use: chmod 600 {passfile}"
        )
    return problems
