"""
Inputs of C{gateway send}: files and pipes, split into messages.

Strategy: large blocks, split at C speed by the framings that the gateway itself uses; a L{Block} is
a list of messages, never an object for each. Regular files are read directly, since no reactor can
wait for them; a pipe or terminal is read when it is readable, and only on demand, so that data
stays in the pipe until it is needed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.commands.send.refused_file import RefusedMessage
from gateway.model.errors import FramingError, InputError
from gateway.wire.framing import LineFraming, NetstringFraming

BLOCK: Final = 131072
"""Bytes of one read: some thousand messages, and far more than a read costs."""

MAX_MESSAGE_BYTES: Final = 1 << 28
"""Longest message taken in, in bytes; more is no line but another kind of file."""


@dataclass(frozen=True, slots=True)
class Block:
    """
    Consecutive messages of one input.

    @ivar size: bytes of the input that they take.
    @ivar name: name of the input, for messages to people.
    @ivar line: number of the first one in its input, from 1.
    @ivar offset: offset in the input behind the last one.
    @ivar generation: index, from 0, among the files that a followed name had.
    """

    messages: Sequence[bytes]
    size: int
    name: str
    line: int
    offset: int = 0
    generation: int = 0

    def without(self, count: int) -> Block:
        """
        Return the block without its first messages.
        """
        return replace(self, messages=self.messages[count:], line=self.line + count)

    def part(self, start: int, stop: int) -> Block:
        """
        Return some messages as a block of size 0; the last part accounts for all bytes of the
        input.
        """
        return replace(self, messages=self.messages[start:stop], line=self.line + start, size=0)


class Cutter(Protocol):
    """
    Splitter of input into messages.
    """

    @property
    def pending(self) -> int:
        """Bytes of an incomplete message."""

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take input, and return the messages now complete.

        @raise InputError: it is not of the expected kind.
        """

    def end(self) -> list[bytes]:
        """
        Return the messages at the end of the input.

        @raise InputError: it ends inside a message.
        """


class LineCutter:
    """
    Splitter into lines: LF ends a message, and one CR just before it is dropped. The last may lack
    its LF.
    """

    def __init__(self, at_start: bool = True) -> None:
        self._framing = LineFraming(MAX_MESSAGE_BYTES, at_start)

    @property
    def pending(self) -> int:
        return self._framing.pending

    def feed(self, data: bytes) -> list[bytes]:
        lines = self._framing.receive(data)
        if self._framing.oversize:
            raise InputError(f"a line of more than {MAX_MESSAGE_BYTES:,} bytes")
        return lines

    def end(self) -> list[bytes]:
        return self.feed(b"\n") if self._framing.pending else []


class NetstringCutter:
    """
    Splitter into netstrings, for messages of any bytes.
    """

    def __init__(self, at_start: bool = True) -> None:
        self._framing = NetstringFraming(MAX_MESSAGE_BYTES, at_start)

    @property
    def pending(self) -> int:
        return self._framing.pending

    def feed(self, data: bytes) -> list[bytes]:
        try:
            return self._framing.receive(data)
        except FramingError as error:
            raise InputError(str(error), error.frames) from None

    def end(self) -> list[bytes]:
        if self._framing.pending:
            raise InputError("ends inside a netstring")
        return []


class RefusedFileCutter:
    """
    Splitter of a file of refused messages: returns the messages in it, byte for byte.
    """

    def __init__(self, at_start: bool = True) -> None:
        self._lines = LineCutter(at_start)
        self._decode = msgspec.json.Decoder(RefusedMessage).decode

    @property
    def pending(self) -> int:
        return self._lines.pending

    def feed(self, data: bytes) -> list[bytes]:
        return self._payloads(self._lines.feed(data))

    def end(self) -> list[bytes]:
        return self._payloads(self._lines.end())

    def _payloads(self, lines: list[bytes]) -> list[bytes]:
        payloads: list[bytes] = []
        for line in lines:
            try:
                payloads.append(self._decode(line).payload())
            except ValueError as error:  # msgspec's and base64's are
                raise InputError(f"not a line that --refused writes: {error}", payloads) from None
        return payloads


NewCutter = Callable[[bool], Cutter]
"""Makes a cutter; it is told whether an input is cut from its start, where a BOM is dropped."""

CUTTERS: Final[dict[str, NewCutter]] = {
    "lines": LineCutter,
    "netstrings": NetstringCutter,
    "refused": RefusedFileCutter,
}


