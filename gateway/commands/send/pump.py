"""
Pump of C{gateway send}: sends blocks of a source through a client, and counts answers.

Strategy: a block is sent whole and its answers come back as runs, so that a single message costs a
slot in a list. Several blocks are in flight, so that the client's window is always full while the
next one is read; but not more, so that memory does not grow with the input. A refused message is
found by its index in the block.

A message that cannot be sent (too long for the listener, a line feed in line framing) is refused
here. It gets no number in a stream: so numbers depend on the input alone, and a later run finds the
place again by counting.

A refusal that meets every message, such as of a missing route, ends the run. In a stream it has
used up numbers; so each run first asks for the answers to the last ones again, and sends messages
refused for that reason once more, behind the stream's last message (L{Resend}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.client.answers import UNKNOWN, Answer, ClientError, Unknown, Unsendable
from gateway.client.greeting import FOR_ALL
from gateway.client.service import GatewayClient
from gateway.client.wire import make_wire
from gateway.commands.send.inputs import Block, MessageSource
from gateway.commands.send.refused_file import RefusedFile, RefusedMessage, refusal
from gateway.commands.send.resend import Resend
from gateway.commands.send.send_counts import SendCounts
from gateway.model.errors import InputError

AHEAD: Final = 4
"""Windows of messages that are handed over before the first ones are answered."""

FEWEST: Final = 128
"""Messages that are handed over at once also where the window is smaller: it costs the same."""

MAX_UNANSWERED_BYTES: Final = 1 << 24
"""Bytes that are handed over before the first ones are answered."""

TURNS: Final = 16
"""Blocks in a row after which the reactor has its turn, also where nothing has to be waited for."""


class Drifted(ClientError):
    """The gateway gave no number to a message that has one here."""


class Misrouted(ClientError):
    """
    The gateway refuses every message: a person must act.

    @ivar answer: its answer.
    """

    def __init__(self, answer: Answer, where: str) -> None:
        super().__init__(where)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class SendOptions:
    """
    Options of a run that concern single messages.

    @ivar limit: longest message, in bytes.
    """

    framing: str
    delimiter: bytes | None
    plain: bool
    window: int
    stream: str
    limit: int

    @property
    def piece(self) -> int:
        """Most messages sent in one call."""
        return max(self.window, FEWEST)

    @property
    def unread(self) -> int:
        """
        Most messages whose answers a run may miss when it is killed, or that are in flight when it
        ends because all are refused. An earlier run may have had the default window; a gateway
        remembers 10,000 refusals.
        """
        return min(2 * max(self.window, 1000) + 2 * self.piece, 10_000)

    def misrouted(self, answer: Answer) -> bool:
        """
        Say whether a refusal meets every message. C{ROUTE} does not in the plain dialect, where a
        message's content may choose the route.
        """
        if answer.word != "-REJ" or answer.code not in FOR_ALL:
            return False
        return not (self.plain and answer.code == "ROUTE")


class Pump:
    """
    Sending of one run.

    @ivar number: number of the last message read; in a stream, its number there.
    """

    def __init__(
        self,
        reactor: Any,
        client: GatewayClient,
        source: MessageSource,
        counts: SendCounts,
        options: SendOptions,
        *,
        number: int = 0,
        have: int = 0,
        last: int = 0,
        again: Resend | None = None,
        rebase: Callable[[int], None] = lambda number: None,
        say: Callable[[str], None] = lambda text: None,
        refused: RefusedFile | None = None,
        reading: Callable[[Block, int], int] | None = None,
        settled: Callable[[Block, int], None] | None = None,
    ) -> None:
        """
        @param number: number before the source's first message.
        @param have: messages up to this number are in the stream already, and skipped.
        @param last: messages up to this number are in the stream too, but sent again to get their
            answers.
        @param again: messages of the stream to send once more.
        @param rebase: called with C{last} when it is reached: the next message gets the next
            number.
        @param say: called with a line for people.
        @param reading: called with a block and the expected number of its first message, before it
            is sent or skipped; returns the actual number.
        @param settled: called with a block and the number of its last message, once all up to it
            are answered.
        """
        self.number = number
        self._reactor = reactor
        self._client = client
        self._source = source
        self._counts = counts
        self._options = options
        self._check = make_wire(options.framing, options.delimiter).check
        self._most = AHEAD * options.window
        self._have = have
        self._last = max(have, last)
        self._caught_up = self._last == have
        self._again = again
        self._rebase = rebase
        self._say = say
        self._shown: set[str] = set()
        # (number, message) sent again, and refused as every message was.
        self._misrouted: list[tuple[int, bytes]] = []
        self._insertions = 0
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
        Send everything and wait for the answers, or for L{stop}.

        @raise InputError: the source failed; all messages before the fault are answered.
        @raise ClientError: messages cannot be delivered.
        """
        fault: InputError | None = None
        turns = 0
        await self._begin()
        while not self._stopped:
            try:
                self._step = Deferred.fromCoroutine(self._source.next_messages())
                block = await self._step
                if block is None:
                    break
                await self._take(block)
            except CancelledError:
                break
            except InputError as error:
                fault = error
                break
            turns += 1
            if turns % TURNS == 0:
                await deferLater(self._reactor, 0)
            await self._until(
                lambda: self._counts.unanswered < self._most and self._bytes < MAX_UNANSWERED_BYTES
            )
        await self._until(lambda: not self._counts.unanswered)
        if self._failure is not None:
            self._failure.raiseException()
        if fault is not None:
            raise fault

    def stop(self) -> None:
        """Stop reading; L{run} returns when all that was sent is answered."""
        self._stopped = True
        if self._step is not None:
            self._step.cancel()

    def stop_now(self) -> None:
        """Have L{run} return at once."""
        self.stop()
        self._abandoned = True
        self._wake()

    async def _begin(self) -> None:
        """Send insertions that come before the source's first message."""
        start = self.number
        for one in [] if self._again is None else self._again.insertions:
            if one.number < start:
                self._insertions += 1
                # Some of them may stand before the first number, if a file is gone.
                if left := one.messages[start - one.number :]:
                    await self._go(self._once_more(left))
        await self._pause()

    async def _take(self, block: Block) -> None:
        """
        Send a block, after a correction of its number.
        """
        if self._reading is not None:
            number = self._reading(block, self.number + 1) - 1
            if number != self.number:
                # Some messages of the stream are missing from the input.
                await self._until(lambda: not self._counts.unanswered)
                self.number = number
                self._rebase(max(number, self._have))
                await self._pause()
        await self._go(block)

    async def _go(self, block: Block) -> None:
        for piece in self._pieces(block):
            rest: Block | None = piece
            while rest is not None and not self._abandoned:
                most = self._room()
                part, rest = rest, None
                if most is not None and most < len(part.messages):
                    part, rest = part.part(0, most), part.without(most)
                self._offer(part)
                await self._pause()

    def _room(self) -> int | None:
        """
        Return the number of messages up to the next number at which something changes; C{None}:
        there is none.
        """
        ends = [self._have] if self._caught_up else [self._have, self._last]
        if self._again is not None:
            ends += [one.number for one in self._again.insertions[self._insertions :]]
        return min((end - self.number for end in ends if end > self.number), default=None)

    async def _pause(self) -> None:
        """
        Wait before the next message where numbers stop being sent again, or messages were inserted.
        """
        if not self._caught_up and self.number >= self._last:
            await self._until(lambda: not self._counts.unanswered)
            if self._abandoned:
                return
            self._caught_up = True
            if self._misrouted and self._again is not None:
                self._again.add(self._last, self._misrouted)
                self._say(
                    f"{len(self._misrouted):,} messages of the stream, from number"
                    f" {self._misrouted[0][0]:,} on, had been refused as all were then; they are"
                    f" sent again, behind number {self._last:,}"
                )
            self._rebase(self._last)
        while not self._abandoned and self._again is not None:
            left = self._again.insertions[self._insertions :]
            if not left or left[0].number != self.number:
                return
            self._insertions += 1
            await self._go(self._once_more(left[0].messages))

    def _once_more(self, messages: Sequence[bytes]) -> Block:
        assert self._again is not None
        return Block(messages, 0, str(self._again.path), 1)

    def _offer(self, piece: Block) -> None:
        if self.number < self._have or self._too_long(piece.messages):
            for part in self._parts(piece):
                self._skip(part)
            return
        try:
            self._send(piece)
        except Unsendable:
            for part in self._parts(piece):
                self._send(part)

    def _pieces(self, block: Block) -> Iterator[Block]:
        # Answers are counted once a whole piece has them, which should not take long.
        most = self._options.piece
        start = 0
        while len(block.messages) - start > most:
            yield block.part(start, start + most)
            start += most
        yield block.without(start) if start else block

    def _skip(self, block: Block) -> None:
        count = len(block.messages)
        known = min(count, max(0, self._have - self.number))
        self._counts.skipped += known
        self.number += known
        if known < count:
            self._send(block.without(known))
        else:
            self._counts.size += block.size

    def _send(self, block: Block) -> None:
        count = len(block.messages)
        first = self.number + 1
        answers = self._client.send_many(block.messages)
        if answers.called:
            # It failed at once, so nothing was queued.
            failed: list[Failure] = []
            answers.addErrback(failed.append)
            failed[0].raiseException()
        self.number += count
        self._bytes += block.size
        self._counts.taken += count
        answers.addCallback(self._answered, block, first).addErrback(self._failed)

    def _too_long(self, messages: Sequence[bytes]) -> bool:
        return max(map(len, messages)) > self._options.limit

    def _parts(self, block: Block) -> Iterator[Block]:
        """
        Yield the parts of a block that can be sent, and refuse the others. Rare, except while the
        place of a stream is searched.
        """
        messages = block.messages
        try:
            if not self._too_long(messages):
                self._check(messages, self._options.plain)
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
        # The last part accounts for the input's bytes of the whole block.
        if start < len(messages):
            yield block.without(start)
        else:
            self._counts.size += block.size

    def _unsendable(self, message: bytes) -> str:
        if len(message) > self._options.limit:
            return (
                f"not sent: {len(message):,} bytes, and a listener of this --max-frame takes"
                f" {self._options.limit:,}"
            )
        try:
            self._check([message], self._options.plain)
        except Unsendable as error:
            return f"not sent: {error}"
        return ""

    def _refuse(self, message: bytes, reason: str, name: str, line: int) -> None:
        if self.number < self._have:
            return  # an earlier run has said so
        self._counts.unsendable()
        self._show_first("UNSENDABLE", name, line, reason)
        stream = self._options.stream
        self._note([refusal(message, reason.encode(), name, line, stream)])

    def _answered(self, runs: Sequence[tuple[int, Answer]], block: Block, first: int) -> None:
        self._bytes -= block.size
        self._counts.size += block.size
        if self._options.stream and first <= self._last:
            self._asked_again(runs, block, first)
        elif self._counts.answered(runs):
            self._check_refusals(runs, block, first)
            self._check_route(runs, block)
        if any(answer is UNKNOWN for _, answer in runs):
            raise Unknown(UNKNOWN.text)
        if self._failure is None and self._settled is not None and block.size:
            self._settled(block, first + len(block.messages) - 1)
        self._wake()

    def _asked_again(self, runs: Sequence[tuple[int, Answer]], block: Block, first: int) -> None:
        """Handle answers to messages that an earlier run has sent."""
        place = 0
        refused_runs = []
        for count, answer in runs:
            if self._options.misrouted(answer):
                for at in range(place, place + count):
                    if self._again is not None and not self._again.is_known(first + at):
                        self._misrouted.append((first + at, block.messages[at]))
            elif not answer.kept and self._refused is not None:
                refused_runs.append((count, answer))
            place += count
        seen = sum(count for count, _ in refused_runs)
        self._counts.taken -= place - seen
        self._counts.skipped += place - seen
        if self._counts.answered(refused_runs):
            self._check_refusals(runs, block, first)

    def _check_refusals(self, runs: Sequence[tuple[int, Answer]], block: Block, first: int) -> None:
        self._note(self._refusals(runs, block, first))
        self._show(runs, block)
        if self._options.stream and any(answer.code == "TOOBIG" for _, answer in runs):
            raise Drifted(
                f"a message of {block.name} is longer than the listener's max_frame: run this"
                " again with --max-frame as the listener has it, so that it is left out"
            )

    def _show(self, runs: Sequence[tuple[int, Answer]], block: Block) -> None:
        """Report the first refusal of each code."""
        place = 0
        for count, answer in runs:
            if answer.word == "-REJ" and not self._options.misrouted(answer):
                self._show_first(answer.code, block.name, block.line + place, str(answer))
            place += count

    def _check_route(self, runs: Sequence[tuple[int, Answer]], block: Block) -> None:
        """
        Check for refusals that meet every message.

        @raise Misrouted: there is one.
        """
        place = 0
        for count, answer in runs:
            if self._options.misrouted(answer):
                raise Misrouted(answer, f"{block.name}, line {block.line + place:,}")
            place += count

    def _show_first(self, code: str, name: str, line: int, text: str) -> None:
        if code not in self._shown:
            self._shown.add(code)
            self._say(f"{name}, line {line:,}: {text} (more refusals of this kind are counted)")

    def _refusals(
        self, runs: Sequence[tuple[int, Answer]], block: Block, first: int
    ) -> list[RefusedMessage]:
        refusals = []
        place = drift = 0
        stream = self._options.stream
        for count, answer in runs:
            again = self._again is not None and self._options.misrouted(answer)
            if not answer.kept and answer is not UNKNOWN and not again:
                for at in range(place, place + count):
                    if answer.code == "TOOBIG":
                        number, drift = 0, drift + 1  # its number goes to the next one
                    else:
                        number = first + at - drift if stream else 0
                    line = block.line + at
                    refusals.append(
                        refusal(block.messages[at], answer.raw, block.name, line, stream, number)
                    )
            place += count
        return refusals

    def _note(self, refusals: Sequence[RefusedMessage]) -> None:
        if self._refused is not None:
            self._refused.write(refusals)

    def _failed(self, failure: Failure) -> None:
        if self._failure is None:
            self._failure = failure
        if failure.check(Misrouted) and not self._options.stream:
            # Messages in flight still get answers; in a stream each would use up a number.
            self.stop()
            self._wake()
        else:
            self.stop_now()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not self._abandoned and not condition():
            self._waiting = Deferred()
            await self._waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)
