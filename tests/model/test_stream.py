"""
Numbered streams, by themselves.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gateway.commit.memory_store import MemoryStore
from gateway.dialects.stream_registry import MAX_CLOSED_STREAMS, StreamRegistry
from gateway.model import wording
from gateway.model.batch import Batch, Chunk, Origin, stream_marks
from gateway.model.errors import Unavailable
from gateway.model.outcome import (
    DUPLICATE,
    QUEUED,
    STORED,
    Code,
    Outcome,
    Run,
    goodbye,
    refused,
    try_later,
)
from gateway.model.store import Seen, Waiting, reached
from gateway.model.stream import KEPT_REFUSALS, Stream, digests_of
from gateway.model.stream_marks import StreamPosition
from gateway.spool.backlog import SpoolBacklog
from tests.in_memory import made_up

BAD = refused(Code.DATA, "bad")
LATER = try_later(Code.DOWN, "away")
ORIGIN = Origin("peer", "listener")


def submit(stream: Stream, count: int, route: str = "r") -> Chunk:
    """Messages with the numbers that come next."""
    first = stream.next
    stream.take_all(first, count)
    return chunk(stream, first, *[b"m"] * count, route=route)


def chunk(stream: Stream, first: int, *frames: bytes, route: str = "r") -> Chunk:
    return Chunk(route, [*frames], ORIGIN, 0.0, lambda chunk, runs: None, None, stream, first)


def words(runs: list[Run]) -> list[str]:
    return [fate.word.value for count, fate in runs for _ in range(count)]


def test_numbers_are_taken_in_order() -> None:
    """The next number is taken, a later one is told which comes next, an earlier one is known."""
    stream = Stream("s", "e", "c", 4)
    assert stream.accept(5) is None
    assert bytes(stream.accept(7) or STORED) == b"-TRY GAP seq=5 :send #6 next"
    assert stream.accept(4) == DUPLICATE
    stream.end_claim()
    assert stream.accept(6) is wording.STREAM_TAKEN


def test_what_is_on_its_way_is_in_doubt() -> None:
    """A number that is sent again while it is in flight is no duplicate before it is stored."""
    stream = Stream("s", "e", "c", 4)
    assert not stream.is_in_doubt(4) and not stream.is_in_doubt(5)
    for fate, answer in ((LATER, b"-TRY GAP seq=4 :send #5 next"), (BAD, b"-REJ DATA :bad")):
        assert stream.accept(5) is None
        # What is read at once is taken before it is submitted.
        assert stream.is_in_doubt(5) and not stream.is_in_doubt(6)
        one = chunk(stream, 5, b"m")
        assert stream.is_in_doubt(5) and not stream.is_in_doubt(4)
        one.settle(0, 1, fate)
        assert not stream.is_in_doubt(5)
        assert bytes(stream.take_in_turn(5)) == answer
    submit(stream, 1).settle(0, 1, STORED)
    assert stream.take_in_turn(6) == DUPLICATE
    stream.end_claim()
    assert stream.take_in_turn(6) is wording.STREAM_TAKEN and not stream.is_in_doubt(6)


def test_a_refusal_is_told_again() -> None:
    """Who did not hear of a refusal hears of it when the message is sent again."""
    stream = Stream("s", "e", "c")
    whole = submit(stream, 3)
    whole.settle(1, 2, BAD)
    whole.settle(0, 1, STORED)
    whole.settle(2, 3, STORED)
    assert [stream.accept(n) for n in (1, 2, 3)] == [DUPLICATE, BAD, DUPLICATE]
    assert stream.accept(4) is None


def test_what_is_behind_a_failure_is_void() -> None:
    """After a message that has to be sent again nothing behind it is stored or refused."""
    stream = Stream("s", "e", "c")
    answers: list[Run] = []
    first = submit(stream, 2)
    stream.take_all(3, 2)
    second = Chunk(
        *("r", [b"m", b"m"], ORIGIN, 0.0, lambda chunk, runs: answers.extend(runs)),
        *(None, stream, 3),
    )
    stream.take_all(5, 1)
    third = Chunk(
        *("r", [b"m"], ORIGIN, 0.0, lambda chunk, runs: answers.extend(runs)),
        *(None, stream, 5, BAD),
    )
    plain = Chunk("r", [b"p"], ORIGIN, 0.0, lambda chunk, runs: None)
    batch = Batch.of([second, plain, third])
    first.settle(0, 1, STORED)
    assert not batch.void and batch.without_void() is batch
    first.settle(1, 2, LATER)
    assert batch.void
    left = batch.without_void()
    assert left is not None and [part.chunk for part in left.slices] == [plain]
    assert not left.refusals
    told = [bytes(fate) for count, fate in answers for _ in range(count)]
    assert told == [b"-TRY GAP seq=1 :send #2 next"] * 3
    assert stream.next == 2 and stream.accept(3) == stream.gap() and not stream.refusals
    assert not Batch.of([submit(stream, 2)]).void


def test_refusals_behind_a_failure_are_told_as_gaps() -> None:
    """What was refused behind a message that has to be sent again is sent again as well."""
    stream = Stream("s", "e", "c")
    series = stream.series
    first, second = submit(stream, 2), submit(stream, 1)
    second.settle(0, 1, BAD)
    first.settle(1, 2, BAD)
    first.settle(0, 1, LATER)
    assert words([*stream.answers_due(series, [(1, LATER), (1, BAD)])]) == ["-TRY", "-TRY"]
    assert words([*stream.answers_due(series, [(1, BAD)])]) == ["-TRY"]
    series = stream.series
    submit(stream, 1).settle(0, 1, BAD)
    assert words([*stream.answers_due(series, [(1, BAD)])]) == ["-REJ"]
    assert stream.next == 2 and not stream.refusals.keys() - {1}


def test_moves() -> None:
    """A batch moves each of its streams over its numbers, refused ones too, in one order."""
    one, other = Stream("b", "e", "c", 10), Stream("a", "f", "d")
    batch = Batch.of([submit(one, 2), submit(other, 1), submit(one, 2)]).refuse([(0, BAD)])
    assert batch is not None
    first, second = batch.moves
    assert (first.stream, first.first, first.last, first.refused) == (other, 1, 1, {})
    assert (second.stream, second.first, second.last) == (one, 11, 14)
    assert second.refused == {11: BAD} and second.whole
    assert second.digests == digests_of([b"m"] * 4)
    assert batch.moves is batch.moves, "they are found once"


def test_moves_over_several_routes() -> None:
    """Numbers that go to two routes by turns are one move of the commit that has both."""
    stream = Stream("s", "e", "c")
    chunks = [submit(stream, 1, route) for route in "abab"]
    batches = Batch.by_route(chunks)
    assert len(batches) == 2 and not any(move.whole for b in batches for move in b.moves)
    (move,) = stream_marks(batches)
    assert (move.first, move.last, move.digests) == (1, 4, digests_of([b"m"] * 4))


@given(st.permutations([1, 2, 3, 4, 5, 6]), st.sets(st.integers(1, 6), max_size=5))
def test_digests_are_in_the_order_of_the_numbers(order: list[int], bad: set[int]) -> None:
    """Whatever the order of the rows, and whichever are refused: each number has its digest."""
    stream = Stream("s", "e", loose=True)
    batch = Batch.of([chunk(stream, number, b"%d" % number) for number in order])
    rows = [row for row, number in enumerate(order) if number in bad]
    left = batch.refuse([(row, BAD) for row in rows])
    assert left is not None
    (move,) = left.moves
    assert (move.first, move.last) == (1, 6)
    rows = [number for number in order if number not in bad]
    assert move.whole is (rows == sorted(rows)), "each is stored in its place"
    assert move.digests == digests_of([b"%d" % number for number in range(1, 7)])
    assert move.refused.keys() == bad


def test_numbers_that_are_not_in_a_row() -> None:
    """A gap between numbers, and a number that is there twice, are seen."""
    loose = Stream("s", "e", loose=True)
    for first, whole in ((2, True), (3, False), (1, False)):
        (move,) = Batch.of([chunk(loose, 1, b"a"), chunk(loose, first, b"b")]).moves
        assert move.whole is whole


def test_epochs_move_by_themselves() -> None:
    """Messages of two epochs of a stream are two moves."""
    one, two = Stream("s", "e", loose=True), Stream("s", "f", loose=True)
    batch = Batch.of([chunk(one, 1, b"a"), chunk(two, 1, b"b")])
    assert [(move.stream.epoch, move.last) for move in batch.moves] == [("e", 1), ("f", 1)]
    assert batch.streams == {"s"}


def test_what_a_peer_of_a_stream_elsewhere_is_told() -> None:
    """A lost claim, a database that is behind, a stream that went on: each has its words."""
    stream = Stream("s", "e", "c", 2)
    (move,) = Batch.of([submit(stream, 4)]).moves
    assert StreamPosition(False, True, 2).outcome(move) is wording.STREAM_TAKEN
    assert StreamPosition(False, False, 0).outcome(move) is wording.STREAM_TAKEN
    assert StreamPosition(True, True, 1).outcome(move) is wording.STREAM_BEHIND
    assert StreamPosition(True, False, 2).outcome(move) is wording.STREAM_BEHIND
    assert StreamPosition(True, True, 4).outcome(move) is wording.STREAM_MOVED


@given(st.integers(1, 50), st.lists(st.binary(max_size=20), max_size=20), st.integers(-5, 80))
def test_which_messages_are_known(first: int, frames: list[bytes], number: int) -> None:
    """A number is shown to be a message's where its digest is there, and for no other message."""
    stream_position = StreamPosition(True, True, first + len(frames) - 1, first, digests_of(frames))
    there = first <= number < first + len(frames)
    frame = frames[number - first] if there else b"x"
    assert stream_position.has_message(number, frame) is there
    assert not stream_position.has_message(number, frame + b" ")


