"""
The session against a gateway in memory, over a network that does its worst.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.client.answers import (
    BufferFull,
    Garbled,
    Refused,
    StreamLost,
    StreamTaken,
    Unsendable,
)
from gateway.client.buffer import MemoryBuffer
from gateway.client.parcel import Parcel, Push, Question
from gateway.client.retry_after import backoff_policy
from gateway.client.session import Session
from gateway.wire.framing import FRAMINGS
from tests.client.model import Model, Peer, Stream


class Wired:
    """
    A session and a model of a gateway, with a network between them that a test drives.
    """

    def __init__(self, model: Model, **options: object) -> None:
        self.model = model
        self.now = 0.0
        self.session = Session(
            options.pop("buffer", None) or MemoryBuffer(),  # type: ignore[arg-type]
            lambda attempt: 0.1 * attempt,
            dialect=model.dialect,
            framing=model.framing,
            **options,  # type: ignore[arg-type]
        )
        self.events: list[Parcel | Question | Push] = []
        self.peer: Peer | None = None
        self._up = b""
        self._down = b""

    def connect(self) -> None:
        self.peer = self.model.connect()
        self._up = self._down = b""
        self.session.connected()

    def begin(self) -> None:
        """Connect, and have the PING answered with which a client begins."""
        self.connect()
        self.up()
        self.down()

    def cut(self) -> None:
        """The connection is lost, and with it whatever is on its way."""
        assert self.peer is not None
        self.peer.lost()
        self.peer = None
        self.session.lost()

    def up(self, most: int = 1_000_000) -> None:
        """So many bytes reach the gateway."""
        assert self.peer is not None
        self._up += self.session.output(self.now)
        data, self._up = self._up[:most], self._up[most:]
        self.peer.receive(data)
        self._down += bytes(self.peer.out)
        self.peer.out.clear()

    def down(self, most: int = 1_000_000) -> None:
        """So many bytes reach the client."""
        assert self.peer is not None
        self._down += bytes(self.peer.out)
        self.peer.out.clear()
        data, self._down = self._down[:most], self._down[most:]
        try:
            if data:
                self.session.receive(data, self.now)
        finally:
            self.events += self.session.take_events()

    def settle(self) -> None:
        """All that can happen does."""
        for _ in range(10_000):
            if self.session.failure is not None:
                return
            if self.peer is None:
                self.connect()
            self.up()
            self.down()
            if self.session.leaving and self.session.failure is None:
                self.cut()
            elif not self._up and not self._down and not self.session.awaits_answer:
                self._up = self.session.output(self.now)
                wait = self.session.wait(self.now)
                if not self._up and wait is None:
                    return
                self.now += 0.0 if self._up or wait is None else wait
        raise AssertionError("it never ends")

    def runs(self, parcel: Parcel) -> list[tuple[int, str]]:
        return [(count, str(answer)) for count, answer in parcel.runs]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "up", "up", "down", "down", "cut", "wait", "settle"]),
        st.integers(1, 200),
    ),
    min_size=10,
    max_size=60,
)


def fickle(seed: int, model: Model) -> None:
    """
    Some messages are refused for good, always the same; others sometimes for now.
    """
    chance = random.Random(seed)

    def fate(message: bytes) -> bytes:
        if b"bad" in message:
            return b"-REJ DATA :bad"
        if chance.random() < 0.15:
            return chance.choice([b"-TRY DOWN retry=1 :away", b"-TRY BUSY :no room"])
        return chance.choice([b"+OK", b"+OK", b"+OK", b"+QUE", b"+OK id=7"])

    model.fate = fate
    model.put_off = lambda: chance.choice(
        [b"", b"", b"-TRY GAP retry=1 :elsewhere", b"-TRY DOWN retry=1 :away"]
    )


@settings(max_examples=150, deadline=None)
@given(
    STEPS,
    st.integers(0, 1000),
    st.sampled_from(["line", "netstring", "octet-counted"]),
    st.integers(1, 12),
)
def test_a_stream_is_exactly_once_and_in_order(
    steps: list[tuple[str, int]], seed: int, framing: str, window: int
) -> None:
    """Whatever is refused, cut, lost or late: each good message is stored once, in order."""
    model = Model(framing=framing)
    fickle(seed, model)
    wired = Wired(model, stream="s", window=window)
    sent: list[bytes] = []
    parcels: list[Parcel] = []
    for step, much in steps:
        if step == "put":
            messages = [
                b"%d%s" % (len(sent) + n, b" bad" if (len(sent) + n) % 3 == 1 else b"")
                for n in range(much % 9)
            ]
            parcels.append(wired.session.put("r", messages))
            sent += messages
        elif step == "wait":
            wired.now += much / 100
        elif step == "settle":
            wired.settle()
        elif wired.peer is None:
            wired.connect()
        elif step == "up":
            wired.up(much)
        elif step == "down":
            wired.down(much)
        else:
            wired.cut()
    wired.settle()
    assert wired.session.failure is None
    good = [message for message in sent if b"bad" not in message]
    assert model.table == good
    assert not wired.session.unanswered
    told = [event for event in wired.events if isinstance(event, Parcel)]
    assert sorted(map(id, told)) == sorted(map(id, parcels))
    answers = [a for parcel in parcels for count, a in parcel.runs for _ in range(count)]
    assert [answer.word == "-REJ" for answer in answers] == [b"bad" in m for m in sent]


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 1000), st.sampled_from(["command", "plain"]), st.integers(1, 12))
def test_without_a_stream_nothing_is_lost(
    steps: list[tuple[str, int]], seed: int, dialect: str, window: int
) -> None:
    """Without a stream each good message is stored at least once, however connections end."""
    model = Model(dialect=dialect)
    fickle(seed, model)
    wired = Wired(model, window=window)
    sent: list[bytes] = []
    cuts = 0
    for step, much in steps:
        if step == "put":
            messages = [b"%d%s" % (len(sent) + n, b" bad" * (n % 3 == 2)) for n in range(much % 9)]
            wired.session.put("r", messages)
            sent += messages
        elif step == "wait":
            wired.now += much / 100
        elif step == "settle":
            wired.settle()
        elif wired.peer is None:
            wired.connect()
        elif step == "up":
            wired.up(much)
        elif step == "down":
            wired.down(much)
        else:
            cuts += 1
            wired.cut()
    wired.settle()
    assert wired.session.failure is None and not wired.session.unanswered
    good = [message for message in sent if b"bad" not in message]
    assert set(model.table) == set(good)
    assert cuts or len(model.table) == len(good)


def test_a_client_says_what_it_has_seen() -> None:
    """The first HELLO says nothing; each one after that the last answered number, and the epoch."""
    model = Model()
    wired = Wired(model, stream="s", window=2)
    wired.session.put("r", [b"1", b"2", b"3"])
    wired.begin()
    wired.up()
    wired.down()
    wired.up()
    wired.down(4)
    wired.cut()
    wired.settle()
    wired.cut()
    wired.settle()
    assert model.hellos == [b"s", b"s seen=1 epoch=e-1", b"s seen=3 epoch=e-1"]
    assert model.table == [b"1", b"2", b"3"]


def test_refusals_are_seen() -> None:
    """A refusal used its number up, and is counted by HELLO, also at the very end."""
    model = Model()
    model.fate = lambda message: b"-REJ DATA :bad" if message == b"bad" else b"+OK"
    wired = Wired(model, stream="s")
    wired.session.put("r", [b"1", b"bad", b"bad"])
    wired.settle()
    wired.cut()
    wired.session.put("r", [b"2"])
    wired.settle()
    assert model.hellos[-1] == b"s seen=3 epoch=e-1"
    assert model.table == [b"1", b"2"] and model.streams["s"].last == 4


def test_what_is_too_long_at_the_end_is_not_seen() -> None:
    """Its number may go to the next one, so HELLO counts what came before; others are counted."""
    model = Model(max_frame=50)
    wired = Wired(model, stream="s")
    long = b"x" * 100
    for messages, hello in (
        ([b"1", long, long], b"s seen=1 epoch=e-1"),
        ([b"2", long, b"3"], b"s seen=3 epoch=e-1"),
    ):
        wired.session.put("r", messages)
        wired.settle()
        wired.cut()
        wired.settle()
        assert model.hellos[-1] == hello
    assert model.table == [b"1", b"2", b"3"] and model.streams["s"].last == 3


@pytest.mark.parametrize("why", [b"-TRY GAP retry=3 :elsewhere", b"-TRY DOWN retry=3 :away"])
def test_a_hello_that_is_put_off_is_said_again(why: bytes) -> None:
    """Nothing is sent and nothing is given up meanwhile; after retry= seconds it is asked again."""
    model = Model()
    wired = Wired(model, stream="s")
    wired.session.put("r", [b"1"])
    wired.settle()
    wired.cut()
    model.put_off = lambda: why
    wired.session.put("r", [b"2", b"3"])
    wired.begin()
    wired.up()
    wired.down()
    for tries in (2, 3, 4):
        assert model.hellos[1:] == [b"s seen=1 epoch=e-1"] * (tries - 1)
        assert str(wired.session.put_off) == why.decode()
        assert wired.session.failure is None and not wired.session.leaving
        assert not wired.session.ready and wired.session.unanswered == 2
        assert wired.session.wait(wired.now) == 3.0
        assert wired.session.output(wired.now + 2.9) == b""
        wired.now += 3.0
        wired.up()
        wired.down()
    model.put_off = lambda: b""
    wired.settle()
    assert wired.session.put_off is None and wired.session.ready
    assert model.table == [b"1", b"2", b"3"]


def test_a_goodbye_with_gap_is_no_end() -> None:
    """-BYE GAP to a PUT: over the next connection it is put off until the gateway can go on."""
    model = Model()
    wired = Wired(model, stream="s")
    wired.session.put("r", [b"1"])
    wired.settle()
    wired.session.put("r", [b"2"])
    wired.session.output(wired.now)
    assert wired.peer is not None
    wired.peer.leave(b"-BYE GAP :the database is behind")
    wired.down()
    assert wired.session.leaving and wired.session.failure is None
    wired.cut()
    answers = [b"-TRY GAP retry=1 :behind", b"-TRY GAP retry=1 :behind"]
    model.put_off = lambda: answers.pop() if answers else b""
    wired.settle()
    assert model.hellos == [b"s", *[b"s seen=1 epoch=e-1"] * 3]
    assert model.table == [b"1", b"2"]


def test_a_hello_that_is_put_off_is_over_with_its_connection() -> None:
    """A connection lost meanwhile is another reason; over the next one it is said again."""
    model = Model()
    wired = Wired(model, stream="s")
    wired.settle()
    wired.cut()
    model.put_off = lambda: b"-TRY GAP retry=1 :elsewhere"
    wired.begin()
    wired.up()
    wired.down()
    assert wired.session.put_off is not None
    wired.cut()
    assert wired.session.put_off is None
    model.put_off = lambda: b""
    wired.session.put("r", [b"1"])
    wired.settle()
    assert model.table == [b"1"]


def test_a_gateway_that_tells_no_epoch_is_told_none() -> None:
    """Of an earlier version's HELLO only the number is known; a later one's epoch is taken."""
    model = Model()
    model.epochs = None
    wired = Wired(model, stream="s")
    for messages in ([b"1"], [b"2"]):
        wired.session.put("r", messages)
        wired.settle()
        wired.cut()
    model.epochs = 0
    model.streams["s"].epoch = b"e"
    for _ in range(2):
        wired.settle()
        wired.cut()
    assert model.hellos == [b"s", b"s seen=1", b"s seen=2", b"s seen=2 epoch=e"]


def test_an_epoch_that_is_no_word_is_not_said_again() -> None:
    """What would be more than one word of the next HELLO is taken as none."""
    for epoch in ('"a b"', r'"a\nPUT r x"', "null", "x" * 65, "ä"):
        session = Session(MemoryBuffer(), lambda attempt: 0.1, stream="s")
        session.connected()
        session.receive(b"+OK " + session.output(0.0).removeprefix(b"PING "), 0.0)
        session.output(0.0)
        session.receive(f"+OK seq=0 epoch={epoch}\n".encode(), 0.0)
        session.lost()
        session.connected()
        session.receive(b"+OK " + session.output(0.0).removeprefix(b"PING "), 0.0)
        assert session.output(0.0) == b"HELLO s seen=0\n"


@pytest.mark.parametrize("framing", ["line", "netstring", "octet-counted"])
def test_a_message_too_long_costs_only_itself(framing: str) -> None:
    """Refused without its number being seen, it leaves no gap, and the stream goes on."""
    model = Model(framing=framing, max_frame=50)
    wired = Wired(model, stream="s", window=5)
    long = b"x" * 100
    parcel = wired.session.put("r", [b"a", long, long, b"b", long, b"c", b"d"])
    wired.settle()
    assert wired.session.failure is None
    assert model.table == [b"a", b"b", b"c", b"d"]
    words = [answer.word for count, answer in parcel.runs for _ in range(count)]
    assert words == ["+OK", "-REJ", "-REJ", "+OK", "-REJ", "+OK", "+OK"]
    assert all(a.code == "TOOBIG" for _, a in parcel.runs if a.word == "-REJ")
    wired.session.put("r", [long])
    wired.settle()
    wired.cut()
    wired.session.put("r", [b"e"])
    wired.settle()
    assert model.table[-1] == b"e"


def test_answers_are_runs() -> None:
    """A thousand equal answers are one run, and values stay with their message."""
    model = Model()
    wired = Wired(model)
    model.fate = lambda message: b"+OK id=" + message if message == b"500" else b"+OK"
    parcel = wired.session.put("r", [b"%d" % n for n in range(1000)])
    wired.settle()
    assert wired.runs(parcel) == [(500, "+OK"), (1, "+OK id=500"), (499, "+OK")]
    assert parcel.runs[1][1].values == {"id": "500"}


def test_what_was_in_doubt_is_unknown_without_resending() -> None:
    """With resend=False a lost connection leaves unknown fates, and sends nothing twice."""
    model = Model(dialect="plain")
    wired = Wired(model, resend=False, window=3)
    parcel = wired.session.put("", [b"1", b"2", b"3", b"4"])
    wired.connect()
    wired.up()
    wired.down(4)
    wired.cut()
    wired.settle()
    assert wired.runs(parcel) == [(1, "+OK"), (2, "?"), (1, "+OK")]
    assert model.table == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(("last", "hint"), [(3, "set back"), (7, "another client")])
def test_a_stream_that_does_not_fit_is_lost(last: int, hint: str) -> None:
    """+OK behind what was answered, or beyond what was sent: the client stops and says why."""
    wired = Wired(Model(), stream="s")
    wired.session.put("r", [b"x"] * 5)
    wired.settle()
    wired.cut()
    wired.begin()
    assert wired.session.output(wired.now) == b"HELLO s seen=5 epoch=e-1\n"
    with pytest.raises(StreamLost, match=hint):
        wired.session.receive(b"+OK seq=%d epoch=e-1\n" % last, wired.now)
    assert isinstance(wired.session.failure, StreamLost)
    with pytest.raises(StreamLost):
        wired.session.put("r", [b"y"])


def test_a_database_that_was_set_back_is_waited_for() -> None:
    """A gateway that is behind what was answered tells no number: messages wait, none is lost."""
    model = Model()
    wired = Wired(model, stream="s")
    wired.session.put("r", [b"1", b"2", b"3"])
    wired.settle()
    wired.cut()
    model.streams["s"].last = 1
    wired.session.put("r", [b"4"])
    wired.connect()
    for _ in range(5):
        wired.up()
        wired.down()
        wired.now += 1.0
    assert wired.session.failure is None and wired.session.unanswered == 1
    assert wired.session.put_off is not None and "#1" in str(wired.session.put_off)
    model.streams["s"].last = 3
    wired.settle()
    assert model.table == [b"1", b"2", b"3", b"4"]


def owing(model: Model, **options: object) -> Wired:
    """A client with #1 answered, #2 and #3 in flight, and its connection lost."""
    wired = Wired(model, stream="s", **options)
    wired.session.put("r", [b"1"])
    wired.settle()
    wired.session.put("r", [b"2", b"3"])
    assert wired.session.output(wired.now) == b"PUT r #2 2\nPUT r #3 3\n"
    wired.cut()
    return wired


