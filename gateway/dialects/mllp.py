"""
MLLP: HL7 v2, each message acknowledged when it is stored.

Strategy: the messages of a read are one unit of storing, though each has its own fate: what stands
behind a refused message is stored after it. A message says itself how it wants to be acknowledged
(MSH-15, MSH-16), so all that is read of it here is its header.

Stored, or in the spool: AA; refused: AE, also where the route keeps it as a dead letter, since its
sender should hear of it; a type, version or processing id that is not supported here: AR. In
enhanced mode these are CA, CE and CR. What cannot be stored now has no answer, and the connection
ends, so that its sender keeps it; C{AR} instead, where the listener says so.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Final

from gateway.dialects.acknowledging import AcknowledgingDialect, AcknowledgingReader
from gateway.dialects.base import Peer
from gateway.model import wording
from gateway.model.outcome import Code, Fate, Outcome, Run, Word, goodbye, refused
from gateway.wire.hl7 import (
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
    Code.TOOBIG: Condition.VALUE_TOO_LONG,
}

_UNSUPPORTED: Final = {
    "MSH-9": (Condition.UNSUPPORTED_MESSAGE_TYPE, 9),
    "MSH-11": (Condition.UNSUPPORTED_PROCESSING_ID, 11),
    "MSH-12": (Condition.UNSUPPORTED_VERSION, 12),
}
"""Field that chooses among routes -> what a message has that no route is for."""


class MllpReader(AcknowledgingReader):
    """
    Reader of one peer's messages.
    """

    def __init__(self, peer: Peer, dialect: AcknowledgingDialect) -> None:
        super().__init__(peer, dialect)
        # The control ids of the acknowledgements: twenty characters, as HL7 allows.
        self._prefix = secrets.token_hex(6)
        self._count = 0

    async def handle(self, frames: list[bytes]) -> bool:
        headers: list[Header] = []
        messages: list[bytes] = []
        accepted = self.settings.hl7
        for frame in frames:
            message = without_margin(frame)
            try:
                header = read_header(message)
            except NotHl7 as error:
                if await self._store(messages, headers):
                    return True
                headers, messages = [], []
                if error.header is None:
                    bye = goodbye(Code.FORMAT, str(error))
                    self.peer.close_with(self.peer.log_close(bye))
                    return True
                fault = Fault(Condition.DATA_TYPE, str(error), 0, Code.FORMAT)
                self._refuse(error.header, "E", fault)
                continue
            unsupported = accepted.fault(header)
            if unsupported is not None:
                if await self._store(messages, headers):
                    return True
                headers, messages = [], []
                self._refuse(header, "R", unsupported)
                continue
            headers.append(header)
            messages.append(message)
        return await self._store(messages, headers)

    async def _store(self, messages: list[bytes], headers: list[Header]) -> bool:
        """
        Store messages, and acknowledge them.

        @return: whether the connection ends.
        """
        done = 0
        while done < len(messages):
            fates = [fate for n, fate in await self.store(messages[done:]) for _ in range(n)]
            # What is behind one that is refused and not kept has not been tried.
            stop = next((n + 1 for n, fate in enumerate(fates) if _cuts(fate)), len(fates))
            unsaid = next((n for n, fate in enumerate(fates[:stop]) if self._is_unsaid(fate)), None)
            self._answer(headers[done:], fates[: stop if unsaid is None else unsaid])
            if unsaid is not None:
                return True
            done += stop
        return False

    def _is_unsaid(self, fate: Fate) -> bool:
        """Say whether a message is not answered; its sender then sends it again."""
        if _is_settled(fate):
            return False
        # To reject a message that may be stored would be a guess.
        is_known = fate.word is Word.TRY and fate is not wording.NOT_KNOWN_STORED
        return not (is_known and self.settings.reject_later)

    def _answer(self, headers: list[Header], fates: list[Fate]) -> None:
        """Acknowledge messages whose fates are known."""
        runs: list[Run] = []
        payload = []
        for header, fate in zip(headers, fates, strict=False):
            runs.append((1, fate))
            if _is_accepted(fate):
                payload.append(self._written(header, "A", None))
            else:
                assert isinstance(fate, Outcome)
                payload.append(self._written(header, *self._fault(fate)))
        if runs:
            self.write(b"".join(payload), runs)

    def _refuse(self, header: Header, kind: AckLetter, fault: Fault) -> None:
        """Answer a message that is not tried to be stored."""
        runs: list[Run] = [(1, refused(Code.FORMAT, fault.text))]
        self.write(self._written(header, kind, fault), runs)

    def _fault(self, outcome: Outcome) -> tuple[AckLetter, Fault]:
        """Return the kind of the answer to a message that is not accepted, and what ERR says."""
        kind: AckLetter = "E" if outcome.word is Word.REJ else "R"
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
                kind = "R"
        diagnostic = f"sqlstate={outcome.sqlstate}" if outcome.sqlstate else ""
        return kind, Fault(condition, outcome.text, place, code or "", diagnostic)

    def _written(self, header: Header, kind: AckLetter, fault: Fault | None) -> bytes:
        """Return an acknowledgement as a block; C{b""} where none is wanted."""
        word = acknowledgement_word(header, kind)
        if not word:
            return b""
        self._count += 1
        control_id = f"{self._prefix}{self._count & 0xFFFFFFFF:08x}".encode()
        now = datetime.fromtimestamp(self.settings.clock.seconds(), UTC)
        moment = now.strftime("%Y%m%d%H%M%S+0000").encode()
        return block(acknowledgement(header, word, moment, control_id, fault))


def _is_accepted(fate: Fate) -> bool:
    return fate.word in (Word.OK, Word.DUP, Word.QUE)


def _is_settled(fate: Fate) -> bool:
    return _is_accepted(fate) or fate.word is Word.REJ


def _cuts(fate: Fate) -> bool:
    """Say whether messages behind one with this fate are not stored with it."""
    return isinstance(fate, Outcome) and fate.word is Word.REJ and not fate.dead_letter
