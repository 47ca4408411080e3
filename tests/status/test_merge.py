"""
Merging of the status of several workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.metrics.counters import LAGS, ROWS, SECONDS
from gateway.status.merge import FIELDS, merged, remains, resumed
from gateway.status.status import (
    Distribution,
    LaneStatus,
    MemoryStatus,
    ProcessStatus,
    QueryStatus,
    RouteState,
    SpoolState,
    State,
    Status,
    StreamsStatus,
    Warning,
    decoded,
    encoded,
)
from tests.web import made

FEW = settings(max_examples=40)
"""A status has many fields, and is slow to make up."""

NAMES = ("a", "b", "c")
NUMBERS = st.integers(0, 1000)
WORDS = st.dictionaries(st.sampled_from(("+OK", "-REJ DATA", "-TRY DOWN")), NUMBERS)


def distributions(bounds: Sequence[float]) -> st.SearchStrategy[Distribution]:
    counts = st.lists(NUMBERS, min_size=len(bounds) + 1, max_size=len(bounds) + 1)
    return st.builds(Distribution, bounds=st.just(bounds), counts=counts, total=NUMBERS.map(float))


def named(build: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Rows with different names."""
    rows = st.builds(build, st.sampled_from(NAMES), **fields)
    return st.lists(rows, unique_by=lambda row: row.name, max_size=3)


def numbers(*names: str) -> dict[str, st.SearchStrategy[int]]:
    return dict.fromkeys(names, NUMBERS)


def chosen(literal: object) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(literal))


LISTENERS = named(
    made.listener,
    **numbers("peers", "connections", "messages", "bytes_received", "throttled"),
    most_peers=st.none() | NUMBERS,
    answers=WORDS,
    answer_seconds=distributions(SECONDS),
)
ROUTES = named(
    made.route,
    **numbers("commits", "rows", "unknown", "unresolved", "dead_letters", "spooled", "held"),
    state=chosen(RouteState),
    reason=st.sampled_from(("", "no such table")),
    batch_rows=distributions(ROWS),
)
POOLS = named(
    made.pool,
    **numbers("most", "in_use", "idle", "opening", "waiting", "opened", "lost", "reconnects"),
    trouble=st.sampled_from(("", "refused")),
)
SPOOLS = st.builds(
    made.spool,
    **numbers("messages", "size", "most_size", "damaged", "kept", "drained", "refused"),
    path=st.sampled_from(("/spool.db", "/spool-2.db")),
    state=chosen(SpoolState),
    reason=st.sampled_from(("", "the disk is full")),
    oldest=st.none() | st.floats(0, 1e9),
    takes=st.booleans(),
)
QUERIES = st.lists(
    st.builds(
        QueryStatus,
        name=st.sampled_from(NAMES),
        answers=WORDS,
        seconds=distributions(SECONDS),
    ),
    unique_by=lambda row: row.name,
    max_size=2,
)
STATUSES: st.SearchStrategy[Status] = st.builds(
    made.status,
    state=chosen(State),
    is_storing=st.booleans(),
    is_taking=st.booleans(),
    reasons=st.lists(st.sampled_from(("away", "draining")), unique=True),
    time=st.floats(1e9, 2e9),
    started=st.floats(1e8, 1e9),
    warnings=st.lists(
        st.builds(
            Warning,
            code=st.sampled_from(("spooling", "reactor-lag", "database-away")),
            text=st.sampled_from(("one", "two")),
        ),
        unique=True,
    ),
    peers=NUMBERS,
    most_peers=NUMBERS,
    listeners=LISTENERS,
    routes=ROUTES,
    pools=POOLS,
    lanes=st.lists(
        st.builds(LaneStatus, number=NUMBERS, waiting=NUMBERS, seconds=st.floats(0, 9)), max_size=2
    ),
    spool=st.none() | SPOOLS,
    left_spools=st.lists(SPOOLS, max_size=1),
    streams=st.builds(StreamsStatus, **numbers("open", "waiting", "claims", "taken_over", "gaps")),
    queries=QUERIES,
    memory=st.builds(MemoryStatus, **numbers("in_flight", "kept", "most"), full=st.booleans()),
    process=st.builds(
        ProcessStatus,
        **numbers("pid", "cpu_seconds", "resident", "open_files", "most_files"),
        reactor_lag=st.floats(0, 9),
        reactor_lags=distributions(LAGS),
    ),
)
"""Any status of one worker."""

WORKERS = st.dictionaries(st.integers(1, 64), STATUSES, min_size=1, max_size=4)


def flat(value: object) -> object:
    """A value in which lists and tuples are the same."""
    return msgspec.json.decode(msgspec.json.encode(value))


def sums(statuses: Sequence[Status]) -> Counter[tuple[str, ...]]:
    """All that is added up, in all parts of some statuses."""
    found = Counter[tuple[str, ...]]()
    for status in statuses:
        for part in status.__struct_fields__:
            value = getattr(status, part)
            for row in value if isinstance(value, list | tuple) else [value]:
                fields = FIELDS.get(type(row))
                if fields is None:
                    continue
                key = (part, getattr(row, "name", ""))
                for name in (*fields.totals, *fields.levels):
                    found[(*key, name)] += getattr(row, name)
                for name in fields.counted:
                    for kind, count in getattr(row, name).items():
                        found[(*key, name, kind)] += count
                for name in fields.measured:
                    one = getattr(row, name)
                    found[(*key, name)] += one.total
                    for place, count in enumerate(one.counts):
                        found[(*key, name, str(place))] += count
    return found


