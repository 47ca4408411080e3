"""
Order of arrival: rows of several batches are put in the order in which their peers sent them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.arrival import arrival, in_order
from gateway.model.batch import Batch, Chunk, Origin, stream_marks
from gateway.model.grouping import Group, GroupedRead, placed, places_by
from gateway.model.outcome import Code, refused
from gateway.model.stream import Stream

BAD = refused(Code.DATA, "bad")

READS = st.lists(
    st.tuples(st.sampled_from("pq"), st.lists(st.sampled_from("abc"), min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)


def chunks_of(
    reads: list[tuple[str, list[str]]], streams: dict[str, Stream] | None = None
) -> tuple[list[Chunk], list[tuple[str, str, bytes]]]:
    """
    Cut reads by their routes.

    @param reads: the peer of each, and the route of each of its messages.
    @param streams: peer -> its stream.
    @return: the chunks, and (peer, route, message) of all messages in order.
    """
    origins = {name: Origin(name, "lines") for name in "pq"}
    chunks: list[Chunk] = []
    sent = []
    for number, (peer, routes) in enumerate(reads):
        bodies = [b"%d.%d" % (number, place) for place in range(len(routes))]
        sent += [(peer, route, body) for route, body in zip(routes, bodies, strict=True)]
        groups = placed(
            [
                Group(route, [bodies[place] for place in places], None, places)
                for route, places in places_by(routes).items()
            ]
        )
        read = GroupedRead(None, groups)
        stream = (streams or {}).get(peer)
        first = 0
        if stream is not None:
            first = stream.next
            stream.take_all(first, len(routes))
            stream.note_submitted(first, len(routes))
        chunks += [
            Chunk(
                *(group.route, group.frames, origins[peer], 0.0, lambda chunk, runs: None),
                *(None, stream, first),
                places=group.places,
                read=read,
            )
            for group in groups
        ]
    return chunks, sent


def rows_of(batch: Batch) -> list[bytes]:
    return [frame for piece in batch.slices for frame in piece.frames]


@given(READS)
def test_rows_are_counted_off_in_order(reads: list[tuple[str, list[str]]]) -> None:
    """Each row has its place among all that arrived, whatever the batches are."""
    chunks, sent = chunks_of(reads)
    batches = Batch.by_route(chunks)
    places = arrival(batches, chunks)
    assert all(of_batch == sorted(of_batch) for of_batch in places)
    found = {
        place: row
        for batch, of_batch in zip(batches, places, strict=True)
        for place, row in zip(of_batch, rows_of(batch), strict=True)
    }
    assert [found[place] for place in sorted(found)] == [body for *_, body in sent]


@given(READS, st.data())
def test_batches_in_order_keep_each_peers(
    reads: list[tuple[str, list[str]]], data: st.DataObject
) -> None:
    """Cut anew, batches hold the same rows and refusals, each peer's in the order it sent them; the
    mark of each stream then moves over numbers in a row, batch by batch."""
    streams = {"q": Stream("q", "e", "c")}
    chunks, sent = chunks_of(reads, streams)
    batches = []
    refused_rows = []
    for batch in Batch.by_route(chunks):
        bad = sorted(data.draw(st.sets(st.integers(0, batch.count - 1))))
        rows = rows_of(batch)
        refused_rows += [rows[row] for row in bad]
        left = batch.refuse([(row, BAD) for row in bad], dead_letter=True)
        assert left is not None
        batches.append(left)
    for move in stream_marks(batches):
        assert move.unbroken and (move.first, move.last) == (1, streams["q"].last)
    ordered = in_order(batches, chunks)
    stored = [(batch.route, body) for batch in ordered for body in rows_of(batch)]
    for peer in "pq":
        assert [each for each in stored if (peer, *each) in sent] == [
            (route, body) for who, route, body in sent if who == peer and body not in refused_rows
        ]
    reached = 0
    for batch in ordered:
        for move in batch.moves:
            assert move.whole and move.first == reached + 1
            reached = move.last
    assert reached == streams["q"].last