def test_a_number_of_another_epoch_says_nothing_of_what_is_owed() -> None:
    """Numbers in flight that another epoch covers may be another client's: nothing is guessed."""
    wired = owing(Model())
    wired.begin()
    wired.session.output(wired.now)
    with pytest.raises(StreamLost, match=r"another client took it over.* 2 and those after it"):
        wired.session.receive(b"+OK seq=2 epoch=other\n", wired.now)
    assert wired.session.unanswered == 2


def test_what_is_owed_goes_on_in_another_epoch_that_does_not_cover_it() -> None:
    """Where the new epoch has none of the numbers in flight, all are sent, and it is said."""
    model = Model()
    wired = owing(model)
    model.streams["s"].epoch = b"other"
    wired.begin()
    wired.session.output(wired.now)
    wired.session.receive(b"+OK seq=1 epoch=other\n", wired.now)
    assert wired.session.output(wired.now) == b"PUT r #2 2\nPUT r #3 3\n"
    wired.cut()
    wired.settle()
    assert model.hellos[-1] == b"s seen=1 epoch=other" and model.table == [b"1", b"2", b"3"]


@pytest.mark.parametrize("theirs", [0, 1, 2])
def test_a_stream_taken_over_while_messages_are_owed(theirs: int) -> None:
    """No epoch is said; if the newer client stored nothing it goes on, else nothing is guessed."""
    model = Model()
    old, new = Wired(model, stream="s", takeover="retry"), Wired(model, stream="s")
    old.session.put("r", [b"1"])
    old.settle()
    old.session.put("r", [b"2", b"3"])
    old.session.output(0.0)
    new.session.put("r", [b"new"] * theirs)
    new.settle()
    old.down()
    old.cut()
    if theirs:
        with pytest.raises(StreamLost, match="another client took it over"):
            old.settle()
        assert model.hellos[-1] == b"s seen=1"
        assert model.table == [b"1", *[b"new"] * theirs]
        return
    old.settle()
    assert model.hellos[-1] == b"s seen=1"
    assert model.table == [b"1", b"2", b"3"]
    old.cut()
    old.settle()
    assert model.hellos[-1] == b"s seen=3 epoch=e-2"


