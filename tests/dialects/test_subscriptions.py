"""
Channels: who gets which notification, once and in order, and what it costs the others.

Without a database; what PostgreSQL does is in L{tests.postgres.connect.test_notifications}.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from gateway.config.channel import ChannelsSection
from gateway.config.load import load_config
from gateway.daemon.configuration import endpoint_fault
from gateway.dialects.subscriptions import FULL, LONGEST_REST, SLICE, Subscriptions
from gateway.model import wording
from gateway.model.errors import ConfigError
from gateway.model.outcome import Outcome
from gateway.peers.timeouts import Timeouts
from gateway.wire.framing import FRAMINGS
from gateway.wire.push import Pushes
from tests.in_memory import Bench, MemoryNotifier, OnSocket, give, take
from tests.support import until

CHANNELS = ("news", "orders", "Späße")


class Ear:
    """
    A subscriber that remembers.

    @ivar pushes: all it was told, each push a list.
    @ivar slow: seconds that a push takes, on the clock of the test.
    """

    def __init__(self, clock: Clock | None = None, slow: float = 0.0) -> None:
        self.pushes: list[list[bytes]] = []
        self.deaf = False
        self._clock = clock
        self._slow = slow

    def push(self, pushes: Pushes) -> bool:
        if self.deaf:
            return False
        if self._clock is not None:
            self._clock.rightNow += self._slow
        self.pushes.append(list(pushes.payloads))
        return True

    @property
    def heard(self) -> list[bytes]:
        return [payload for push in self.pushes for payload in push]


class Town:
    """
    Channels with a notifier in memory.
    """

    def __init__(self, held: bool = False, at_once: int = SLICE) -> None:
        self.clock = Clock()
        self.notifier = MemoryNotifier(held)
        self.channels = Subscriptions(CHANNELS, self.notifier, self.clock, at_once)

    def subscribe(self, channel: str, ear: Ear) -> list[str]:
        """@return: the answer, once there is one."""
        return answer(self.channels.subscribe(channel, ear))

    def unsubscribe(self, channel: str, ear: Ear) -> list[str]:
        return answer(self.channels.unsubscribe(channel, ear))


def turn(clock: Clock) -> None:
    """One round of a reactor: what is due now, and not what that begins."""
    for call in [call for call in clock.calls if call.getTime() <= clock.seconds()]:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args)


def answer(asked: Any) -> list[str]:
    said: list[str] = []
    coming: Deferred[Outcome] = Deferred.fromCoroutine(asked)
    coming.addCallback(lambda outcome: said.append(bytes(outcome).decode()))
    coming.addErrback(lambda failure: said.append(repr(failure.value)))
    return said


def test_ok_follows_listen() -> None:
    """LISTEN is answered when PostgreSQL has confirmed it, and not before."""
    town, ear = Town(held=True), Ear()
    said = town.subscribe("news", ear)
    assert said == [] and town.notifier.said == ["LISTEN news"]
    town.notifier.confirm()
    assert said == ["+OK"]
    town.notifier.notify(("news", "hello"))
    assert ear.heard == [b">news hello"]


def test_a_channel_that_is_not_offered() -> None:
    """What the configuration does not allow is denied, with what may have been meant."""
    town, ear = Town(), Ear()
    denied = ["-REJ DENIED :channel 'new' is not offered; did you mean 'news'?"]
    assert town.subscribe("new", ear) == denied == town.unsubscribe("new", ear)
    assert town.subscribe("x" * 300, ear)[0].startswith("-REJ DENIED :channel 'xxx")
    assert town.notifier.said == []


def test_the_database_is_away() -> None:
    """Without a database LISTEN is to be tried again, and leaves nothing behind."""
    town, ear = Town(held=True), Ear()
    town.notifier.away = True
    assert town.subscribe("news", ear) == ["-TRY DOWN retry=1 :the database cannot be reached"]
    town.notifier.away = False
    said = town.subscribe("news", ear)
    town.notifier.lose()
    assert said == ["-TRY DOWN retry=1 :the database cannot be reached"]
    town.notifier.notify(("news", "hello"))
    assert ear.heard == []


def test_a_thousand_at_once() -> None:
    """A thousand that ask for one channel cost one LISTEN, and one UNLISTEN when all have left."""
    town = Town(held=True)
    ears = [Ear() for _ in range(1000)]
    said = [town.subscribe("news", ear) for ear in ears]
    town.notifier.confirm()
    assert said == [["+OK"]] * 1000 and town.notifier.said == ["LISTEN news"]
    town.notifier.notify(("news", "hello"))
    town.clock.pump([0] * 20)
    assert [ear.pushes for ear in ears] == [[[b">news hello"]]] * 1000
    for ear in ears:
        assert town.notifier.said == ["LISTEN news"]
        town.channels.end_all(ear)
        town.channels.end_all(ear)
    assert town.notifier.said == ["LISTEN news", "UNLISTEN news"]


def test_leaving_while_listen_is_under_way() -> None:
    """Who leaves or takes LISTEN back before it is confirmed gets nothing."""
    town = Town(held=True)
    gone, stays = Ear(), Ear()
    town.subscribe("news", gone)
    town.channels.end_all(gone)
    town.notifier.confirm()
    assert town.notifier.said == ["LISTEN news", "UNLISTEN news"]
    for ear in (gone, stays):
        town.subscribe("orders", ear)
    assert town.unsubscribe("orders", gone) == ["+OK"]
    town.notifier.confirm()
    town.notifier.notify(("orders", "1"), ("news", "2"))
    assert gone.heard == [] and stays.heard == [b">orders 1"]


def test_asking_twice() -> None:
    """LISTEN twice is one subscription; UNLISTEN of what one does not listen to is no fault."""
    town, ear = Town(), Ear()
    assert town.unsubscribe("news", ear) == ["+OK"]
    assert town.subscribe("news", ear) + town.subscribe("news", ear) == ["+OK", "+OK"]
    town.notifier.notify(("news", "once"))
    assert ear.heard == [b">news once"]
    assert town.unsubscribe("news", ear) == ["+OK"]
    town.notifier.notify(("news", "never"))
    assert ear.heard == [b">news once"]


def test_one_read_is_one_push() -> None:
    """What came at once is one push, of all channels of a subscriber, in PostgreSQL's order."""
    town, both, one = Town(), Ear(), Ear()
    for channel in ("orders", "news"):
        town.subscribe(channel, both)
    town.subscribe("orders", one)
    town.notifier.notify(("news", "1"), ("orders", "2"), ("Späße", "3"), ("news", ""))
    assert both.pushes == [[b">news 1", b">orders 2", b">news "]]
    assert one.pushes == [[b">orders 2"]]


