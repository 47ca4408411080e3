"""
Protocol of the console's socket: a line in, then the lines of its answer and a last one, C{OK} or
C{ERROR text}.

Strategy: one command at a time; what comes meanwhile is not read. An answer waits while the other
end does not take it, so that a console costs a bounded amount of memory. Who connects is known by
the kernel (SO_PEERCRED), whatever the mode of the socket's file.
"""

from __future__ import annotations

import pwd
import socket
import struct
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.admin.console import Console, ConsoleGone
from gateway.admin.grammar import CommandError, Request, parse
from gateway.model.text import printable
from gateway.system.socket_options import carrier_of
from gateway.system.transport import Transport

OK: Final = "OK"
ERROR: Final = "ERROR"

MAX_LINE: Final = 4096
"""Bytes of a line, at most."""

MAX_CONSOLES: Final = 16
"""Connections to one socket at a time."""

_CREDENTIALS: Final = struct.Struct("3i")
"""C{struct ucred} of unix(7): process, user, group."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class ConsoleProtocol(Protocol):
    """
    Protocol of one console.
    """

    transport: Transport
    _log = Logger()

    def __init__(self, factory: ConsoleFactory) -> None:
        self._factory = factory
        self._buffer = b""
        self._lines: deque[bytes] = deque()
        self._operator = ""
        self._is_busy = False
        self._is_ended = False
        self._is_gone = False
        self._is_refused = False
        self._room: Deferred[None] | None = None

    def connectionMade(self) -> None:
        factory = self._factory
        factory.consoles[self] = None
        self.transport.registerProducer(self, True)
        carrier = carrier_of(self.transport)
        if carrier is None:
            self._refuse("a console is a Unix socket")
            return
        process, user, _ = _CREDENTIALS.unpack(
            carrier.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self._operator = f"{user_name(user)}, process {process}"
        if factory.users is not None and user not in factory.users:
            self._log.warn(
                "console: {operator} is not let in",
                event="console-refused",
                operator=self._operator,
            )
            names = " and ".join(user_name(one) for one in sorted(factory.users))
            self._refuse(f"this console is for {names}")
        elif len(factory.consoles) > MAX_CONSOLES and not factory.make_room(self):
            self._refuse(f"{MAX_CONSOLES} consoles are busy already; end one of them")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.consoles.pop(self, None)
        self.stopProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._factory.heard(self)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if len(line) > MAX_LINE:
                self._buffer = line
                break
            self._lines.append(line)
        self._begin()

    def readConnectionLost(self) -> None:
        """Note that the other end says no more; what it said is still answered."""
        self._is_ended = True
        if self._buffer and not self._is_refused:
            self._lines.append(self._buffer)
            self._buffer = b""
        self._begin()

    def writeConnectionLost(self) -> None:
        """Note that all is written, and our own end closed."""

    # Called by the transport.

    def pauseProducing(self) -> None:
        if self._room is None:
            self._room = Deferred()

    def resumeProducing(self) -> None:
        self._go_on()

    def stopProducing(self) -> None:
        # The connection is lost; what was asked before is not to be carried out for nobody.
        self._is_gone = True
        self._lines.clear()
        self._go_on()

    def _go_on(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    # Answers.

    async def write(self, lines: Sequence[str]) -> None:
        """
        Write lines of an answer; return when there is room for more.

        @raise ConsoleGone: nobody reads them any more.
        """
        if lines and not self._is_gone:
            text = "".join(f"{_apart(line)}\n" for line in lines)
            self.transport.write(text.encode("utf-8", "backslashreplace"))
        if self._room is not None:
            await self._room
        if self._is_gone:
            raise ConsoleGone

    def _begin(self) -> None:
        if not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._run()).addErrback(self._bug)

    async def _run(self) -> None:
        self.transport.pauseProducing()
        try:
            while self._lines and not self._is_gone:
                line = self._lines.popleft().removesuffix(b"\r")
                if line.strip():
                    await self._answer(line)
            if len(self._buffer) > MAX_LINE:
                self._refuse(f"a line has at most {MAX_LINE} bytes")
            elif self._is_ended:
                self.end()
        except ConsoleGone:
            pass
        finally:
            self._is_busy = False
            if not (self._is_gone or self._is_ended):
                self.transport.resumeProducing()

    async def _answer(self, line: bytes) -> None:
        try:
            request = _request(line)
            if self._factory.is_monitor and request.changes:
                raise CommandError(f"this socket only shows; {request.verb} is not allowed here")
            await self._factory.console.carry_out(request, self, self._operator)
        except CommandError as error:
            await self._say(f"{ERROR} {printable(str(error))}")
        except ConsoleGone:
            raise
        except Exception:  # noqa: BLE001 - a bug in one command must not end the console
            self._log.failure("console: a command failed", event="command-failed")
            await self._say(f"{ERROR} the command failed; the gateway's log says why")
        else:
            await self._say(OK)

    async def _say(self, line: str) -> None:
        """Write the last line of an answer."""
        if not self._is_gone:
            self.transport.write(f"{line}\n".encode("utf-8", "backslashreplace"))
        await self.write([])

    def give_way(self) -> bool:
        """End where nothing is asked, for another console; say whether it does."""
        if self._is_busy or self._lines or self._is_refused:
            return False
        self._refuse("another console took the place of this one, which asked nothing")
        return True

    def _refuse(self, reason: str) -> None:
        self._is_refused = True
        self._buffer = b""
        self.transport.write(f"{ERROR} {reason}\n".encode())
        self.end()

    def end(self) -> None:
        """Close the connection when all is written."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _bug(self, failure: Failure) -> None:
        self._log.failure("console: failed", event="console-failed", failure=failure)
        self.transport.abortConnection()


class ConsoleFactory(Factory):
    """
    Factory of the consoles of one socket.

    @ivar users: IDs of the users that are let in; C{None}: the file's mode says who is.
    @ivar is_monitor: whether its consoles only show.
    @ivar consoles: those connected now.
    """

    noisy = False

    def __init__(
        self, console: Console, users: Collection[int] | None, *, is_monitor: bool
    ) -> None:
        self.console = console
        self.users = users
        self.is_monitor = is_monitor
        # In the order in which they were last heard of.
        self.consoles: dict[ConsoleProtocol, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> ConsoleProtocol:
        return ConsoleProtocol(self)

    def heard(self, console: ConsoleProtocol) -> None:
        """Note that a console said something."""
        if console in self.consoles:
            del self.consoles[console]
            self.consoles[console] = None

    def make_room(self, console: ConsoleProtocol) -> bool:
        """End the console that asked nothing for longest, for a new one; say whether any was."""
        return any(other.give_way() for other in list(self.consoles) if other is not console)

    def end(self) -> None:
        """Close all connections."""
        for protocol in list(self.consoles):
            protocol.end()


def user_name(user: int) -> str:
    """Return the name of a user, or its ID."""
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return f"user {user}"


def _request(line: bytes) -> Request:
    try:
        return parse(line.decode())
    except UnicodeDecodeError as error:
        raise CommandError(f"not UTF-8 at byte {error.start}") from None


def _apart(line: str) -> str:
    """Return a line that cannot be taken for the last one of an answer."""
    return f" {line}" if line.partition(" ")[0] in (OK, ERROR) else line