def test_messages_are_told_apart() -> None:
    """What one checksum takes for the same, the other does not; an empty message has one too."""
    assert len(digests_of([b"", b"a", b""])) == 24
    assert digests_of([b""]) != bytes(8)
    # CRC-32 of both is the same: plumless and buckeroo.
    one, two = digests_of([b"plumless"]), digests_of([b"buckeroo"])
    assert one[:4] == two[:4] and one[4:] != two[4:]


def test_idle_is_told() -> None:
    """Whoever waits for the last message in flight is told."""
    stream = Stream("s", "e", "c")
    told: list[bool] = []
    one, other = submit(stream, 1), submit(stream, 2)
    stream.idle = lambda: told.append(stream.busy)
    one.settle(0, 1, STORED)
    other.settle(0, 1, STORED)
    assert not told and stream.busy
    other.settle(1, 2, STORED)
    assert told == [False]


def test_refusals_are_not_kept_for_ever() -> None:
    """However many messages are refused, memory is bounded."""
    stream = Stream("s", "e", "c")
    whole = submit(stream, KEPT_REFUSALS + 1000)
    whole.settle(0, KEPT_REFUSALS + 1000, BAD)
    assert len(stream.refusals) <= KEPT_REFUSALS
    assert isinstance(stream.refusals[stream.last], Outcome)


