"""
Reads that are cut by routes: stored in their order, answered once, whatever goes wrong.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commit.writer import PeerSource
from gateway.model.batch import MAX_BATCH_ROWS, Origin
from gateway.model.errors import OutcomeUnknown, TransientError
from gateway.model.grouping import Group, GroupedRead, places_by
from gateway.model.outcome import Run
from gateway.model.stream import Stream
from tests.commit.test_writer import Bench as Plain
from tests.commit.test_writer import numbered
from tests.in_memory import said

KINDS = st.sampled_from(["good", "good", "bad", "\xff"])
READS = st.lists(
    st.tuples(
        st.sampled_from("pq"),
        st.lists(st.tuples(st.sampled_from("abc"), KINDS), min_size=1, max_size=8),
    ),
    max_size=8,
)


class Bench(Plain):
    """
    A writer whose peers send messages for several routes by turns; those of C{q} have numbers.

    @ivar words: token of a read -> the answers to its messages.
    """

    def __init__(self, lanes: int = 1, held: bool = False) -> None:
        super().__init__(lanes, held)
        self.stream: Stream = numbered(self)
        self.words: dict[object, list[str]] = {}
        self._sources: dict[str, PeerSource] = {
            name: self.writer.source(Origin(name, "lines"), self._read_answered) for name in "pq"
        }

    def _read_answered(self, token: object, runs: list[Run]) -> None:
        assert isinstance(token, GroupedRead) and token.token not in self.words
        self.words[token.token] = [word.split()[0] for word in said(runs)]

    def send(self, peer: str, token: object, messages: list[tuple[str, bytes]]) -> None:
        """Submit one read."""
        groups = [
            Group(route, [messages[place][1] for place in places], None, places)
            for route, places in places_by([route for route, _ in messages]).items()
        ]
        stream, first = None, 0
        if peer == "q":
            stream, first = self.stream, self.stream.next
            stream.take_all(first, len(messages))
        self._sources[peer].submit_groups(groups, token, stream, first)

    def commit_all(self) -> None:
        while self.store.waiting_writes:
            self.store.commit()


@given(READS, st.lists(st.sampled_from(["", "lost", "done", "busy", "pause"]), max_size=8))
def test_reads_keep_their_order(
    sent: list[tuple[str, list[tuple[str, str]]]], faults: list[str]
) -> None:
    """Whatever fails, each message is stored once or refused, each peer's in order over all routes,
    and its read is answered in one piece."""
    bench = Bench(held=True)
    bench.store.poison = {b"bad"}
    pauses = bench.breakers.pauses
    wanted: dict[object, list[str]] = {}
    order: dict[str, list[bytes]] = {"p": [], "q": []}
    waiting = iter(faults)
    for number, (peer, messages) in enumerate(sent):
        read = [
            (route, b"%s %d %d %s" % (peer.encode(), number, place, kind.encode("latin-1")))
            for place, (route, kind) in enumerate(messages)
        ]
        wanted[number] = ["+OK" if kind == "good" else "-REJ" for _, kind in messages]
        order[peer] += [body for _, body in read if body.endswith(b"good")]
        bench.send(peer, number, read)
    for _ in range(400):
        while bench.store.waiting_writes:
            fault = next(waiting, "")
            if fault == "done":
                bench.store.lost_replies = 1
            elif fault == "pause":
                pauses.pause("a")
            elif fault:
                bench.store.failures.append(
                    TransientError("busy", "40001") if fault == "busy" else OutcomeUnknown("lost")
                )
            bench.store.commit()
        pauses.resume(None)
        if len(bench.words) == len(sent):
            break
        bench.pass_time(1)
    assert bench.words == wanted
    for peer, bodies in order.items():
        assert [body for body in bench.bodies if body.startswith(peer.encode())] == bodies
    assert not (bench.unresolved or bench.writer.in_flight or bench.inflight_limit.used)
    assert bench.store.streams["s"].mark == bench.stream.last and not bench.stream.busy


@pytest.mark.parametrize("peer", ["p", "q"])
def test_one_read_is_one_commit(peer: str) -> None:
    """Routes by turns are one write, with one chunk for each of them."""
    bench = Bench()
    bench.send(peer, 0, [("ab"[place % 2], b"%d" % place) for place in range(10)])
    assert bench.store.writes == [10] and bench.words == {0: ["+OK"] * 10}
    assert bench.bodies == [b"%d" % place for place in range(10)]


def test_nothing_behind_a_failed_number_is_stored() -> None:
    """Where one route is out of service its messages are to be sent again, and with numbers all
    behind the first of them; those before it are stored."""
    bench = Bench()
    bench.store.closed.add("b")
    routes = "aabab"
    bench.send("q", "numbers", [(route, b"q%d" % n) for n, route in enumerate(routes)])
    bench.send("p", "plain", [(route, b"p%d" % n) for n, route in enumerate(routes)])
    assert bench.words["numbers"] == ["+OK"] * 2 + ["-TRY"] * 3
    assert bench.words["plain"] == ["+OK", "+OK", "-TRY", "+OK", "-TRY"]
    assert bench.bodies == [b"q0", b"q1", b"p0", b"p1", b"p3"]
    assert (bench.stream.last, bench.store.streams["s"].mark) == (2, 2)


def test_a_pause_in_the_middle_of_a_read() -> None:
    """What stands before the first message of a paused route is stored; the rest waits for it."""
    bench = Bench()
    bench.breakers.pauses.pause("b")
    bench.send("p", 0, [("a", b"1"), ("b", b"2"), ("a", b"3")])
    bench.send("p", 1, [("a", b"4"), ("c", b"5"), ("a", b"6")])
    assert bench.bodies == [b"1"] and not bench.words
    bench.breakers.pauses.resume("b")
    assert bench.bodies == [b"%d" % n for n in range(1, 7)]
    assert bench.words == {0: ["+OK"] * 3, 1: ["+OK"] * 3}


def test_a_pause_behind_routes_by_turns() -> None:
    """Where a route is paused while a read waits, nothing of that is stored before what its peer
    sent earlier, however its routes overlap."""
    bench = Bench(held=True)
    bench.send("p", 0, [("a", b"0")])
    bench.send("q", 1, [(route, b"%d" % n) for n, route in enumerate("dbcbac", 1)])
    bench.breakers.pauses.pause("a")
    bench.commit_all()
    assert bench.bodies == [b"0", b"1"] and 1 not in bench.words
    bench.breakers.pauses.resume("a")
    bench.commit_all()
    assert bench.bodies == [b"%d" % n for n in range(7)] and bench.words[1] == ["+OK"] * 6


def test_a_read_that_waits_is_given_back_whole() -> None:
    """When the gateway stops, all of a read that waits is to be sent again, in order."""
    bench = Bench(held=True)
    bench.send("p", 0, [("a", b"1")])
    bench.send("q", 1, [("a", b"1"), ("b", b"2"), ("a", b"3")])
    bench.breakers.pauses.pause("b")
    bench.store.commit()
    bench.writer.give_back_held()
    bench.commit_all()
    assert bench.words[1] in (["+OK", "-TRY", "-TRY"], ["-TRY"] * 3)
    assert bench.stream.last == bench.store.streams["s"].mark
    assert not (bench.writer.in_flight or bench.inflight_limit.used)


def test_a_read_is_never_cut_by_the_size_of_a_commit() -> None:
    """However many messages wait before it, one commit takes all of a read: else the last messages
    of one route would be stored before the first ones of another."""
    bench = Bench(held=True)
    bench.send("p", "first", [("a", b"x")])
    bench.send("p", "many", [("a", b"x")] * (MAX_BATCH_ROWS - 5))
    bench.send("p", "read", [("ab"[place % 2], b"%d" % place) for place in range(8)])
    bench.commit_all()
    assert bench.store.writes == [1, MAX_BATCH_ROWS - 5 + 8]
