"""
Fuzzing of the command dialect, the short form: one peer of a gateway in memory.

C{python -m tests.fuzzing.live} is the long one, with real processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gateway.model.outcome import Code, Listing, Outcome, Word, refused
from gateway.model.query import OnOutcome
from gateway.wire.framing import FRAMINGS
from gateway.wire.push import Pushes
from tests.in_memory import TOKENS, Bench
from tests.talk import ROUTES, SPOKEN, Expected, Hearing, Judge, Speaker, Tally, paired, spoiled

MAX_FRAME = 100

NUMBERS = st.integers(0, 1 << 16)

FRAMES = st.one_of(
    SPOKEN.strategy("frame"),
    SPOKEN.strategy("frame"),
    st.builds(spoiled, SPOKEN.strategy("frame"), NUMBERS, NUMBERS, NUMBERS),
    st.binary(max_size=30),
    st.just(b"PUT messages " + b"x" * MAX_FRAME),
)


class HeldQueries:
    """
    Answers CALL when the test says so.
    """

    def __init__(self) -> None:
        self.waiting: deque[Deferred[None]] = deque()

    def ask(self, name: str, arguments: bytes, on_outcome: OnOutcome) -> None:
        answer: Outcome | Listing = refused(Code.QUERY, f"no query {name}")
        if name == "last":
            answer = Listing([b'{"id":%d}' % number for number in range(len(arguments) % 4)])
        gate: Deferred[None] = Deferred()
        self.waiting.append(gate)
        gate.addCallback(lambda _: on_outcome(answer))


class OneChannel:
    """
    Offers one channel.
    """

    def __init__(self) -> None:
        self.listens = False

    async def subscribe(self, channel: str, subscriber: Any) -> Outcome:
        return self._answer(channel, True)

    async def unsubscribe(self, channel: str, subscriber: Any) -> Outcome:
        return self._answer(channel, False)

    def offers(self, channel: str) -> bool:
        return channel == "news"

    def channels_of(self, subscriber: Any) -> list[str]:
        return ["news"] * self.listens

    def end_all(self, subscriber: Any) -> None:
        self.listens = False

    def _answer(self, channel: str, listens: bool) -> Outcome:
        if channel != "news":
            return refused(Code.DENIED, "this channel is not offered")
        self.listens = listens
        return Outcome(Word.OK)


def takes(route: bytes, payload: bytes) -> bool:
    """Whether the store in memory takes a message."""
    try:
        return b"7" not in payload and "\0" not in payload.decode()
    except UnicodeDecodeError:
        return False


class Fuzzed:
    """
    A gateway in memory whose parts go on in any order.
    """

    def __init__(self, framing: str, window: int, chance: Random) -> None:
        self.bench = Bench(framing, window=window, routes=ROUTES)
        self.bench.store.poison = {b"7"}
        self.bench.authenticator.replace_tokens(
            {"fuzzer-1": replace(TOKENS[0], id="fuzzer-1", hash="secret")}
        )
        self._chance = chance
        self._queries = HeldQueries()
        self._channel = OneChannel()
        dialect: Any = self.bench.factory.dialect
        dialect.queries, dialect.channels = self._queries, self._channel

    def something_happens(self) -> None:
        """A commit, an answer to CALL, a notification, or nothing."""
        store, calls = self.bench.store, self._queries.waiting
        match self._chance.randrange(4):
            case 0 if store.waiting_writes:
                store.commit(self._chance.randrange(store.waiting_writes))
            case 1 if calls:
                calls.popleft().callback(None)
            case 2 if self._channel.listens:
                self.bench.peer.push(Pushes([b">news hello"]))

    def settle(self) -> None:
        """Until nothing more happens."""
        for _ in range(20):
            self.bench.commit_all()
            while self._queries.waiting:
                self._queries.waiting.popleft().callback(None)
            self.bench.clock.advance(1)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(
    framing=st.sampled_from(sorted(FRAMINGS)),
    said=st.lists(FRAMES, min_size=1, max_size=25),
    window=st.sampled_from([1, 2, 5, 100]),
    chance=st.randoms(use_true_random=False),
)
def test_every_frame_is_answered_in_order(
    framing: str, said: list[bytes], window: int, chance: Random
) -> None:
    """
    Whatever a peer says and however TCP cuts it: each frame gets its answer, as documented
    and in order, SYNC counts right, and QUIT is the only end.
    """
    speaker = Speaker(chance, "s", framing, MAX_FRAME)
    frames = [speaker.said(frame) for frame in said]
    if framing != "line":
        frames = [frame[:MAX_FRAME] for frame in frames]
    frames += [b"SYNC", b"PING the end", b"QUIT"]
    judge = Judge(MAX_FRAME, takes, b"s")
    expected = [judge.expect(frame) for frame in frames]
    fuzzed = Fuzzed(framing, window, chance)
    stream = b"".join(map(FRAMINGS[framing](MAX_FRAME).frame, frames))
    while stream:
        size = chance.randint(1, 60)
        fuzzed.bench.peer.dataReceived(stream[:size])
        stream = stream[size:]
        fuzzed.something_happens()
    fuzzed.settle()
    pairs = heard(fuzzed, framing, expected)
    Tally().count(pairs)
    assert fuzzed.bench.transport.disconnecting
    assert fuzzed.bench.inflight_limit.used == 0


def heard(
    fuzzed: Fuzzed, framing: str, expected: Sequence[Expected]
) -> list[tuple[Expected, bytes | None]]:
    """Each frame and its answer."""
    hearing = Hearing(framing)
    hearing.take(fuzzed.bench.said)
    assert hearing.whole and not hearing.goodbye
    return paired(expected, hearing.answers)
