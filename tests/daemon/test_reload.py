"""
Reloading: all of a new configuration or nothing, and connections live on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
from twisted.logger import formatEvent

from gateway.config.load import Config, load_config
from gateway.daemon.configuration import endpoint_fault
from gateway.daemon.reload import GONE, Reload, changed_at_start
from gateway.daemon.service import on_signals
from tests.support import Database, Gateway, logged

Start = Callable[..., Gateway]

LISTENER = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
"""


def load(text: str) -> Config:
    return load_config(text, PurePath("/etc/g.toml"), endpoint_fault)


def test_what_waits_for_a_start_is_named() -> None:
    """Keys that a reload does not take over are named as the file has them, no others."""
    old = load(LISTENER)
    assert changed_at_start(old, load(LISTENER)) == []
    assert changed_at_start(old, load(LISTENER + 'allow = ["10.0.0.0/8"]\nburst = 7.0\n')) == []
    assert changed_at_start(
        old,
        load(
            LISTENER.replace("tcp:0", "tcp:9")
            + 'window = 7\n[listeners.more]\nendpoint = "tcp:1"\nroute = "messages"\n'
            + "[spool]\nmax_bytes = 2000000\n[database]\npool_max = 9\n"
        ),
    ) == [
        "database",
        "spool",
        "listeners.lines.endpoint",
        "listeners.lines.window",
        "listeners.more",
    ]


ACCESS = '[access.grants.all]\nnetworks = ["unix"]\nroutes = ["*"]\n'


class Reloading:
    """
    A gateway's reloads, of files that are given as text, and what the log says of each.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.taken: list[Config] = []
        self.reload = Reload(load(text), lambda: load(self.text), [self.take])

    def take(self, config: Config) -> None:
        self.taken.append(config)

    def __call__(self, text: str) -> list[str]:
        self.text = text
        with logged() as events:
            self.reload()
        return [str(formatEvent(event)) for event in events]


@pytest.mark.parametrize("text", ["", "# begun", LISTENER])
def test_a_reload_does_not_take_access_away(text: str) -> None:
    """Where [access] is in force, from the start or a reload, a file without it changes nothing."""
    refused = [f"not reloaded: {GONE}", "the configuration from before stays in force"]
    guarded = Reloading(LISTENER + ACCESS)
    assert guarded(text) == refused and not guarded.taken
    # What is in force counts, not what the gateway was started with.
    later = Reloading(LISTENER)
    assert later(LISTENER)[-1].startswith("configuration reloaded")
    assert later(LISTENER + ACCESS)[-1].startswith("configuration reloaded")
    assert later(text) == refused and len(later.taken) == 2
    assert later(LISTENER + ACCESS)[-1].startswith("configuration reloaded")


def test_a_reload_survives_what_nobody_thought_of() -> None:
    """Any exception is logged as a bug, says what is in force, and the next reload works."""

    def broken(*_: object) -> Config:
        raise RuntimeError("unforeseen")

    for read, parts, said in (
        (broken, [], "the configuration from before stays in force"),
        (lambda: load(LISTENER + ACCESS), [broken], "the configuration from before stays in"),
    ):
        with logged() as events:
            Reload(load(LISTENER + ACCESS), read, parts)()  # type: ignore[arg-type]
        failure, last = events
        assert failure["log_level"].name == "critical"
        assert failure["log_failure"].check(RuntimeError)
        assert str(formatEvent(last)).startswith(said)


class NotRunning:
    """
    A reactor that has still to start.
    """

    def __init__(self) -> None:
        self.queued: list[Callable[[], None]] = []

    def callWhenRunning(self, call: Callable[[], None]) -> None:
        """Never, here."""

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.queued.append(call)


def test_a_signal_before_the_reactor_runs() -> None:
    """SIGHUP while the gateway is still starting waits for the reactor, and ends nothing."""
    reactor, calls = NotRunning(), list[str]()
    # Without a gateway's answer to it the signal would end the tests.
    before = signal.signal(signal.SIGHUP, lambda number, frame: calls.append("lost"))
    try:
        on_signals(reactor, None, lambda: calls.append("reload"))  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert calls == []
    (queued,) = reactor.queued
    queued()
    assert calls == ["reload"]


def test_a_reload(
    database: Database, tmp_path: Path, start_gateway: Callable[..., Gateway]
) -> None:
    """
    SIGHUP with a good file takes it over and names what has to wait, with a bad one changes
    nothing and names each problem; who is connected stays.
    """
    config = tmp_path / "g.toml"
    head = f"[database]\ndsn = '''{database.dsn}'''\n"

    def reload(text: str, said: str) -> None:
        config.write_text(head + text)
        os.kill(gateway.process.pid, signal.SIGHUP)
        gateway.wait_log(said)

    config.write_text(head + LISTENER)
    gateway = start_gateway("--config", "g.toml")
    peer = gateway.connect()
    denied = LISTENER + 'deny = ["127.0.0.0/8"]\n'
    reload(denied.replace("[listeners", "bad = 1\n[listeners"), r"not reloaded: .*bad: unknown key")
    reload(denied.replace("route", "rout"), "not reloaded: .*did you mean 'route'")
    assert "the configuration from before stays in force" in gateway.log
    assert gateway.connect().ask(b"one\n") == b"+OK\n"
    reload(denied + "window = 7\n", "changed, but for the next start: listeners.lines.window")
    gateway.wait_log("configuration reloaded")
    # As long as it waits it is named, at every reload.
    reload(denied + "window = 7\n", "(?s)configuration reloaded.*for the next start: .*window")
    assert gateway.connect().ask(b"").startswith(b"-BYE DENIED ")
    assert peer.ask(b"two\n") == b"+OK\n"
    config.unlink()
    os.kill(gateway.process.pid, signal.SIGHUP)
    gateway.wait_log("not reloaded: .*cannot be read: No such file")
    assert "Traceback" not in gateway.log
    assert database.bodies() == ["one", "two"]