def test_a_stream_at_rest_is_small() -> None:
    """A stream that is closed keeps the last refusals; the database has them all."""
    stream = Stream("s", "e", "c")
    for number in range(1, 1001):
        stream.refusals[number] = BAD
    stream.rest()
    assert stream.refusals.keys() == {*range(901, 1001)}


def test_what_nobody_here_knows_is_not_told() -> None:
    """After a goodbye to one of its messages a stream cannot be opened from memory."""
    for fate, sure in ((STORED, True), (LATER, True), (BAD, True), (wording.STREAM_BEHIND, False)):
        stream = Stream("s", "e", "c")
        submit(stream, 1).settle(0, 1, fate)
        assert stream.sure is sure
    unknown = goodbye(Code.INTERNAL, "whether this was stored is not known")
    stream = Stream("s", "e", "c")
    submit(stream, 1).settle(0, 1, unknown)
    assert not stream.sure


# The streams that are open at a gateway.


class Spooled:
    """
    What the test says that the spool holds.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, Waiting] = {}

    def numbers_of(self, stream: str) -> Waiting | None:
        return self.waiting.get(stream)


class Claimant:
    """
    A connection that opens streams.
    """

    def __init__(self) -> None:
        self.goodbyes: list[Outcome] = []

    def close_with(self, outcome: Outcome) -> None:
        self.goodbyes.append(outcome)


class Desk:
    """
    A gateway's streams.

    @ivar away: whether the database cannot be asked.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(word=made_up())
        self.spool = Spooled()
        self.streams = StreamRegistry(self.store, self.spool)
        self.away = False

    def open(self, name: str = "s", seen: Seen | None = None, by: Any = None) -> Stream | str:
        """The stream, or what its peer hears; C{"waits"} where that is not known yet."""
        self.store.failures.clear()
        if self.away:
            self.store.failures.append(Unavailable("away"))
        opening = self.streams.open_stream(name, by or Claimant(), seen)
        found: list[Stream | Outcome] = []
        Deferred.fromCoroutine(opening).addCallback(found.append)
        if not found:
            return "waits"
        return found[0] if isinstance(found[0], Stream) else bytes(found[0]).decode()

    def at(self, mark: int, epoch: str = "e") -> None:
        """Where the database has the stream."""
        claim = Deferred.fromCoroutine(self.store.claim_stream("s", None, {}))
        assert claim.called
        kept = self.store.streams["s"]
        kept.mark, kept.epoch = mark, epoch


