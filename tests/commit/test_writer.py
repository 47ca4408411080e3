"""
Lanes: order, exactly once, and one bad message that costs only itself.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway.commit.attempt import OPEN_FOR, RETRY_FOR, retry_delay
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.memory_store import KeptStream, MemoryStore
from gateway.commit.writer import MESSAGE, PeerSource, Writer
from gateway.model import wording
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import (
    FenceVoid,
    FramesRefused,
    OutcomeUnknown,
    RouteError,
    StoreError,
    TransientError,
    Unavailable,
)
from gateway.model.outcome import DUPLICATE, STORED, Code, Outcome, Returned, Run, refused
from gateway.model.stream import Stream
from tests.in_memory import said

BAD = refused(Code.DATA, "bad")

CAP = 1_000_000


class Bench:
    """
    A writer on a fake store, on a clock of the test's.
    """

    def __init__(
        self, lanes: int = 1, held: bool = False, dead_letters: frozenset[str] = frozenset()
    ) -> None:
        self.clock = Clock()
        self.store = MemoryStore(held)
        self.inflight_limit = InflightLimit(CAP)
        self.breakers = CircuitBreakers(self.store, self.clock, lambda attempt: 0.5)
        self.writer = Writer(
            self.store,
            self.clock,
            lanes,
            self.inflight_limit,
            lambda: 0.0,
            self.breakers,
            dead_letters=dead_letters,
        )
        self.answers: list[tuple[object, list[str]]] = []

    def source(self, name: str) -> PeerSource:
        return self.writer.source(Origin(name, "lines"), self._answered)

    def _answered(self, token: object, runs: list[Run]) -> None:
        self.answers.append((token, said(runs)))

    @property
    def unresolved(self) -> int:
        """Batches of which it is not known now whether they are stored."""
        return sum(counters.unresolved for counters in self.writer.counters.values())

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.store.rows]

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.1] * int(seconds * 10))


def test_batches_gather_while_one_commits() -> None:
    """The first chunk goes at once, what comes meanwhile goes together."""
    bench = Bench(held=True)
    source = bench.source("p")
    for n in range(5):
        source.submit("r", [b"%d" % n], n)
    bench.store.commit()
    bench.store.commit()
    assert bench.store.writes == [1, 4]
    assert bench.bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert bench.answers == [(n, ["+OK"]) for n in range(5)]


def test_a_peer_keeps_to_its_lane() -> None:
    """While a peer has work in flight, what it sends next waits behind that."""
    bench = Bench(lanes=4, held=True)
    source = bench.source("p")
    source.submit("r", [b"x"] * 1000, "first")
    bench.source("other").submit("r", [b"y"], "other")
    source.submit("r", [b"x"], "second")
    assert bench.store.writes == [1000, 1]
    bench.store.commit(1)
    assert bench.store.writes == [1000, 1]
    bench.store.commit()
    assert bench.store.writes == [1000, 1, 1]


def test_an_idle_peer_leaves_its_lane() -> None:
    """With nothing in flight a peer is free: it does not queue behind a lane that got stuck."""
    bench = Bench(lanes=2, held=True)
    source = bench.source("p")
    source.submit("r", [b"a"], "a")
    bench.store.commit()
    bench.source("stuck").submit("r", [b"x"], "stuck")
    bench.clock.advance(1.0)
    source.submit("r", [b"b"], "b")
    bench.store.commit(1)
    assert [token for token, _ in bench.answers] == ["a", "b"]


def test_small_peers_share_a_lane() -> None:
    """Few large commits rather than many small ones, as long as the lane is prompt."""
    bench = Bench(lanes=4, held=True)
    for n in range(20):
        bench.source(f"p{n}").submit("r", [b"x"], n)
    assert bench.store.writes == [1]
    bench.clock.advance(1.0)
    bench.source("late").submit("r", [b"x"], "late")
    assert bench.store.writes == [1, 1]


def two_routes(bench: Bench) -> None:
    """Five messages of two peers for two routes, the first one in a commit of its own."""
    one, two = bench.source("one"), bench.source("two")
    one.submit("a", [b"1"], 1)
    one.submit("b", [b"2"], 2)
    one.submit("a", [b"3"], 3)
    two.submit("b", [b"4"], 4)
    two.submit("a", [b"5"], 5)


def test_routes_share_a_commit() -> None:
    """What gathers for several routes goes together, in order of arrival."""
    bench = Bench(held=True)
    two_routes(bench)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.bodies == [b"1", b"2", b"3", b"4", b"5"]
    assert bench.store.writes == [1, 4]
    assert [token for token, _ in bench.answers] == [1, 2, 4, 3, 5]


def test_a_commit_of_several_routes_that_refuses_some() -> None:
    """Where one message is refused the others are stored by the same commit."""
    bench = Bench(held=True)
    bench.store.poison = {b"3"}
    two_routes(bench)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.bodies == [b"1", b"2", b"4", b"5"]
    assert bench.store.writes == [1, 4]
    assert {token: words[0][:4] for token, words in bench.answers} == {
        **dict.fromkeys((1, 2, 4, 5), "+OK"),
        3: "-REJ",
    }


def test_routes_that_cannot_share_a_commit() -> None:
    """Where a route fails the others are stored; while it is out of service they go together."""
    bench = Bench(held=True)
    bench.store.closed.add("b")
    for writes in ([1, 4, 2, 2], [1, 2]):
        bench.store.writes.clear()
        bench.answers.clear()
        bench.store.rows.clear()
        two_routes(bench)
        while bench.store.waiting_writes:
            bench.store.commit()
        assert bench.bodies == [b"1", b"3", b"5"]
        assert bench.store.writes == writes
        assert {token: words[0][:10] for token, words in bench.answers} == {
            **dict.fromkeys((1, 3, 5), "+OK"),
            **dict.fromkeys((2, 4), "-TRY ROUTE"),
        }


def test_a_lost_reply_of_several_routes_that_refused_some() -> None:
    """What an open commit made of each row is told once it is resolved."""
    bench = Bench(held=True)
    bench.store.poison = {b"3", b"4"}
    two_routes(bench)
    bench.store.commit()
    bench.store.lost_replies = 1
    for _ in range(4):
        while bench.store.waiting_writes:
            bench.store.commit()
        bench.pass_time(1)
    assert bench.bodies == [b"1", b"2", b"5"]
    assert bench.store.writes == [1, 4]
    assert {token: words[0][:4] for token, words in bench.answers} == {
        **dict.fromkeys((1, 2, 5), "+OK"),
        **dict.fromkeys((3, 4), "-REJ"),
    }


def test_what_is_no_message_costs_no_commit_of_its_own() -> None:
    """Messages that cannot be read are refused, and the others of all routes go together."""
    bench = Bench(held=True, dead_letters=frozenset({"b"}))
    source = bench.source("p")
    source.submit("a", [b"1"], 1)
    source.submit("b", [b"\xff", b"2"], 2)
    source.submit("a", [b"3"], 3)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.bodies == [b"1", b"2", b"3"]
    assert bench.store.writes == [1, 3, 2]
    assert [frame for frame, _ in bench.store.dead_letters] == [b"\xff"]


@pytest.mark.parametrize("done", [True, False])
def test_an_open_commit_of_several_routes(done: bool) -> None:
    """Committed or not when its reply was lost, each message is stored once and answered."""
    bench = Bench(held=True)
    two_routes(bench)
    bench.store.commit()
    if done:
        bench.store.lost_replies = 1
    else:
        bench.store.failures.append(OutcomeUnknown("connection lost"))
    for _ in range(10):
        while bench.store.waiting_writes:
            bench.store.commit()
        bench.pass_time(1)
    assert sorted(bench.bodies) == [b"1", b"2", b"3", b"4", b"5"]
    assert all(words == ["+OK"] for _, words in bench.answers) and len(bench.answers) == 5
    for counters in bench.writer.counters.values():
        assert counters.unknown == 1
        assert counters.resolved == {"stored" if done else "not_stored": 1}
    assert bench.unresolved == 0
    # The lanes go on.
    two_routes(bench)
    for _ in range(5):
        while bench.store.waiting_writes:
            bench.store.commit()
        bench.pass_time(1)
    assert len(bench.bodies) == 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from("pq"), st.sampled_from("abc"), st.sampled_from(["good", "bad", "\xff"])
        ),
        max_size=30,
    ),
    st.lists(st.sampled_from(["", "lost", "done", "busy"]), max_size=6),
)
def test_routes_in_any_order(sent: list[tuple[str, str, str]], faults: list[str]) -> None:
    """Whatever fails, each message is stored once or refused, each peer's in order by route."""
    bench = Bench(held=True)
    bench.store.poison = {b"bad"}
    sources = {name: bench.source(name) for name in "pq"}
    for number, (peer, route, kind) in enumerate(sent):
        frame = b"%s%s %d %s" % (peer.encode(), route.encode(), number, kind.encode("latin-1"))
        sources[peer].submit(route, [frame], number)
    waiting = iter(faults)
    for _ in range(400):
        while bench.store.waiting_writes:
            fault = next(waiting, "")
            if fault == "done":
                bench.store.lost_replies = 1
            elif fault:
                bench.store.failures.append(
                    TransientError("busy", "40001") if fault == "busy" else OutcomeUnknown("lost")
                )
            bench.store.commit()
        if len(bench.answers) == len(sent):
            break
        bench.pass_time(1)
    words = {token: answer[0][:4] for token, answer in bench.answers}
    wanted = {n: "+OK" if kind == "good" else "-REJ" for n, (_, _, kind) in enumerate(sent)}
    assert words == wanted
    assert bench.unresolved == 0
    assert sum(counters.rows for counters in bench.writer.counters.values()) == len(bench.bodies)
    stored = [body.split() for body in bench.bodies]
    for peer, route in {(peer, route) for peer, route, _ in sent}:
        name = f"{peer}{route}".encode()
        assert [int(number) for where, number, _ in stored if where == name] == [
            number for number, one in enumerate(sent) if one == (peer, route, "good")
        ]


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=6),
)
def test_only_bad_messages_are_refused(chunks: list[list[bool]]) -> None:
    """Rows that break a constraint are refused alone; the others are stored in order."""
    bench = Bench(held=True)
    bench.store.poison = {b"bad"}
    source = bench.source("p")
    sent = [
        [b"bad" if bad else b"%d.%d" % (c, i) for i, bad in enumerate(chunk)]
        for c, chunk in enumerate(chunks)
    ]
    for token, frames in enumerate(sent):
        source.submit("r", frames, token)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.bodies == [f for frames in sent for f in frames if f != b"bad"]
    refusal = "-REJ CONSTRAINT sqlstate=23514 :violates a check constraint"
    assert bench.answers == [
        (token, [refusal if f == b"bad" else "+OK" for f in frames])
        for token, frames in enumerate(sent)
    ]