def test_a_new_client_goes_on_where_the_stream_is() -> None:
    """Numbers begin behind the last one that the gateway has."""
    model = Model()
    model.streams["s"] = Stream(last=41)
    wired = Wired(model, stream="s")
    wired.session.put("r", [b"x"])
    wired.settle()
    assert model.streams["s"].last == 42 and model.table == [b"x"]


def test_a_stream_taken_over_is_not_fought_for() -> None:
    """The newer client has the stream, the older one stops; or comes back if it is told to."""
    model = Model()
    first, second = Wired(model, stream="s"), Wired(model, stream="s")
    third = Wired(model, stream="t", takeover="retry")
    for wired in (first, third, second):
        wired.connect()
        wired.settle()
    first.down()
    assert isinstance(first.session.failure, StreamTaken) and second.session.ready
    for messages in ([], [b"another's"]):
        other = Wired(model, stream="t")
        other.connect()
        other.session.put("r", messages)
        other.settle()
        third.down()
        assert third.session.failure is None and third.session.leaving
        third.cut()
        third.connect()
        third.settle()
        third.session.put("r", [b"mine"])
        third.settle()
    assert model.table == [b"mine", b"another's", b"mine"]


def test_what_was_in_flight_at_a_takeover_cannot_be_known() -> None:
    """The newer client may have used its numbers, so that +DUP would say nothing: it is told."""
    model = Model()
    old, new = Wired(model, stream="s", takeover="retry"), Wired(model, stream="s")
    old.begin()
    old.up()
    old.down()
    old.session.put("r", [b"old"])
    data = old.session.output(0.0)
    new.session.put("r", [b"new"])
    new.settle()
    assert data == b"PUT r #1 old\n" and model.table == [b"new"]
    old.down()
    old.cut()
    old.begin()
    old.up()
    with pytest.raises(StreamLost, match="took it over"):
        old.down()


