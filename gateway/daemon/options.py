"""
Options of C{twistd gateway}.

An option overrides the file, and the file overrides the default.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, cast

from twisted.python import usage

from gateway.access.tokens import Token
from gateway.config.listener import Listener
from gateway.config.load import Config
from gateway.daemon.configuration import Loaded, load, operator_warnings_of
from gateway.daemon.pid_file import prepare_files
from gateway.daemon.process_title import hide
from gateway.daemon.security_warnings import ON_THE_COMMAND_LINE
from gateway.model.errors import ConfigError
from gateway.model.text import printable
from gateway.tls.contexts import Contexts

DATA_DIR = "gateway-data"


class Options(usage.Options):
    """
    Options of C{twistd gateway}.

    @ivar config: configuration of file and options together; set by C{postOptions}.
    @ivar operator_warnings: warnings for the operator, one line each.
    @ivar tokens: by ID, from the token file; C{None} where none is named.
    @ivar contexts: by the name of the listener, from the TLS files.
    """

    synopsis = "[options]"
    longdesc = (
        "Stores messages from sockets in PostgreSQL and answers each one: +OK means committed. "
        "Without options: an embedded PostgreSQL in ./gateway-data, lines on 127.0.0.1:8000, "
        "netstrings on :8001, commands on :8002. With --line, --netstring or --command the "
        "listeners are those named, and no others."
    )

    optParameters = [
        ["config", "c", None, "Configuration file (TOML)."],
        ["database", None, None, "libpq URI or conninfo, or 'embedded'."],
        ["data-dir", None, DATA_DIR, "Directory of the embedded server and the spool."],
    ]

    compData = usage.Completions(optActions={"config": usage.CompleteFiles("*.toml")})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._endpoints: list[tuple[str, str, str]] = []
        self.config = Config()
        self.tokens: Mapping[str, Token] | None = None
        self.operator_warnings: list[str] = []
        self._notes: list[str] = []
        self.contexts: Mapping[str, Contexts] = {}

    def opt_line(self, endpoint: str) -> None:
        """Listen here for lines, for route 'messages' or the only one. May repeat."""
        self._endpoints.append(("lines", "line", endpoint))

    def opt_netstring(self, endpoint: str) -> None:
        """Listen here for netstrings, for the same route. May repeat."""
        self._endpoints.append(("netstrings", "netstring", endpoint))

    def opt_version(self) -> NoReturn:
        """Show the gateway's version and Twisted's, and end."""
        text = f"gateway, version {version('txgateway')}; Twisted {version('twisted')}"
        sys.stdout.write(f"{text}\n")
        raise SystemExit(0)

    def opt_command(self, endpoint: str) -> None:
        """Listen here for commands in lines. May repeat."""
        self._endpoints.append(("commands", "line", endpoint))

    def postOptions(self) -> None:
        database: str | None = self["database"]
        hidden = database is not None and hide(database)
        try:
            loaded = self.load()
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        self.config, self.tokens, self.contexts = loaded
        try:
            notes = [] if self.parent is None else prepare_files(self.parent)
        except ConfigError as error:
            # A usage text would not help here.
            raise SystemExit(f"gateway: {printable(str(error))}") from None
        # A reload reads the file again, in whatever directory the daemon is then.
        for path in ("config", "data-dir"):
            if self[path] is not None:
                self[path] = str(Path(self[path]).absolute())
        self._notes = [*notes, *([ON_THE_COMMAND_LINE] if hidden else [])]
        self.operator_warnings = self.warnings_of(self.config)

    def warnings_of(self, config: Config) -> list[str]:
        """
        Return warnings about the options and a configuration, one line each.
        """
        overridden = self["database"] is not None
        return [*self._notes, *operator_warnings_of(config, self["config"], overridden)]

    def load(self) -> Loaded:
        """
        Read the file again, with the options applied.

        @raise ConfigError: with every problem.
        """
        listeners = self._listeners if self._endpoints else None
        return load(self["config"], self["database"], listeners)

    def _listeners(self, config: Config) -> dict[str, Listener]:
        route = "messages" if "messages" in config.routes else next(iter(config.routes), None)
        listeners: dict[str, Listener] = {}
        for kind, framing, endpoint in self._endpoints:
            number = sum(name.startswith(kind) for name in listeners)
            dialect = "command" if kind == "commands" else "plain"
            listeners[f"{kind}-{number + 1}" if number else kind] = Listener(
                endpoint=endpoint,
                framing=cast(Any, framing),
                dialect=cast(Any, dialect),
                route=route if dialect == "plain" else None,
            )
        return listeners
