"""
Channel between the parent and one worker: a pair of Unix sockets.

Either side asks the other for something by name and gets bytes, or pushes something that nobody
answers; the parent's connections travel beside as descriptors (SCM_RIGHTS). The two trust each
other: they are one program of one user. Messages arrive in the order in which they were sent.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.model.errors import GatewayError
from gateway.workers.messages import (
    Answer,
    Ask,
    FrameReader,
    Message,
    Push,
    descriptors_of,
    frame_of,
)

_READ: Final = 256 * 1024
"""Bytes that are read at once."""

_READS: Final = 16
"""Reads in one turn of the reactor."""

_MOST: Final = 253
"""Descriptors that one read may bring (SCM_MAX_FD, unix(7))."""

_LATER: Final = 0.05
"""Seconds until a write is repeated when the kernel had too many descriptors on their way."""

Kind = TypeVar("Kind", bound=Message)

Served = Callable[[bytes, Sequence[int]], Awaitable[bytes]]
"""What was asked with its descriptors, which are the callee's to close -> the answer."""


class ChannelError(GatewayError):
    """The other process has no answer, or is gone."""


@implementer(IReadWriteDescriptor)
class Channel:
    """
    Channel to the other process.

    @ivar is_open: whether the other process may still be there.
    """

    _log = Logger()

    def __init__(self, reactor: Any, own: socket.socket, gone: Callable[[], None]) -> None:
        """
        @param own: this side's socket of the pair.
        @param gone: called once when the other side has closed its socket, after everything
            that it sent.
        """
        own.setblocking(False)
        self.is_open = True
        self._reactor = reactor
        self._socket = own
        self._gone = gone
        self._reader = FrameReader()
        self._descriptors: deque[int] = deque()
        self._waiting: deque[tuple[bytes, Sequence[int], Callable[[], None] | None]] = deque()
        self._asked: dict[int, Deferred[bytes]] = {}
        self._next = 0
        self._served: dict[str, Served] = {}
        self._pushed: dict[str, Callable[[bytes], None]] = {}
        self._messages: dict[type, Callable[[Any, Sequence[int]], None]] = {}

    def start(self) -> None:
        """Begin to read."""
        self._reactor.addReader(self)

    def ask(
        self, name: str, payload: bytes = b"", descriptors: Sequence[int] = ()
    ) -> Deferred[bytes]:
        """
        Ask the other process; without an answer the result is a L{ChannelError}.

        @param descriptors: sent with it; they may be closed afterwards.
        """
        self._next += 1
        answer: Deferred[bytes] = Deferred()
        self._asked[self._next] = answer
        self.send(Ask(self._next, name, payload, len(descriptors)), descriptors)
        if not self.is_open:
            self._fail_all()
        return answer

    def push(self, name: str, payload: bytes = b"") -> None:
        """Send something that is not answered."""
        self.send(Push(name, payload))

    def serve(self, name: str, call: Served) -> None:
        """Have a function answer what is asked by a name; its L{GatewayError}s are told."""
        self._served[name] = call

    def on_push(self, name: str, call: Callable[[bytes], None]) -> None:
        """Have a function called with what is pushed by a name."""
        self._pushed[name] = call

    def on_message(self, kind: type[Kind], call: Callable[[Kind, Sequence[int]], None]) -> None:
        """Have a function called with the messages of one kind, and their descriptors."""
        self._messages[kind] = call

    def send(
        self,
        message: Message,
        descriptors: Sequence[int] = (),
        sent: Callable[[], None] | None = None,
    ) -> None:
        """
        Send a message; do nothing where the other process is gone.

        @param descriptors: duplicates of them are sent.
        @param sent: called once the kernel has it, so that it arrives whatever happens to us.
        """
        if not self.is_open:
            return
        copies = [os.dup(one) for one in descriptors] if self._waiting else descriptors
        if self._waiting:
            self._waiting.append((frame_of(message), copies, sent))
            return
        data = frame_of(message)
        count = self._write(data, descriptors)
        if count == len(data):
            if sent is not None:
                sent()
            return
        left = [] if count else [os.dup(one) for one in descriptors]
        self._waiting.append((data[count:], left, sent))
        self._reactor.addWriter(self)

    def close(self) -> None:
        """Close this side; the other one is told by the end of the stream."""
        self.connectionLost()

    def read_rest(self) -> None:
        """Read all that the other process sent before it ended."""
        while self.is_open and self._read():
            pass

    # IReadWriteDescriptor.

    def logPrefix(self) -> str:
        """Name in the reactor's log lines."""
        return "channel"

    def fileno(self) -> int:
        return self._socket.fileno()

    def doRead(self) -> None:
        """Read and carry out messages, no more than a turn's worth."""
        for _ in range(_READS):
            if not self._read():
                return

    def doWrite(self) -> None:
        """Send what waits."""
        while self._waiting:
            data, descriptors, sent = self._waiting[0]
            count = self._write(data, descriptors)
            if count == 0:
                return
            for one in descriptors:
                os.close(one)
            if count < len(data):
                self._waiting[0] = (data[count:], (), sent)
                return
            self._waiting.popleft()
            if sent is not None:
                sent()
        self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End, also because the reactor stops."""
        if not self.is_open:
            return
        self.is_open = False
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self._socket.close()
        for _, descriptors, _ in self._waiting:
            for one in descriptors:
                os.close(one)
        self._waiting.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._fail_all()
        self._gone()

    def _fail_all(self) -> None:
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.errback(ChannelError("the process is gone"))

    def _write(self, data: bytes, descriptors: Sequence[int]) -> int:
        """Return how many bytes the kernel took; the descriptors went with the first."""
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        try:
            return self._socket.sendmsg([data], ancillary)
        except BlockingIOError:
            return 0
        except OSError as error:
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                # What it sent before is still read, and then its end.
                return len(data)
            # Too many descriptors on their way (ETOOMANYREFS): later.
            self._reactor.removeWriter(self)
            self._reactor.callLater(_LATER, self._write_again)
            return 0

    def _write_again(self) -> None:
        if self.is_open and self._waiting:
            self._reactor.addWriter(self)

    def _read(self) -> bool:
        """Read once; return whether there may be more."""
        try:
            data, rights, _, _ = self._socket.recvmsg(
                _READ, socket.CMSG_SPACE(_MOST * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            data, rights = b"", []
        for _, _, packed in rights:
            numbers = array.array("i")
            numbers.frombytes(packed[: len(packed) - len(packed) % numbers.itemsize])
            self._descriptors.extend(numbers)
        if not data:
            self.connectionLost()
            return False
        for message in self._reader.receive(data):
            taken = [self._descriptors.popleft() for _ in range(descriptors_of(message))]
            try:
                self._receive(message, taken)
            except Exception:  # noqa: BLE001 - a bug in one part must not end the whole channel
                self._log.failure("a message between processes failed", event="channel-failed")
            if not self.is_open:
                return False
        return True

    def _receive(self, message: Message, descriptors: Sequence[int]) -> None:
        if isinstance(message, Answer):
            answer = self._asked.pop(message.number, None)
            if answer is None:
                return
            if message.fault is None:
                answer.callback(message.payload)
            else:
                answer.errback(ChannelError(message.fault))
        elif isinstance(message, Ask):
            Deferred.fromCoroutine(self._answer(message, descriptors)).addErrback(
                lambda failure: self._log.failure(
                    "an answer between processes failed", failure, event="channel-failed"
                )
            )
        elif isinstance(message, Push):
            call = self._pushed.get(message.name)
            if call is not None:
                call(message.payload)
        else:
            self._messages[type(message)](message, descriptors)

    async def _answer(self, asked: Ask, descriptors: Sequence[int]) -> None:
        call = self._served.get(asked.name)
        if call is None:
            for one in descriptors:
                with suppress(OSError):
                    os.close(one)
            self.send(Answer(asked.number, b"", f"{asked.name!r} is not known here"))
            return
        try:
            payload = await call(asked.payload, descriptors)
        except GatewayError as error:
            self.send(Answer(asked.number, b"", str(error)))
        except Exception as error:
            self.send(Answer(asked.number, b"", f"{type(error).__name__}: a fault, see the log"))
            raise
        else:
            self.send(Answer(asked.number, payload))
