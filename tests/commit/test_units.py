"""
Units: stored whole or not at all, once where they have a key, and nothing behind what is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.memory_store import MemoryStore
from gateway.commit.writer import PeerSource, Writer
from gateway.model import wording
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import OrderMatters, OutcomeUnknown, TransientError, Unavailable
from gateway.model.grouping import Group, places_by
from gateway.model.outcome import Outcome, Run, Word, is_kept
from gateway.model.unit import unit_key

KEY = unit_key(b"a chunk")

ROUTE = st.sampled_from("ab")
BODY = st.sampled_from([b"ok", b"bad", b"\xff"])


class Bench:
    """
    A writer on a fake store, on a clock of the test's, and what units were told.
    """

    def __init__(
        self,
        store: MemoryStore | None = None,
        dead_letters: frozenset[str] = frozenset(),
        held: bool = False,
    ) -> None:
        self.clock = Clock()
        self.store = MemoryStore(held) if store is None else store
        self.breakers = CircuitBreakers(self.store, self.clock, lambda attempt: 0.5)
        self.inflight_limit = InflightLimit(1_000_000)
        self.writer = Writer(
            *(self.store, self.clock, 1, self.inflight_limit, lambda: 0.0, self.breakers),
            dead_letters=dead_letters,
        )
        self.told: list[list[Run]] = []
        self.plain: list[Run] = []

    def source(self, name: str = "p") -> PeerSource:
        return self.writer.source(Origin(name, "lines"), partial(settle, self.plain))

    def send(self, *parts: tuple[str, Sequence[bytes]], key: str | None = None) -> None:
        """One peer sends one unit."""
        chunks = [Group(route, list(frames)) for route, frames in parts]
        self.source().submit_unit(chunks, self.told.append, key)

    @property
    def words(self) -> list[list[str]]:
        """The word for each message of each unit."""
        return [[fate.word.value for n, fate in runs for _ in range(n)] for runs in self.told]

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.store.rows]

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.1] * int(seconds * 10))


def settle(plain: list[Run], token: object, runs: list[Run]) -> None:
    """Keep fates of messages that are in no unit."""
    plain += runs


def test_one_commit_over_all_routes() -> None:
    """A unit of several routes is one write, and is told once, in its order."""
    bench = Bench()
    bench.send(("a", [b"1", b"2"]), ("b", [b"3"]), ("a", [b"4"]))
    assert bench.store.writes == [4]
    assert bench.words == [["+OK"] * 4]
    assert bench.bodies == [b"1", b"2", b"4", b"3"]
    assert not bench.inflight_limit.used and not bench.writer.in_flight


def test_units_of_several_peers_share_a_commit() -> None:
    """Units that came while one commits go together; plain messages have commits of their own."""
    bench = Bench(held=True)
    bench.send(("a", [b"1"]))
    for n in (2, 3):
        bench.send(("a", [b"%d" % n]), key=unit_key(b"%d" % n))
    bench.send(("a", [b"4"]), ("b", [b"5"]))
    bench.source("plain").submit("a", [b"6"], "token")
    bench.send(("a", [b"7"]))
    for _ in range(4):
        bench.store.commit()
    assert bench.store.writes == [1, 4, 1, 1]
    assert sorted(bench.bodies) == [b"%d" % n for n in range(1, 8)]
    assert bench.words == [["+OK"], ["+OK", "+OK"], ["+OK"], ["+OK"], ["+OK"]]
    assert [count for count, _ in bench.plain] == [1]


def test_nothing_behind_a_refused_one() -> None:
    """Where refused messages are not kept, those before are stored, and those behind are not."""
    bench = Bench()
    bench.store.poison = {b"bad"}
    bench.send(("a", [b"1", b"bad", b"2"]), ("b", [b"3", b"bad"]))
    bench.send(("a", [b"4", b"\xff"]), ("a", [b"5"]))
    assert bench.words == [["+OK", "-REJ", "-TRY", "-TRY", "-TRY"], ["+OK", "-REJ", "-TRY"]]
    assert bench.bodies == [b"1", b"4"]


def test_refused_ones_are_kept() -> None:
    """On a route with dead letters a refused message costs its unit nothing, and is marked."""
    bench = Bench(dead_letters=frozenset({"a", "b"}))
    bench.store.poison = {b"bad"}
    bench.send(("a", [b"1", b"bad", b"2"]), ("b", [b"\xff"]))
    assert bench.words == [["+OK", "-REJ", "+OK", "-REJ"]]
    assert all(is_kept(fate) for _, fate in bench.told[0])
    assert bench.bodies == [b"1", b"2"]
    assert [frame for frame, _ in bench.store.dead_letters] == [b"bad", b"\xff"]


def test_a_message_refused_from_the_start() -> None:
    """It is kept like others, or ends its unit; without a route it is never kept."""
    long = [
        Group("a", [b"1"]),
        Group("a", [b"2"], wording.TOO_LONG),
        Group("a", [b"3"]),
    ]
    for dead_letters, words in (
        (frozenset({"a"}), ["+OK", "-REJ", "+OK"]),
        (frozenset[str](), ["+OK", "-REJ", "-TRY"]),
    ):
        bench = Bench(dead_letters=dead_letters)
        bench.source().submit_unit(long, bench.told.append)
        assert bench.words == [words]
        assert len(bench.store.dead_letters) == len(dead_letters)
    nowhere = [Group("a", [b"1"]), Group("", [b"2"], wording.no_route_field("x"))]
    bench = Bench(dead_letters=frozenset({"a"}))
    bench.source().submit_unit(nowhere, bench.told.append)
    assert bench.words == [["+OK", "-REJ"]] and not is_kept(bench.told[0][1][1])


def test_a_unit_with_a_key_is_stored_once() -> None:
    """The same key again stores nothing, at this gateway or another, and is told as stored."""
    first = Bench()
    second = Bench(first.store)
    for bench in (first, second, first):
        bench.send(("a", [b"1"]), ("b", [b"2"]), key=KEY)
        assert bench.words[-1] == ["+OK", "+OK"]
    assert first.bodies == [b"1", b"2"]
    second.send(("a", [b"1"]), ("b", [b"2"]), key=unit_key(b"another"))
    assert first.bodies == [b"1", b"2", b"1", b"2"]


def test_the_same_unit_twice_in_a_queue() -> None:
    """A unit that is sent again while it still waits is stored once, and told twice."""
    bench = Bench(held=True)
    bench.send(("a", [b"0"]))
    for _ in range(3):
        bench.send(("a", [b"1"]), ("b", [b"2"]), key=KEY)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.words == [["+OK"], *[["+OK", "+OK"]] * 3]
    assert bench.bodies == [b"0", b"1", b"2"]


def test_a_key_is_known_whatever_the_routes() -> None:
    """A unit that was stored is known, though its messages have other routes by now."""
    bench = Bench()
    bench.send(("a", [b"1"]), ("b", [b"2"]), key=KEY)
    bench.send(("c", [b"1", b"2"]), key=KEY)
    bench.send(("b", [b"1"]), ("a", [b"2"]), key=KEY)
    assert bench.words == [["+OK", "+OK"]] * 3
    assert bench.bodies == [b"1", b"2"]


def test_a_reload_while_a_unit_waits() -> None:
    """Refused messages are kept as it was configured when they were read."""
    bench = Bench(dead_letters=frozenset({"a"}), held=True)
    bench.store.poison = {b"bad"}
    bench.send(("a", [b"0"]))
    bench.send(("a", [b"1", b"bad"]))
    bench.writer.begin_generation(["a"], frozenset())
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.words == [["+OK"], ["+OK", "-REJ"]]
    assert is_kept(bench.told[1][1][1]) and len(bench.store.dead_letters) == 1


def test_a_key_covers_all_or_nothing() -> None:
    """Of a unit with a key nothing is stored where one message is refused and not kept."""
    bench = Bench()
    bench.store.poison = {b"bad"}
    bench.send(("a", [b"1", b"bad"]), ("b", [b"2"]), key=KEY)
    assert bench.words == [["-TRY", "-REJ", "-TRY"]]
    assert not bench.bodies
    bench.store.poison.clear()
    bench.send(("a", [b"1", b"bad"]), ("b", [b"2"]), key=KEY)
    assert bench.bodies == [b"1", b"bad", b"2"]


@pytest.mark.parametrize("key", [None, KEY])
def test_a_lost_reply(key: str | None) -> None:
    """A commit whose reply was lost is found, or done again; each message is stored once."""
    for stored in (True, False):
        bench = Bench()
        if stored:
            bench.store.lost_replies = 1
        else:
            bench.store.failures.append(OutcomeUnknown("lost"))
        bench.send(("a", [b"1"]), ("b", [b"2"]), key=key)
        bench.pass_time(3)
        assert bench.words == [["+OK", "+OK"]]
        assert bench.bodies == [b"1", b"2"]
        bench.send(("a", [b"3"]))
        assert bench.bodies == [b"1", b"2", b"3"]
        counters = bench.writer.counters
        assert not counters["a"].unresolved and not counters["b"].unresolved


def test_a_lost_reply_and_a_refused_row() -> None:
    """Whatever an earlier try did: kept ones once, stored ones once."""
    for stored in (True, False):
        bench = Bench(dead_letters=frozenset({"a"}))
        bench.store.poison = {b"bad"}
        if stored:
            bench.store.lost_replies = 1
        else:
            bench.store.failures += [OutcomeUnknown("lost"), OutcomeUnknown("lost")]
        bench.send(("a", [b"1", b"bad", b"2"]), key=KEY)
        bench.pass_time(5)
        assert bench.words == [["+OK", "-REJ", "+OK"]]
        assert bench.bodies == [b"1", b"2"]
        assert len(bench.store.dead_letters) == 1


def test_the_database_is_away() -> None:
    """Without a spool what cannot be stored is given back whole."""
    bench = Bench()
    bench.store.failures += [Unavailable("away")] * 2
    bench.send(("a", [b"1"]), ("b", [b"2"]))
    assert bench.words == [["-TRY", "-TRY"]]
    assert not bench.bodies


def test_what_stays_unknown_is_given_up() -> None:
    """After a minute nothing is said of a unit, and its fence is never used for another."""
    bench = Bench()
    bench.send(("a", [b"0"]))
    lanes = list(bench.writer.lanes)
    bench.store.failures += [OutcomeUnknown("lost")] * 1000
    bench.send(("a", [b"1"]))
    bench.pass_time(70)
    assert bench.words[1] == ["-TRY"]
    bench.store.failures.clear()
    bench.send(("a", [b"2"]))
    assert bench.bodies == [b"0", b"2"]
    assert list(bench.writer.lanes) != lanes


def test_errors_that_pass() -> None:
    """A deadlock is tried again, and nobody is blamed."""
    bench = Bench()
    bench.store.failures += [TransientError("deadlock detected", "40P01")] * 2
    bench.send(("a", [b"1"]))
    bench.pass_time(2)
    assert bench.words == [["+OK"]]


def test_a_route_out_of_service() -> None:
    """A unit that needs it is given back whole; those beside it are stored."""
    bench = Bench(held=True)
    bench.store.closed.add("gone")
    bench.send(("a", [b"0"]))
    bench.send(("a", [b"1"]), ("gone", [b"2"]))
    bench.send(("a", [b"3"]))
    bench.store.commit()
    bench.store.held = False
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.words == [["+OK"], ["-TRY", "-TRY"], ["+OK"]]
    assert bench.bodies == [b"0", b"3"]
    fate = bench.told[1][0][1]
    assert isinstance(fate, Outcome) and fate.word is Word.TRY
    assert "gone" in bench.breakers.answers and "a" not in bench.breakers.answers


def test_a_paused_route_holds_the_whole_unit() -> None:
    """A unit waits whole, also what of it goes to other routes, and is stored when resumed."""
    bench = Bench()
    bench.breakers.pauses.pause("b")
    bench.send(("a", [b"1"]), ("b", [b"2"]))
    bench.send(("a", [b"3"]))
    assert bench.bodies == [b"3"]
    bench.breakers.pauses.resume("b")
    assert bench.bodies == [b"3", b"1", b"2"]
    assert bench.words == [["+OK"], ["+OK", "+OK"]]


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from([b"ok", b"bad", b"\xff"])), min_size=1
        ),
        min_size=1,
        max_size=5,
    ),
    st.sets(st.sampled_from("ab")),
    st.booleans(),
    st.booleans(),
)
def test_any_units(
    units: list[list[tuple[str, bytes]]], dead_letters: set[str], keyed: bool, cut: bool
) -> None:
    """
    Each message has one fate; those told as stored are, those told as kept are dead letters,
    and nothing else is; what is not kept ends its unit, or empties it where it has a key.
    """
    bench = Bench(dead_letters=frozenset(dead_letters), held=True)
    bench.store.poison = {b"bad"}
    told: dict[int, list[Run]] = {}
    for number, unit in enumerate(units):
        bodies = [b"%d.%d %s" % (number, place, body) for place, (_, body) in enumerate(unit)]
        groups = [Group(route, [body]) for (route, _), body in zip(unit, bodies, strict=True)]
        if cut:
            routes = places_by([route for route, _ in unit])
            groups = [
                Group(route, [bodies[place] for place in places], None, places)
                for route, places in routes.items()
            ]
        key = unit_key(b"%d" % number) if keyed else None
        source = bench.source(str(number))
        source.submit_unit(groups, partial(told.__setitem__, number), key)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert len(told) == len(units)
    stored, kept = 0, 0
    for number, runs in told.items():
        fates = [fate for count, fate in runs for _ in range(count)]
        assert [fate.word is Word.OK for fate in fates] == [
            b"%d.%d %s" % (number, place, body) in bench.bodies
            for place, (_, body) in enumerate(units[number])
        ]
        first = next((n for n, fate in enumerate(fates) if not is_kept(fate)), None)
        if first is not None:
            assert not any(map(is_kept, fates[first:]))
            assert not keyed or first == 0
        stored += sum(fate.word is Word.OK for fate in fates)
        kept += sum(is_kept(fate) and fate.word is Word.REJ for fate in fates)
    assert stored == len(bench.bodies) and kept == len(bench.store.dead_letters)
    wanted = [
        body for unit in units for route, body in unit if body == b"ok" or route in dead_letters
    ]
    if len(wanted) == sum(map(len, units)):
        assert stored + kept == len(wanted)
    assert not bench.writer.in_flight and not bench.inflight_limit.used


class InOrder(MemoryStore):
    """Refuses batches that are not in order of arrival."""

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        if chunks:
            raise OrderMatters
        await super().write_whole(batches, fences)


def test_batches_that_are_in_order_of_arrival() -> None:
    """A unit over several routes is cut anew where the store needs its messages in order."""
    unit = Bench(InOrder())
    unit.send(("a", [b"1"]), ("b", [b"2"]), ("a", [b"3"]))
    assert unit.words == [["+OK", "+OK", "+OK"]]
    assert unit.bodies == [b"1", b"2", b"3"]


def test_apart_after_a_refusal() -> None:
    """Messages that were settled before their units are committed one by one are not settled
    again: what is stored behind that is told as it is."""
    bench = Bench(MemoryStore(True))
    bench.store.closed.add("b")
    bench.send(("a", [b"0"]))
    bench.send(("a", [b"1", b"\xff", b"2"]))
    bench.send(("b", [b"3"]))
    for _ in range(10):
        if bench.store.waiting_writes:
            bench.store.commit()
        bench.clock.advance(0.1)
    assert bench.words == [["+OK"], ["+OK", "-REJ", "-TRY"], ["-TRY"]]
    assert bench.bodies == [b"0", b"1"]