def where(found: Stream | str) -> tuple[str, int] | str:
    """Its epoch and last number, or the first words of an answer."""
    return found.split(" :")[0] if isinstance(found, str) else (found.epoch, found.last)


DOWN = "-TRY DOWN retry=1"
GAP = "-TRY GAP retry=1"


def test_a_stream_that_nobody_knows_is_opened_by_the_database() -> None:
    """Without what its peer has seen a stream is never opened from memory, only at -TRY DOWN."""
    desk = Desk()
    stream = desk.open()
    assert isinstance(stream, Stream) and where(stream) == ("w1", 0)
    submit(stream, 3).settle(0, 3, STORED)
    desk.away = True
    assert where(desk.open()) == DOWN
    desk.spool.waiting["s"] = Waiting({"w1": ((4, 5),)}, {}, ("w1", 5))
    assert where(desk.open()) == DOWN


def test_a_database_that_is_behind_is_told() -> None:
    """Who had an answer that the database does not know of is told to ask again."""
    desk = Desk()
    desk.at(4)
    assert where(desk.open(seen=Seen(5, "e"))) == f"{GAP} seq=4"
    assert where(desk.open(seen=Seen(4, "other"))) == f"{GAP} taken=true"
    assert where(desk.open(seen=Seen(4, "e"))) == ("e", 4)
    assert where(desk.open(seen=Seen(2, ""))) == ("e", 4)
    desk.store.streams.clear()
    assert where(desk.open(seen=Seen(4, "e"))) == f"{GAP} seq=0"
    assert desk.store.streams == {}, "nothing is changed by who is told to ask again"


def test_who_is_refused_takes_a_stream_from_nobody() -> None:
    """A peer with numbers of an epoch that is over is told so; the one that has the stream keeps
    it, and loses it to whoever is right."""
    desk = Desk()
    desk.at(2)
    holder = Claimant()
    stream = desk.open(by=holder)
    assert isinstance(stream, Stream) and stream.epoch != "e"
    for away, told in ((False, f"{GAP} taken=true"), (True, GAP), (False, f"{GAP} taken=true")):
        desk.away = away
        assert where(desk.open(seen=Seen(2, "e"))) == told
        assert where(desk.open(seen=Seen(9, "e"))) == (GAP if away else f"{GAP} seq=2")
    assert not holder.goodbyes
    submit(stream, 1).settle(0, 1, STORED)
    desk.at(3, "f")  # it went on at another gateway
    assert where(desk.open(seen=Seen(3, "f"))) == ("f", 3)
    assert holder.goodbyes == [wording.STREAM_TAKEN]


def test_the_spool_counts() -> None:
    """What waits in the spool and goes on from the mark is settled, in its own epoch alone."""
    desk = Desk()
    desk.at(2)
    desk.spool.waiting["s"] = Waiting({"e": ((3, 4),), "f": ((6, 7),)}, {"e": {4: BAD}}, ("e", 4))
    stream = desk.open()
    assert where(stream) == ("e", 4), "and no new epoch begins"
    assert isinstance(stream, Stream) and stream.accept(4) == BAD and stream.accept(3) == DUPLICATE
    assert where(desk.open(seen=Seen(4, "e"))) == ("e", 4)
    assert where(desk.open(seen=Seen(5, "e"))) == f"{GAP} seq=4"
    holed = {"e": ((3, 4), (6, 7)), "f": ((5, 5),)}
    desk.spool.waiting["s"] = Waiting(holed, {"e": {4: BAD}}, ("e", 7))
    assert where(desk.open(seen=Seen(4, "e"))) == ("e", 4)
    assert where(desk.open(seen=Seen(5, "e"))) == f"{GAP} seq=4"
    desk.spool.waiting["s"] = Waiting({"f": ((3, 4),)}, {}, ("f", 4))
    assert where(desk.open(seen=Seen(2, "e"))) == ("e", 2)
    found = where(desk.open())
    assert found != ("e", 2) and found[1] == 2, "what waits in another epoch does not count"


def test_a_hole_in_the_spool_ends_its_epoch() -> None:
    """A peer that knows nothing gives the numbers of a hole to other messages: nothing behind the
    hole may be taken for them."""
    desk = Desk()
    desk.at(2)
    desk.spool.waiting["s"] = Waiting({"e": ((3, 4), (6, 7))}, {}, ("e", 7))
    found = where(desk.open())
    assert found[0] != "e" and found[1] == 2


