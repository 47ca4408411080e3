"""
The command dialect: what peers say, and what they are told.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.base import Work
from gateway.dialects.command import CommandDialect, Conversation
from gateway.dialects.stream_registry import StreamRegistry
from gateway.model import wording
from gateway.model.errors import TransientError, Unavailable
from gateway.wire.framing import OVERSIZE
from tests.in_memory import Bench, Listed

ROUTES = ["messages", "other"]


def conversation() -> Conversation:
    bench = Bench(routes=ROUTES)
    found = bench.factory.dialect.reader(bench.peer)
    assert isinstance(found, Conversation)
    return found


def answers(work: Work) -> list[str]:
    return [bytes(outcome).decode() for _, outcome in work.gaps]


def talk(*lines: bytes, held: bool = False, window: int = 100) -> tuple[Bench, list[bytes]]:
    """What is said to some lines that come at once."""
    bench = Bench(routes=ROUTES, held=held, window=window)
    bench.peer.dataReceived(b"".join(line + b"\n" for line in lines))
    return bench, bench.said.splitlines()


def test_puts_in_a_row_are_one_piece() -> None:
    """What goes to one route is submitted once, whatever stands between."""
    first, second = conversation().read(
        [b"PUT messages a", b"PING x", b"@1 PUT messages  b ", b"PUT other c"], False
    )
    assert (first.route, first.messages, first.tags) == (
        *("messages", [b"a", b" b "]),
        [b"", b"", b"@1"],
    )
    assert answers(first) == ["+OK x"]
    assert (second.route, second.messages, second.tags) == ("other", [b"c"], None)


def test_puts_by_turns_are_one_piece() -> None:
    """What goes to several routes by turns is submitted at once too, whatever stands between."""
    frames = [b"PUT messages a", b"PUT other b", b"PUT messages c"]
    (work,) = conversation().read(frames, False)
    assert [(group.route, group.frames, group.places) for group in work.groups] == [
        ("messages", [b"a", b"c"], [0, 2]),
        ("other", [b"b"], [1]),
    ]
    assert work.count == 3 and work.tags is None
    first, second = conversation().read([frames[0], b"@1 PING", *frames[1:], b"SYNC"], False)
    assert first.groups == work.groups and answers(first) == ["+OK"]
    assert [place for place, _ in first.gaps] == [1] and first.tags == [b"", b"@1", b"", b""]
    assert second.request is not None


def test_numbers_go_over_routes_by_turns() -> None:
    """Numbered messages for several routes are one submission, those of no route too."""
    lines = [b"PUT %s #%d m" % (b"messages" if n % 2 else b"other", n) for n in range(1, 5)]
    bench, said = talk(b"HELLO s", *lines, b"PUT no #5 m", b"PUT other #6 m")
    assert [answer.split(b" ")[0] for answer in said[1:]] == [b"+OK"] * 4 + [b"-REJ", b"+OK"]
    assert bench.store.writes == [5] and bench.store.streams["s"].mark == 6


def test_many_puts_make_one_list() -> None:
    """Messages for one route are cut at once, and read as one by one."""
    frames = [b"PUT messages m%d" % n for n in range(1000)]
    (alike,) = conversation().read(frames, False)
    (each,) = conversation().read([*frames, b"PING"], False)
    assert alike.messages == each.messages == [b"m%d" % n for n in range(1000)]
    assert alike.tags is None


def test_refusals_name_what_is_wrong() -> None:
    """Bad commands are answered each with its own reason and cost nothing else."""
    (work,) = conversation().read(
        [
            *(b"NOPE", b"PUT nowhere x", b"PUT messages", b"@ PING", b"@c", b"PING \xff", b""),
            *(b"HELLO", b"HELLO a b", b"LISTEN", b"QUIET now", b"AUTH", OVERSIZE),
            *(b"HELP me", b"PUT messages #7 x", b"CALL", b"@\x01 PING", b"@" + b"t" * 64),
            *(b"QUIT now", b"quit ", b"PUT messages #%d x" % (10**19 - 1)),
        ],
        True,
    )
    assert answers(work) == [
        "-REJ FORMAT :unknown verb NOPE; try HELP",
        "-REJ ROUTE :no route nowhere",
        "-REJ FORMAT :PUT takes a route, a space and a payload",
        "-REJ FORMAT :a tag is @ and 1 to 63 bytes",
        "-REJ FORMAT :unknown verb ; try HELP",
        "-REJ DATA :PING takes text in UTF-8",
        "-REJ FORMAT :unknown verb ; try HELP",
        "-REJ FORMAT :HELLO takes a stream: 1 to 128 bytes of UTF-8 without spaces",
        "-REJ FORMAT :behind the stream HELLO takes seen=N, the last number that was answered,"
        " and epoch=E, as HELLO told it",
        "-REJ FORMAT :LISTEN takes a channel",
        "-REJ FORMAT :QUIET takes nothing",
        "-REJ FORMAT :AUTH takes a token",
        "-REJ TOOBIG :longer than max_frame of this listener",
        "-REJ FORMAT :unknown verb me; try HELP",
        "-REJ FORMAT :a number needs a stream; say HELLO stream first",
        "-REJ FORMAT :CALL takes a query and maybe its arguments in JSON",
        "-REJ FORMAT :a tag is @ and 1 to 63 bytes",
        "-REJ FORMAT :a tag is @ and 1 to 63 bytes",
        "-REJ FORMAT :QUIT takes nothing",
        "-REJ FORMAT :QUIT takes nothing",
        "-REJ FORMAT :a number needs a stream; say HELLO stream first",
    ]


def test_whether_a_route_may_be_used_is_asked_without_a_number() -> None:
    """HELP PUT route tells of a route that is not there, in a stream too; nothing is stored."""
    bench, said = talk(
        *(b"HELLO s", b"HELP PUT messages", b"help put nowhere", b"PUT messages #1 a")
    )
    assert said[1:] == [
        b"+OK PUT messages payload: it may be used",
        *(b"-REJ ROUTE :no route nowhere", b"+OK"),
    ]
    assert len(bench.store.rows) == 1


def test_help_can_be_read() -> None:
    """HELP names every verb in one line, HELP and a verb says what it is for."""
    _, (verbs, put) = talk(b"help", b"HELP put")
    assert verbs.startswith(b"+OK PUT route [#n] payload | CALL query") and b"QUIT" in verbs
    assert put == b"+OK PUT route [#n] payload: store the payload by a route; in a stream" + (
        b" with its number"
    )


def test_nothing_follows_quit() -> None:
    """QUIT is the last that is answered."""
    (work,) = conversation().read([b"quit", b"PUT messages never"], False)
    assert work.closes and not work.messages and answers(work) == ["+OK"]


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=20))
def test_every_frame_is_answered(frames: list[bytes]) -> None:
    """Whatever is sent, there is one answer for each frame, up to QUIT."""
    works = conversation().read(frames, False)
    count = sum(work.count for work in works) + len(works[-1].rest)
    assert count == len(frames) or works[-1].closes
    assert all(work.tags is None or len(work.tags) == work.count for work in works)


def test_hash_signs_are_data() -> None:
    """Outside of a stream only a number with a space behind it is taken for one."""
    bench, said = talk(b"PUT messages #tag", b"PUT messages #7", b"PUT messages # 7 x")
    assert said == [b"+OK"] * 3
    assert [message for _, message in bench.store.rows] == [b"#tag", b"#7", b"# 7 x"]


# Streams.


def test_a_stream() -> None:
    """Numbered messages are stored once, in order, and told when they are not next."""
    bench, said = talk(
        *(b"HELLO s", b"PUT messages #1 a", b"PUT messages #2 b", b"PUT other #3 c"),
        *(b"@x PUT messages #3 again", b"PUT messages #9 z", b"PUT messages n", b"PING"),
    )
    assert said == [
        *(b"+OK seq=0 epoch=w1", b"+OK", b"+OK", b"+OK", b"@x +DUP"),
        *(b"-TRY GAP seq=3 :send #4 next",),
        *(b"-REJ FORMAT :in a stream a PUT has its number: PUT route #4 payload", b"+OK"),
    ]
    assert [message for _, message in bench.store.rows] == [b"a", b"b", b"c"]


def test_what_is_sent_twice_at_once() -> None:
    """The second is answered when the fate of the first is known, and as that has it."""
    bench = Bench(routes=ROUTES)
    bench.store.poison = {b"bad"}
    bench.peer.dataReceived(
        b"HELLO s\nPUT messages #1 a\nPUT messages #1 a\nPUT messages #2 bad\n"
        b"@x PUT messages #2 bad\nPUT messages #3 c\nSYNC\n"
    )
    assert bench.said == b"+OK seq=0 epoch=w1\n"
    bench.commit_all()
    refused = b"-REJ CONSTRAINT sqlstate=23514 :violates a check constraint"
    assert bench.said.splitlines() == [
        *(b"+OK seq=0 epoch=w1", b"+OK", b"+DUP", refused, b"@x " + refused, b"+OK"),
        b"+OK ok=3 rej=2 try=0",
    ]


def test_an_unknown_route_uses_its_number_up() -> None:
    """As any refusal does; it is told again, also when the stream is opened anew."""
    bench = Bench(routes=ROUTES)
    bench.peer.dataReceived(
        b"HELLO s\nPUT messages #1 a\nPUT nowhere #2 b\nPUT nowhere #9 z\nPUT messages #3 c\n"
    )
    bench.commit_all()
    assert bench.said.splitlines() == [
        *(b"+OK seq=0 epoch=w1", b"+OK", b"-REJ ROUTE :no route nowhere"),
        *(b"-TRY GAP seq=2 :send #3 next", b"+OK"),
    ]
    bench.peer.dataReceived(b"PUT nowhere #4 d\n")
    peer, transport = bench.connect()
    peer.dataReceived(b"HELLO s\nPUT messages #2 b\nPUT messages #4 d\nPUT messages #5 e\n")
    bench.commit_all()
    refusal = b"-REJ ROUTE :no route nowhere"
    assert transport.value().splitlines() == [b"+OK seq=4 epoch=w3", refusal, refusal, b"+OK"]
    assert [message for _, message in bench.store.rows] == [b"a", b"c", b"e"]


def test_a_stream_goes_on() -> None:
    """Another connection goes on where the first one came to, and hears of refusals again."""
    bench = Bench(routes=ROUTES, held=False)
    bench.store.poison = {b"bad"}
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\nPUT messages #2 bad\nPUT messages #3 c\n")
    bench.peer.connectionLost()
    peer, transport = bench.connect()
    peer.dataReceived(b"HELLO s\nPUT messages #2 bad\nPUT messages #3 c\nPUT messages #4 d\n")
    assert transport.value().splitlines() == [
        *(b"+OK seq=3 epoch=w3", b"-REJ CONSTRAINT sqlstate=23514 :violates a check constraint"),
        *(b"+DUP", b"+OK"),
    ]
    assert [message for _, message in bench.store.rows] == [b"a", b"c", b"d"]


def test_the_newer_connection_wins() -> None:
    """A stream is the connection's that opened it last; the one before is told goodbye."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\n")
    peer, transport = bench.connect()
    peer.dataReceived(b"HELLO s\nPUT messages #2 b\n")
    assert bench.said.splitlines() == [
        *(b"+OK seq=0 epoch=w1", b"+OK"),
        b"-BYE BUSY :another connection has opened this stream",
    ]
    assert transport.value() == b"+OK seq=1 epoch=w3\n+OK\n"
    assert [message for _, message in bench.store.rows] == [b"a", b"b"]