def test_what_a_framing_cannot_say_is_refused_at_home() -> None:
    """A line feed in a line, an end that would be dropped, an empty octet count: not sent."""
    lines, octets = Wired(Model()), Wired(Model("plain", "octet-counted"))
    for bad in (b"a\nb", b"a\r"):
        with pytest.raises(Unsendable, match=r"message 1 .*netstring"):
            lines.session.put("r", [b"good", bad])
    with pytest.raises(Unsendable, match="message 0 is empty"):
        octets.session.put("", [b""])
    with pytest.raises(ValueError, match="a route is"):
        lines.session.put("no route", [b"x"])
    nuls = Wired(Model(framing="nul"))
    with pytest.raises(Unsendable, match=r"message 1 holds a NUL.*netstring"):
        nuls.session.put("r", [b"a\nb\r", b"a\0b"])
    assert not lines.session.unanswered and not nuls.session.unanswered
    nuls.session.put("r", [b"a\nb\r", b""])
    nuls.settle()
    assert nuls.model.table == [b"a\nb\r", b""]
    netstrings = Wired(Model(framing="netstring"))
    netstrings.session.put("r", [b"a\nb\r", b""])
    netstrings.settle()
    assert netstrings.model.table == [b"a\nb\r", b""]


def test_a_full_buffer_takes_nothing() -> None:
    """Beyond its bound nothing of a call is taken; answers make room again."""
    model = Model()
    wired = Wired(model, buffer=MemoryBuffer(max_bytes=200))
    wired.session.put("r", [b"x" * 50])
    with pytest.raises(BufferFull, match="max_bytes"):
        wired.session.put("r", [b"y" * 50, b"z" * 50])
    wired.settle()
    wired.session.put("r", [b"y" * 50, b"z" * 50])
    wired.settle()
    assert len(model.table) == 3