def test_refusals_of_another_epoch_are_not_told() -> None:
    """A number that was refused in an epoch that is over is another message's in this one."""
    desk = Desk()
    desk.at(5)
    backlog, old = SpoolBacklog(), Stream("s", "old", "c", 4)
    refused_one = Batch.of([submit(old, 1)]).refuse([(0, BAD)])
    assert refused_one is not None
    backlog.put(refused_one)
    streams = StreamRegistry(desk.store, backlog)
    found: list[Stream | Outcome] = []
    Deferred.fromCoroutine(streams.open_stream("s", Claimant(), Seen(5, "e"))).addCallback(
        found.append
    )
    (stream,) = found
    assert isinstance(stream, Stream) and stream.last == 5
    assert stream.accept(5) == DUPLICATE


def test_a_stream_is_opened_from_memory() -> None:
    """With the database away what was settled here is told, where it reaches what was seen."""
    desk = Desk()
    stream = desk.open()
    assert isinstance(stream, Stream)
    whole = submit(stream, 3)
    whole.settle(0, 2, STORED)
    whole.settle(2, 3, BAD)
    desk.away = True
    assert where(desk.open(seen=Seen(4, "w1"))) == GAP
    assert where(desk.open(seen=Seen(3, "other"))) == GAP
    again = desk.open(seen=Seen(3, "w1"))
    assert isinstance(again, Stream) and where(again) == ("w1", 3)
    assert again.claim is None and again.accept(3) == BAD
    assert where(desk.open(seen=Seen(1, ""))) == ("w1", 3)
    assert where(desk.open("t", Seen(0, ""))) == DOWN
    # Also when it was closed since.
    found = desk.open(seen=Seen(3, "w1"))
    assert isinstance(found, Stream)
    desk.streams.close_stream(found)
    assert where(desk.open(seen=Seen(3, "w1"))) == ("w1", 3)


def test_a_stream_is_opened_from_the_spool_alone() -> None:
    """After a restart in an outage: what the spool holds is what this gateway has settled."""
    desk = Desk()
    desk.away = True
    desk.spool.waiting["s"] = Waiting({"e": ((3, 9),)}, {"e": {9: BAD}}, ("e", 9))
    assert where(desk.open(seen=Seen(10, "e"))) == GAP
    assert where(desk.open(seen=Seen(9, "f"))) == GAP
    found = desk.open(seen=Seen(5, "e"))
    assert where(found) == ("e", 9) and isinstance(found, Stream) and found.accept(9) == BAD


def test_a_stream_of_which_something_is_gone() -> None:
    """Its peer is told goodbye, and it is not opened from memory; another epoch is not meant."""
    for closed in (False, True):
        desk, peer = Desk(), Claimant()
        stream = desk.open(by=peer)
        assert isinstance(stream, Stream)
        submit(stream, 3).settle(0, 3, QUEUED)
        if closed:
            desk.streams.close_stream(stream)
        desk.streams.missing("s", "another")
        desk.streams.missing("t", "w1")
        assert not peer.goodbyes and stream.sure
        desk.streams.missing("s", "w1")
        assert peer.goodbyes == [wording.STREAM_BEHIND] * (not closed) and stream.ended
        desk.away = True
        assert where(desk.open(seen=Seen(3, "w1"))) == DOWN


def test_the_one_that_opened_a_stream_last_has_it() -> None:
    """What the one before has in flight is waited for; another one is told goodbye."""
    desk, one, two = Desk(), Claimant(), Claimant()
    stream = desk.open(by=one)
    assert isinstance(stream, Stream)
    whole = submit(stream, 1)
    assert desk.open(by=two) == "waits" and one.goodbyes == [wording.STREAM_TAKEN]
    assert desk.open(by=two) == "waits"
    whole.settle(0, 1, STORED)
    assert stream.ended
    assert isinstance(desk.open(by=two), Stream) and isinstance(desk.open(by=two), Stream)
    assert len(two.goodbyes) == 0


def test_few_streams_are_remembered() -> None:
    """However many streams are closed, memory is bounded; the oldest is forgotten first."""
    desk = Desk()
    for number in range(MAX_CLOSED_STREAMS + 1):
        stream = Stream(f"{number}", "e", "c", 7)
        desk.streams._remember(stream)
    desk.away = True
    assert where(desk.open("0", Seen(7, "e"))) == DOWN
    assert where(desk.open("1", Seen(7, "e"))) == ("e", 7)


@given(st.integers(0, 30), st.sets(st.integers(1, 40)))
def test_how_far_a_spool_reaches(mark: int, waiting: set[int]) -> None:
    """What goes on exactly from the mark counts, up to the first number that is missing."""
    runs: list[tuple[int, int]] = []
    for number in sorted(waiting):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    expected = mark
    while expected + 1 in waiting:
        expected += 1
    assert reached(mark, runs) == expected