def test_what_a_lost_claim_had_under_way_is_not_stored() -> None:
    """What an older connection has in flight is waited for; what it has not begun to store yet is
    the newer one's to send."""
    bench = Bench(routes=ROUTES)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 old\n")
    bench.peer.dataReceived(b"PUT messages #2 old\n")  # waits for the commit before it
    peer, transport = bench.connect()
    peer.dataReceived(b"HELLO s\n")
    assert not transport.value()  # what the other one has in flight is waited for
    bench.commit_all()
    assert bench.said.splitlines() == [
        *(b"+OK seq=0 epoch=w1", b"+OK", b"-TRY GAP seq=1 :send #2 next"),
        b"-BYE BUSY :another connection has opened this stream",
    ]
    assert transport.value() == b"+OK seq=1 epoch=w3\n"
    peer.dataReceived(b"PUT messages #2 new\n")
    bench.commit_all()
    assert [message for _, message in bench.store.rows] == [b"old", b"new"]


def test_a_claim_elsewhere_ends_this_one() -> None:
    """Whoever claims a stream at another gateway has it; what comes here is not stored."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\n")
    elsewhere = Bench(routes=ROUTES, held=False)
    elsewhere.store = bench.store
    other = StreamRegistry(bench.store)
    elsewhere.factory.dialect = CommandDialect(other, Listed(), bench.channels, bench.authenticator)
    peer, transport = elsewhere.connect()
    peer.dataReceived(b"HELLO s\n")
    assert transport.value() == b"+OK seq=1 epoch=w3\n"
    bench.peer.dataReceived(b"PUT messages #2 b\nPUT messages #3 c\n")
    assert bench.said.splitlines()[2:] == [b"-BYE BUSY :another connection has opened this stream"]
    assert [message for _, message in bench.store.rows] == [b"a"]


def test_nothing_overtakes_a_message_that_failed() -> None:
    """What is behind a message that has to be sent again is not stored before it."""
    bench = Bench(routes=ROUTES)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\n")
    bench.peer.dataReceived(b"PUT messages #2 b\nPUT messages #3 c\n")
    bench.store.failures.append(Unavailable("away"))
    bench.store.held = False
    bench.commit_all()
    bench.wait(1)
    assert bench.said.splitlines() == [
        *(b"+OK seq=0 epoch=w1", b"-TRY DOWN retry=1 :the database cannot be reached"),
        *(b"-TRY GAP seq=0 :send #1 next",) * 2,
    ]
    bench.peer.dataReceived(b"PUT messages #1 a\nPUT messages #2 b\nPUT messages #3 c\n")
    bench.commit_all()
    assert [message for _, message in bench.store.rows] == [b"a", b"b", b"c"]


DOWN = b"-TRY DOWN retry=1 :the database cannot be asked how far the stream is"


def gap(why: bytes) -> bytes:
    mark = why.partition(b"#")[2]
    seq = b" seq=" + mark if mark else b""
    return (
        b"-TRY GAP retry=1%b :the stream has not come as far as it was answered (%b): the rest may"
        b" wait in another gateway's spool" % (seq, why)
    )


def test_hello_while_the_database_is_away() -> None:
    """Nobody is told from memory how far a stream is who does not say how far it was; who does is
    let in where this gateway has settled as much, in the same epoch."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\n")
    bench.peer.connectionLost()
    bench.store.failures += [Unavailable("away"), TransientError("disk full", "53100")] * 4
    peer, transport = bench.connect()
    peer.dataReceived(
        b"HELLO t\nHELLO s\nHELLO t seen=0\nHELLO s seen=2\nHELLO s seen=1 epoch=w9\n"
        b"HELLO s seen=0\nHELLO s\nHELLO s seen=1 epoch=w1\n"
    )
    away = gap(b"the database cannot be asked")
    assert transport.value().splitlines() == [
        *(DOWN, DOWN, DOWN, away, away, b"+OK seq=1 epoch=w1", DOWN, b"+OK seq=1 epoch=w1")
    ]
    peer.dataReceived(b"PUT messages #2 b\n")
    assert [message for _, message in bench.store.rows] == [b"a", b"b"]