def test_bad_messages_cost_no_more_writes() -> None:
    """However many of a batch break a rule, the store is asked once."""
    bench = Bench()
    bench.store.poison = {b"bad"}
    bench.source("p").submit("r", [b"x"] * 700 + [b"bad"] * 5 + [b"x"] * 323, 0)
    assert bench.store.writes == [1028]
    assert len(bench.bodies) == 1023


def test_unencodable_messages_cost_one_more_write() -> None:
    """What is known to be bad before the database is asked is cut out at once."""
    bench = Bench()
    bench.source("p").submit("r", [b"a", b"\xff", b"b", b"\0", b"c"], 0)
    assert bench.bodies == [b"a", b"b", b"c"]
    assert [word.split(" :")[0] for word in bench.answers[0][1]] == [
        *("+OK", "-REJ DATA", "+OK", "-REJ DATA", "+OK")
    ]
    assert bench.store.writes == [5, 3]


def test_only_stored_rows_are_counted() -> None:
    """A batch has all its messages, its route only those that were stored."""
    bench = Bench()
    told: list[Run] = [(2, STORED), (3, DUPLICATE), (4, refused(Code.DATA, "no number"))]
    stored: list[Run] = [(100, STORED)]
    for runs in (stored, [*told, (1, Returned([b"+OK id=1"]))]):
        frames = [b"x"] * sum(count for count, _ in runs)
        whole = Batch.of([Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)])
        bench.writer.committed(whole, runs, 0.0, None, by_earlier_try=False)
    counters = bench.writer.counters["r"]
    assert (counters.commits, counters.rows) == (2, 103)
    assert (counters.batch_rows.total, counters.commit_seconds.count) == (110, 2)