def test_questions_do_not_wait_for_messages() -> None:
    """While messages are refused for now, a query is answered; its rows come whole."""
    model = Model()
    model.fate = lambda message: b"-TRY DOWN retry=5 :away"
    model.queries["last"] = lambda arguments: [{"n": 1}, {"n": arguments}]
    wired = Wired(model, stream="s")
    wired.session.put("r", [b"x"] * 10)
    wired.connect()
    for _ in range(3):
        wired.up()
        wired.down()
    question = wired.session.call("last", {"a": 1})
    wired.up()
    for _ in range(1000):
        wired.down(1)
    assert question.complete and question.rows == [b'{"n": 1}', b'{"n": {"a": 1}}']
    assert wired.session.unanswered == 10
    wrong = wired.session.call("nope", None)
    ping = wired.session.ping("hello you")
    wired.up()
    wired.down()
    assert wrong.answer is not None and wrong.answer.code == "QUERY"
    assert ping.text == "hello you"


def test_an_answer_cut_in_its_rows_is_asked_for_again() -> None:
    """A connection lost between rows gives all of them, once."""
    model = Model()
    model.queries["q"] = lambda arguments: [1, 2, 3]
    wired = Wired(model)
    question = wired.session.call("q", None)
    wired.connect()
    wired.up()
    wired.down(6)
    wired.cut()
    wired.settle()
    assert question.rows == [b"1", b"2", b"3"]