def test_hello_with_what_was_seen() -> None:
    """A peer that says what it has seen goes on in its epoch; one that does not begins another, in
    which nothing is said of the one before."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\nPUT messages #2 b\n")
    taken = bytes(wording.stream_renewed("it is at #2"))
    for hello, answer in (
        (b"HELLO s seen=2 epoch=w1", b"+OK seq=2 epoch=w1"),
        (b"hello s seen=1", b"+OK seq=2 epoch=w1"),
        (b"@7 HELLO s seen=3 epoch=w1", b"@7 " + gap(b"it is at #2")),
        (b"HELLO s seen=3", gap(b"it is at #2")),
        (b"HELLO s seen=2 epoch=w2", taken),
        (b"HELLO s seen=0 epoch=w2", taken),
        (b"HELLO s", b"+OK seq=2 epoch=w5"),
        (b"HELLO s seen=2 epoch=w1", taken),
        (b"HELLO s seen=2 epoch=w5", b"+OK seq=2 epoch=w5"),
    ):
        peer, transport = bench.connect()
        peer.dataReceived(hello + b"\n")
        assert transport.value().splitlines() == [answer]
    assert bench.store.streams["s"].mark == 2


def test_words_behind_hello() -> None:
    """What is no number that was answered, or no epoch, is refused and leaves the stream open."""
    text = (
        b"-REJ FORMAT :behind the stream HELLO takes seen=N, the last number that was answered,"
        b" and epoch=E, as HELLO told it"
    )
    wrong = [
        *(b"seen", b"seen=", b"seen=-1", b"seen=01", b"seen=1 ", b"seen=1x", b"SEEN=1", b" seen=1"),
        *(b"seen=" + b"1" * 19, b"epoch=w1", b"epoch=w1 seen=1", b"seen=1 epoch=", b"", b"#1"),
        *(b"seen=1 epoch=a b", b"seen=1 epoch=a_b", b"seen=1 epoch=" + b"e" * 65),
        *(b"seen=1  epoch=a", b"seen=\xd9\xa1", b"seen=1 epoch=\xc3\xa9", b"seen=1 seen=1"),
    ]
    _, said = talk(b"HELLO s", *[b"HELLO s " + words for words in wrong], b"PUT messages #1 a")
    assert said == [b"+OK seq=0 epoch=w1", *[text] * len(wrong), b"+OK"]
    longest = b"HELLO s seen=" + b"1" * 18 + b" epoch=" + b"e-" * 32
    (work,) = conversation().read([longest], False)
    assert work.request is not None


def test_what_follows_a_hello_that_was_put_off() -> None:
    """Whatever has a number is to be sent again as HELLO is, and with its words; what has none is
    stored, and when HELLO was right the numbers are."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(
        b"HELLO s seen=1\nPUT messages #2 b\n@7 PUT messages #3 c\nPUT nowhere #4 d\n"
        b"PUT messages e\nPUT nowhere f\nPUT messages\nSYNC\n"
    )
    late = gap(b"it is at #0")
    assert bench.said.splitlines() == [
        *(late, late, b"@7 " + late, late, b"+OK", b"-REJ ROUTE :no route nowhere"),
        *(b"-REJ FORMAT :PUT takes a route, a space and a payload", b"+OK ok=1 rej=2 try=4"),
    ]
    bench.transport.clear()
    bench.store.failures.append(Unavailable("away"))
    bench.peer.dataReceived(
        b"HELLO s\nPUT messages #1 a\nHELLO s\nPUT messages #1 a\nHELLO t x\nPUT messages #2 b\n"
    )
    answers = bench.said.splitlines()
    assert answers[:4] == [DOWN, DOWN, b"+OK seq=0 epoch=w1", b"+OK"]
    assert answers[4].startswith(b"-REJ FORMAT") and answers[5:] == [b"+OK"]
    assert [message for _, message in bench.store.rows] == [b"e", b"a", b"b"]


