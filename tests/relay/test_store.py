"""
The Store port of an edge, over a centre in memory.
"""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred

from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import OutcomeUnknown, RouteError, StreamsElsewhere, Unavailable
from gateway.model.outcome import STORED, Word
from gateway.model.store import Claim, Seen
from gateway.model.stream import Stream
from tests.relay.centre import MemoryCentre, edge_of, no_more_than
from tests.support import logged

Result = TypeVar("Result")

ORIGIN = Origin("127.0.0.1:9", "lines")


def now(work: Coroutine[Deferred[Any], Any, Result]) -> Result:
    """The result of what needs no time."""
    results: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    found: Result = result
    return found


def batch(*frames: bytes, stream: Stream | None = None, first: int = 0) -> Batch:
    chunk = Chunk(
        "messages", list(frames), ORIGIN, 1.0, lambda chunk, runs: None, None, stream, first
    )
    return Batch.of([chunk])


def together(*batches: Batch) -> Batch:
    return Batch("messages", [piece for one in batches for piece in one.slices])


@pytest.fixture
def centre() -> MemoryCentre:
    return MemoryCentre()


def test_each_message_has_a_fate_of_its_own(centre: MemoryCentre, tmp_path: Path) -> None:
    """What the centre refuses is refused alone; the others are stored in their order."""
    edge = edge_of(centre, tmp_path)
    centre.bench.store.poison.add(b"bad")
    written = now(edge.write(batch(b"a", b"bad", b"c"), Fence("l", 1)))
    assert [(count, fate.word) for count, fate in written.runs] == [
        (1, Word.OK),
        (1, Word.REJ),
        (1, Word.OK),
    ]
    assert now(edge.write(batch(b"d"), Fence("l", 2))).runs == [(1, STORED)]
    assert centre.bodies == [b"a", b"c", b"d"]


def test_a_lost_answer(centre: MemoryCentre, tmp_path: Path) -> None:
    """A batch whose answers are lost is stored once, by whoever writes it again, also after a kill;
    others pass it meanwhile."""
    edge = edge_of(centre, tmp_path)
    lost, fence = batch(b"a", b"b"), Fence("00000000-0000-4000-8000-000000000001", 1)
    centre.loses_answers = 1
    with pytest.raises(OutcomeUnknown):
        now(edge.write(lost, fence))
    assert now(edge.write(batch(b"c"), Fence("m", 1))).runs == [(1, STORED)]
    killed = edge_of(centre, tmp_path)
    assert now(killed.write(lost, fence, patient=True)).runs == [(2, STORED)]
    again = edge_of(centre, tmp_path)  # it was killed before the spool forgot the batch
    assert now(again.write(lost, fence, patient=True)).runs == [(2, STORED)]
    assert now(again.resolve(lost, fence)) is not None
    assert sorted(centre.bodies) == [b"a", b"b", b"c"]


def test_a_request_that_never_arrived(centre: MemoryCentre, tmp_path: Path) -> None:
    """What was cut off before it arrived is stored by the next try, under the same numbers."""
    edge = edge_of(centre, tmp_path)
    now(edge.write(batch(b"a"), Fence("l", 1)))
    centre.loses_requests = True
    with pytest.raises((OutcomeUnknown, Unavailable)):
        now(edge.write(batch(b"b"), Fence("l", 2)))
    centre.loses_requests = False
    assert now(edge.write(batch(b"b"), Fence("l", 2))).runs == [(1, STORED)]
    assert centre.bodies == [b"a", b"b"]


def test_a_centre_that_is_away(centre: MemoryCentre, tmp_path: Path) -> None:
    """Nothing is sent, and that is certain; its fence stands for nothing."""
    edge = edge_of(centre, tmp_path)
    centre.is_away = True
    with pytest.raises(Unavailable):
        now(edge.write(batch(b"a"), Fence("l", 1)))
    assert now(edge.resolve(batch(b"a"), Fence("l", 1))) is None
    with pytest.raises(Unavailable):
        now(edge.claim_stream("s", None, {}))


def test_a_full_disk_at_the_edge(centre: MemoryCentre, tmp_path: Path) -> None:
    """What comes from the spool is not sent before its numbers are noted; and what is stored at the
    centre is stored, whatever can be noted of it."""
    edge = edge_of(centre, tmp_path)
    lost, fence = batch(b"a"), Fence("l", 1)
    with no_more_than(0), pytest.raises(Unavailable, match="cannot be written"):
        now(edge.write(lost, fence, patient=True))
    assert centre.bodies == []
    centre.loses_answers = 1
    with pytest.raises(OutcomeUnknown):
        now(edge.write(lost, fence, patient=True))
    centre.loses_answers = 1
    with pytest.raises(OutcomeUnknown):
        now(edge.write(batch(b"b"), Fence("m", 1)))
    with no_more_than(0):
        assert now(edge.write(batch(b"b"), Fence("m", 1))).runs == [(1, STORED)]
        assert now(edge.write(lost, fence, patient=True)).runs == [(1, STORED)]
        with pytest.raises(Unavailable):
            now(edge.close_lanes(["l"]))
    now(edge.close_lanes(["l"]))
    assert centre.bodies == [b"a", b"b"]