def totals(status: Status) -> Counter[tuple[str, ...]]:
    """Sums of a status, without those of its levels."""
    levels = {
        (part, name)
        for part in status.__struct_fields__
        for value in [getattr(status, part)]
        for row in (value if isinstance(value, list | tuple) else [value])
        for name in (FIELDS[type(row)].levels if type(row) in FIELDS else ())
    }
    return Counter(
        {key: count for key, count in sums([status]).items() if (key[0], key[2]) not in levels}
    )


@FEW
@given(STATUSES)
def test_a_status_travels(status: Status) -> None:
    """What one process encodes another one decodes to the same, however often."""
    once = decoded(encoded(status))
    assert flat(once) == flat(status)
    assert decoded(encoded(once)) == once


@FEW
@given(STATUSES, st.integers(1, 64))
def test_one_is_itself(status: Status, number: int) -> None:
    """The status of one worker alone is that of the whole."""
    assert merged({number: status}) == status


@FEW
@given(WORKERS, st.randoms())
def test_the_order_makes_no_difference(workers: Mapping[int, Status], random: Any) -> None:
    """In whatever order workers tell their status, that of the whole is the same."""
    shuffled = [*workers.items()]
    random.shuffle(shuffled)
    assert merged(dict(shuffled)) == merged(workers)


@FEW
@given(WORKERS)
def test_sums_agree(workers: Mapping[int, Status]) -> None:
    """Whatever is counted at a worker is counted once in the whole."""
    whole = merged(workers)
    assert sums([whole]) == sums([*workers.values()])
    assert whole.peers == sum(status.peers for status in workers.values())
    assert len(whole.lanes) == sum(len(status.lanes) for status in workers.values())
    for part in ("listeners", "routes", "pools", "queries"):
        names = [row.name for row in getattr(whole, part)]
        assert len(set(names)) == len(names)


@FEW
@given(WORKERS)
def test_the_whole_takes_while_one_does(workers: Mapping[int, Status]) -> None:
    """The whole is as ready as its best worker, and its routes are as bad as the worst of them."""
    whole, found = merged(workers), [*workers.values()]
    assert whole.is_taking == any(status.is_taking for status in found)
    assert whole.is_storing == any(status.is_storing for status in found)
    for route in whole.routes:
        states = [r.state for status in found for r in status.routes if r.name == route.name]
        assert ("out of service" in states) == (route.state == "out of service")


@FEW
@given(WORKERS)
def test_texts_name_their_workers_once(workers: Mapping[int, Status]) -> None:
    """A warning of all workers is told as it is, that of some once, with their numbers."""
    whole = merged(workers)
    assert len(set(whole.warnings)) == len(whole.warnings)
    for number, status in workers.items():
        for warning in status.warnings:
            (told,) = (
                one
                for one in whole.warnings
                if (one.code, one.subject) == (warning.code, warning.subject)
                and one.text.endswith(warning.text)
            )
            who = told.text.removesuffix(warning.text)
            has_all = all(warning in other.warnings for other in workers.values())
            assert (who == "") == has_all
            assert has_all or str(number) in who.removesuffix(": ").split(" ", 1)[1].split(", ")


@FEW
@given(STATUSES, STATUSES)
def test_totals_go_on(before: Status, status: Status) -> None:
    """No total of a worker is smaller than it was with the one before it; levels are its own."""
    now = resumed(status, before)
    had, has = totals(before), totals(now)
    for part in ("listeners", "routes", "pools", "queries"):
        kept = {row.name for row in getattr(status, part)}
        for key, count in had.items():
            if key[0] == part and key[1] in kept:
                assert has[key] >= count
    assert has["streams", "", "claims"] == had["streams", "", "claims"] + status.streams.claims
    assert sums([now]) - totals(now) == sums([status]) - totals(status)


@FEW
@given(STATUSES)
def test_what_remains(status: Status) -> None:
    """Of a worker that ended nothing is connected or in use; its totals and its spool stay."""
    left = remains(status, "worker 2 is away")
    assert totals(left) == totals(status)
    assert not (left.peers or left.lanes or left.memory.in_flight or left.is_taking)
    assert not any(row.peers for row in left.listeners)
    waiting = 0 if status.spool is None else status.spool.messages
    assert (0 if left.spool is None else left.spool.messages) == waiting
    assert [row.spooled for row in left.routes] == [row.spooled for row in status.routes]


def test_what_is_wrong_at_one_worker_says_where() -> None:
    """A route out of service in one of two workers, and a pool's trouble, have its number."""
    well = made.status()
    route = made.route("messages", state="out of service", reason="no such table")
    ill = replace(
        made.status(reasons=["route messages is out of service: no such table"]),
        routes=[route],
        pools=[made.pool(trouble="refused"), made.pool("queries")],
    )
    whole = merged({1: well, 2: ill})
    assert whole.routes[0].reason == "worker 2: no such table"
    assert whole.pools[0].trouble == "worker 2: refused" and not whole.pools[1].trouble
    assert whole.reasons == ["worker 2: route messages is out of service: no such table"]
    assert merged({1: ill, 2: ill}).routes[0].reason == "no such table"