def test_a_lost_reply_is_resolved_by_the_fence() -> None:
    """Committed, but the answer was lost: written again, stored once."""
    bench = Bench()
    bench.store.lost_replies = 1
    bench.source("p").submit("r", [b"a", b"b"], 0)
    assert bench.answers == []
    assert bench.unresolved == 1
    bench.pass_time(1)
    assert bench.unresolved == 0
    assert bench.bodies == [b"a", b"b"]
    assert bench.answers == [(0, ["+OK", "+OK"])]
    counters = bench.writer.counters["r"]
    assert (counters.unknown, counters.resolved) == (1, {"stored": 1})
    assert (counters.commits, counters.rows) == (1, 2)


def test_a_lost_batch_is_written_again() -> None:
    """Not committed, and the answer was lost: written again, stored once, order kept."""
    bench = Bench()
    source = bench.source("p")
    bench.store.failures.append(OutcomeUnknown("connection lost"))
    source.submit("r", [b"a"], 0)
    source.submit("r", [b"b"], 1)
    bench.pass_time(1)
    assert bench.bodies == [b"a", b"b"]
    counters = bench.writer.counters["r"]
    assert (counters.unknown, counters.resolved) == (1, {"written_again": 1})


def test_refused_at_the_second_try_but_stored_by_the_first() -> None:
    """What no longer fits its table may be in it: that is asked before anybody hears -REJ."""
    bench = Bench()
    bench.store.lost_replies = 1
    source = bench.source("p")
    source.submit("r", [b"a"], 0)
    bench.store.failures.append(FramesRefused([(0, refused(Code.DATA, "no longer"))]))
    bench.pass_time(1)
    assert bench.answers == [(0, ["+OK"])]
    source.submit("r", [b"b"], 1)
    assert bench.bodies == [b"a", b"b"]


