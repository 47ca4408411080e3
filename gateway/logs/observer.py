"""
Observer of the log: takes every event of the process, and writes those of their level or above.

twistd and twist make an observer of their own after the gateway is made: twistd unless its
application has one, twist by a factory among its options. Both are given this one, so that all
lines are alike, from the first one, which Twisted keeps until then, to C{Server Shut Down}. What is
printed to standard output or standard error comes as events too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, TextIO

from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.logs.lines import LEVELS, Event, json_line, level_of, package_of, text_lines
from gateway.logs.output import FileOutput, Output, StreamOutput, SyslogOutput, is_journal

_RANKS: Final = {level: rank for rank, level in enumerate(LEVELS)}


class LogSettings(Protocol):
    """
    Settings of the log, as C{[log]} has them.
    """

    @property
    def format(self) -> str:
        """C{text} or C{json}."""

    @property
    def level(self) -> str:
        """Lowest level of a line."""

    @property
    def levels(self) -> Mapping[str, str]:
        """Namespace -> lowest level of its lines."""


class _Namespace(NamedTuple):
    """
    Namespace of a logger.

    @ivar package: as lines show it.
    @ivar rank: of its lowest level.
    """

    package: str
    rank: int


@implementer(ILogObserver)
class LogObserver:
    """
    Observer of the process's log.

    @ivar output: where lines are written; C{None}: nowhere, since twistd uses another observer.
    """

    _log = Logger()

    def __init__(self, settings: LogSettings, worker: int | None = None) -> None:
        """
        @param worker: number of this process among the workers; C{None}: it is none of them.
        """
        self.output: Output | None = None
        self._worker = worker
        self.take(settings)

    def take(self, settings: LogSettings) -> None:
        """
        Take over new settings; a level that was set by L{set_level} is forgotten.
        """
        self._is_json = settings.format == "json"
        self._level = settings.level
        self._levels = settings.levels
        self._namespaces: dict[str, _Namespace] = {}

    def set_level(self, level: str) -> None:
        """
        Set the lowest level of lines of all namespaces that have none of their own.

        @raise ValueError: there is no such level.
        """
        if level not in _RANKS:
            raise ValueError(f"{level!r} is no level; say one of {', '.join(LEVELS)}")
        self._level = level
        self._namespaces = {}

    def reopen(self) -> bool:
        """
        Begin a new log file; if it cannot be opened, log that and go on in the old one.

        @return: whether there is a log file.
        """
        if self.output is None:
            return False
        try:
            return self.output.reopen()
        except OSError as error:
            self._log.error(
                "the log goes on in its old file, a new one cannot be opened: {reason}",
                event="log-file-kept",
                reason=error.strerror,
            )
            return True

    def __call__(self, event: Event) -> None:
        if self.output is None:
            return
        name = str(event.get("log_namespace") or "twisted")
        namespace = self._namespaces.get(name) or self._namespace(name)
        level = level_of(event)
        if _RANKS[level] < namespace.rank:
            return
        package = namespace.package
        worker = self._worker
        if self._is_json:
            self.output.write(level, [json_line(event, package, worker)])
        else:
            self.output.write(level, text_lines(event, package, worker))

    def crashed(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        """Log an exception that ends the process; as C{sys.excepthook}, else it is many lines."""
        failure = Failure(error, kind, traceback)
        self._log.failure("the gateway ends", event="crashed", failure=failure)

    def _namespace(self, name: str) -> _Namespace:
        level, parent = self._level, name
        while parent:
            if parent in self._levels:
                level = self._levels[parent]
                break
            parent = parent.rpartition(".")[0]
        package = "twisted" if name == "log_legacy" else package_of(name)
        self._namespaces[name] = found = _Namespace(package, _RANKS[level])
        return found


def begin(observer: LogObserver, runner: MutableMapping[str, Any]) -> None:
    """
    Have an observer write to where the options of twistd or twist say.

    @param runner: the options. Those of twist get the observer's factory, twistd takes the observer
        from its application.
    @raise SystemExit: with one line, where the log file cannot be opened.
    """
    if "fileLogObserverFactory" in runner:

        def observe(stream: TextIO) -> LogObserver:
            observer.output = _of_stream(stream)
            return observer

        runner["fileLogObserverFactory"] = observe
        # Levels are this observer's affair alone.
        runner["logLevel"] = LogLevel.debug
    elif not runner.get("logger"):
        observer.output = _of_twistd(runner)
    else:
        return
    sys.excepthook = observer.crashed


def _of_stream(stream: TextIO) -> Output:
    if stream in (sys.stdout, sys.stderr):
        return StreamOutput(stream, is_journal(stream, os.environ))
    return _of_file(Path(stream.name))


def _of_file(path: Path) -> Output:
    try:
        return FileOutput(path.absolute())
    except OSError as error:
        raise SystemExit(f"gateway: log file {path}: {error.strerror}") from None


def _of_twistd(twistd: Mapping[str, Any]) -> Output:
    if twistd.get("syslog"):
        return SyslogOutput(twistd["prefix"])
    name = twistd.get("logfile")
    in_foreground = twistd.get("nodaemon") or twistd.get("debug")
    if name == "-" and not in_foreground:
        raise SystemExit("gateway: a gateway in the background cannot log to standard output")
    if name == "-" or (in_foreground and not name):
        return _of_stream(sys.stdout)
    return _of_file(Path(name or "twistd.log"))
