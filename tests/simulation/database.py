"""
The simulated database, and the store through which a gateway uses it.

What it holds, and by which rules, is L{gateway.commit.memory_store.MemoryStore}'s, which passes the
same tests as the real store. Here is what can happen to a statement on its way: it is not sent, its
reply is lost, it stands still and is executed when nobody waits for it any more; and what can
happen to the database: it is away, or set back to what it was before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateway.commit.memory_store import KeptStream, MemoryStore
from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.errors import (
    BatchesRefused,
    Faults,
    FramesRefused,
    GatewayError,
    OutcomeUnknown,
    TransientError,
    Unavailable,
)
from gateway.model.route import HOME
from gateway.model.store import Claim, Seen, Spooled, SpreadPosition, Written
from gateway.sql.joined import TextFormat
from tests.simulation.messages import POISON
from tests.simulation.world import World

Call = Callable[[MemoryStore], Coroutine[Any, Any, Any]]

ANSWER_TIMEOUT = 5.0
"""Seconds after which nobody waits for a statement any more, as C{database.answer_timeout}."""


class Statement:
    """
    A statement that was sent and is not executed yet.

    @ivar text: for the trace.
    @ivar store: the sender's.
    @ivar fence: that it moves.
    """

    __slots__ = ("batches", "call", "done", "fence", "store", "text", "timer")

    def __init__(
        self,
        store: SimulatedStore,
        text: str,
        call: Call,
        batches: Sequence[Batch],
        fence: Fence | None,
    ):
        self.store = store
        self.fence = fence
        self.text = text
        self.call = call
        self.batches = batches
        self.done: Deferred[Any] | None = Deferred()
        self.timer: IDelayedCall | None = None

    def tell(self, result: object) -> None:
        """Tell the sender, if it still waits, what became of it."""
        done, self.done = self.done, None
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if done is not None:
            done.callback(result)


class Row(NamedTuple):
    """
    A message in a table.

    @ivar commit: that stored it.
    @ivar number: that it has in its stream; 0: none.
    """

    commit: int
    route: str
    body: bytes
    stream: str
    number: int


class Snapshot(NamedTuple):
    """What the database held at some time."""

    rows: list[Any]
    dead_letters: list[Any]
    fences: dict[str, int]
    last: dict[str, Any]
    streams: dict[str, KeptStream]
    table: list[Row]


class Chances(NamedTuple):
    """
    What becomes of a statement at once.

    @ivar prompt: probability that it is executed and its reply comes.
    @ivar lost: that its reply is lost.
    @ivar frozen: that it stands still, and its connection is lost.
    @ivar transient: that the database gives it up for a reason that passes.
    """

    prompt: float
    lost: float
    frozen: float
    transient: float


class Database:
    """
    One database that several gateways use.

    @ivar memory: what it holds.
    @ivar all: the databases of the schedule; this is one of them.
    @ivar routes: those whose tables are here.
    @ivar table: its messages, in the order of their commits.
    @ivar held: how often each body is in a table.
    @ivar dead: how often each is among the dead letters.
    @ivar findings: rules that its table breaks.
    @ivar lost: bodies that it held, and was set back to hold no more.
    @ivar setbacks: how often it was set back.
    @ivar waiting: statements whose senders wait.
    @ivar frozen: statements that nobody waits for, and that may be executed at any time.
    @ivar away: whether it cannot be reached.
    """

    def __init__(self, world: World, chances: Chances, name: str = HOME) -> None:
        self.world = world
        self.name = name
        self.all: Sequence[Database] = (self,)
        self.routes: Collection[str] = ()
        self.chances = chances
        self.memory = MemoryStore(word=world.new_id, database=name)
        self.memory.poison.add(POISON)
        self.table: list[Row] = []
        self.held: dict[bytes, int] = {}
        self.dead: dict[bytes, int] = {}
        self.findings: list[str] = []
        self.lost: set[bytes] = set()
        self.setbacks = 0
        self.waiting: list[Statement] = []
        self.frozen: list[Statement] = []
        self.away = False
        self.snapshots: list[Snapshot] = []

    # Statements.

    def execute(self, statement: Statement) -> object:
        """
        Do what a statement says, at once.

        @return: its result, or a L{Failure}.
        """
        memory = self.memory
        coroutine = statement.call(memory)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            result: object = stop.value
        except GatewayError:
            result = Failure()
        else:
            raise AssertionError("a statement waited inside the database")
        self._look(statement.batches)
        return result

    def finish(self, statement: Statement) -> None:
        """Execute a statement, and tell its sender."""
        self.waiting.remove(statement)
        result = self.execute(statement)
        self.world.note(f"{self.name}: {statement.text}: {told(result)}")
        statement.tell(result)

    def lose(self, statement: Statement, how: str) -> None:
        """
        The connection of a statement is lost.

        @param how: it was C{"executed"}, was C{"dropped"}, or stays C{"frozen"}.
        """
        self.waiting.remove(statement)
        result = self._lost(statement, how)
        statement.tell(Failure(result))

    def _lost(self, statement: Statement, how: str) -> OutcomeUnknown:
        text = how
        if how == "executed":
            text = told(self.execute(statement))
        elif how == "frozen":
            self.frozen.append(statement)
        self.world.note(f"{self.name}: {statement.text}: {text}, connection lost")
        return OutcomeUnknown("the connection was lost")

    def thaw(self, statement: Statement) -> None:
        """Execute a statement that nobody waits for."""
        self.frozen.remove(statement)
        result = self.execute(statement)
        self.world.note(f"{self.name}: late: {statement.text}: {told(result)}")

    async def send(
        self,
        store: SimulatedStore,
        text: str,
        call: Call,
        batches: Sequence[Batch] = (),
        fence: Fence | None = None,
    ) -> Any:
        """
        Send a statement, and wait for its reply.

        @raise GatewayError: as its caller's port says.
        """
        self.world.count()
        statement = Statement(store, text, call, batches, fence)
        chances = self.chances
        drawn = self.world.random.random()
        if drawn < chances.prompt:
            result = self.execute(statement)
            self.world.note(f"{self.name}: {text}: {told(result)}")
            if isinstance(result, Failure):
                result.raiseException()
            return result
        drawn -= chances.prompt
        if drawn < chances.lost:
            raise self._lost(statement, "executed")
        drawn -= chances.lost
        if drawn < chances.frozen:
            statement.done = None
            raise self._lost(statement, "frozen")
        drawn -= chances.frozen
        if drawn < chances.transient:
            self.world.note(f"{self.name}: {text}: deadlock detected")
            raise TransientError("deadlock detected", "40P01")
        self.world.note(f"{self.name}: {text}: sent")
        self.waiting.append(statement)
        statement.timer = store.clock.callLater(ANSWER_TIMEOUT, self.lose, statement, "frozen")
        assert statement.done is not None
        return await statement.done

    def sever(self, store: SimulatedStore, told: bool = True) -> None:
        """
        Lose all connections of a gateway.

        @param told: whether it hears of that; else it is dead.
        """
        for statement in [s for s in self.waiting if s.store is store]:
            if not told:
                statement.done = None
            how = self.world.random.choice(["executed", "dropped", "frozen", "frozen"])
            self.lose(statement, how)

    # What it holds.

    def _look(self, batches: Sequence[Batch]) -> None:
        """
        Take over what a statement stored into L{table}, and judge its order.
        """
        new = self.memory.rows[len(self.table) :]
        for body, _ in self.memory.dead_letters[sum(self.dead.values()) :]:
            self.dead[body] = self.dead.get(body, 0) + 1
        if not new:
            return
        commit = self.world.next_commit()
        numbers = _numbers_of(batches)
        before: dict[str, int] = {}
        # A database that was set back has an earlier claim again, whose statements may still come.
        is_whole = not any(database.setbacks for database in self.all)
        for database in self.all if is_whole else (self,):
            for stream, number in {row.stream: row.number for row in database.table}.items():
                before[stream] = max(number, before.get(stream, 0))
        for _, body in new:
            route, stream, number = numbers[body]
            self.table.append(Row(commit, route, body, stream, number))
            if route not in self.routes:
                self.findings.append(f"P1: {body!r} of {route} is stored in {self.name}")
            self.held[body] = self.held.get(body, 0) + 1
            if self.held[body] > 1:
                self.findings.append(f"P1: {body!r} is stored twice")
            if stream and number <= before.get(stream, 0):
                self.findings.append(
                    f"P4: {body!r}, #{number} of {stream}, is stored after #{before[stream]}"
                )
        for route in {row.route for row in self.table[-len(new) :]}:
            reached: dict[str, int] = {}
            for row in self.table[-len(new) :]:
                if row.route == route and row.stream:
                    if row.number <= reached.get(row.stream, 0):
                        self.findings.append(f"P4: #{row.number} of {row.stream} is out of order")
                    reached[row.stream] = row.number

    def take_snapshot(self) -> None:
        """Remember what it holds now."""
        memory = self.memory
        streams = {
            name: replace(kept, refusals=dict(kept.refusals), digests=dict(kept.digests))
            for name, kept in memory.streams.items()
        }
        self.snapshots.append(
            Snapshot(
                *(list(memory.rows), list(memory.dead_letters), dict(memory._fences)),
                *(dict(memory._last), streams, list(self.table)),
            )
        )

    def set_back(self, which: int) -> None:
        """
        From now on it holds what it held at a snapshot.
        """
        before = set(self.held) | set(self.dead)
        found = self.snapshots[which]
        del self.snapshots[which + 1 :]
        memory = self.memory
        # That a statement's fate was settled is one of the commits that are lost. Nobody could
        # tell; who restores a database ends what a pooler may still hold for it.
        for statement in list(self.frozen):
            fence = statement.fence
            if fence is not None and memory._fences.get(fence.lane, 0) >= fence.first:
                self.frozen.remove(statement)
        memory.rows = list(found.rows)
        memory.dead_letters = list(found.dead_letters)
        memory._fences = dict(found.fences)
        memory._last = dict(found.last)
        memory.streams = {
            name: replace(kept, refusals=dict(kept.refusals), digests=dict(kept.digests))
            for name, kept in found.streams.items()
        }
        self.table = list(found.table)
        self.held = {row.body: 1 for row in self.table}
        self.dead = dict(Counter(body for body, _ in memory.dead_letters))
        gone = before - set(self.held) - set(self.dead)
        self.lost |= gone
        self.setbacks += 1


class SimulatedStore:
    """
    The database as one gateway process sees it.

    @ivar cut_off: whether it cannot reach the database.
    """

    _noticed = False

    def __init__(self, name: str, database: Database, clock: Clock) -> None:
        """
        @param name: the gateway's, for the trace.
        """
        self.clock = clock
        self.cut_off = False
        self.closed = False
        self._name = name
        self._database = database
        self._doubtful: set[str] = set()
        self._format = TextFormat()

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        if faults := self._faults(batch):
            raise FramesRefused(faults)
        batch.moves  # noqa: B018 - as they are when it is sent
        written: Written = await self._send(
            f"write {_shown(batch)} behind {_fence(fence)}",
            lambda memory: memory.write(batch, fence),
            [batch],
            fence,
        )
        return written

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        faults = [self._faults(batch) for batch in batches]
        if any(faults):
            raise BatchesRefused(faults)
        text = " and ".join(
            f"{_shown(batch)} behind {_fence(fence)}"
            for batch, fence in zip(batches, fences, strict=True)
        )
        written: Sequence[Written] | None = await self._send(
            f"write together {text}",
            lambda memory: memory.write_together(batches, fences, chunks, afresh=afresh),
            batches,
            fences[0],
        )
        return written

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        faults = [self._faults(batch) for batch in batches]
        if any(faults):
            raise BatchesRefused(faults)
        text = " and ".join(
            f"{_shown(batch)} behind {_fence(fence)}"
            for batch, fence in zip(batches, fences, strict=True)
        )
        await self._send(
            f"write whole {text}",
            lambda memory: memory.write_whole(batches, fences),
            batches,
            fences[0],
        )

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        written: Written | None = await self._send(
            f"resolve {_fence(fence)}", lambda memory: memory.resolve(batch, fence), (), fence
        )
        return written

    async def claim_stream(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        known = "" if seen is None else f" seen={seen.number} epoch={seen.epoch[-4:]}"
        waiting = {epoch[-4:]: [*numbers] for epoch, numbers in spooled.items()}
        claim: Claim = await self._send(
            f"claim {name}{known}, spooled {waiting}",
            lambda memory: memory.claim_stream(name, seen, spooled),
        )
        return claim

    async def spread_position(self, stream: str) -> SpreadPosition:
        position: SpreadPosition = await self._send(
            f"position of {stream}", lambda memory: memory.spread_position(stream)
        )
        return position

    async def claim_spread(
        self, stream: str, claim: str, before: str, epoch: str | None
    ) -> SpreadPosition:
        position: SpreadPosition = await self._send(
            f"claim {stream} by {claim[-4:]} in epoch {None if epoch is None else epoch[-4:]}",
            lambda memory: memory.claim_spread(stream, claim, before, epoch),
        )
        return position

    @property
    def is_away(self) -> bool:
        """Whether it knows that it cannot reach the database."""
        return self._noticed and (self.cut_off or self._database.away)

    async def try_out(self, batch: Batch) -> bool:
        passes: bool = await self._send(
            f"try out {_shown(batch)}", lambda memory: memory.try_out(batch)
        )
        return passes

    async def probe(self, route: str) -> None:
        await self._send(f"probe {route}", lambda memory: memory.probe(route))

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        sure = sorted(set(lanes) - self._doubtful)
        if sure:
            text = " ".join(lane[-4:] for lane in sure)
            await self._send(f"close lanes {text}", lambda memory: memory.close_lanes(sure))

    def close(self) -> None:
        """End all connections, for good."""
        self.closed = True
        self._database.sever(self)

    async def _send(
        self,
        text: str,
        call: Call,
        batches: Sequence[Batch] = (),
        fence: Fence | None = None,
    ) -> Any:
        self._noticed = self.cut_off or self._database.away
        if self._noticed or self.closed:
            raise Unavailable("the database cannot be reached")
        try:
            return await self._database.send(self, f"{self._name} {text}", call, batches, fence)
        except OutcomeUnknown:
            if fence is not None:
                self._doubtful.add(fence.lane)
            raise

    def _faults(self, batch: Batch) -> Faults:
        faults: Faults = []
        base = 0
        for piece in batch.slices:
            frames = piece.frames
            try:
                self._format.encode(frames)
            except FramesRefused as refused:
                faults += [(base + row, outcome) for row, outcome in refused.faults]
            base += len(frames)
        return faults


def _numbers_of(batches: Sequence[Batch]) -> dict[bytes, tuple[str, str, int]]:
    found = {}
    for batch in batches:
        for piece in batch.slices:
            stream = piece.chunk.stream
            for number, body in zip(piece.numbers, piece.frames, strict=True):
                if stream is None:
                    found[body] = batch.route, "", 0
                else:
                    found[body] = batch.route, stream.name, number
    return found


def told(result: object) -> str:
    """A result as it stands in the trace."""
    if isinstance(result, Failure):
        value = result.value
        stream_positions = getattr(value, "stream_positions", None)
        if stream_positions is not None:
            return "elsewhere " + ", ".join(
                f"{name} claimed={s.claimed} current={s.current} mark={s.mark}"
                for name, s in stream_positions.items()
            )
        return f"{type(value).__name__}: {value}"
    if isinstance(result, Written):
        words = " ".join(f"{count}x{fate.word}" for count, fate in result.runs)
        return f"{words}{' before' if result.before else ''}"
    if isinstance(result, list):
        return " and ".join(map(told, result))
    if isinstance(result, Claim):
        refused = f" refused {sorted(result.refusals)}" if result.refusals else ""
        return f"claim={result.claim[-4:]} epoch={result.epoch[-4:]} mark={result.mark}{refused}"
    if isinstance(result, SpreadPosition):
        return (
            f"claim={result.claim[-4:]} epoch={result.epoch[-4:]} mark={result.mark}"
            f" marks={dict(result.marks)}"
        )
    return "done" if result is None else str(result)


def _shown(batch: Batch) -> str:
    parts = []
    for piece in batch.slices:
        stream = piece.chunk.stream
        number = f"#{piece.first}@{stream.epoch[-4:]} " if stream is not None else ""
        parts.append(number + ", ".join(_body(frame) for frame in piece.frames))
    for refusal in batch.refusals:
        stream = refusal.chunk.stream
        number = f"#{refusal.number}@{stream.epoch[-4:]} " if stream is not None else ""
        what = "dead letter" if refusal.dead_letter else "refused"
        parts.append(f"{what} {number}{_body(refusal.chunk.frames[refusal.row])}")
    return f"{batch.route}[{'; '.join(parts)}]"


def _body(frame: bytes) -> str:
    return frame.decode("ascii", "backslashreplace")


def _fence(fence: Fence) -> str:
    numbers = f"{fence.first}-" if fence.first != fence.number else ""
    return f"{fence.lane[-4:]}/{numbers}{fence.number}"
