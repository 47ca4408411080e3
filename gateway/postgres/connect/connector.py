"""
Connect to the first host that takes writes.

Each host has its own timeout, and so has resolving its name, so that a silent server or name server
costs some seconds and not the service. The daemon's pool and C{gateway check} both connect this
way, and report the same errors.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from gateway.config.load import Database, NamedDatabase
from gateway.model.errors import ConfigError, OutcomeUnknown, StoreError, Unavailable
from gateway.postgres.connect.connection import MINIMUM_VERSION, Connection, server_settings
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.hosts import Host, Hosts, read_hosts
from gateway.postgres.connect.resolver import Addresses, Resolver, ThreadedResolver
from gateway.postgres.connect.tls_advice import with_advice

_WHERE: Final = re.compile(r"connection to server (at|on) .*? failed: ")
"""Beginning of libpq's error message when it cannot connect (fe-connect.c, since version 14)."""

_STATEMENT_MODE: Final = "statement pooling mode"
"""End of PgBouncer's answer to a transaction block in statement mode (its server.c)."""

Shuffle = Callable[[list[Host]], None]
"""Puts a list into another order."""


class Connector:
    """
    Connector to the first host of a list that takes writes.

    Where there are several, the last one that did is tried first: new connections then go to the
    server of the old ones, and do not wait again for a silent host. With
    C{load_balance_hosts=random} each attempt has another order instead.

    @ivar outside: environment from which connection strings are completed.
    @ivar replica: whether the server is only read, so that one that takes no writes will do.
    """

    def __init__(
        self,
        settings: Database,
        reactor: Any,
        outside: Environment,
        resolve: Resolver,
        shuffle: Shuffle = random.shuffle,
        replica: bool = False,
    ) -> None:
        self.outside = outside
        self.replica = replica
        self._settings = settings
        self._reactor = reactor
        self._resolve = resolve
        self._shuffle = shuffle
        # The last host used, as listed, and its address.
        self._last = (Host(), "")

    @classmethod
    def of_process(cls, settings: Database, reactor: Any) -> Connector:
        """Return a connector with the environment that libpq sees in this process."""
        return cls(
            settings,
            reactor,
            outside_of_process(),
            ThreadedResolver(reactor),
            replica=isinstance(settings, NamedDatabase) and settings.is_replica,
        )

    def begin(self, dsn: str) -> ConnectAttempt:
        """
        Return an attempt to connect, not yet started.

        @param dsn: a libpq connection string; PG* variables give what it leaves out.
        """
        return ConnectAttempt(dsn, self)

    # For L{ConnectAttempt}.

    def order(self, hosts: Hosts) -> list[Host]:
        """Return the hosts in the order in which to try them."""
        walk = list(hosts.walk)
        if hosts.shuffled:
            self._shuffle(walk)
        else:
            walk.sort(key=lambda host: host != self._last[0])
        return walk

    def resolve(self, host: Host) -> Deferred[Addresses]:
        """Resolve a host's name within C{connect_timeout}."""
        clock: IReactorTime = self._reactor
        return self._resolve(host.host).addTimeout(self._settings.connect_timeout, clock)

    def prefer(self, addresses: Addresses) -> list[str]:
        """Return the addresses of one name in the order in which to try them."""
        return sorted(addresses, key=lambda address: address != self._last[1])

    def connection(self) -> Connection:
        return Connection(self._reactor)

    async def connect(
        self, connection: Connection, conninfo: str, is_read_only: bool | None
    ) -> None:
        """
        Open a connection, and check that its server can be used.

        @param is_read_only: whether a server is looked for that takes no writes; C{None}: any.
        @raise StoreError: why it cannot.
        """
        timeout = self._settings.connect_timeout
        await connection.open(conninfo, timeout)
        sql, values = server_settings(self._settings.statement_timeout)
        try:
            # A transaction over two statements fails behind a pooler in statement mode.
            version, read_only, *_ = (await connection.query(f"BEGIN; {sql}", values, timeout))[0]
            await connection.query("COMMIT", None, timeout)
        except OutcomeUnknown as error:
            if _STATEMENT_MODE not in str(error):
                raise
            raise Unavailable(
                "the pooler on the way to the database is in statement mode, which takes no"
                " transactions: set its pool_mode to transaction or session"
            ) from error
        if version < MINIMUM_VERSION:
            raise Unavailable(f"PostgreSQL 13 or newer is needed, this one says {version}")
        if is_read_only is not None and read_only is not is_read_only:
            raise Unavailable(
                "the server is read-only (a standby?)" if read_only else "the server is no standby"
            )

    def remember(self, listed: Host, place: Host) -> None:
        """Remember the host and address that were connected to, to try them first next time."""
        self._last = (listed, place.hostaddr)

    def no_answer(self, host: Host) -> str:
        timeout = self._settings.connect_timeout
        return f'no address for host name "{host.host}" within {timeout:g} s'


