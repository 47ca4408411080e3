"""
What C{gateway send} reads: files and pipes, cut into messages.

Strategy: large blocks, cut at C speed by the framings that the gateway itself uses; a
L{Block} is a list of messages, never an object for each. Regular files are read at once,
since no reactor can wait for them; a pipe or terminal is read when it has something, and
only while somebody asks, so that what is not wanted yet stays in the pipe.
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

LONGEST: Final = 1 << 28
"""Longest message taken in, in bytes; more is no line but another kind of file."""


@dataclass(frozen=True, slots=True)
class Block:
    """
    Messages in a row of one input.

    @ivar size: bytes of the input that they took.
    @ivar name: the input's, for people.
    @ivar line: number of the first one within its input, from 1.
    @ivar offset: of the input's byte after the last one.
    @ivar generation: which of the files that a followed name had, from 0.
    """

    messages: Sequence[bytes]
    size: int
    name: str
    line: int
    offset: int = 0
    generation: int = 0

    def without(self, count: int) -> Block:
        """
        All but the first messages.
        """
        return replace(self, messages=self.messages[count:], line=self.line + count)

    def part(self, start: int, stop: int) -> Block:
        """
        Some messages; they count as no bytes of the input, which the last ones do.
        """
        return replace(self, messages=self.messages[start:stop], line=self.line + start, size=0)


class Cutter(Protocol):
    """
    Cuts what was read into messages.
    """

    @property
    def pending(self) -> int:
        """Bytes of a message that is not finished."""

    def feed(self, data: bytes) -> list[bytes]:
        """
        @raise InputError: this is not what it should be.
        """

    def end(self) -> list[bytes]:
        """
        Nothing more will come.

        @raise InputError: it ends inside a message.
        """


class LineCutter:
    """
    A message is a line: LF ends it, and one CR just before is dropped. The last may lack its LF.
    """

    def __init__(self, at_start: bool = True) -> None:
        self._framing = LineFraming(LONGEST, at_start)

    @property
    def pending(self) -> int:
        return self._framing.pending

    def feed(self, data: bytes) -> list[bytes]:
        lines = self._framing.receive(data)
        if self._framing.oversize:
            raise InputError(f"a line of more than {LONGEST:,} bytes")
        return lines

    def end(self) -> list[bytes]:
        return self.feed(b"\n") if self._framing.pending else []


class NetstringCutter:
    """
    A message is a netstring and may hold any bytes.
    """

    def __init__(self, at_start: bool = True) -> None:
        self._framing = NetstringFraming(LONGEST, at_start)

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
    A message is what a line of a file of refused ones holds: sends them again, exactly.
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
        found: list[bytes] = []
        for line in lines:
            try:
                found.append(self._decode(line).payload())
            except ValueError as error:  # msgspec's and base64's are
                raise InputError(f"not a line that --refused writes: {error}", found) from None
        return found


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

    async def read(self) -> Block | None:
        """
        Wait for the next messages.

        @return: C{None} at the end.
        @raise InputError: it cannot be read, or is not what it should be.
        """

    def close(self) -> None:
        """Nothing more is wanted."""


class InputFiles:
    """
    Files one after the other; C{-} is standard input.

    @ivar total: bytes of all of them, C{None} where a pipe or the like is among them.
    """

    def __init__(
        self,
        names: Sequence[str],
        cutter: NewCutter,
        reactor: Any,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        @param tell: gets a line for people where a file's last line lacks its LF.
        @raise InputError: one of them cannot be opened.
        """
        self._cutter = cutter
        self._tell = tell
        self._reactor = reactor
        self._inputs = [_Input(name) for name in names]
        self._blocks = self._walk()
        sizes = [entry.size for entry in self._inputs]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)

    async def read(self) -> Block | None:
        while True:
            step = next(self._blocks, None)
            if step is None or isinstance(step, Block):
                return step
            await step.readable(self._reactor)

    def close(self) -> None:
        for entry in self._inputs:
            entry.close()

    def _walk(self) -> Iterator[Block | _Input]:
        # A generator, so that where it waits is one line: it gives an input to wait for.
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
    One open file or pipe.

    @ivar size: in bytes, of a regular file.
    @ivar waits: whether reading it may have to wait.
    """

    def __init__(self, name: str) -> None:
        """
        @raise InputError: it cannot be read.
        """
        self.name = "standard input" if name == "-" else name
        self._path = name
        self._file = 0 if name == "-" else -1
        self._reactor: Any = None
        self._ready: Deferred[None] | None = None
        try:
            found = os.fstat(0) if name == "-" else Path(name).stat()
            self.waits = not stat.S_ISREG(found.st_mode)
            self.size = None if self.waits else found.st_size
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if self.waits:
                # Opening a named pipe waits for its writer, as it does for cat.
                self.open()
            elif name != "-" and not os.access(name, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self._fault(error) from None

    def open(self) -> None:
        """Files are opened in their turn: there may be more than a process can have open."""
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
        """Fires when there is something, or the end."""
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

    # What the reactor asks.

    def fileno(self) -> int:
        return self._file

    def doRead(self) -> None:
        self._reactor.removeReader(self)
        self._done()

    def connectionLost(self, reason: Failure) -> None:
        """The other end is gone: what it wrote can still be read, then the end."""
        self._done()

    def logPrefix(self) -> str:
        return "input"

    def _fault(self, error: OSError) -> InputError:
        return InputError(f"{self.name}: cannot be read: {error.strerror}")

    def _done(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(None)
