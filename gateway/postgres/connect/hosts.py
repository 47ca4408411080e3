"""
List the hosts of a connection string, in libpq's order.

libpq tries a list of hosts by itself, but asynchronously it has no timeout: a first host that never
answers hides the second for ever. So the list is split here, and
L{gateway.postgres.connect.connector} tries one host at a time.

Pure: environment and files are passed in. PostgreSQL documentation, sections "Database Connection
Control Functions" and "Environment Variables"; what they leave open is as in libpq's
C{pqConnectOptions2}.
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
"""Parameters given to libpq where neither the connection string nor the service has them."""

_ANY: Final = ("any", "prefer-standby")
_WRITABLE: Final = ("read-write", "primary")
_READ_ONLY: Final = ("read-only", "standby")
_BALANCING: Final = ("disable", "random")

_DEFAULT_PORT: Final = "5432"
"""For people to read; where a port is left out, libpq knows its own."""


@dataclass(frozen=True, slots=True)
class Host:
    """
    Host, address and port as libpq takes them; C{""} for libpq's default.
    """

    host: str = ""
    hostaddr: str = ""
    port: str = ""

    @property
    def unresolved(self) -> bool:
        """True for a host name without an address."""
        if not self.host or self.hostaddr or self.host.startswith(("/", "@")):
            return False
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def local(self) -> bool:
        """True if no network lies between: a Unix socket or the loopback."""
        where = self.hostaddr or self.host
        if not where or where == "localhost" or where.startswith(("/", "@")):
            return True
        try:
            return ipaddress.ip_address(where).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """Return C{db1 (10.0.0.1:5432)}, C{db1:5432} or C{/run/postgresql:5432}."""
        where = self.hostaddr or self.host or "default host"
        place = f"{f'[{where}]' if ':' in where else where}:{self.port or _DEFAULT_PORT}"
        return f"{self.host} ({place})" if self.host and self.hostaddr else place


@dataclass(frozen=True, slots=True)
class Hosts:
    """
    Hosts of a connection string, and its other parameters.

    @ivar walk: hosts in the order to try them; at least one.
    @ivar shuffled: whether each attempt needs a new random order.
    @ivar passes: what servers are looked for, one after the other: C{False}: those that take
        writes, C{True}: those that do not, C{None}: any.
    @ivar parameters: all others, for libpq.
    """

    walk: tuple[Host, ...]
    shuffled: bool
    passes: tuple[bool | None, ...]
    parameters: Mapping[str, str]

    def conninfo(self, host: Host) -> str:
        """
        Return the connection string for one host.

        The host's name is given with its address, for C{sslmode=verify-full} and .pgpass. Empty
        values are given too, since libpq takes missing ones from the environment.
        """
        one = {"host": host.host, "hostaddr": host.hostaddr, "port": host.port}
        one["target_session_attrs"] = "any"
        return str(extensions.make_dsn(**{**self.parameters, **one}))


def read_hosts(dsn: str, outside: Environment, *, replica: bool = False) -> Hosts:
    """
    Parse a connection string.

    C{target_session_attrs} may be any, read-write, primary or prefer-standby, and all mean the same
    here: the first server that takes writes. A gateway can store in no other, so a read-only server
    is always passed over; a replica is only read, and there each value means what it does to libpq.

    @param replica: whether the server is only read.
    @param dsn: a libpq URI or conninfo whose syntax is valid.
    @raise ConfigError: with one line that says what does not fit, and repeats nothing that may be
        part of a mistyped password.
    """
    conninfo = ConnInfo(dsn, outside)
    passes = _passes(conninfo, replica)
    balancing = conninfo.value("load_balance_hosts", "disable")
    if balancing not in _BALANCING:
        raise ConfigError([f"{conninfo.name('load_balance_hosts')} must be disable or random"])
    defaults = {key: value for key, value in DEFAULTS.items() if key not in conninfo.service}
    parameters = {**defaults, **conninfo.own}
    return Hosts(_walk(conninfo), balancing == "random", passes, parameters)


def _passes(conninfo: ConnInfo, replica: bool) -> tuple[bool | None, ...]:
    """Return C{Hosts.passes}."""
    key = "target_session_attrs"
    value = conninfo.value(key, "any")
    if replica and value in _ANY:
        return (True, None) if value == "prefer-standby" else (None,)
    if replica and value in _READ_ONLY:
        return (True,)
    if value in _READ_ONLY:
        raise ConfigError(
            [
                f"{conninfo.name(key)}={value} asks for a server that takes no writes;"
                " leave it out, a gateway looks for one that does"
            ]
        )
    allowed = (*_ANY[:1], *_WRITABLE, *_ANY[1:], *(_READ_ONLY if replica else ()))
    if value not in allowed:
        raise ConfigError([f"{conninfo.name(key)} must be one of {', '.join(allowed)}"])
    return (False,)


def _walk(conninfo: ConnInfo) -> tuple[Host, ...]:
    hosts, addresses, ports = (conninfo.list(key) for key in ("host", "hostaddr", "port"))
    count = len(addresses) or len(hosts) or 1
    if hosts and len(hosts) != count:
        raise ConfigError(
            [
                f"has {len(hosts)} in {conninfo.name('host')} for {count} in"
                f" {conninfo.name('hostaddr')}; give as many of one as of the other"
            ]
        )
    if ports and len(ports) not in (1, count):
        raise ConfigError(
            [
                f"has {len(ports)} ports ({conninfo.name('port')}) for {count} hosts;"
                " give one port, or as many as hosts"
            ]
        )
    for port in ports:
        if port and not (port.strip().isdecimal() and 1 <= int(port) <= 65535):
            raise ConfigError([f"has in {conninfo.name('port')} what is no number from 1 to 65535"])
    return tuple(
        Host(host, address, port)
        for host, address, port in zip(
            hosts or [""] * count,
            addresses or [""] * count,
            ports if len(ports) == count else (ports or [""]) * count,
            strict=True,
        )
    )
