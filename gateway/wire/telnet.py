"""
Telnet's commands: removed from the data; each option is refused, none is ever requested.

Strategy: sans I/O, and lines pay little for it: what holds neither IAC nor NUL goes
through as it came. An incomplete command is kept in a few bytes between two reads; of a
subnegotiation only the length. However the stream was cut, the same data come out.

A peer may offer and request any option; this end stays the plain network virtual
terminal of RFC 854. Since it never requests one, it needs no more of RFC 1143's states than
what was refused already: the same request is not answered twice, so two ends cannot keep
each other busy. C{DO TIMING-MARK} (RFC 860) requests an answer and no state: each one is
answered, since telnet(1) shows nothing between Ctrl-C and that answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from gateway.model.errors import FramingError, TelnetError
from gateway.wire.framing import Framing

MAX_SUBNEGOTIATION: Final = 512
"""
Bytes of a subnegotiation. Nobody who is refused every option has reason for one, and the
largest that are sent otherwise, an environment (RFC 1572), are some hundred.
"""

# RFC 854, "TELNET command structure"; RFC 860.
_IAC: Final = b"\xff"
_SE: Final = 240
_SB: Final = 250
_WILL, _WONT, _DO, _DONT = 251, 252, 253, 254
_TIMING_MARK: Final = 6

_REFUSED_BY: Final = {_WILL: _DONT, _DO: _WONT}
_WITHDRAWN: Final = {_WONT: _WILL, _DONT: _DO}


class Telnet:
    """
    State of Telnet's commands of one peer.
    """

    __slots__ = ("_after_cr", "_kept", "_refused", "_skipped")

    def __init__(self) -> None:
        self._kept = b""
        # Bytes of the subnegotiation under way, without an end.
        self._skipped: int | None = None
        # Whether the last byte of data was a CR.
        self._after_cr = False
        self._refused: set[tuple[int, int]] = set()

    @property
    def unfinished(self) -> bool:
        """Whether an incomplete command is kept."""
        return self._skipped is not None or bool(self._kept)

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """
        Take the bytes that the transport received, and separate commands from data.

        @return: the data without commands, CR NUL as CR; and the bytes that answer the commands.
        @raise TelnetError: a subnegotiation does not end.
        """
        if _IAC not in data and b"\0" not in data and self._skipped is None and not self._kept:
            self._after_cr = data.endswith(b"\r")
            return data, b""
        pieces: list[bytes] = []
        answers: list[bytes] = []
        is_ending = self._take(self._kept + data, pieces, answers)
        clean = self._without_nul(b"".join(pieces))
        if not is_ending:
            raise TelnetError(
                f"telnet: a subnegotiation over {MAX_SUBNEGOTIATION} bytes",
                clean,
                b"".join(answers),
            )
        return clean, b"".join(answers)

    def _take(self, data: bytes, pieces: list[bytes], answers: list[bytes]) -> bool:
        """
        Split bytes into data and commands, and answer these.

        @return: C{False} where a subnegotiation is longer than L{MAX_SUBNEGOTIATION}.
        """
        self._kept = b""
        position = 0
        while True:
            start = data.find(_IAC, position)
            end = len(data) if start < 0 else start
            if self._skipped is None:
                pieces.append(data[position:end])
            else:
                self._skipped += end - position
                if self._skipped > MAX_SUBNEGOTIATION:
                    return False
            if start < 0:
                return True
            sequence = data[start : start + 3]
            command = sequence[1] if len(sequence) > 1 else None
            if command is None or (
                self._skipped is None and command in range(_WILL, _DONT + 1) and len(sequence) < 3
            ):
                self._kept = sequence
                return True
            position = start + 2
            if self._skipped is not None:
                # IAC IAC is one of its bytes; commands other than its end are only counted.
                self._skipped = None if command == _SE else self._skipped + 2
            elif command == _IAC[0]:
                pieces.append(_IAC)
            elif command == _SB:
                self._skipped = 0
            elif command in range(_WILL, _DONT + 1):
                position = start + 3
                answers.append(self._negotiate(command, sequence[2]))

    def _negotiate(self, command: int, option: int) -> bytes:
        withdrawn = _WITHDRAWN.get(command)
        if withdrawn is not None:
            # The option is off already, so no answer; but the next request is a new one.
            self._refused.discard((withdrawn, option))
            return b""
        if (command, option) != (_DO, _TIMING_MARK):
            if (command, option) in self._refused:
                return b""
            self._refused.add((command, option))
        return bytes((_IAC[0], _REFUSED_BY[command], option))

    def _without_nul(self, data: bytes) -> bytes:
        """Replace CR NUL, which is how a terminal sends CR alone; any other NUL is data."""
        if not data:
            return data
        after_cr, self._after_cr = self._after_cr, data.endswith(b"\r")
        if after_cr and data.startswith(b"\0"):
            data = data[1:]
        return data.replace(b"\r\0", b"\r")


class TelnetFraming:
    """
    Framing of data that has Telnet's commands in between.
    """

    __slots__ = ("_framing", "_say", "_telnet")

    def __init__(self, framing: Framing, say: Callable[[bytes], object]) -> None:
        """
        @param framing: of the data without the commands.
        @param say: sends the answers to commands, which belong to no frame.
        """
        self._framing = framing
        self._say = say
        self._telnet = Telnet()

    @property
    def oversize(self) -> bool:
        return self._framing.oversize

    @property
    def more(self) -> bool:
        return self._framing.more

    @property
    def pending(self) -> int:
        return self._framing.pending

    @property
    def unfinished(self) -> bool:
        return self._framing.unfinished or self._telnet.unfinished

    @property
    def has_nul(self) -> bool:
        return self._framing.has_nul

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        try:
            data, answer = self._telnet.receive(data)
        except TelnetError as error:
            if error.answer:
                self._say(error.answer)
            raise FramingError(str(error), self._framing.receive(error.data)) from None
        if answer:
            self._say(answer)
        return self._framing.receive(data, most)

    def forget(self) -> None:
        self._framing.forget()

    @property
    def kind(self) -> bytes:
        return b"telnet" + self._framing.kind

    def frame(self, payload: bytes) -> bytes:
        return self._framing.frame(payload.replace(_IAC, _IAC + _IAC))

    def push(self, payload: bytes) -> bytes:
        return self._framing.push(payload.replace(_IAC, _IAC + _IAC))