def test_gaps_have_their_place() -> None:
    """What may be missing is said between what came before it and what came after."""
    town, ear, other = Town(), Ear(), Ear()
    town.subscribe("Späße", ear)
    town.subscribe("news", other)
    town.notifier.notify(("Späße", "1"))
    town.notifier.miss("Späße")
    town.notifier.notify(("Späße", "ü"))
    town.clock.pump([0] * 9)
    assert ear.heard == [line.encode() for line in (">Späße 1", ">!gap Späße", ">Späße ü")]
    assert other.heard == []


def test_who_takes_no_more_leaves() -> None:
    """Who takes no more loses all its subscriptions, and so does who fails; the others stay."""
    town, deaf, broken, other = Town(), Ear(), Ear(), Ear()
    for channel in ("news", "orders"):
        for ear in (deaf, broken):
            town.subscribe(channel, ear)
    town.subscribe("news", other)
    deaf.deaf = True
    broken.pushes = None  # type: ignore[assignment]
    with capturedLogs() as events:
        town.notifier.notify(("news", "1"))
    assert [formatEvent(event) for event in events] == ["a push failed"]
    assert other.heard == [b">news 1"]
    assert town.notifier.said == ["LISTEN news", "LISTEN orders", "UNLISTEN orders"]


def test_rounds_leave_the_reactor_to_others() -> None:
    """A round is told in slices, what comes meanwhile is the next one, and each rests after it."""
    town = Town()
    count = 3 * SLICE + 1
    ears = [Ear(town.clock, 0.00001) for _ in range(count)]
    for ear in ears:
        town.subscribe("news", ear)
    town.notifier.notify(("news", "1"))
    assert sum(len(ear.pushes) for ear in ears) == SLICE
    town.notifier.notify(("news", "2"))
    town.notifier.notify(("news", "3"))
    for told in (2 * SLICE, 3 * SLICE, count):
        turn(town.clock)
        assert sum(len(ear.pushes) for ear in ears) == told
    took = count * 0.00001
    town.clock.advance(3.9 * took)
    assert sum(len(ear.pushes) for ear in ears) == count
    town.clock.advance(0.2 * took)
    town.clock.pump([0] * 3)
    assert ears[0].pushes == ears[-1].pushes == [[b">news 1"], [b">news 2", b">news 3"]]


