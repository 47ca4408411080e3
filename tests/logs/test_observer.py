"""
Observer of the log: levels by namespace, either form, and settings that change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.logger import Logger, LogLevel, LogPublisher

from gateway.config.operator import LogSection
from gateway.logs.observer import LogObserver, begin
from gateway.logs.output import FileOutput


class Lines(list[str]):
    """
    Output that keeps the lines.
    """

    def write(self, level: str, lines: Sequence[str]) -> None:
        self.extend(lines)

    def reopen(self) -> bool:
        raise PermissionError(13, "Permission denied")


class Log:
    """
    An observer with what it has written, and loggers that it observes.
    """

    def __init__(self, section: LogSection) -> None:
        self.observer = LogObserver(section)
        self.lines = self.observer.output = Lines()
        self._publisher = LogPublisher(self.observer)

    def say(self, namespace: str, level: str) -> bool:
        """Log something; say whether it was written."""
        before = len(self.lines)
        logger = Logger(namespace, observer=self._publisher)
        logger.emit(LogLevel.levelWithName(level), "something", event="something")
        return len(self.lines) > before


def test_levels_by_namespace() -> None:
    """The longest name that fits counts, up to the class; a name that only begins alike does
    not."""
    section = LogSection(
        level="warn",
        levels={"gateway.spool": "debug", "gateway.spool.drain.Drain": "error", "twisted": "error"},
    )
    log = Log(section)
    assert not log.say("gateway.commit.writer.Writer", "info")
    assert log.say("gateway.commit.writer.Writer", "warn")
    assert log.say("gateway.spool.queue.Spool", "debug")
    assert not log.say("gateway.spool.drain.Drain", "warn")
    assert not log.say("gateway.spooler", "info")
    assert not log.say("log_legacy", "info") and log.say("log_legacy", "critical")
    assert not log.say("twisted.internet.tcp", "warn")


def test_settings_are_taken_over() -> None:
    """A reload changes levels and form at once, and forgets the level of the console."""
    log = Log(LogSection())
    assert log.say("gateway.a.b", "info") and not log.say("gateway.a.b", "debug")
    log.observer.set_level("debug")
    assert log.say("gateway.a.b", "debug")
    with pytest.raises(ValueError, match="'loud' is no level; say one of debug, info, warn"):
        log.observer.set_level("loud")
    log.observer.take(LogSection(format="json"))
    assert not log.say("gateway.a.b", "debug") and log.say("gateway.a.b", "info")
    assert log.lines[0].endswith("[gateway.a#info] something")
    assert json.loads(log.lines[-1])["namespace"] == "gateway.a"


def test_a_new_file_that_cannot_be_opened() -> None:
    """The log goes on in the old one, and says so; without a file there is nothing to begin."""
    log = Log(LogSection())
    assert log.observer.reopen()
    log.observer.output = None
    assert not log.observer.reopen()


def test_where_twistd_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its --logfile, or twistd.log in the background; with --logger the gateway has no say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", None)
    for options, name in (({"logfile": "log"}, "log"), ({"nodaemon": 0}, "twistd.log")):
        observer = LogObserver(LogSection())
        begin(observer, dict(options))
        assert isinstance(observer.output, FileOutput) and (tmp_path / name).exists()
    observer = LogObserver(LogSection())
    begin(observer, {"logger": "some.thing", "logfile": "other"})
    assert observer.output is None and not (tmp_path / "other").exists()
    for wrong in ({"logfile": "-"}, {"logfile": str(tmp_path)}):
        with pytest.raises(SystemExit, match=r"^gateway: "):
            begin(LogObserver(LogSection()), dict(wrong))