def test_a_hello_that_was_put_off_has_left_its_stream() -> None:
    """Whoever asks for another stream, or for the same one anew, has none until HELLO is right."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(
        b"HELLO s\nPUT messages #1 a\nHELLO s seen=7\nPUT messages #2 b\nPUT messages #1 a\n"
    )
    late = gap(b"it is at #1")
    assert bench.said.splitlines() == [b"+OK seq=0 epoch=w1", b"+OK", late, late, late]


def test_a_refusal_is_told_when_it_is_kept() -> None:
    """A message of a stream that is refused is told so when the database has it, in the commit of
    those beside it; where it cannot have it the message is to be sent again."""
    bench = Bench(routes=ROUTES)
    bench.peer.dataReceived(b"HELLO s\nPUT nowhere #1 a\nPUT nowhere #2 b\n")
    assert bench.said == b"+OK seq=0 epoch=w1\n" and bench.store.waiting_writes == 1
    bench.commit_all()
    refusal = b"-REJ ROUTE :no route nowhere"
    assert bench.said.splitlines()[1:] == [refusal] * 2
    assert bench.store.streams["s"].refusals.keys() == {1, 2}
    bench.peer.dataReceived(b"PUT messages #3 c\n")
    bench.peer.dataReceived(b"PUT nowhere #4 d\nPUT messages #5 \xff\nPUT other #6 f\n")
    bench.commit_all()
    assert [answer[:4] for answer in bench.said.splitlines()[3:]] == [
        b"+OK",
        b"-REJ",
        b"-REJ",
        b"+OK",
    ]
    assert bench.store.streams["s"].mark == 6
    bench.store.failures.append(Unavailable("away"))
    bench.store.held = False
    bench.peer.dataReceived(b"PUT nowhere #7 g\n")
    assert bench.said.splitlines()[-1] == b"-TRY DOWN retry=1 :the database cannot be reached"
    bench.peer.dataReceived(b"PUT messages #7 g\n")
    assert bench.said.splitlines()[-1] == b"+OK"


def test_a_refusal_that_another_gateway_does_not_agree_with() -> None:
    """What is refused here and stored elsewhere is told as the database has it."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\nPUT nowhere #2 b\n")
    assert bench.said.splitlines()[2] == b"-REJ ROUTE :no route nowhere"
    # The database is set back, and #2 is stored by another gateway.
    kept = bench.store.streams["s"]
    kept.refusals.clear()
    peer, transport = bench.connect()
    peer.dataReceived(b"HELLO s seen=2 epoch=w1\nPUT nowhere #2 b\n")
    assert transport.value().splitlines() == [b"+OK seq=2 epoch=w1", b"+DUP"]


