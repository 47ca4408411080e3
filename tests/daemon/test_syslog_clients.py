"""
Senders of syslog, installed where they are missing: rsyslog's omfwd, logger --tcp, and
Python's own SysLogHandler.

None reads answers, so their listeners give none. What each says it sent is what the
table holds, byte for byte.
"""

from __future__ import annotations

import logging
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Final

import pytest

from tests.faults.look import assert_quiet
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway, wait_until

Start = Callable[..., Gateway]

LISTENERS: Final = """
[listeners.line]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
ack = "none"
[listeners.nul]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "nul"
route = "messages"
ack = "none"
[listeners.octet-counted]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "octet-counted"
route = "messages"
ack = "none"
"""

FRAMINGS: Final = pytest.mark.parametrize("framing", ["line", "octet-counted"])

PARAGRAPHS: Final = [
    *("hello", "käse, 奶酪", "tab\tand \x01 control"),
    "Traceback (most recent call last):\n  File \"x.py\", line 1\nKeyError: 'a'",
    *(f"message {n}" for n in range(500)),
]

RSYSLOG: Final = r"""
global(workDirectory="{folder}" processInternalMessages="on")
module(load="imfile")
input(type="imfile" file="{folder}/app.log" tag="demo:" ruleset="forward" readMode="1"
      escapeLF="off")
template(name="kept" type="string"
         string="<%PRI%>%TIMESTAMP% %HOSTNAME% %syslogtag:1:32%%msg:::sp-if-no-1st-sp%%msg%\n--\n")
ruleset(name="forward") {{
    action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" {framing})
    action(type="omfile" file="{folder}/sent" template="kept")
}}
action(type="omfile" file="{folder}/own.log")
"""


@contextmanager
def rsyslog(program: str, folder: Path, port: int, framing: str) -> Iterator[None]:
    """An rsyslog that follows C{app.log} and forwards it."""
    framed = 'TCP_Framing="octet-counted"' if framing == "octet-counted" else ""
    config = folder / "rsyslog.conf"
    config.write_text(RSYSLOG.format(folder=folder, port=port, framing=framed))
    (folder / "app.log").touch()
    own = folder / "own.log"
    with own.open("ab") as log:
        process = subprocess.Popen(
            [program, "-n", "-C", "-f", str(config), "-i", str(folder / "rsyslog.pid")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
        process.terminate()
        assert process.wait(PATIENCE) == 0
        said = own.read_text()
        assert "rsyslogd" in said and "suspended" not in said and "omfwd" not in said
    finally:
        process.kill()
        process.wait()


@FRAMINGS
def test_omfwd(
    framing: str, installer: Installer, start_with: Start, database: Database, tmp_path: Path
) -> None:
    """
    rsyslog forwards a log file, in octet-counted frames messages of several lines too, and
    never finds the gateway out of order.
    """
    program = installer.program("rsyslogd")
    gateway = start_with(LISTENERS)
    paragraphs = [p for p in PARAGRAPHS if framing == "octet-counted" or "\n" not in p]
    with rsyslog(program, tmp_path, gateway.port(framing), framing):
        (tmp_path / "app.log").write_text("".join(f"{text}\n\n" for text in paragraphs))
        wait_until(lambda: len(database.bodies()) == len(paragraphs), "all messages are stored")
    sent = (tmp_path / "sent").read_text().removesuffix("\n--\n").split("\n--\n")
    assert database.bodies() == sent
    for text, message in zip(paragraphs, sent, strict=True):
        assert message.startswith("<133>") and message.endswith(f" demo: {text}")
    assert_quiet(gateway)


@FRAMINGS
def test_logger(framing: str, installer: Installer, start_with: Start, database: Database) -> None:
    """logger sends each line of its input as a message, and ends without waiting for anything."""
    gateway = start_with(LISTENERS)
    texts = ["hello", "käse, 奶酪", "blanks  and <brackets> "]
    done = subprocess.run(
        [
            *(installer.program("logger"), "--tcp", "-n", "127.0.0.1", "-t", "demo", "--stderr"),
            *("-P", str(gateway.port(framing)), "-p", "cron.err", "--rfc3164"),
            *(("--octet-count",) if framing == "octet-counted" else ()),
        ],
        input="".join(f"{text}\n" for text in texts),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done
    wait_until(lambda: len(database.bodies()) == len(texts), "all messages are stored")
    shown = done.stderr.splitlines()
    if framing == "octet-counted":
        shown = [line.partition(" ")[2] for line in shown]
    assert database.bodies() == shown
    for text, message in zip(texts, database.bodies(), strict=True):
        assert message.startswith("<75>") and message.endswith(f" demo: {text}")
    assert_quiet(gateway)


@contextmanager
def python_logger(port: int) -> Iterator[logging.Logger]:
    """A logger that sends what it logs."""
    handler = SysLogHandler(("127.0.0.1", port), SysLogHandler.LOG_CRON, socket.SOCK_STREAM)
    logger = logging.getLogger(f"{__name__}.{port}")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        handler.close()


def test_python(start_with: Start, database: Database) -> None:
    """Python's SysLogHandler ends messages with NUL, so that those of several lines stay one."""
    gateway = start_with(LISTENERS)
    texts = ["hello", "käse, 奶酪", *PARAGRAPHS[3:]]
    with python_logger(gateway.port("nul")) as logger:
        for text in texts:
            logger.error("%s", text)
        wait_until(lambda: len(database.bodies()) == len(texts), "all messages are stored")
    assert database.bodies() == [f"<75>{text}" for text in texts]
    assert_quiet(gateway)


def test_python_at_a_listener_of_lines(start_with: Start, database: Database) -> None:
    """There its messages do not end; the log says so once, whoever else does the same."""
    gateway = start_with(LISTENERS)
    for _ in range(2):
        with python_logger(gateway.port("line")) as logger:
            logger.error("hello")
            logger.error("hello again")
        wait_until(lambda: "seems to end its messages with NUL" in gateway.log, "the log says it")
    with python_logger(gateway.port("line")) as logger:
        logger.handlers[0].append_nul = False  # type: ignore[attr-defined]
        logger.error("hello\n")
        wait_until(lambda: database.bodies() == ["<75>hello"], "a line is stored")
    assert gateway.log.count("seems to end its messages with NUL") == 1
    assert 'set framing = "nul" for this listener' in gateway.log