def test_a_lost_reply_that_refused_some() -> None:
    """What became of each row is told after a lost reply as it would have been at once."""
    bench = Bench(dead_letters=frozenset({"r"}))
    bench.store.poison = {b"bad"}
    bench.store.lost_replies = 1
    bench.source("p").submit("r", [b"a", b"bad", b"b"], 0)
    bench.pass_time(1)
    assert bench.bodies == [b"a", b"b"]
    assert [word.split()[0] for word in bench.answers[0][1]] == ["+OK", "-REJ", "+OK"]
    counters = bench.writer.counters["r"]
    assert (counters.rows, counters.dead_letters, counters.unresolved) == (2, 1, 0)
    assert [frame for frame, _ in bench.store.dead_letters] == [b"bad"]


def test_an_unknown_outcome_is_never_answered() -> None:
    """However long the database stays away, nothing is said about what may be stored."""
    bench = Bench()
    bench.store.failures += [OutcomeUnknown("lost"), *[Unavailable("away")] * 100]
    bench.source("p").submit("r", [b"a"], 0)
    bench.pass_time(60)
    assert bench.answers == []
    assert bench.unresolved == 1
    bench.store.failures.clear()
    bench.pass_time(5)
    assert bench.answers == [(0, ["+OK"])]
    assert bench.bodies == [b"a"]


def test_what_was_never_sent_may_be_told() -> None:
    """A database that cannot be reached, a route out of service: try later, at once."""
    errors: list[tuple[StoreError, str]] = [
        (Unavailable("away"), "-TRY DOWN retry=1 :the database cannot be reached"),
        (
            RouteError("no table", "42P01"),
            "-TRY ROUTE sqlstate=42P01 retry=1 :out of service until its operator acts",
        ),
    ]
    for error, answer in errors:
        bench = Bench()
        bench.store.failures.append(error)
        bench.source("p").submit("r", [b"a", b"b"], 0)
        assert bench.answers == [(0, [answer, answer])]
        assert bench.bodies == []