def test_a_rest_ends() -> None:
    """A rest is never longer than a tenth of a second, and what is much does not wait for it."""
    town = Town()
    ear = Ear(town.clock, 0.05)
    town.subscribe("news", ear)
    town.notifier.notify(("news", "1"))
    town.notifier.notify(("news", "2"))
    assert len(ear.pushes) == 1
    town.clock.advance(LONGEST_REST - 0.05)
    assert len(ear.pushes) == 2
    town.notifier.notify(("news", "x" * FULL))
    assert len(ear.pushes) == 3


SCRIPT = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "quit", "notify", "notify", "turn", "confirm"]),
        st.integers(0, 4),
        st.sampled_from(CHANNELS),
    ),
    max_size=80,
)


@given(SCRIPT)
def test_nothing_is_missed_or_doubled(script: Sequence[tuple[str, int, str]]) -> None:
    """
    Whoever comes and goes, also between the slices of a round: a subscriber gets what is
    notified after its +OK, each once and in order, and nothing once it has left.
    """
    town = Town(held=True, at_once=2)
    ears = [Ear() for _ in range(5)]
    wants: list[set[str]] = [set() for _ in ears]
    due: list[list[bytes]] = [[] for _ in ears]
    answers: dict[tuple[int, str], list[str]] = {}

    def look() -> None:
        for ear in ears:
            numbers = [int(push.split()[-1]) for push in ear.heard]
            assert numbers == sorted(set(numbers))

    for number, (what, who, channel) in enumerate(script):
        before = [len(ear.heard) for ear in ears]
        if what == "join":
            wants[who].add(channel)
            answers[who, channel] = town.subscribe(channel, ears[who])
        elif what in ("leave", "quit"):
            left = {channel} if what == "leave" else set(CHANNELS)
            if what == "leave":
                town.unsubscribe(channel, ears[who])
            else:
                town.channels.end_all(ears[who])
            wants[who] -= left
            gone = tuple(f">{name} ".encode() for name in left)
            due[who] = [push for push in due[who] if not push.startswith(gone)]
            for name in left:
                answers.pop((who, name), None)
        elif what == "notify":
            town.notifier.notify((channel, str(number)))
            for mine, wanted in enumerate(wants):
                if channel in wanted and answers[mine, channel] == ["+OK"]:
                    due[mine].append(f">{channel} {number}".encode())
        elif what == "turn":
            turn(town.clock)
        else:
            town.notifier.confirm()
        for mine, ear in enumerate(ears):
            for push in ear.heard[before[mine] :]:
                assert push.split()[0].decode()[1:] in wants[mine]
        look()
    town.notifier.confirm()
    town.clock.pump([0] * 20 * len(script))
    look()
    for mine, ear in enumerate(ears):
        assert [push for push in ear.heard if push in due[mine]] == due[mine]
        assert {answers.get((mine, name), ["+OK"])[0] for name in CHANNELS} == {"+OK"}
        town.channels.end_all(ear)
    listens = [line.split() for line in town.notifier.said]
    for channel in CHANNELS:
        verbs = [verb for verb, name in listens if name == channel]
        assert verbs == ["LISTEN", "UNLISTEN"] * (len(verbs) // 2)


# Configuration.


def load(text: str) -> ChannelsSection:
    return load_config(text, PurePath("/etc/g.toml"), endpoint_fault).channels


def test_channels_are_configured() -> None:
    """Without a section there is no channel; names are taken as they are written."""
    assert load("") == ChannelsSection(allow=(), push_buffer=262144, dsn=None)
    found = load('[channels]\nallow = ["news", "Späße", "a.b"]\ndsn = "host=db"\n')
    assert found == ChannelsSection(allow=("news", "Späße", "a.b"), dsn="host=db")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("alow = []", "channels.alow: unknown key; did you mean 'allow'?"),
        ('allow = "news"', "channels.allow: expected a list, got a string"),
        ("allow = ['']", "channels.allow: a channel has a name; remove ''"),
        (f"allow = ['{'ü' * 32}']", "has 64 bytes; PostgreSQL takes at most 63"),
        ("allow = ['a b']", "channels.allow: 'a b' has a space or control character"),
        ("allow = ['!gap']", "channels.allow: '!gap': a push whose channel begins with !"),
        ("allow = ['a', 'a']", "channels.allow: 'a' is there twice; remove one"),
        ("push_buffer = 100", "channels.push_buffer: expected a whole number >= 16384"),
        ("dsn = 'embedded'", "channels.dsn: names a server; without it database.dsn is used"),
    ],
)
def test_faulty_channels(text: str, problem: str) -> None:
    """A fault in the section is named with its file, its key and what to do."""
    with pytest.raises(ConfigError) as caught:
        load(f"[channels]\n{text}\n")
    assert [
        line
        for line in caught.value.problems
        if f"/etc/g.toml: {problem}" in line
        or (problem in line and line.startswith("/etc/g.toml: channels."))
    ]


