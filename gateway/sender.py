"""
The pump of C{gateway send}: blocks of a source go through a client, answers are counted.

Strategy: a block is handed over whole and its answers come back as runs, so that what a
single message costs is a slot in a list. Several blocks are in flight, so that the client's
window never runs dry while the next one is read; no more than that, so that memory does not
grow with the input. What was refused is found again by its place in the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.client.answers import Answer, Unsendable
from gateway.client.service import GatewayClient
from gateway.errors import InputError
from gateway.inputs import Block, Source
from gateway.refused import Refusal, RefusedFile, refusal
from gateway.tally import Tally

AHEAD: Final = 4
"""Windows of messages that are handed over before the first ones are answered."""

TURNS: Final = 16
"""Blocks in a row after which the reactor has its turn, also where nothing has to be waited for."""


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
        window: int,
        *,
        stream: str = "",
        number: int = 0,
        have: int = 0,
        refused: RefusedFile | None = None,
        reading: Callable[[Block, int], None] | None = None,
        settled: Callable[[Block, int], None] | None = None,
    ) -> None:
        """
        @param number: of the message before the source's first one.
        @param have: messages up to this number are in the stream already: they are skipped.
        @param reading: called with a block and the number of its first message, before it is sent.
        @param settled: called with a block and the number of its last message, once that and
            all before are answered.
        """
        self.number = number
        self._reactor = reactor
        self._client = client
        self._source = source
        self._tally = tally
        self._most = AHEAD * window
        self._stream = stream
        self._have = have
        self._refused = refused
        self._reading = reading
        self._settled = settled
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
            except CancelledError:
                break
            except InputError as error:
                fault = error
                break
            if block is None:
                break
            try:
                self._take(block)
            except InputError as error:
                fault = error
                break
            turns += 1
            if turns % TURNS == 0:
                await deferLater(self._reactor, 0)
            await self._until(lambda: self._tally.unanswered < self._most)
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
        count = len(block.messages)
        first = self.number + 1
        self.number += count
        known = min(count, max(0, self._have - first + 1))
        if known:
            self._tally.skipped += known
            if known == count:
                self._tally.size += block.size
                return
            block = block.without(known)
            first += known
        if self._reading is not None:
            self._reading(block, first)
        self._send(block, first)

    def _send(self, block: Block, first: int) -> None:
        try:
            answers = self._client.send_many(block.messages)
        except Unsendable as error:
            self._send_apart(block, first, error)
            return
        self._tally.taken += len(block.messages)
        answers.addCallback(self._answered, block, first).addErrback(self._failed)

    def _send_apart(self, block: Block, first: int, error: Unsendable) -> None:
        # Rare: messages with line feeds in them, and the like.
        count = len(block.messages)
        if count == 1:
            where = f"{block.name}: message {block.line:,}: {error}"
            if self._stream:
                # Its number cannot be left out.
                raise InputError(f"{where}; the stream goes no further")
            self._tally.unsendable()
            self._note([refusal(block.messages[0], str(error).encode(), block.name, block.line)])
            return
        half = count // 2
        head = Block(block.messages[:half], block.size, block.name, block.line)
        self._send(head, first)
        self._send(block.without(half), first + half)

    def _answered(self, runs: Sequence[tuple[int, Answer]], block: Block, first: int) -> None:
        if self._tally.answered(runs) and self._refused is not None:
            self._note(self._refusals(runs, block, first))
        self._tally.size += block.size
        if self._settled is not None:
            self._settled(block, first + len(block.messages) - 1)
        self._wake()

    def _refusals(
        self, runs: Sequence[tuple[int, Answer]], block: Block, first: int
    ) -> list[Refusal]:
        found = []
        at = 0
        for count, answer in runs:
            if not answer.kept:
                for place in range(at, at + count):
                    number = first + place if self._stream else 0
                    found.append(
                        refusal(
                            block.messages[place],
                            answer.raw,
                            block.name,
                            block.line + place,
                            self._stream,
                            number,
                        )
                    )
            at += count
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