def test_a_route_out_of_service_is_probed() -> None:
    """Its peers are told at once, the database is not asked for each; and it heals by itself."""
    bench = Bench()
    bench.store.closed.add("r")
    for n in range(50):
        bench.source(f"p{n}").submit("r", [b"a"], n)
    assert len(bench.store.writes) == 1
    assert {words[0].split(" :")[0] for _, words in bench.answers} == {
        "-TRY ROUTE sqlstate=42P01 retry=1"
    }
    assert list(bench.breakers.closed) == ["r"]
    bench.source("q").submit("other", [b"b"], "other")
    assert bench.answers[-1] == ("other", ["+OK"])
    bench.pass_time(5)
    bench.store.closed.clear()
    bench.pass_time(2)
    assert not bench.breakers.closed
    bench.source("p").submit("r", [b"c"], "c")
    assert bench.answers[-1] == ("c", ["+OK"])


def test_a_probe_that_sees_nothing_wrong_is_no_storm() -> None:
    """A route that probes well and fails all the same is tried once a probe, not once a batch."""
    bench = Bench()
    bench.store.failures += [RouteError("a trigger's table is gone", "42P01")] * 1000
    for n in range(200):
        bench.source("p").submit("r", [b"a"], n)
        bench.pass_time(0.1)
    assert len(bench.store.writes) <= 20 / 0.5 + 1
    bench.store.failures.clear()
    bench.pass_time(1)
    bench.source("p").submit("r", [b"a"], "last")
    assert bench.answers[-1] == ("last", ["+OK"])


def test_refused_messages_are_kept_where_the_route_says_so() -> None:
    """A dead letter for each refused message, with the reason, and -REJ all the same."""
    bench = Bench(dead_letters=frozenset({"r"}))
    bench.store.poison = {b"bad"}
    frames = [b"1", b"bad 2", b"\xff", b"3"]
    bench.source("p").submit("r", frames, 0)
    bench.source("p").submit("other", [b"bad 4"], 1)
    assert [word.split(" :")[0] for word in bench.answers[0][1]] == [
        *("+OK", "-REJ CONSTRAINT sqlstate=23514", "-REJ DATA", "+OK")
    ]
    assert bench.bodies == [b"1", b"3"]
    assert [(frame, o.sqlstate) for frame, o in bench.store.dead_letters] == [
        (b"\xff", ""),
        (b"bad 2", "23514"),
    ]


def test_what_cannot_be_kept_is_not_refused_for_good() -> None:
    """No dead letter, no -REJ: it is kept in the commit of those beside it, and where that fails
    all of them are to be sent again."""
    bench = Bench(dead_letters=frozenset({"r"}))
    bench.store.failures += [FramesRefused([(1, BAD)]), Unavailable("away")]
    bench.source("p").submit("r", [b"1", b"x"], 0)
    later = "-TRY DOWN retry=1 :the database cannot be reached"
    assert bench.answers == [(0, [later, later])] and not bench.bodies
    bench.store.lost_replies = 1
    bench.store.failures.append(FramesRefused([(0, BAD)]))
    bench.source("p").submit("r", [b"y"], 1)
    bench.pass_time(1)
    assert bench.answers[1] == (1, ["-REJ DATA :bad"])
    assert [frame for frame, _ in bench.store.dead_letters] == [b"y"], "once"


def test_what_the_database_refused_and_cannot_be_kept() -> None:
    """Its neighbours are stored by then, and stay so; it alone is to be sent again."""
    bench = Bench(dead_letters=frozenset({"r"}))
    bench.store.poison = {b"bad"}
    bench.store.dead_letter_failures.append(Unavailable("away"))
    bench.source("p").submit("r", [b"1", b"bad", b"2"], 0)
    later = "-TRY DOWN retry=1 :the database cannot be reached"
    assert bench.answers == [(0, ["+OK", later, "+OK"])]
    assert bench.bodies == [b"1", b"2"] and not bench.store.dead_letters


def test_dead_letters_take_no_commit_of_their_own() -> None:
    """What is known to be bad before the database is asked is kept with what is stored."""
    bench = Bench(dead_letters=frozenset({"r"}))
    bench.source("p").submit("r", [b"1", b"\xff", b"2"], 0)
    bench.source("p").submit("r", [b"\xff"], 1)
    assert bench.store.writes == [3, 2, 1, 0]
    assert [[word[:4] for word in words] for _, words in bench.answers] == [
        *(["+OK", "-REJ", "+OK"], ["-REJ"])
    ]
    assert [frame for frame, _ in bench.store.dead_letters] == [b"\xff"] * 2


# Numbered streams.