# One peer's connection.


def listen(bench: Bench, *channels: str, peer: Any = None) -> None:
    """What the command dialect does for LISTEN."""
    for channel in channels:
        assert answer(bench.channels.subscribe(channel, peer or bench.peer)) == ["+OK"]


def test_pushes_come_between_answers() -> None:
    """A push stands between the answers of two commits, never within those of one."""
    bench = Bench(routes=["messages"])
    listen(bench, "news")
    bench.peer.dataReceived(b"PUT messages a\n@2 PUT messages b\n")
    bench.notifier.notify(("news", "1"), ("news", "2"))
    bench.commit_all()
    bench.peer.dataReceived(b"PING x\n")
    bench.notifier.notify(("news", "3"))
    assert bench.said == b">news 1\n>news 2\n+OK\n@2 +OK\n+OK x\n>news 3\n"


@pytest.mark.parametrize(
    ("framing", "first", "said"),
    [
        ("line", b"PING\n", b"+OK\n>news a  b c\n"),
        ("line", b"PING\r\n", b"+OK\r\n>news a  b c\r\n"),
        ("netstring", b"4:PING,", b"3:+OK,12:>news a\r\nb\nc,"),
        ("octet-counted", b"4 PING", b"3 +OK12 >news a\r\nb\nc"),
    ],
)
def test_a_push_is_one_frame(framing: str, first: bytes, said: bytes) -> None:
    """In lines each CR and LF of a payload becomes a space; other framings carry it as it is."""
    bench = Bench(framing, routes=[])
    listen(bench, "news")
    bench.peer.dataReceived(first)
    bench.notifier.notify(("news", "a\r\nb\nc"))
    assert bench.said == said


def test_pushes_are_framed_once() -> None:
    """Peers that frame alike get the very same bytes, others their own."""
    pushes = Pushes([b">news 1", b">news \n"])
    lines = [FRAMINGS["line"](100) for _ in range(3)]
    lines[2].receive(b"x\r\n")
    assert pushes.framed(lines[0]) is pushes.framed(lines[1]) == b">news 1\n>news  \n"
    assert pushes.framed(lines[2]) == b">news 1\r\n>news  \r\n"
    assert pushes.framed(FRAMINGS["netstring"](100)) == b"7:>news 1,7:>news \n,"


def test_a_peer_that_left_gets_nothing() -> None:
    """With its connection a peer's subscriptions end, and one that is about to close has none."""
    bench = Bench(routes=["messages"])
    other, transport = bench.connect()
    listen(bench, "news")
    listen(bench, "news", peer=other)
    bench.peer.dataReceived(b"PUT messages a\nQUIT\n")
    other.connectionLost(Failure(ConnectionDone()))
    bench.notifier.notify(("news", "1"))
    bench.commit_all()
    assert bench.said == b"+OK\n+OK\n" and transport.value() == b""
    assert bench.notifier.said == ["LISTEN news", "UNLISTEN news"]
    late, _ = bench.connect()
    listen(bench, "orders", peer=late)
    late.dataReceived(b"PUT messages a\n")
    late.close_with(wording.PUSHES_NOT_TAKEN)
    assert not late.push(Pushes([b">orders 1"]))