@pytest.mark.parametrize(
    ("change", "goodbye"),
    [
        (-1, b"-BYE GAP :the database is behind what it was; say HELLO again and go on from there"),
        (1, b"-BYE GAP :the stream went on by another way; say HELLO again and go on from there"),
    ],
)
def test_a_stream_that_is_elsewhere(change: int, goodbye: bytes) -> None:
    """A database that was set back, or a spool that was stored meanwhile: nothing is stored in the
    wrong place, and the peer is sent to say HELLO again."""
    bench = Bench(routes=ROUTES, held=False)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\n")
    bench.store.streams["s"].mark += change
    other, transport = bench.connect()
    bench.peer.dataReceived(b"PUT messages #2 b\nPUT messages #3 c\n")
    other.dataReceived(b"PUT messages x\n")
    assert bench.said.splitlines()[2:] == [goodbye] and transport.value() == b"+OK\n"
    assert [message for _, message in bench.store.rows] == [b"a", b"x"]
    peer, transport = bench.connect()
    peer.dataReceived(b"HELLO s seen=1 epoch=w1\n")
    told = gap(b"it is at #0") if change < 0 else b"+OK seq=2 epoch=w1"
    assert transport.value().splitlines() == [told]


def test_a_peer_that_left_during_hello() -> None:
    """A stream that is opened for a peer that is gone is nobody's."""
    bench = Bench(routes=ROUTES)
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\n")
    peer, _ = bench.connect()
    peer.dataReceived(b"HELLO s\n")
    peer.connectionLost()
    bench.commit_all()
    third, transport = bench.connect()
    third.dataReceived(b"HELLO s\nPUT messages #1 b\nPUT messages #2 b\n")
    bench.commit_all()
    assert transport.value() == b"+OK seq=1 epoch=w5\n+DUP\n+OK\n"