def test_listening_goes_on_after_a_reconnect() -> None:
    """Channels are listened to again, and the listener is told that it may have missed some."""
    model = Model()
    wired = Wired(model)
    wired.session.listen("news")
    denied = wired.session.listen("secret")
    model.denied = {"secret"}
    wired.settle()
    assert denied.answer is not None and denied.answer.code == "DENIED"
    model.notify("news", "one two")
    model.gap("news")
    wired.settle()
    wired.cut()
    model.denied.clear()
    wired.settle()
    model.notify("news", "three")
    wired.settle()
    pushes = [event for event in wired.events if isinstance(event, Push)]
    assert [(push.channel, push.payload) for push in pushes] == [
        ("news", "one two"),
        ("news", None),
        ("news", None),
        ("news", "three"),
    ]
    assert wired.peer is not None and wired.peer.channels == {"news"}
    wired.session.unlisten("news")
    wired.settle()
    wired.cut()
    wired.settle()
    assert not wired.peer or not wired.peer.channels


def test_who_speaks_another_language_is_left_for_good() -> None:
    """A stranger's first words end the client; once understood, garbage costs a connection only."""
    stranger = Wired(Model())
    stranger.connect()
    with pytest.raises(Garbled, match="HTTP"):
        stranger.session.receive(b"HTTP/1.1 400 Bad Request\r\n\n", 0.0)
    assert isinstance(stranger.session.failure, Garbled)
    known = Wired(Model())
    known.session.put("r", [b"x"])
    known.settle()
    with pytest.raises(Garbled, match="nothing was asked"):
        known.session.receive(b"+OK\n", 0.0)
    assert known.session.failure is None


