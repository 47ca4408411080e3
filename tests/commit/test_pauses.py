"""
Pauses without a spool: a paused route's peers wait, nobody else does, and order is kept.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import TransientError
from tests.commit.test_writer import Bench, numbered, submit


def test_a_paused_route_waits_and_goes_on() -> None:
    """Nothing of a paused route is written until it is resumed, and then at once, in order."""
    bench = Bench(lanes=2)
    source = bench.source("p")
    pauses = bench.breakers.pauses
    pauses.pause("r")
    for n in range(3):
        source.submit("r", [b"%d" % n], n)
    assert not bench.store.writes and not bench.answers
    assert bench.writer.held() == {"r": 3}
    pauses.resume("r")
    assert bench.bodies == [b"0", b"1", b"2"]
    assert [token for token, _ in bench.answers] == [0, 1, 2]
    assert not bench.writer.in_flight and not bench.inflight_limit.used and not bench.writer.held()


def test_other_routes_go_on() -> None:
    """However many peers of a paused route wait, those of others find a lane."""
    bench = Bench(lanes=2)
    bench.breakers.pauses.pause("r")
    for n in range(10):
        bench.source(f"p{n}").submit("r", [b"r"], n)
    bench.source("q").submit("s", [b"s"], "q")
    assert bench.bodies == [b"s"]
    assert bench.answers == [("q", ["+OK"])]
    bench.breakers.pauses.resume(None)
    assert bench.bodies == [b"s", *[b"r"] * 10]


def test_a_peer_keeps_its_order_over_routes() -> None:
    """What a peer sends behind a message that waits is not stored before it."""
    bench = Bench(lanes=2, held=True)
    source, other = bench.source("p"), bench.source("q")
    source.submit("s", [b"first"], 1)
    bench.breakers.pauses.pause("r")
    source.submit("s", [b"before"], 2)
    source.submit("r", [b"paused"], 3)
    source.submit("s", [b"behind"], 4)
    other.submit("s", [b"other"], 5)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert sorted(bench.bodies) == [b"before", b"first", b"other"]
    bench.breakers.pauses.resume("r")
    while bench.store.waiting_writes:
        bench.store.commit()
    assert [body for body in bench.bodies if body != b"other"] == [
        *(b"first", b"before", b"paused", b"behind")
    ]


def test_what_is_under_way_is_finished() -> None:
    """A commit that was begun before the pause ends with its answers, and PAUSE can wait for it."""
    bench = Bench(held=True)
    bench.source("p").submit("r", [b"1"], 1)
    bench.breakers.pauses.pause("r")
    under_way = bench.writer.under_way("r")
    assert under_way() and not bench.writer.under_way("s")()
    bench.source("q").submit("r", [b"2"], 2)
    bench.store.commit()
    assert not under_way() and not bench.writer.under_way(None)()
    assert bench.answers == [(1, ["+OK"])]


def test_a_stop_gives_back_what_waits() -> None:
    """When the gateway stops, peers of a paused route are told to send again, and none waits."""
    bench = Bench(held=True)
    stream = numbered(bench)
    bench.breakers.pauses.pause("r")
    plain, numbers = bench.source("p"), bench.source("q")
    plain.submit("r", [b"1"], 1)
    for _ in range(2):
        submit(bench, numbers, stream, b"n")
    bench.writer.give_back_held()
    bench.source("late").submit("r", [b"2"], 2)
    words = [word.split()[:2] for _, given in bench.answers for word in given]
    assert words == [["-TRY", "DOWN"], ["-TRY", "DOWN"], ["-TRY", "GAP"], ["-TRY", "DOWN"]]
    assert not bench.writer.in_flight and not bench.store.writes and not bench.inflight_limit.used


def test_a_stream_goes_on_over_a_pause() -> None:
    """Numbered messages of two routes wait for the one that is paused, and none is void."""
    bench = Bench(lanes=2)
    stream, source = numbered(bench), bench.source("p")
    bench.breakers.pauses.pause("r")
    for n, route in enumerate(("r", "s", "r"), 1):
        submit(bench, source, stream, b"%d" % n, route=route)
    assert not bench.store.writes
    bench.breakers.pauses.resume(None)
    assert sorted(bench.bodies) == [b"1", b"2", b"3"]
    assert [given for _, given in bench.answers] == [["+OK"]] * 3


def test_a_pause_between_two_tries() -> None:
    """A batch that is to be tried again when its route is paused ends as it would have."""
    bench = Bench(lanes=1)
    bench.store.failures.append(TransientError("busy", "40001"))
    bench.source("p").submit("r", [b"1"], 1)
    assert not bench.answers
    bench.breakers.pauses.pause("r")
    bench.pass_time(5)
    assert bench.answers == [(1, ["+OK"])]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2), st.sampled_from("rst")),
            st.sampled_from(["commit", "pause r", "pause s", "pause", "resume"]),
        ),
        max_size=40,
    )
)
def test_order_and_once_over_any_pauses(steps: list[tuple[int, str] | str]) -> None:
    """Each peer's messages of a route are stored once, in order, whatever is paused and when."""
    bench = Bench(lanes=2, held=True)
    sources = [bench.source(f"p{n}") for n in range(3)]
    sent: list[bytes] = []
    pauses = bench.breakers.pauses
    for step in steps:
        if isinstance(step, tuple):
            peer, route = step
            body = f"{peer} {route} {len(sent)}".encode()
            sent.append(body)
            sources[peer].submit(route, [body], body)
        elif step == "commit":
            if bench.store.waiting_writes:
                bench.store.commit()
        elif step == "resume":
            pauses.resume(None)
        else:
            pauses.pause(step.partition(" ")[2] or None)
    pauses.resume(None)
    while bench.store.waiting_writes:
        bench.store.commit()
    assert sorted(bench.bodies) == sorted(sent)
    for peer in range(3):
        for route in "rst":
            begin = f"{peer} {route} ".encode()
            mine = [body for body in sent if body.startswith(begin)]
            assert [body for body in bench.bodies if body.startswith(begin)] == mine
    assert len(bench.answers) == len(sent) and not bench.writer.in_flight
