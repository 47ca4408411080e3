"""
MLLP: HL7 v2, each message acknowledged when it is stored.

Strategy: the messages of a read are one unit of storing, though each has its own fate: what stands
behind a refused message is stored after it. A message says itself how it wants to be acknowledged
(MSH-15, MSH-16), so all that is read of it here is its header. A sender's headers differ mostly in
their times and control ids, so what follows from the rest is worked out once: whether the message
is taken, and its acknowledgement but for those.

Stored, or in the spool: AA; refused: AE, also where the route keeps it as a dead letter, since its
sender should hear of it; a type, version or processing id that is not supported here: AR. In
enhanced mode these are CA, CE and CR. What cannot be stored now has no answer, and the connection
ends, so that its sender keeps it; C{AR} instead, where the listener says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from gateway.dialects.acknowledging import AcknowledgingDialect, AcknowledgingReader
from gateway.dialects.base import Peer
from gateway.model import wording
from gateway.model.outcome import Code, Fate, Outcome, Run, Word, goodbye, refused
from gateway.wire.hl7 import (
    Accepted,
    AckLetter,
    Condition,
    Fault,
    Header,
    NotHl7,
    acknowledgement,
    acknowledgement_word,
    read_header,
    without_margin,
)
from gateway.wire.mllp import block

_CONDITIONS: Final = {
    "22001": Condition.VALUE_TOO_LONG,
    "23502": Condition.REQUIRED_FIELD_MISSING,
    "23503": Condition.UNKNOWN_KEY,
    "23505": Condition.DUPLICATE_KEY,
}
"""SQLSTATE -> what HL7 calls it."""

_CONDITIONS_OF_CODES: Final = {
    Code.FORMAT: Condition.DATA_TYPE,
    Code.DATA: Condition.DATA_TYPE,
}

_UNSUPPORTED: Final = {
    "MSH-9": (Condition.UNSUPPORTED_MESSAGE_TYPE, 9),
    "MSH-11": (Condition.UNSUPPORTED_PROCESSING_ID, 11),
    "MSH-12": (Condition.UNSUPPORTED_VERSION, 12),
}
"""Field that chooses among routes -> what a message has that no route is for."""

_USUAL_START: Final = b"MSH|^~\\&|"
_SECOND: Final = (b"\rMSH|", b"\nMSH|")

_MOST_PREPARED: Final = 32
"""Headers of a peer to remember."""

_MARKS: Final = (b"\x0b0", b"\x0b1", b"\x0b2")
"""Stand for MSH-7, MSH-10 and MSA-2 while a template is made; no message holds VT."""


class _Prepared:
    """
    Consequences of a header, whatever its time and control id.

    @ivar unsupported: why such messages are not taken; C{None}: they are.
    @ivar template: their acknowledgement when they are stored, as a block, for C{%} with MSH-7,
        MSH-10 and MSA-2; C{b""}: none is wanted.
    """

    __slots__ = ("template", "unsupported")

    def __init__(self, header: Header, accepted: Accepted) -> None:
        self.unsupported = accepted.fault(header)
        self.template = b""
        if word := acknowledgement_word(header, "A"):
            moment, own, control_id = _MARKS
            fields = [*header.fields, *[b""] * (11 - len(header.fields))]
            fields[10] = control_id
            named = Header(header.separators, fields)
            answer = block(acknowledgement(named, word, moment, own)).replace(b"%", b"%%")
            for mark in _MARKS:
                answer = answer.replace(mark, b"%b")
            self.template = answer


_Message = tuple[_Prepared, bytes, bytes]
"""What follows from its header; its control id; its bytes."""


class MllpReader(AcknowledgingReader):
    """
    Reader of one peer's messages.
    """

    def __init__(self, peer: Peer, dialect: AcknowledgingDialect) -> None:
        super().__init__(peer, dialect)
        self._prepared: dict[bytes, _Prepared] = {}
        self._prepared_for = self.settings.hl7
        # The control ids of the acknowledgements: twenty characters, as HL7 allows.
        self._prefix = secrets.token_hex(6).encode()
        self._count = 0

    async def handle(self, frames: list[bytes]) -> bool:
        waiting: list[_Message] = []
        for frame in frames:
            message = without_margin(frame)
            fault: NotHl7 | None = None
            try:
                prepared, control_id = self._read(message)
            except NotHl7 as error:
                fault = error
            else:
                if prepared.unsupported is None:
                    waiting.append((prepared, control_id, message))
                    continue
            # Answers are given in order.
            if await self._store(waiting):
                return True
            waiting = []
            if fault is None:
                assert prepared.unsupported is not None
                self._refuse(read_header(message), "R", prepared.unsupported)
            elif fault.header is not None:
                text = str(fault)
                self._refuse(fault.header, "E", Fault(Condition.DATA_TYPE, text, 0, Code.FORMAT))
            else:
                self.peer.log_close(goodbye(Code.FORMAT, str(fault)))
                return True
        return await self._store(waiting)

    def _read(self, message: bytes) -> tuple[_Prepared, bytes]:
        """
        Return what follows from a message's header, and its control id.

        @raise NotHl7: it has no header that can be read.
        """
        if self._prepared_for is not self.settings.hl7:
            self._prepared.clear()
            self._prepared_for = self.settings.hl7
        segment, end, _ = message.partition(b"\r")
        fields = segment.split(b"|")
        if (
            not (end and message.startswith(_USUAL_START) and len(fields) > 10)
            or not segment.isascii()
            or b"\x1b" in segment
            or any(mark in message for mark in _SECOND)
        ):
            header = read_header(message)
            return _Prepared(header, self.settings.hl7), header.field(10)
        control_id = fields[9]
        fields[6] = fields[9] = b""
        key = b"|".join(fields)
        prepared = self._prepared.get(key)
        if prepared is None:
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared.clear()
            prepared = _Prepared(read_header(message), self.settings.hl7)
            self._prepared[key] = prepared
        return prepared, control_id

    async def _store(self, waiting: list[_Message]) -> bool:
        """
        Store messages, and acknowledge them.

        @return: whether the connection ends.
        """
        while waiting:
            runs = await self.store([message for _, _, message in waiting])
            fates = [fate for count, fate in runs for _ in range(count)]
            # What is behind one that is refused and not kept has not been tried.
            stop = next((n + 1 for n, fate in enumerate(fates) if _cuts(fate)), len(fates))
            unsaid = next((n for n, fate in enumerate(fates[:stop]) if self._is_unsaid(fate)), None)
            self._answer(waiting, fates[: stop if unsaid is None else unsaid])
            if unsaid is not None:
                self.give_up(_runs(fates[unsaid:]))
                return True
            waiting = waiting[stop:]
            if waiting and self._hurried:
                return True  # nobody waits for the rest, or it cannot be waited for
        return False

    def _is_unsaid(self, fate: Fate) -> bool:
        """Say whether a message is not answered; its sender then sends it again."""
        if _is_settled(fate):
            return False
        # To reject a message that may be stored would be a guess.
        is_known = fate.word is Word.TRY and fate is not wording.NOT_KNOWN_STORED
        return not (is_known and self.settings.reject_later)

    def _answer(self, messages: list[_Message], fates: list[Fate]) -> None:
        """Acknowledge messages whose fates are known, the first of those given."""
        moment = self._moment()
        answers = []
        for (prepared, control_id, message), fate in zip(messages, fates, strict=False):
            if not _is_accepted(fate):
                assert isinstance(fate, Outcome)
                answers.append(self._written(read_header(message), *self._fault(fate)))
            elif prepared.template:
                answers.append(prepared.template % (moment, self._control_id(), control_id))
        if fates:
            self.write(b"".join(answers), _runs(fates))

    def _refuse(self, header: Header, letter: AckLetter, fault: Fault) -> None:
        """Answer a message that is not tried to be stored."""
        runs: list[Run] = [(1, refused(Code.FORMAT, fault.text))]
        self.write(self._written(header, letter, fault), runs)

    def _fault(self, outcome: Outcome) -> tuple[AckLetter, Fault]:
        """Return the letter for a message that is not accepted, and what ERR says of it."""
        letter: AckLetter = "E" if outcome.word is Word.REJ else "R"
        code = outcome.code
        condition, place = _CONDITIONS.get(outcome.sqlstate), 0
        if condition is None:
            condition = Condition.INTERNAL
            if code is not None:
                condition = _CONDITIONS_OF_CODES.get(code, condition)
        if code is Code.ROUTE and outcome.word is Word.REJ:
            field = self.settings.route_by.partition(".")[0]
            if field in _UNSUPPORTED:
                condition, place = _UNSUPPORTED[field]
                letter = "R"
        diagnostic = f"sqlstate={outcome.sqlstate}" if outcome.sqlstate else ""
        return letter, Fault(condition, outcome.text, place, code or "", diagnostic)

    def _written(self, header: Header, letter: AckLetter, fault: Fault) -> bytes:
        """Return a negative acknowledgement as a block; C{b""} where none is wanted."""
        word = acknowledgement_word(header, letter)
        if not word:
            return b""
        return block(acknowledgement(header, word, self._moment(), self._control_id(), fault))

    def _moment(self) -> bytes:
        now = datetime.fromtimestamp(self.settings.wall(), UTC)
        return now.strftime("%Y%m%d%H%M%S+0000").encode()

    def _control_id(self) -> bytes:
        self._count = self._count + 1 & 0xFFFFFFFF
        return b"%b%08x" % (self._prefix, self._count)


def _runs(fates: Sequence[Fate]) -> list[Run]:
    return [(len([*alike]), fate) for fate, alike in groupby(fates)]


def _is_accepted(fate: Fate) -> bool:
    return fate.word in (Word.OK, Word.DUP, Word.QUE)


def _is_settled(fate: Fate) -> bool:
    return _is_accepted(fate) or fate.word is Word.REJ


def _cuts(fate: Fate) -> bool:
    """Say whether messages behind one with this fate are not stored with it."""
    return isinstance(fate, Outcome) and fate.word is Word.REJ and not fate.dead_letter
