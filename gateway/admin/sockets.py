"""
Sockets of the console: that of its operator, and one that only shows.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.admin.console import Console
from gateway.admin.place import default_path, names_mode
from gateway.admin.protocol import ConsoleFactory
from gateway.config.operator import OFF, AdminSection
from gateway.system.listening_reactor import ListeningReactor, ListenOptions
from gateway.system.regular_file import own_folder
from gateway.system.unix_socket import make_short_folder

_MONITOR_MODE: Final = 0o660
"""Mode of the socket that only shows: for the group of its file, too."""


class AdminSockets:
    """
    Sockets of the console.
    """

    _log = Logger()

    def __init__(
        self, section: AdminSection, data_dir: Path, console: Console, reactor: Any
    ) -> None:
        """
        @param data_dir: an absolute path, where the operator's socket is if nothing else is said.
        """
        self._section = section
        self._data_dir = data_dir
        self._console = console
        self._reactor = reactor
        self._ports: list[IListeningPort] = []
        self._factories: list[ConsoleFactory] = []
        self._paths: list[str] = []
        self._folder: Path | None = None

    def listen(self) -> None:
        """
        Open the sockets. One that nobody asked for and that cannot be opened is a warning.

        @raise SystemExit: with one line, where one that is configured cannot be opened.
        """
        users = {0, os.geteuid()}
        own, monitor = self._section.endpoint, self._section.monitor
        console = ConsoleFactory(self._console, users, is_monitor=False)
        if own is None:
            self._listen_by_default(console)
        elif own != OFF:
            self._listen("admin.endpoint", own, console, ListenOptions())
        if monitor is not None and monitor != OFF:
            mode = None if names_mode(monitor) else _MONITOR_MODE
            factory = ConsoleFactory(self._console, None, is_monitor=True)
            self._listen("admin.monitor", monitor, factory, ListenOptions(mode=mode))

    def log_addresses(self) -> None:
        """Log where the sockets are, and a command for each."""
        for factory, path in zip(self._factories, self._paths, strict=True):
            self._log.info(
                "admin: {_what} on {path}; try: gateway {_command} --socket {_quoted}",
                event="console",
                path=path,
                monitor=factory.is_monitor,
                _what="status only" if factory.is_monitor else "console",
                _command="status" if factory.is_monitor else "admin",
                _quoted=shlex.quote(path),
            )

    async def stop(self) -> None:
        """Close the sockets and their connections."""
        ports, self._ports = self._ports, []
        for port in ports:
            result: object = port.stopListening()
            if isinstance(result, Deferred):
                await result
        for factory in self._factories:
            factory.end()
        if self._folder is not None:
            with suppress(OSError):  # a database's socket may be there, too
                self._folder.rmdir()

    def _listen_by_default(self, factory: ConsoleFactory) -> None:
        listening = ListeningReactor(self._reactor, "")
        try:
            own_folder(self._data_dir)
            path = default_path(self._data_dir)
            if path.parent != self._data_dir:
                make_short_folder(path.parent)
                self._folder = path.parent
            port = listening.listenUNIX(str(path), factory)
        except CannotListenError as error:
            self._warn(str(getattr(error.socketError, "strerror", None) or error.socketError))
        except OSError as error:
            self._warn(f"{self._data_dir}: {error.strerror}")
        else:
            self._opened(port, factory, str(path))

    def _listen(
        self, key: str, endpoint: str, factory: ConsoleFactory, options: ListenOptions
    ) -> None:
        results: list[object] = []
        listening = ListeningReactor(self._reactor, endpoint, options)
        serverFromString(listening, endpoint).listen(factory).addBoth(results.append)
        result = results[0] if results else None
        if isinstance(result, Failure):
            reason = result.value
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            raise SystemExit(
                f"gateway: {key}: cannot listen on {endpoint!r}:"
                f" {getattr(reason, 'strerror', None) or reason}"
            )
        assert IListeningPort.providedBy(result)
        name: object = getattr(result.getHost(), "name", None)
        path = os.fsdecode(name) if isinstance(name, bytes) else str(name or endpoint)
        self._opened(result, factory, path)

    def _opened(self, port: IListeningPort, factory: ConsoleFactory, path: str) -> None:
        self._ports.append(port)
        self._factories.append(factory)
        self._paths.append(path)

    def _warn(self, reason: str) -> None:
        self._log.warn(
            "admin: no console: {reason}; set [admin] endpoint to another path, or to {_off}",
            event="no-console",
            reason=reason,
            _off=f'"{OFF}", and this is not tried',
        )
