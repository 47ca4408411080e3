"""
Hosts: which servers a connection string names, in the order libpq would walk them.

libpq walks a list of hosts by itself, but asynchronously it has no deadline: a first
host that never answers hides the second for ever. So the list is taken apart here, and
L{gateway.postgres.connect.connector} goes to one host at a time.

Pure: the environment and the files come in. PostgreSQL documentation, sections
"Database Connection Control Functions" and "Environment Variables"; what they leave
open is as in libpq's C{pqConnectOptions2}.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from psycopg2 import extensions

from gateway.model.errors import ConfigError
from gateway.postgres.connect.conninfo import ConnInfo, Environment

DEFAULTS: Final = {
    # A server that vanished without a word is noticed after a minute (seconds, seconds,
    # probes) while a connection is idle, and after 30 s (ms) while something is on its
    # way; the system's own defaults are two hours and a quarter of one.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    # Shown in pg_stat_activity; application_name and PGAPPNAME beat it.
    "fallback_application_name": "gateway",
}
"""What we ask of libpq where neither the connection string nor the service says."""

_WRITABLE: Final = ("any", "read-write", "primary", "prefer-standby")
_READ_ONLY: Final = ("read-only", "standby")
_BALANCING: Final = ("disable", "random")

_DEFAULT_PORT: Final = "5432"
"""For people to read; where a port is left out, libpq knows its own."""


@dataclass(frozen=True, slots=True)
class Host:
    """
    One place to connect to; each value as libpq takes it, C{""} for its default.
    """

    host: str = ""
    hostaddr: str = ""
    port: str = ""

    @property
    def unresolved(self) -> bool:
        """Whether it is a name whose address is not known."""
        if not self.host or self.hostaddr or self.host.startswith(("/", "@")):
            return False
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def local(self) -> bool:
        """Whether no network lies between."""
        where = self.hostaddr or self.host
        if not where or where == "localhost" or where.startswith(("/", "@")):
            return True
        try:
            return ipaddress.ip_address(where).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """C{db1 (10.0.0.1:5432)}, C{db1:5432} or C{/run/postgresql:5432}."""
        where = self.hostaddr or self.host or "default host"
        place = f"{f'[{where}]' if ':' in where else where}:{self.port or _DEFAULT_PORT}"
        return f"{self.host} ({place})" if self.host and self.hostaddr else place


@dataclass(frozen=True, slots=True)
class Hosts:
    """
    @ivar walk: where to try, in order; one at least.
    @ivar shuffled: whether the order is to be drawn anew for each connection.
    @ivar parameters: everything else, for libpq.
    """

    walk: tuple[Host, ...]
    shuffled: bool
    parameters: Mapping[str, str]

    def conninfo(self, host: Host) -> str:
        """
        The connection string for one host.

        The host's name goes with its address, for C{sslmode=verify-full} and .pgpass.
        C{""} is said as well, since libpq asks the environment for what is not.
        """
        one = {"host": host.host, "hostaddr": host.hostaddr, "port": host.port}
        one["target_session_attrs"] = "any"
        return str(extensions.make_dsn(**{**self.parameters, **one}))


def read_hosts(dsn: str, outside: Environment) -> Hosts:
    """
    Take a connection string apart.

    C{target_session_attrs} may be any, read-write, primary or prefer-standby, and all mean the
    same here: the first server that takes writes. Nothing else is of use to a gateway,
    so a read-only server is always passed by.

    @param dsn: a libpq URI or conninfo, with nothing but syntax known to be right.
    @raise ConfigError: with one line that says what does not fit; it repeats nothing
        that may be a piece of a mistyped password.
    """
    said = ConnInfo(dsn, outside)
    _check_attributes(said)
    balancing = said.value("load_balance_hosts", "disable")
    if balancing not in _BALANCING:
        raise ConfigError([f"{said.name('load_balance_hosts')} must be disable or random"])
    defaults = {key: value for key, value in DEFAULTS.items() if key not in said.service}
    return Hosts(_walk(said), balancing == "random", {**defaults, **said.own})


def _check_attributes(said: ConnInfo) -> None:
    key = "target_session_attrs"
    value = said.value(key, "any")
    if value in _READ_ONLY:
        raise ConfigError(
            [
                f"{said.name(key)}={value} asks for a server that takes no writes;"
                " leave it out, a gateway looks for one that does"
            ]
        )
    if value not in _WRITABLE:
        raise ConfigError([f"{said.name(key)} must be one of {', '.join(_WRITABLE)}"])


def _walk(said: ConnInfo) -> tuple[Host, ...]:
    hosts, addresses, ports = (said.list(key) for key in ("host", "hostaddr", "port"))
    count = len(addresses) or len(hosts) or 1
    if hosts and len(hosts) != count:
        raise ConfigError(
            [
                f"has {len(hosts)} in {said.name('host')} for {count} in {said.name('hostaddr')};"
                " give as many of one as of the other"
            ]
        )
    if ports and len(ports) not in (1, count):
        raise ConfigError(
            [
                f"has {len(ports)} ports ({said.name('port')}) for {count} hosts;"
                " give one port, or as many as hosts"
            ]
        )
    for port in ports:
        if port and not (port.strip().isdecimal() and 1 <= int(port) <= 65535):
            raise ConfigError([f"has in {said.name('port')} what is no number from 1 to 65535"])
    return tuple(
        Host(host, address, port)
        for host, address, port in zip(
            hosts or [""] * count,
            addresses or [""] * count,
            ports if len(ports) == count else (ports or [""]) * count,
            strict=True,
        )
    )