def test_nothing_comes_after_a_fault() -> None:
    """A peer that is to hear -BYE gets no push any more, even while the gateway is at its cap."""
    bench = Bench("netstring")
    listen(bench, "news")
    take(bench.inflight_limit, 2_000_000)
    bench.peer.dataReceived(b"x")
    bench.notifier.notify(("news", "1"))
    assert bench.said == b"" and bench.notifier.said[-1] == "UNLISTEN news"
    give(bench.inflight_limit, 2_000_000)
    assert b"-BYE FORMAT" in bench.said and b"news" not in bench.said


def test_who_does_not_take_its_pushes_is_disconnected() -> None:
    """
    A peer that reads nothing is told so behind what waits, which stays within push_buffer;
    its subscriptions end, and the log has one line for all such peers.
    """
    bench = Bench(push_buffer=20000)
    ends = [socket.socketpair() for _ in range(3)]
    peers = []
    for ours, _ in ends:
        ours.setblocking(False)
        peers.append(bench.connect(OnSocket(ours)))
        listen(bench, "news", peer=peers[-1][0])
    with capturedLogs() as events:
        for _ in range(500):
            bench.notifier.notify(("news", "x" * 2000))
        for peer, transport in peers:
            waits = transport.value()
            assert 15000 < len(waits) < 20000 + 100
            assert waits.endswith(b"\n-BYE RATE :does not take its pushes\n")
            assert transport.half_closed and not peer.push(Pushes([b">news 1"]))
        assert bench.notifier.said == ["LISTEN news", "UNLISTEN news"]
        assert not events
        bench.wait(6)
    assert [formatEvent(event) for event in events] == [
        "listener lines: 3 peers disconnected: does not take its pushes (last 127.0.0.1:4000)"
    ]
    for pair in ends:
        for end in pair:
            end.close()


def test_who_takes_its_pushes_stays() -> None:
    """However much there was in all, it counts only until the peer has taken what waited."""
    bench = Bench(push_buffer=20000)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    peer, transport = bench.connect(OnSocket(ours))
    listen(bench, "news", peer=peer)
    got = 0
    for number in range(3000):
        bench.notifier.notify(("news", f"{number:04} {'x' * 2000}"))
        if len(transport.value()) > 10000:
            # What a reactor does when the peer reads.
            got += len(theirs.recv(1 << 24)) + len(transport.value())
            transport.clear()
            peer.resumeProducing()
    assert got > 2_000_000 and not transport.half_closed
    ours.close()
    theirs.close()


def test_who_takes_no_push_in_time_is_dropped() -> None:
    """Pushes wait no longer than write_timeout for a peer that takes nothing."""
    bench = Bench(timeouts=Timeouts(write=10.0))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer, transport = bench.connect(OnSocket(ours))
    listen(bench, "news", peer=peer)
    while not transport.value():
        bench.notifier.notify(("news", "x" * 2000))
    bench.wait(8)
    assert not transport.aborted
    bench.wait(6)
    assert transport.aborted
    ours.close()
    theirs.close()


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_hears_why() -> None:
    """On a real socket: a peer that reads late, but reads, has all that waited and the reason."""
    real: Any = reactor
    bench = Bench()
    port = real.listenTCP(0, bench.factory, interface="127.0.0.1")
    theirs = socket.create_connection(("127.0.0.1", port.getHost().port))
    theirs.setblocking(False)
    await until(lambda: len(bench.factory.peers) == 2, "it is connected")
    (peer,) = bench.factory.peers - {bench.peer}
    listen(bench, "news", peer=peer)
    number = 0
    while "UNLISTEN news" not in bench.notifier.said:
        bench.notifier.notify(("news", f"{number} {'x' * 8000}"))
        number += 1
    data = b""

    def read() -> bool:
        nonlocal data
        bench.wait(0.5)  # far more than it would have if nothing waited for it
        with suppress(BlockingIOError):
            while more := theirs.recv(65536):
                data += more
            return True
        return False

    bench.wait(10)
    await until(read, "the gateway closes")
    *pushes, bye = data.splitlines()
    assert bye == b"-BYE RATE :does not take its pushes"
    assert [int(push.split()[1]) for push in pushes] == [*range(len(pushes))] and pushes
    # It does not close its own end: that is waited for a little, and no longer.
    assert peer in bench.factory.peers

    def gone() -> bool:
        bench.wait(1)
        return peer not in bench.factory.peers

    await until(gone, "it is gone")
    theirs.close()
    await port.stopListening()