def numbered(bench: Bench, name: str = "s", last: int = 0) -> Stream:
    """A stream that the store knows, claimed."""
    bench.store.streams[name] = KeptStream("c", "e", last)
    return Stream(name, "e", "c", last)


def submit(
    bench: Bench,
    source: PeerSource,
    stream: Stream,
    *frames: bytes,
    route: str = "r",
    refusal: Outcome | None = None,
) -> None:
    first = stream.next
    stream.take_all(first, len(frames))
    source.submit(route, [*frames], (route, first), stream, first, refusal)


def told(bench: Bench) -> dict[int, str]:
    """The answer to each number, where each was submitted alone."""
    found: dict[int, str] = {}
    for token, (word,) in bench.answers:
        assert isinstance(token, tuple)
        found[token[1]] = word
    return found


def test_a_stream_over_several_routes() -> None:
    """Numbers that go to several routes by turns, and refused ones among them, are one commit."""
    bench = Bench(held=True)
    stream, source = numbered(bench), bench.source("p")
    submit(bench, source, stream, b"1")
    for number, route in enumerate(["a", "b", "", "a", "b"], 2):
        submit(bench, source, stream, b"%d" % number, route=route, refusal=None if route else BAD)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.store.writes == [1, 4]
    kept = bench.store.streams["s"]
    assert kept.mark == 6 and kept.refusals == {4: BAD}
    assert told(bench) == {4: "-REJ DATA :bad", **dict.fromkeys((1, 2, 3, 5, 6), "+OK")}


def test_a_stream_over_several_routes_where_one_message_is_refused() -> None:
    """Then each route's part is stored by itself, in the order of the numbers."""
    bench = Bench(held=True)
    bench.store.poison = {b"bad"}
    stream, source = numbered(bench), bench.source("p")
    submit(bench, source, stream, b"1")
    for number, route in enumerate(["a", "b", "", "a", "b"], 2):
        frame = b"bad" if number == 3 else b"%d" % number
        submit(bench, source, stream, frame, route=route, refusal=None if route else BAD)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert bench.bodies == [b"1", b"2", b"5", b"6"]
    assert bench.store.streams["s"].mark == 6
    assert bench.store.streams["s"].refusals.keys() == {3, 4}
    assert {first: word[:4] for first, word in told(bench).items()} == {
        **dict.fromkeys((1, 2, 5, 6), "+OK"),
        **dict.fromkeys((3, 4), "-REJ"),
    }


def test_a_route_out_of_service_holds_its_streams_up() -> None:
    """Nothing overtakes a number whose route is closed, on whatever route; others go on."""
    bench = Bench(held=True)
    bench.store.closed.add("gone")
    stream, source = numbered(bench), bench.source("p")
    bench.source("q").submit("r", [b"x"], "x")
    for number, route in enumerate(["r", "gone", "r", ""], 1):
        submit(bench, source, stream, b"%d" % number, route=route, refusal=None if route else BAD)
    bench.source("q").submit("r", [b"y"], "y")
    while bench.store.waiting_writes:
        bench.store.commit()
    answers = dict(bench.answers)
    assert answers["r", 1] == answers["x"] == answers["y"] == ["+OK"]
    assert answers["gone", 2][0].startswith("-TRY ROUTE")
    assert answers["r", 3] == answers["", 4] == ["-TRY GAP seq=1 :send #2 next"]
    assert sorted(bench.bodies) == [b"1", b"x", b"y"] and bench.store.streams["s"].mark == 1
    assert stream.next == 2 and not stream.refusals


def test_a_stream_that_is_elsewhere_costs_nobody_else() -> None:
    """Its peer is told goodbye, for refused messages too; those in the same batch are stored."""
    for change, goodbye in ((1, wording.STREAM_MOVED), (-1, wording.STREAM_BEHIND)):
        bench = Bench(held=True)
        stream = numbered(bench, last=1)
        bench.store.streams["s"].mark += change
        bench.source("q").submit("r", [b"x"], "x")
        source = bench.source("p")
        submit(bench, source, stream, b"2", b"\xff")
        submit(bench, source, stream, b"4", route="", refusal=BAD)
        bench.source("q").submit("r", [b"y"], "y")
        while bench.store.waiting_writes:
            bench.store.commit()
        answers = dict(bench.answers)
        bye = bytes(goodbye).decode()
        assert answers["r", 2] == [bye, bye] and answers["", 4][0].startswith("-")
        assert answers["x"] == answers["y"] == ["+OK"] and bench.bodies == [b"x", b"y"]
        assert not stream.sure and not stream.refusals