def test_a_file_that_was_deleted(centre: MemoryCentre, tmp_path: Path) -> None:
    """What it knew of messages in the spool is lost, which is told."""
    with logged() as events:
        edge_of(centre, tmp_path, spooled=2).close()
        edge_of(centre, tmp_path, spooled=2).close()
    missing = [event for event in events if event.get("event") == "relay-file-missing"]
    assert [event["count"] for event in missing] == [2]


def test_an_unknown_route(centre: MemoryCentre, tmp_path: Path) -> None:
    """A route that the centre has not is at fault, and not its messages."""
    edge = edge_of(centre, tmp_path)
    chunk = Chunk("none", [b"a"], ORIGIN, 1.0, lambda chunk, runs: None)
    with pytest.raises(RouteError):
        now(edge.write(Batch.of([chunk]), Fence("l", 1)))


def claimed(claim: Claim, name: str = "s") -> Stream:
    return Stream(name, claim.epoch, claim.claim, claim.mark, claim.refusals)


def numbered(stream: Stream, *frames: bytes) -> Batch:
    first = stream.next
    stream.take_all(first, len(frames))
    return batch(*frames, stream=stream, first=first)


def test_numbers_of_peers_are_the_centres(centre: MemoryCentre, tmp_path: Path) -> None:
    """Numbered and other messages of a batch go each their way; a later claim hears how far the
    stream is and what was refused, and ends the one before."""
    edge = edge_of(centre, tmp_path)
    centre.bench.store.poison.add(b"bad")
    stream = claimed(now(edge.claim_stream("s", None, {})))
    mixed = together(batch(b"x"), numbered(stream, b"1", b"bad"), batch(b"y"))
    runs = now(edge.write(mixed, Fence("l", 1))).runs
    assert [(count, fate.word) for count, fate in runs] == [
        (2, Word.OK),
        (1, Word.REJ),
        (1, Word.OK),
    ]
    assert centre.bench.store.streams["edge-7/s"].mark == 2
    later = now(edge.claim_stream("s", Seen(1, stream.epoch), {}))
    assert (later.mark, later.epoch, [*later.refusals]) == (2, stream.epoch, [2])
    with pytest.raises(StreamsElsewhere):
        now(edge.write(numbered(stream, b"3"), Fence("l", 2)))
    assert now(edge.write(numbered(claimed(later), b"3"), Fence("l", 3))).runs == [(1, STORED)]
    assert centre.bodies == [b"1", b"x", b"y", b"3"]


@pytest.mark.parametrize("loose", [False, True])
def test_a_claim_under_way(centre: MemoryCentre, tmp_path: Path, loose: bool) -> None:
    """What is left of the claim before, or in the spool, does not get into the new epoch meanwhile,
    in which the same number is another message's."""
    edge = edge_of(centre, tmp_path)
    before = claimed(now(edge.claim_stream("s", None, {})))
    now(edge.write(numbered(before, b"1"), Fence("l", 1)))
    stream = Stream("s", before.epoch, None, loose=True) if loose else before
    centre.is_late = True
    claiming = Deferred.fromCoroutine(edge.claim_stream("s", None, {}))
    late = Deferred.fromCoroutine(
        edge.write(batch(b"old", stream=stream, first=2), Fence("m", 1), patient=loose)
    )
    centre.catch_up()
    refusals: list[Any] = []
    late.addErrback(refusals.append)
    claims: list[Claim] = []
    claiming.addCallback(claims.append)
    assert refusals and refusals[0].check(StreamsElsewhere)
    assert now(edge.write(numbered(claimed(claims[0]), b"2"), Fence("l", 2))).runs == [(1, STORED)]
    assert centre.bodies == [b"1", b"2"]


def test_numbered_messages_from_the_spool(centre: MemoryCentre, tmp_path: Path) -> None:
    """They are stored when they are next in their epoch; where some before them are missing, or the
    epoch is over, the store says so."""
    edge = edge_of(centre, tmp_path)
    first = now(edge.claim_stream("s", None, {}))
    now(edge.write(numbered(claimed(first), b"1"), Fence("l", 1)))
    edge = edge_of(centre, tmp_path)
    loose = Stream("s", first.epoch, None, loose=True)
    with pytest.raises(StreamsElsewhere) as caught:
        now(edge.write(batch(b"3", stream=loose, first=3), Fence("m", 1), patient=True))
    position = caught.value.stream_positions["s"]
    assert (position.current, position.mark) == (True, 1)
    now(edge.write(batch(b"2", stream=loose, first=2), Fence("m", 2), patient=True))
    now(edge.claim_stream("s", None, {}))
    with pytest.raises(StreamsElsewhere) as caught:
        now(edge.write(batch(b"3", stream=loose, first=3), Fence("m", 1), patient=True))
    assert not caught.value.stream_positions["s"].current
    assert centre.bodies == [b"1", b"2"]


def test_an_orderly_stop(centre: MemoryCentre, tmp_path: Path) -> None:
    """The next process goes on with the streams of one that stopped; after a kill it has others."""
    edge = edge_of(centre, tmp_path)
    now(edge.write(batch(b"a"), Fence("l", 1)))
    edge.close()
    edge = edge_of(centre, tmp_path)
    now(edge.write(batch(b"b"), Fence("l", 1)))
    assert len(centre.bench.store.streams) == 1
    now(edge_of(centre, tmp_path).write(batch(b"c"), Fence("l", 1)))
    assert centre.bodies == [b"a", b"b", b"c"]