# Quiet.


def test_quiet_and_sync() -> None:
    """QUIET leaves out +OK of messages and nothing else; SYNC counts what was said or not."""
    bench, said = talk(
        *(b"PUT messages a", b"SYNC", b"QUIET", b"PUT messages b", b"PUT messages c", b"PING x"),
        *(b"NOPE", b"HELLO s", b"PUT messages #1 d", b"PUT messages #1 d", b"PUT messages #7 e"),
        *(b"@t SYNC", b"SYNC"),
    )
    assert said == [
        *(b"+OK", b"+OK ok=1 rej=0 try=0", b"+OK", b"+OK x"),
        *(b"-REJ FORMAT :unknown verb NOPE; try HELP", b"+OK seq=0 epoch=w1", b"+DUP"),
        *(b"-TRY GAP seq=1 :send #2 next", b"@t +OK ok=4 rej=1 try=1", b"+OK ok=0 rej=0 try=0"),
    ]
    assert len(bench.store.rows) == 4


def test_what_follows_a_request_waits() -> None:
    """A command that is about what came before it begins when that is answered."""
    bench, said = talk(b"PUT messages a", b"SYNC", b"PUT messages b", b"SYNC", held=True)
    assert not said and bench.store.waiting_writes == 1 and bench.paused
    bench.store.commit()
    assert bench.said.splitlines() == [b"+OK", b"+OK ok=1 rej=0 try=0"]
    bench.store.commit()
    assert bench.said.splitlines()[2:] == [b"+OK", b"+OK ok=1 rej=0 try=0"] and not bench.paused


