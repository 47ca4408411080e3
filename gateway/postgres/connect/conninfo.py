"""
Read connection parameters: the connection string overrides the service, which overrides the
environment.

Pure: environment and files are passed in. PostgreSQL documentation, sections "Environment
Variables" and "The Connection Service File".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from psycopg2 import extensions

from gateway.postgres.connect.servicefile import (
    SERVICE_FILE_NAME,
    SYSTEM_FOLDERS,
    ReadFile,
    read_service,
)

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
    Environment from which a connection string is completed.

    @ivar environment: the process's, with its PG* variables.
    @ivar home: folder of C{~/.pg_service.conf}.
    """

    environment: Mapping[str, str]
    home: str
    read: ReadFile


class ConnInfo:
    """
    Parameters of a connection, each from the source that takes precedence.

    @ivar own: parameters of the connection string itself.
    @ivar service: parameters of the service that it names.
    """

    def __init__(self, dsn: str, outside: Environment) -> None:
        """
        @param dsn: a libpq URI or conninfo whose syntax is valid.
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
        """Return a comma-separated value as a list; empty where it is not set."""
        value = self.value(key)
        return value.split(",") if value else []

    def name(self, key: str) -> str:
        """Return the parameter's name in its source, for messages."""
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
    files = [file if file is not None else f"{outside.home}/.{SERVICE_FILE_NAME}"]
    system = environment.get("PGSYSCONFDIR")
    folders = SYSTEM_FOLDERS if system is None else (system,)
    files += [f"{folder}/{SERVICE_FILE_NAME}" for folder in folders]
    return read_service(service, files, outside.read)