def test_a_stream_whose_commit_is_open() -> None:
    """Stored or not when its reply was lost: its numbers are stored once, and it goes on."""
    for done in (True, False):
        bench = Bench()
        stream, source = numbered(bench), bench.source("p")
        if done:
            bench.store.lost_replies = 1
        else:
            bench.store.failures.append(OutcomeUnknown("lost"))
        submit(bench, source, stream, b"1", b"2")
        bench.pass_time(1)
        submit(bench, source, stream, b"3")
        assert bench.bodies == [b"1", b"2", b"3"] and bench.store.streams["s"].mark == 3
        assert [words for _, words in bench.answers] == [["+OK"] * 2, ["+OK"]]


def test_a_claim_that_was_lost_with_a_reply() -> None:
    """Not stored when its reply was lost, and then claimed elsewhere: it never is, even if the
    first try comes late, and its peer is told whose the stream is."""
    bench = Bench()
    stream, source = numbered(bench), bench.source("p")
    bench.store.failures.append(OutcomeUnknown("lost"))
    submit(bench, source, stream, b"1")
    lane = bench.writer.lanes[0]
    bench.store.streams["s"].claim = "other"
    bench.pass_time(1)
    assert bench.answers == [(("r", 1), [bytes(wording.STREAM_TAKEN).decode()])]
    late = Chunk("r", [b"1"], Origin("p", "l"), 0.0, lambda chunk, runs: None)
    writing = Deferred.fromCoroutine(bench.store.write(Batch.of([late]), Fence(lane, 1)))
    writing.addErrback(lambda failure: failure.trap(FenceVoid))
    assert not bench.bodies
    # The lane goes on behind the void.
    bench.source("q").submit("r", [b"x"], "x")
    assert bench.bodies == [b"x"]


def test_an_outcome_open_for_too_long_is_given_up() -> None:
    """The fence's row is not kept for ever: after a day without a spool peers are disconnected."""
    bench = Bench()
    bench.store.failures += [OutcomeUnknown("lost")] * 100_000
    bench.source("p").submit("r", [b"a"], 0)
    bench.clock.pump([60.0] * int(OPEN_FOR / 60 - 10))
    assert bench.answers == []
    bench.clock.pump([60.0] * 20)
    assert bench.answers[0][1][0].startswith("-BYE INTERNAL")
    assert bench.writer.counters["r"].resolved == {"abandoned": 1}
    assert bench.unresolved == 0


def test_errors_that_pass_are_retried_for_a_while() -> None:
    """A deadlock is nobody's business; one that lasts is answered with -TRY BUSY."""
    bench = Bench()
    bench.store.failures += [TransientError("deadlock detected", "40P01")] * 3
    bench.source("p").submit("r", [b"a"], 0)
    bench.pass_time(2)
    assert bench.answers == [(0, ["+OK"])]
    bench.store.failures += [TransientError("disk full", "53100")] * 1000
    bench.source("p").submit("r", [b"b"], 1)
    bench.pass_time(RETRY_FOR + 5)
    assert bench.answers[1] == (
        1,
        ["-TRY BUSY sqlstate=53100 retry=1 :the database is busy"],
    )


def test_nobody_waits_behind_a_batch_in_trouble() -> None:
    """What other peers sent goes on by another lane, in order; what its own peers sent waits."""
    bench = Bench(lanes=2, held=True)
    bench.store.odd = {b"odd"}
    stuck, other = bench.source("stuck"), bench.source("other")
    stuck.submit("a", [b"odd"], "odd")
    for token in ("first", "second"):
        other.submit("b", [token.encode()], token)
        stuck.submit("b", [token.encode()], f"behind: {token}")
    assert bench.store.waiting_writes == 1
    bench.store.commit()
    other.submit("b", [b"third"], "third")
    for _ in range(2):
        bench.store.commit()
    assert bench.answers == [(token, ["+OK"]) for token in ("first", "second", "third")]
    bench.store.held = False
    bench.pass_time(RETRY_FOR + 5)
    assert [token for token, _ in bench.answers[3:]] == ["odd", "behind: first", "behind: second"]
    assert bench.writer.in_flight == 0 and not bench.writer.sources


