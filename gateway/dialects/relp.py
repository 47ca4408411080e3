"""
RELP: messages are stored, and acknowledged in the order of their numbers.

Strategy: all C{syslog} frames of one read are one unit, one commit and one write of their answers.
What a sender does decides what it is told (librelp 1.11): an answer other than 200 has it destroy
the message and forget all answers behind, and a message that has no answer while a later one has is
lost when the sender stops. So C{rsp 500} is the last word on a connection, and nothing behind it is
stored; where a message cannot be stored now the connection says nothing more. It is held for a
while, so that the sender does not try again at once, and then closed: a sender sends all that has
no answer again, over the next connection.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from typing import Final

from gateway.dialects.acknowledging import AcknowledgingDialect, AcknowledgingReader
from gateway.dialects.base import Peer
from gateway.model import wording
from gateway.model.outcome import Code, Outcome, Run, Word, goodbye, is_kept
from gateway.wire.relp import (
    SERVER_CLOSE,
    Command,
    Oversized,
    agreed,
    closed,
    following,
    opened,
    refused,
    stored,
)

_MESSAGES: Final = {bytes}


class RelpReader(AcknowledgingReader):
    """
    Reader of one sender's frames, as L{gateway.wire.relp.RelpFraming} gives them.
    """

    def __init__(self, peer: Peer, dialect: AcknowledgingDialect) -> None:
        super().__init__(peer, dialect)
        self._is_open = False
        # Number of the next frame. Whether frames have it was checked by the framing.
        self._number = 1

    async def handle(self, frames: list[bytes]) -> bool:
        if set(map(type, frames)) == _MESSAGES:
            return await self._store(frames)
        for is_command, group in groupby(frames, lambda frame: isinstance(frame, Command)):
            some = list(group)
            if is_command:
                closes = any(self._command(frame) for frame in some if isinstance(frame, Command))
            else:
                oversize = {n for n, frame in enumerate(some) if isinstance(frame, Oversized)}
                closes = await self._store([bytes(frame) for frame in some], oversize)
            if closes:
                return True
        return False

    async def _store(self, messages: list[bytes], oversize: Collection[int] = ()) -> bool:
        """
        Store messages and acknowledge them.

        @return: whether the connection ends.
        """
        if not self._is_open:
            self.peer.log_close(goodbye(Code.FORMAT, "RELP: a message before open"))
            self.write(SERVER_CLOSE)
            return True
        first = self._number
        runs = await self.store(messages, oversize=oversize)
        kept = _kept(runs)
        count = sum([number for number, _ in kept])
        if count:
            self.dialect.hold_times.stored()
            self._number = following(first, count)
        answers = stored(first, count)
        if len(kept) == len(runs):
            self.write(answers, runs)
            return False
        _, fate = runs[len(kept)]
        # Rights that a peer lacks are no fault of the message, and its operator may give them.
        if isinstance(fate, Outcome) and fate.word is Word.REJ and fate.code is not Code.DENIED:
            reason = bytes(fate).decode().removeprefix("-REJ ")
            self.write(answers + refused(self._number, reason), [*kept, (1, fate)])
            return True
        self.write(answers, kept)
        await self.dialect.hold_times.hold(self.hold)
        self.give_up([(1, fate)])
        self.write(SERVER_CLOSE)
        return True

    def _command(self, frame: Command) -> bool:
        """
        Answer a frame that is no message.

        @return: whether the connection ends.
        """
        number, command, data = frame.split_up()
        if not number:
            return False  # a hint, which nobody answers
        self._number = following(number)
        if command == b"close":
            self.write(closed(number))
            return True
        if command != b"open":
            self.write(refused(number, f"unknown command {command.decode()}"))
            return False
        version = self._fault or agreed(data)
        if isinstance(version, str):
            self.peer.log_close(goodbye(Code.FORMAT, f"RELP: {version}"))
            self.write(refused(number, version))
            return True
        self._is_open = True
        self.write(opened(number, version))
        return False

    @property
    def _fault(self) -> str:
        """
        Why a session cannot be opened now, whatever the sender offers; C{""} where it can.

        Who has no right to any route is told so here, since each message would be refused, and so
        be lost.
        """
        if self._is_open:
            return "the session is open already"
        routes = self.dialect.routes
        if not any(route.encode() in self.peer.rights.routes for route in routes):
            return wording.not_granted(f"route {routes[0]}").text
        return ""


def _kept(runs: list[Run]) -> list[Run]:
    """Return the runs before the first one that is neither stored nor kept."""
    for place, (_, fate) in enumerate(runs):
        if not is_kept(fate):
            return runs[:place]
    return runs
