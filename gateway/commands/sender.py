"""
The pump of C{gateway send}: blocks of a source go through a client, answers are counted.

Strategy: a block is handed over whole and its answers come back as runs, so that what a
single message costs is a slot in a list. Several blocks are in flight, so that the client's
window never runs dry while the next one is read; no more than that, so that memory does not
grow with the input. What was refused is found again by its place in the block.

A message that cannot be sent at all (too long for the listener, a line feed in line framing) is
refused here. It has no number in a stream: so the number of a message depends on the input
alone, and a later run finds the place again by counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.client.answers import UNKNOWN, Answer, ClientError, Unknown, Unsendable
from gateway.client.service import GatewayClient
from gateway.client.wire import WIRES
from gateway.commands.inputs import Block, Source
from gateway.commands.refused import Refusal, RefusedFile, refusal
from gateway.commands.tally import Tally
from gateway.errors import InputError

AHEAD: Final = 4
"""Windows of messages that are handed over before the first ones are answered."""

FEWEST: Final = 128
"""Messages that are handed over at once also where the window is smaller: it costs the same."""

MOST: Final = 1 << 24
"""Bytes that are handed over before the first ones are answered."""

TURNS: Final = 16
"""Blocks in a row after which the reactor has its turn, also where nothing has to be waited for."""


class Drifted(ClientError):
    """The gateway gave a message no number that has one here."""


@dataclass(frozen=True, slots=True)
class Manner:
    """
    How messages are sent.

    @ivar limit: longest message, in bytes.
    """

    framing: str
    plain: bool
    window: int
    stream: str
    limit: int

    @property
    def piece(self) -> int:
        """Messages that are handed over at once, at most."""
        return max(self.window, FEWEST)

    @property
    def unread(self) -> int:
        """Messages that may be answered when a run is killed, and whose answers it did not see."""
        return self.window + self.piece


class Sender:
    """
    One run.

    @ivar number: of the last message that was read; in a stream, the number it has there.
    """

    def __init__(
        self,
        reactor: Any,
        client: GatewayClient,
        source: Source,
        tally: Tally,
        manner: Manner,
        *,
        number: int = 0,
        have: int = 0,
        refused: RefusedFile | None = None,
        reading: Callable[[Block, int], int] | None = None,
        settled: Callable[[Block, int], None] | None = None,
    ) -> None:
        """
        @param number: of the message before the source's first one.
        @param have: messages up to this number are in the stream already: they are skipped.
        @param reading: called with a block and the number that its first message would have,
            before it is sent or skipped; gives the number that it has.
        @param settled: called with the end of a block and the number of its last message, once
            that and all before are answered.
        """
        self.number = number
        self._reactor = reactor
        self._client = client
        self._source = source
        self._tally = tally
        self._manner = manner
        self._check = WIRES[manner.framing]().check
        self._most = AHEAD * manner.window
        self._have = have
        self._refused = refused
        self._reading = reading
        self._settled = settled
        self._bytes = 0
        self._waiting: Deferred[None] | None = None
        self._step: Deferred[Block | None] | None = None
        self._stopped = False
        self._abandoned = False
        self._failure: Failure | None = None

    async def run(self) -> None:
        """
        Until everything has its answer, or L{stop}.

        @raise InputError: the source has ended in a fault; what came before it is answered.
        @raise ClientError: it cannot be delivered.
        """
        fault: InputError | None = None
        turns = 0
        while not self._stopped:
            try:
                self._step = Deferred.fromCoroutine(self._source.read())
                block = await self._step
                if block is None:
                    break
                self._take(block)
            except CancelledError:
                break
            except InputError as error:
                fault = error
                break
            turns += 1
            if turns % TURNS == 0:
                await deferLater(self._reactor, 0)
            await self._until(lambda: self._tally.unanswered < self._most and self._bytes < MOST)
        await self._until(lambda: not self._tally.unanswered)
        if self._failure is not None:
            self._failure.raiseException()
        if fault is not None:
            raise fault

    def stop(self) -> None:
        """Read nothing more; L{run} returns when what was sent is answered."""
        self._stopped = True
        if self._step is not None:
            self._step.cancel()

    def give_up(self) -> None:
        """L{run} returns at once."""
        self.stop()
        self._abandoned = True
        self._wake()

    def _take(self, block: Block) -> None:
        """
        Send what the stream has not.
        """
        if self._reading is not None:
            self.number = self._reading(block, self.number + 1) - 1
        for piece in self._pieces(block):
            if self.number < self._have or self._too_long(piece.messages):
                for part in self._parts(piece):
                    self._skip(part)
                continue
            try:
                self._send(piece)
            except Unsendable:
                for part in self._parts(piece):
                    self._send(part)

    def _pieces(self, block: Block) -> Iterator[Block]:
        # An answer counts when all of its piece are there, which should not take long.
        most = self._manner.piece
        start = 0
        while len(block.messages) - start > most:
            yield block.part(start, start + most)
            start += most
        yield block.without(start) if start else block

    def _skip(self, block: Block) -> None:
        count = len(block.messages)
        known = min(count, max(0, self._have - self.number))
        self._tally.skipped += known
        self.number += known
        if known < count:
            self._send(block.without(known))
        else:
            self._tally.size += block.size

    def _send(self, block: Block) -> None:
        count = len(block.messages)
        first = self.number + 1
        answers = self._client.send_many(block.messages)
        if answers.called:
            # At once, so nothing was taken.
            failed: list[Failure] = []
            answers.addErrback(failed.append)
            failed[0].raiseException()
        self.number += count
        self._bytes += block.size
        self._tally.taken += count
        answers.addCallback(self._answered, block, first).addErrback(self._failed)

    def _too_long(self, messages: Sequence[bytes]) -> bool:
        return max(map(len, messages)) > self._manner.limit

    def _parts(self, block: Block) -> Iterator[Block]:
        """
        What of a block can be sent. Rare, but while a stream's place is looked for.
        """
        messages = block.messages
        try:
            if not self._too_long(messages):
                self._check(messages, self._manner.plain)
                yield block
                return
        except Unsendable:
            pass
        start = 0
        for place, message in enumerate(messages):
            reason = self._unsendable(message)
            if reason:
                if place > start:
                    yield block.part(start, place)
                self._refuse(message, reason, block.name, block.line + place)
                start = place + 1
        # The last part stands for what the whole block took of the input.
        if start < len(messages):
            yield block.without(start)
        else:
            self._tally.size += block.size

    def _unsendable(self, message: bytes) -> str:
        if len(message) > self._manner.limit:
            return (
                f"not sent: {len(message):,} bytes, and a listener of this --max-frame takes"
                f" {self._manner.limit:,}"
            )
        try:
            self._check([message], self._manner.plain)
        except Unsendable as error:
            return f"not sent: {error}"
        return ""

    def _refuse(self, message: bytes, reason: str, name: str, line: int) -> None:
        if self.number < self._have:
            return  # an earlier run has said so
        self._tally.unsendable()
        stream = self._manner.stream
        self._note([refusal(message, reason.encode(), name, line, stream)])

    def _answered(self, runs: Sequence[tuple[int, Answer]], block: Block, first: int) -> None:
        self._bytes -= block.size
        self._tally.size += block.size
        if self._tally.answered(runs):
            self._note(self._refusals(runs, block, first))
            if self._manner.stream and any(answer.code == "TOOBIG" for _, answer in runs):
                raise Drifted(
                    f"a message of {block.name} is longer than the listener's max_frame: run this"
                    " again with --max-frame as the listener has it, so that it is left out"
                )
        if any(answer is UNKNOWN for _, answer in runs):
            raise Unknown(UNKNOWN.text)
        if self._settled is not None and block.size:
            self._settled(block, first + len(block.messages) - 1)
        self._wake()

    def _refusals(
        self, runs: Sequence[tuple[int, Answer]], block: Block, first: int
    ) -> list[Refusal]:
        found = []
        place = drift = 0
        stream = self._manner.stream
        for count, answer in runs:
            if not answer.kept and answer is not UNKNOWN:
                for at in range(place, place + count):
                    if answer.code == "TOOBIG":
                        number, drift = 0, drift + 1  # its number goes to the next one
                    else:
                        number = first + at - drift if stream else 0
                    line = block.line + at
                    found.append(
                        refusal(block.messages[at], answer.raw, block.name, line, stream, number)
                    )
            place += count
        return found

    def _note(self, refusals: Sequence[Refusal]) -> None:
        if self._refused is not None:
            self._refused.write(refusals)

    def _failed(self, failure: Failure) -> None:
        if self._failure is None:
            self._failure = failure
        self.give_up()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not self._abandoned and not condition():
            self._waiting = Deferred()
            await self._waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)
