"""
Connector: tries one host after the other, until one takes writes.

Each host has its own deadline, and so has finding its address, so that a server or a
name server that is silent costs some seconds and not the service. The daemon's pool
and C{gateway check} both come this way, and say the same.
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

from gateway.config.load import Database
from gateway.model.errors import ConfigError, OutcomeUnknown, StoreError, Unavailable
from gateway.postgres.connect.connection import MINIMUM_VERSION, Connection, server_settings
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.hosts import Host, Hosts, read_hosts
from gateway.postgres.connect.resolver import Addresses, Resolver, ThreadedResolver
from gateway.postgres.connect.tls_advice import with_advice

_WHERE: Final = re.compile(r"connection to server (at|on) .*? failed: ")
"""How libpq begins when it says why it could not connect (fe-connect.c, since version 14)."""

_STATEMENT_MODE: Final = "statement pooling mode"
"""What PgBouncer says to a transaction block in that mode ends so (its server.c)."""

Shuffle = Callable[[list[Host]], None]
"""Puts a list into another order."""


class Connector:
    """
    Connector to the first server of a list that takes writes.

    Where there are several, the one that was last found to do so is asked first: new
    connections then join the old ones and do not wait again for a host that is silent.
    C{load_balance_hosts=random} draws another order each time instead.

    @ivar outside: what connection strings leave to the machine.
    """

    def __init__(
        self,
        settings: Database,
        reactor: Any,
        outside: Environment,
        resolve: Resolver,
        shuffle: Shuffle = random.shuffle,
    ) -> None:
        self.outside = outside
        self._settings = settings
        self._reactor = reactor
        self._resolve = resolve
        self._shuffle = shuffle
        # The host as listed, and the address of it that was right.
        self._last = (Host(), "")

    @classmethod
    def of_process(cls, settings: Database, reactor: Any) -> Connector:
        """One that sees what libpq sees in this process."""
        return cls(settings, reactor, outside_of_process(), ThreadedResolver(reactor))

    def begin(self, dsn: str) -> ConnectAttempt:
        """
        @param dsn: a libpq connection string; what it leaves out, PG* variables say.
        """
        return ConnectAttempt(dsn, self)

    # For L{ConnectAttempt}.

    def order(self, hosts: Hosts) -> list[Host]:
        """The hosts, best first."""
        walk = list(hosts.walk)
        if hosts.shuffled:
            self._shuffle(walk)
        else:
            walk.sort(key=lambda host: host != self._last[0])
        return walk

    def resolve(self, host: Host) -> Deferred[Addresses]:
        """The addresses of a host's name, within C{connect_timeout}."""
        clock: IReactorTime = self._reactor
        return self._resolve(host.host).addTimeout(self._settings.connect_timeout, clock)

    def prefer(self, addresses: Addresses) -> list[str]:
        """The addresses of one name, best first."""
        return sorted(addresses, key=lambda address: address != self._last[1])

    def connection(self) -> Connection:
        return Connection(self._reactor)

    async def connect(self, connection: Connection, conninfo: str) -> None:
        """
        @raise StoreError: why this server will not do.
        """
        timeout = self._settings.connect_timeout
        await connection.open(conninfo, timeout)
        sql, values = server_settings(self._settings.statement_timeout)
        try:
            # Left open, for that is what a pooler in statement mode does not bear.
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
        if read_only:
            raise Unavailable("the server is read-only (a standby?)")

    def remember(self, listed: Host, place: Host) -> None:
        """This one took us."""
        self._last = (listed, place.hostaddr)

    def no_answer(self, host: Host) -> str:
        timeout = self._settings.connect_timeout
        return f'no address for host name "{host.host}" within {timeout:g} s'


class ConnectAttempt:
    """
    One walk through the hosts.
    """

    def __init__(self, dsn: str, connector: Connector) -> None:
        self._dsn = dsn
        self._connector = connector
        self._faults: list[tuple[Host, str]] = []
        self._stopped = False
        self._connection: Connection | None = None
        self._addresses: Deferred[Addresses] | None = None

    async def run(self) -> Connection:
        """
        libpq would stop where a server refuses a password; which error that is, it does
        not tell us, so the hosts after that one are tried too.

        @return: open, in a session with our settings; its C{server} says where, if
            there were several to choose from.
        @raise Unavailable: with the reason of each host.
        """
        try:
            hosts = read_hosts(self._dsn, self._connector.outside)
        except ConfigError as error:
            # Fine when the process began: the service file has changed since.
            raise Unavailable(f"the connection string {error}") from error
        for listed in self._connector.order(hosts):
            for place in await self._places(listed):
                connection = await self._try(hosts, place)
                if connection is not None:
                    self._connector.remember(listed, place)
                    connection.server = str(place) if len(hosts.walk) > 1 else ""
                    return connection
        raise Unavailable(self._reasons())

    def stop(self) -> None:
        """
        End it wherever it is.
        """
        self._stopped = True
        if self._addresses is not None:
            self._addresses.cancel()
        if self._connection is not None:
            self._connection.discard()

    async def _places(self, host: Host) -> list[Host]:
        """
        The host with each of its addresses; none where they cannot be had.
        """
        if self._stopped or not host.unresolved:
            return [host]
        try:
            self._addresses = self._connector.resolve(host)
            found = self._connector.prefer(await self._addresses)
        except TimeoutError:
            self._faults.append((host, self._connector.no_answer(host)))
        except (OSError, ValueError, CancelledError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "given up"
            text = f'could not translate host name "{host.host}" to address: {reason}'
            self._faults.append((host, text))
        else:
            return [replace(host, hostaddr=address) for address in found]
        finally:
            self._addresses = None
        return []

    async def _try(self, hosts: Hosts, place: Host) -> Connection | None:
        if self._stopped:
            return None
        connection = self._connection = self._connector.connection()
        try:
            await self._connector.connect(connection, hosts.conninfo(place))
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
    What libpq would see in this process.
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
