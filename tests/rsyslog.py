"""
rsyslog as a process, with its plugins: what it is sent goes out by an action of its configuration.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.installing import Installer
from tests.support import PATIENCE, wait_until

CONFIG: Final = """
global(workDirectory="{folder}" processInternalMessages="on" maxMessageSize="{max_message}")
module(load="imptcp")
template(name="raw" type="string" string="%rawmsg%")
{more}
input(type="imptcp" path="{folder}/in.sock" ruleset="out" supportOctetCountedFraming="off")
ruleset(name="out") {{
    {action}
}}
action(type="omfile" file="{folder}/own.log")
"""
"""Lines that come over a Unix socket, byte for byte, to an action."""

RELP: Final = """
action(name="out" type="omrelp" target="127.0.0.1" port="{port}" template="raw"
       action.resumeRetryCount="-1" action.resumeInterval="1"
       queue.type="LinkedList" queue.size="1000000" queue.timeoutShutdown="{shutdown}" {keys})
"""
"""As docs/relp.md has it, but with a queue in memory, and another try after a second."""


class Rsyslog:
    """
    An rsyslog that sends on what it is given.
    """

    def __init__(
        self,
        installer: Installer,
        folder: Path,
        action: str,
        *,
        plugins: Sequence[str] = (),
        more: str = "",
        max_message: str = "64k",
    ) -> None:
        """
        @param folder: for its files; the folder of a Unix socket may not be a long one.
        @param plugins: beside those of the package C{rsyslog}.
        @param max_message: most bytes of a message; what is longer, it cuts off.
        """
        loaded = "".join(f'module(load="{name}")\n' for name in plugins)
        config = folder / "rsyslog.conf"
        config.write_text(
            CONFIG.format(folder=folder, action=action, more=loaded + more, max_message=max_message)
        )
        self._folder = folder
        (folder / "in.sock").unlink(missing_ok=True)
        with (folder / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(installer.program("rsyslogd"), "-n", "-C", "-f", str(config)),
                    *("-i", str(folder / "rsyslog.pid"), "-M", installer.plugins(*plugins)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._input = socket.socket(socket.AF_UNIX)
        wait_until(self._connects, "rsyslog listens")

    @property
    def log(self) -> str:
        """What rsyslog says of itself."""
        with suppress(FileNotFoundError):
            return (self._folder / "own.log").read_text()
        return ""

    def send(self, messages: Sequence[bytes]) -> None:
        """Give it messages; none has a line feed in it."""
        self._input.sendall(b"".join(message + b"\n" for message in messages))

    def stop(self) -> float:
        """
        End it as an operator does.

        @return: how many seconds that took.
        """
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0
        self._input.close()
        return time.monotonic() - begun

    def end(self) -> None:
        """Whatever it takes."""
        self.process.kill()
        self.process.wait()
        self._input.close()

    def _connects(self) -> bool:
        assert self.process.poll() is None, (self._folder / "output.log").read_text()
        with suppress(OSError):
            self._input.connect(str(self._folder / "in.sock"))
            return True
        return False


class Feeder(threading.Thread):
    """
    Gives rsyslog numbered messages, some 10,000 a second, until told to stop.

    @ivar given: how many.
    """

    def __init__(self, rsyslog: Rsyslog) -> None:
        super().__init__(daemon=True)
        self.given = 0
        self._rsyslog = rsyslog
        self._stop_asked = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_asked.wait(0.02):
            first = self.given
            self._rsyslog.send([b"<13>message %d" % n for n in range(first, first + 200)])
            self.given += 200

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(PATIENCE)


def relp_action(port: int, keys: str = "", shutdown: int = 30_000) -> str:
    """
    @param keys: more of the action.
    @param shutdown: milliseconds that it may go on sending when it is stopped.
    @return: an action that sends by RELP.
    """
    return RELP.format(port=port, keys=keys, shutdown=shutdown)