def test_a_framing_that_is_not_the_listeners_is_told() -> None:
    """-BYE FORMAT before anything was understood is a mistake of a person, who is told."""
    model = Model("plain", "netstring")
    session = Session(MemoryBuffer(), lambda attempt: 0.1, dialect="plain", framing="line")
    session.put("", [b"hello"])
    session.connected()
    peer = model.connect()
    peer.receive(session.output(0.0))
    assert peer.closed
    with pytest.raises(Garbled):
        session.receive(bytes(peer.out) + b"\n", 0.0)
    assert session.failure is not None


def test_a_listener_without_streams_is_told() -> None:
    """HELLO refused is no reason to try for ever."""
    wired = Wired(Model(), stream="s")
    wired.begin()
    wired.session.output(0.0)
    wired.session.receive(b"-REJ QUERY :HELLO is not offered by this gateway\n", 0.0)
    assert isinstance(wired.session.failure, Refused)


def test_backoff_grows_to_its_bound_and_differs() -> None:
    """Twice as long each time, never longer than the bound, between half of it and all."""
    most, least = backoff_policy(lambda: 1.0, 0.1, 5.0), backoff_policy(lambda: 0.0, 0.1, 5.0)
    assert [round(most(n), 3) for n in (1, 2, 3, 6, 7, 1000)] == [0.1, 0.2, 0.4, 3.2, 5.0, 5.0]
    assert least(3) == 0.2


def test_retry_is_heeded() -> None:
    """-TRY with retry= is not asked again before that time."""
    model = Model("plain")
    model.fate = lambda message: b"-TRY DOWN retry=7 :away"
    wired = Wired(model)
    wired.session.put("", [b"x"])
    wired.connect()
    wired.up()
    wired.down()
    assert wired.session.wait(wired.now) == 7.0
    assert wired.session.output(6.9) == b""
    assert wired.session.output(7.0) == b"x\n"


@pytest.mark.parametrize(
    ("framing", "message"),
    [
        ("int8", b"\xbb\xbf".ljust(0xEF, b"x")),
        ("int16", b"\xbf".ljust(0xEFBB, b"x")),
        ("int32", b"\xef\xbb\xbf"),
        ("netstring", b"\xef\xbb\xbf"),
    ],
)
def test_a_length_that_looks_like_a_byte_order_mark(framing: str, message: bytes) -> None:
    """It is a length, and nothing is put before it."""
    session = Session(MemoryBuffer(), lambda attempt: 0.1, dialect="plain", framing=framing)
    session.put("", [message])
    session.connected()
    assert FRAMINGS[framing](65536).receive(session.output(0.0)) == [message]


@pytest.mark.parametrize("framing", ["line", "nul", "netstring", "octet-counted", "int32"])
@pytest.mark.parametrize("dialect", ["command", "plain"])
def test_a_message_that_begins_with_a_byte_order_mark(framing: str, dialect: str) -> None:
    """It is stored as it is, though a gateway drops a mark at the start of each connection."""
    model = Model(dialect, framing)
    wired = Wired(model)
    messages = [b"\xef\xbb\xbfa", b"\xef\xbb\xbf"]
    for _ in range(2):
        wired.session.put("r" if dialect == "command" else "", messages)
        wired.settle()
        wired.cut()
    assert model.table == messages * 2


@pytest.mark.parametrize("theirs", [0, 1, 2])
def test_a_stream_taken_while_it_was_cut_off(theirs: int) -> None:
    """The next HELLO is told that another client began anew: it ends, or asks without an epoch."""
    for takeover in ("stop", "retry"):
        model = Model()
        old, new = Wired(model, stream="s", takeover=takeover), Wired(model, stream="s")
        old.session.put("r", [b"1"])
        old.settle()
        old.session.put("r", [b"2", b"3"])
        old.session.output(0.0)
        old.cut()
        new.session.put("r", [b"new"] * theirs)
        new.begin()
        new.settle()
        new.cut()
        if takeover == "stop":
            old.begin()
            old.up()
            old.down()
            assert isinstance(old.session.failure, StreamTaken)
        elif theirs:
            with pytest.raises(StreamLost, match="another client took it over"):
                old.settle()
            assert model.hellos[-2:] == [b"s seen=1 epoch=e-1", b"s seen=1"]
        else:
            old.settle()
            assert model.table == [b"1", b"2", b"3"]
