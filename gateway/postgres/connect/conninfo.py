"""
Keywords of a connection, and where each comes from: the connection string beats the service,
which beats the environment.

Pure: the environment and the files come in. PostgreSQL documentation, sections
"Environment Variables" and "The Connection Service File".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from psycopg2 import extensions

from gateway.postgres.connect.servicefile import NAME, SYSTEM_FOLDERS, ReadFile, read_service

_ENVIRONMENT: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}


@dataclass(frozen=True, slots=True)
class Environment:
    """
    Environment that fills in what a connection string leaves out.

    @ivar environment: PG* variables, among others.
    @ivar home: the folder that C{~/.pg_service.conf} is in.
    """

    environment: Mapping[str, str]
    home: str
    read: ReadFile


class ConnInfo:
    """
    Keywords of a connection, each from the source that counts.

    @ivar own: what the connection string itself says.
    @ivar service: what the service says that it names.
    """

    def __init__(self, dsn: str, outside: Environment) -> None:
        """
        @param dsn: a libpq URI or conninfo, with nothing but syntax known to be right.
        @raise ConfigError: with one line, where the service cannot be read.
        """
        environment = outside.environment
        self.own: Mapping[str, str] = extensions.parse_dsn(dsn)
        self.service: Mapping[str, str] = _service(self.own, outside)
        variables = {
            key: environment[name] for key, name in _ENVIRONMENT.items() if name in environment
        }
        self._ranks = (self.own, self.service, variables)

    def value(self, key: str, default: str = "") -> str:
        for rank in self._ranks:
            if key in rank:
                return rank[key]
        return default

    def list(self, key: str) -> list[str]:
        """Its elements; none where it is empty."""
        value = self.value(key)
        return value.split(",") if value else []

    def name(self, key: str) -> str:
        """The keyword as whoever said it calls it."""
        if key in self.own:
            return key
        return f"{key} of the service" if key in self.service else _ENVIRONMENT[key]


def _service(own: Mapping[str, str], outside: Environment) -> dict[str, str]:
    environment = outside.environment
    service = own.get("service", environment.get("PGSERVICE"))
    if service is None:
        return {}
    # "servicefile" is known to libpq from version 18 on.
    file = own.get("servicefile", environment.get("PGSERVICEFILE"))
    files = [file if file is not None else f"{outside.home}/.{NAME}"]
    system = environment.get("PGSYSCONFDIR")
    folders = SYSTEM_FOLDERS if system is None else (system,)
    files += [f"{folder}/{NAME}" for folder in folders]
    return read_service(service, files, outside.read)