def test_what_is_answered_at_once_overtakes_nothing() -> None:
    """A peer that sends more as soon as its first message is answered, while the others are on
    their way to another lane, has all of them stored in order."""
    bench = Bench(lanes=2, held=True)
    bench.store.odd = {b"odd"}
    bench.store.closed = {"c"}
    bench.source("first").submit("c", [b"x"], "closes c")
    bench.store.commit()
    source: PeerSource

    def answered(token: object, runs: list[Run]) -> None:
        if token == "one":
            source.submit("b", [b"three"], "three")

    source = bench.writer.source(Origin("other", "lines"), answered)
    bench.source("stuck").submit("a", [b"odd"], "odd")
    source.submit("c", [b"one"], "one")
    source.submit("b", [b"two"], "two")
    bench.store.held = False
    bench.store.commit()
    assert bench.bodies == [b"two", b"three"]


def test_nobody_waits_for_a_batch_gathered_with_his() -> None:
    """Nor where both were to be one commit: only what shares a peer waits."""
    bench = Bench(held=True)
    bench.store.odd = {b"odd"}
    bench.source("before").submit("c", [b"x"], "before")
    bench.source("stuck").submit("a", [b"odd"], "odd")
    both = bench.source("both")
    both.submit("a", [b"odd"], "odd as well")
    both.submit("c", [b"behind"], "behind")
    bench.source("other").submit("b", [b"y"], "other")
    bench.store.commit()
    bench.store.held = False
    bench.store.commit()
    assert bench.answers == [("before", ["+OK"]), ("other", ["+OK"])]
    bench.pass_time(RETRY_FOR + 5)
    assert [token for token, _ in bench.answers[2:]] == ["odd", "odd as well", "behind"]


def test_a_bug_leaves_nobody_waiting() -> None:
    """
    What nobody foresaw ends the peers it concerns, with no claim about their messages; the
    lane goes on under another identity, since its number may have been used.
    """
    errors: list[list[Exception]] = [
        [ValueError("a bug")],
        [OutcomeUnknown("lost"), ValueError("another")],
    ]
    for failures in errors:
        bench = Bench()
        bench.source("p").submit("r", [b"0"], 0)
        (lane,) = bench.writer.lanes
        bench.answers.clear()
        bench.store.failures += failures
        bench.source("p").submit("r", [b"a"], 0)
        bench.pass_time(1)
        assert bench.answers == [
            (0, ["-BYE INTERNAL :the gateway failed; whether this was stored is not known"])
        ]
        bench.source("q").submit("r", [b"b"], 1)
        assert bench.answers[1] == (1, ["+OK"])
        assert bench.writer.lanes != [lane]
        assert bench.inflight_limit.used == 0
        assert bench.unresolved == 0


def test_pressure_is_given_back() -> None:
    """Bytes in flight return to zero, whatever the outcome was."""
    bench = Bench(held=True)
    bench.store.poison = {b"bad"}
    source = bench.source("p")
    source.submit("r", [b"good", b"bad", b"\xff"], 0)
    source.submit("r", [b"more"], 1)
    assert bench.inflight_limit.used == 12 + 4 * MESSAGE
    while bench.store.waiting_writes:
        assert bench.writer.in_flight > 0
        bench.store.commit()
    assert bench.inflight_limit.used == 0
    assert bench.writer.in_flight == 0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded(attempt: int, chance: float) -> None:
    """Never negative, never over two seconds, and never the same for everybody."""
    assert 0 <= retry_delay(attempt, lambda: chance) <= 2.0


def test_a_lane_that_is_done_is_chosen_again() -> None:
    """Messages that only use their numbers up count while they are under way, and no longer."""
    bench = Bench(lanes=2)
    first = bench.writer.choose_lane()
    stream, source = numbered(bench), bench.source("p")
    for _ in range(3):
        submit(bench, source, stream, *[b"bad"] * 200, refusal=BAD)
    bench.pass_time(1)
    assert not first.load and bench.writer.choose_lane() is first
