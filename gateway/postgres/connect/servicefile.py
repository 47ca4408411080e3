"""
Read connection service files, for C{service=metrics}.

libpq reads them on its own as well; we do because they may hold a list of hosts. PostgreSQL
documentation, section "The Connection Service File"; the rules that it leaves open are those of
C{parseServiceInfo} in libpq's fe-connect.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway.model.errors import ConfigError

SERVICE_FILE_NAME: Final = "pg_service.conf"

SYSTEM_FOLDERS: Final = (
    *("/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc/postgresql"),
    "/usr/local/pgsql/etc",
)
"""
Folders in which libpq may have been compiled to look for the service file, which it does not tell:
Debian, Red Hat, Alpine, and its own default.
"""

ReadFile = Callable[[str], str | None]
"""A path -> the text of the file; C{None} where it cannot be read."""


def read_service(service: str, files: Sequence[str], read: ReadFile) -> dict[str, str]:
    """
    Return the parameters of a service, from the first file that has it.

    @param files: paths in the order in which they are read.
    @return: keyword -> value.
    @raise ConfigError: with one line, where no file has it or a line is wrong.
    """
    looked = []
    for path in files:
        text = read(path)
        if text is None:
            continue
        looked.append(path)
        parameters = _section(service, text, path)
        if parameters is not None:
            return parameters
    if not looked:
        where = f"there is no service file: neither {' nor '.join(files)}"
    else:
        where = f"[{service}] is not in {' nor in '.join(looked)}"
    raise ConfigError([f"names the service {service!r}, but {where}"])


def _section(service: str, text: str, path: str) -> dict[str, str] | None:
    parameters: dict[str, str] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if parameters is not None:
                break
            # libpq does not look at what follows the bracket either.
            if line.startswith(f"[{service}]"):
                parameters = {}
        elif parameters is not None:
            key, equals, value = line.partition("=")
            fault = ""
            if line.startswith("ldap"):
                fault = "looks it up in LDAP, which blocks; write host=... there"
            elif not equals:
                fault = "is not keyword=value"
            if fault:
                raise ConfigError([f"names the service {service!r}, but {path}:{number} {fault}"])
            # The first one counts.
            parameters.setdefault(key, value)
    return parameters