class MessageSource(Protocol):
    """
    Source of messages.
    """

    async def next_messages(self) -> Block | None:
        """
        Wait for the next messages.

        @return: C{None} at the end.
        @raise InputError: it cannot be read, or is not of the expected kind.
        """

    def close(self) -> None:
        """Close the source."""


class InputFiles:
    """
    Source that reads files one after the other; C{-} is standard input.

    @ivar total: bytes of all files; C{None} where one is a pipe or the like.
    """

    def __init__(
        self,
        names: Sequence[str],
        cutter: NewCutter,
        reactor: Any,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        @param tell: called with a line for people where a file's last line lacks its LF.
        @raise InputError: one of them cannot be opened.
        """
        self._cutter = cutter
        self._tell = tell
        self._reactor = reactor
        self._inputs = [_Input(name) for name in names]
        self._blocks = self._walk()
        sizes = [entry.size for entry in self._inputs]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)

    async def next_messages(self) -> Block | None:
        while True:
            step = next(self._blocks, None)
            if step is None or isinstance(step, Block):
                return step
            await step.readable(self._reactor)

    def close(self) -> None:
        for entry in self._inputs:
            entry.close()

    def _walk(self) -> Iterator[Block | _Input]:
        # A generator, so that waiting is one line: it yields an input to wait for.
        for entry in self._inputs:
            entry.open()
            cutter = self._cutter(True)
            line, before, taken = 1, 0, 0
            data = b""
            while True:
                if entry.waits:
                    yield entry
                data = entry.take()
                taken += len(data)
                fault = None
                messages: Sequence[bytes]
                try:
                    messages = cutter.feed(data) if data else cutter.end()
                except InputError as error:
                    messages, fault = error.messages, error
                if messages and not data and not entry.waits:
                    self._tell(
                        f"{entry.name}: its last line, {line:,}, has no line feed and is taken as"
                        " it is; if the file grows there, that line has been sent as it was"
                    )
                if messages:
                    offset = taken - cutter.pending
                    yield Block(messages, offset - before, entry.name, line, offset)
                    line += len(messages)
                    before = offset
                if fault is not None:
                    raise InputError(f"{entry.name}: {fault}, behind message {line - 1:,}")
                if not data:
                    break
            entry.close()


@implementer(IReadDescriptor)
class _Input:
    """
    Open file or pipe.

    @ivar size: in bytes; C{None} unless it is a regular file.
    @ivar waits: whether a read may block, so that the reactor must wait for it.
    """

    def __init__(self, name: str) -> None:
        """
        @raise InputError: it cannot be opened.
        """
        self.name = "standard input" if name == "-" else name
        self._path = name
        self._file = 0 if name == "-" else -1
        self._reactor: Any = None
        self._ready: Deferred[None] | None = None
        try:
            status = os.fstat(0) if name == "-" else Path(name).stat()
            self.waits = not stat.S_ISREG(status.st_mode)
            self.size = None if self.waits else status.st_size
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if self.waits:
                # Opening a named pipe waits for its writer, as it does for cat.
                self.open()
            elif name != "-" and not os.access(name, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self._fault(error) from None

    def open(self) -> None:
        """
        Open the file, when it is its turn: there may be more files than a process can have open.
        """
        if self._file < 0:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise self._fault(error) from None

    def take(self) -> bytes:
        try:
            return os.read(self._file, BLOCK)
        except OSError as error:
            raise self._fault(error) from None

    def readable(self, reactor: Any) -> Deferred[None]:
        """Return a Deferred that fires when there is data, or the end."""
        self._reactor = reactor
        self._ready = Deferred(lambda _: reactor.removeReader(self))
        reactor.addReader(self)
        return self._ready

    def close(self) -> None:
        if self._reactor is not None:
            self._reactor.removeReader(self)
            self._reactor = None
        if self._file > 0:
            os.close(self._file)
            self._file = -1

    # For the reactor.

    def fileno(self) -> int:
        return self._file

    def doRead(self) -> None:
        self._reactor.removeReader(self)
        self._done()

    def connectionLost(self, reason: Failure) -> None:
        """Report the file as readable: the other end closed, but its data can still be read."""
        self._done()

    def logPrefix(self) -> str:
        return "input"

    def _fault(self, error: OSError) -> InputError:
        return InputError(f"{self.name}: cannot be read: {error.strerror}")

    def _done(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(None)