def test_call() -> None:
    """The rows of a query follow their number, in one piece; only the number has the tag."""
    _, said = talk(b"@7 CALL rows {}", b"@8 CALL nothing", b"PING")
    assert said == [b"@7 *3", b"{}", b"{}", b"{}", b"@8 -REJ QUERY :no query 'nothing'", b"+OK"]


def test_listen() -> None:
    """Who listens is told what is notified, between answers, until it listens no more."""
    bench, said = talk(b"LISTEN news", b"@l LISTEN secrets", b"PUT messages a", held=True)
    assert said == [b"+OK", b"@l -REJ DENIED :channel 'secrets' is not offered"]
    bench.notifier.notify(("news", "one"), ("orders", "none"), ("news", "two"))
    bench.store.commit()
    bench.peer.dataReceived(b"UNLISTEN news\n")
    bench.notifier.notify(("news", "three"))
    assert bench.said.splitlines()[2:] == [b">news one", b">news two", b"+OK", b"+OK"]


def test_a_call_sees_what_was_stored() -> None:
    """A query begins when everything its peer sent before is answered."""
    bench, said = talk(b"PUT messages a", b"CALL rows 1", b"PUT messages b", held=True)
    assert not said
    bench.store.commit()
    assert bench.said.splitlines() == [b"+OK", b"*3", b"1", b"1", b"1"]
    bench.store.commit()
    assert bench.said.splitlines()[5:] == [b"+OK"]


@given(st.data())
def test_a_stream_however_it_is_cut(data: st.DataObject) -> None:
    """However TCP cuts the stream, the same is stored and answered."""
    lines = [b"HELLO s"]
    for number in range(1, data.draw(st.integers(1, 12))):
        route = data.draw(st.sampled_from([b"messages", b"other"]))
        tag = data.draw(st.sampled_from([b"", b"@t "]))
        lines.append(tag + b"PUT %s #%d m%d" % (route, number, number))
        extra = data.draw(st.sampled_from([b"", b"SYNC", b"PING", b"PUT messages #1 x"]))
        lines += [extra] if extra else []
    whole, said = talk(*lines)
    stream = b"".join(line + b"\n" for line in lines)
    bench = Bench(routes=ROUTES, held=False)
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        bench.peer.dataReceived(stream[:size])
        stream = stream[size:]
    assert bench.said.splitlines() == said and len(said) == len(lines)
    assert bench.store.rows == whole.store.rows


def test_a_refusal_without_a_dead_letter() -> None:
    """What a stream has moved past is told as refused, though it could not be kept."""
    bench = Bench(routes=ROUTES, held=False, dead_letters=frozenset({"messages"}))
    bench.store.poison = {b"bad"}
    bench.peer.dataReceived(b"HELLO s\nPUT messages #1 a\n")
    bench.store.dead_letter_failures.append(Unavailable("away"))
    bench.peer.dataReceived(b"PUT messages #2 bad\nPUT messages #3 c\n")
    assert [answer[:4] for answer in bench.said.splitlines()] == [b"+OK ", b"+OK", b"-REJ", b"+OK"]
    assert [message for _, message in bench.store.rows] == [b"a", b"c"]


def test_many_requests_at_once_are_read_once() -> None:
    """What comes after a request is not read again and again."""
    bench = Bench(routes=["messages"], window=1000)
    conversation: Any = bench.peer._reader
    seen = 0

    class Counting:
        def read(self, frames: list[bytes], oversize: bool) -> Any:
            nonlocal seen
            seen += len(frames)
            return conversation.read(frames, oversize)

        def __getattr__(self, name: str) -> Any:
            return getattr(conversation, name)

    bench.peer._reader = cast(Any, Counting())
    bench.peer.dataReceived(b"SYNC\n" * 5000)
    assert bench.said == b"+OK ok=0 rej=0 try=0\n" * 5000
    assert seen < 4 * 5000


def test_relay_tells_where_messages_go_on_to() -> None:
    """An edge hears over which other edges its messages go on; the centre itself tells of none."""
    bench = Bench(routes=ROUTES)
    bench.peer.dataReceived(b"RELAY a-1\nRELAY\nRELAY a b\n")
    first, *others = bench.transport.value().splitlines()
    assert first == b"+OK"
    assert [other[:12] for other in others] == [b"-REJ FORMAT "] * 2