class ConnectAttempt:
    """
    Attempt to connect, over all hosts.
    """

    def __init__(self, dsn: str, connector: Connector) -> None:
        self._dsn = dsn
        self._connector = connector
        self._faults: list[tuple[Host, str]] = []
        self._stopped = False
        self._connection: Connection | None = None
        self._addresses: Deferred[Addresses] | None = None

    async def connect(self) -> Connection:
        """
        Try all hosts in order. libpq would stop where a server refuses a password; but it does not
        report which error occurred, so the hosts behind that one are tried too.

        @return: open, in a session with our settings; its C{server} names the host if there were
            several.
        @raise Unavailable: with the reason for each host.
        """
        try:
            hosts = read_hosts(self._dsn, self._connector.outside, replica=self._connector.replica)
        except ConfigError as error:
            # It was valid at the start: the service file has changed since.
            raise Unavailable(f"the connection string {error}") from error
        for is_read_only in hosts.passes:
            self._faults.clear()
            for listed in self._connector.order(hosts):
                for place in await self._places(listed):
                    connection = await self._try(hosts, place, is_read_only)
                    if connection is not None:
                        self._connector.remember(listed, place)
                        connection.server = str(place) if len(hosts.walk) > 1 else ""
                        # Of servers that take writes there is one, of others any number.
                        connection.shares_load = hosts.shuffled or hosts.passes != (False,)
                        return connection
        raise Unavailable(self._reasons())

    def stop(self) -> None:
        """
        Cancel the attempt.
        """
        self._stopped = True
        if self._addresses is not None:
            self._addresses.cancel()
        if self._connection is not None:
            self._connection.discard()

    async def _places(self, host: Host) -> list[Host]:
        """
        Return the host once for each of its addresses; none where it cannot be resolved.
        """
        if self._stopped or not host.unresolved:
            return [host]
        try:
            self._addresses = self._connector.resolve(host)
            addresses = self._connector.prefer(await self._addresses)
        except TimeoutError:
            self._faults.append((host, self._connector.no_answer(host)))
        except (OSError, ValueError, CancelledError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "given up"
            text = f'could not translate host name "{host.host}" to address: {reason}'
            self._faults.append((host, text))
        else:
            return [replace(host, hostaddr=address) for address in addresses]
        finally:
            self._addresses = None
        return []

    async def _try(self, hosts: Hosts, place: Host, is_read_only: bool | None) -> Connection | None:
        if self._stopped:
            return None
        connection = self._connection = self._connector.connection()
        try:
            await self._connector.connect(connection, hosts.conninfo(place), is_read_only)
        except StoreError as error:
            connection.discard()
            self._faults.append((place, with_advice(str(error))))
            return None
        finally:
            self._connection = None
        return connection

    def _reasons(self) -> str:
        if len(self._faults) == 1:
            return self._faults[0][1]
        return "; ".join(f"{host}: {_WHERE.sub('', text, 1)}" for host, text in self._faults)


def outside_of_process() -> Environment:
    """
    Return the environment that libpq sees in this process.
    """

    def read(path: str) -> str | None:
        try:
            return Path(path).read_text("utf-8", "surrogateescape")
        except OSError:
            return None

    try:
        home = str(Path.home())
    except RuntimeError:
        home = ""  # a user that the system does not know, as in some containers
    return Environment(os.environ, home, read)
