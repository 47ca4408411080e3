"""
Reloading: all of a new configuration or nothing, and connections live on.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent

from gateway.daemon.configuration import Loaded
from gateway.daemon.reload import GONE, STAYS, STOPS
from gateway.daemon.service import on_signals
from tests.daemon.reloading import InMemory, load
from tests.in_memory import TOKENS, saying
from tests.support import logged

LISTENER = """
[listeners.lines]
endpoint = "unix:{0}/lines"
route = "messages"
"""

ACCESS = '[access.grants.all]\nnetworks = ["127.0.0.0/8"]\nroutes = ["*"]\n'

Make = Callable[[str], InMemory]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make a gateway in memory, of a text in which {0} is a folder, that listens."""
    made: list[InMemory] = []

    def start(text: str) -> InMemory:
        gateway = InMemory(text, str(tmp_path))
        gateway.listen()
        made.append(gateway)
        return gateway

    yield start
    for gateway in made:
        gateway.close()


@pytest.mark.parametrize("text", ["", "# begun", LISTENER])
def test_a_reload_does_not_take_access_away(make: Make, text: str) -> None:
    """Where [access] is in force, from the start or a reload, a file without it changes nothing."""
    guarded = make(LISTENER + ACCESS)
    assert guarded.apply(text) == (False, [GONE])
    # What is in force counts, not what the gateway was started with.
    later = make(LISTENER.replace("/lines", "/others"))
    text = text.replace("/lines", "/others")
    assert later.apply(LISTENER.replace("/lines", "/others")) == (True, ["nothing changed"])
    taken = LISTENER.replace("/lines", "/others") + ACCESS
    assert later.apply(taken) == (True, ["access: added"])
    assert later.apply(text) == (False, [GONE])
    assert later.apply(taken) == (True, ["nothing changed"])


def test_a_reload_survives_what_nobody_thought_of(make: Make) -> None:
    """Any exception is logged as a bug, says what is in force, and the next reload works."""
    gateway = make(LISTENER)
    gateway.loaded = RuntimeError("unforeseen")
    with logged() as events:
        assert not gateway.again().taken
    assert events[0]["log_level"].name == "critical"
    assert events[0]["log_failure"].check(RuntimeError)
    assert str(formatEvent(events[-1])) == STAYS
    gateway.service.replace_limits = None
    with logged() as events:
        outcome = gateway.apply(LISTENER + "window = 7\n")
    assert not outcome.taken and "start the gateway again" in outcome.lines[0]
    assert events[0]["log_failure"].check(TypeError)
    gateway.service.replace_limits = lambda limits: None
    assert gateway.apply(LISTENER + "window = 8\n").taken


class NotRunning:
    """
    A reactor that has still to start.
    """

    def __init__(self) -> None:
        self.queued: list[Callable[[], None]] = []

    def callWhenRunning(self, call: Callable[[], None]) -> None:
        """Never, here."""

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.queued.append(call)


def test_a_signal_before_the_reactor_runs() -> None:
    """SIGHUP while the gateway is still starting waits for the reactor, and ends nothing."""
    reactor, calls = NotRunning(), list[str]()
    # Without a gateway's answer to it the signal would end the tests.
    before = signal.signal(signal.SIGHUP, lambda number, frame: calls.append("lost"))
    try:
        on_signals(reactor, None, lambda: calls.append("reload"))  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert calls == []
    (queued,) = reactor.queued
    queued()
    assert calls == ["reload"]


def test_a_fault_changes_nothing(make: Make, tmp_path: Path) -> None:
    """A port that is taken refuses all of it, with every problem; what was opened is closed."""
    gateway = make(LISTENER)
    peer, before = gateway.connect("lines"), gateway.offered()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "taken"))
        other.listen()
        outcome = gateway.apply(
            LISTENER
            + 'window = 7\n[listeners.a]\nendpoint = "unix:{0}/a"\nroute = "messages"\n'
            + '[listeners.b]\nendpoint = "unix:{0}/taken"\nroute = "messages"\n'
            + '[listeners.c]\nendpoint = "unix:{0}/none/c"\nroute = "messages"\n'
        )
    assert not outcome.taken
    assert [line.split(":")[0] for line in outcome.lines] == [
        *("listeners.b.endpoint", "listeners.c.endpoint")
    ]
    assert "in use" in outcome.lines[0] and "No such file" in outcome.lines[1]
    assert gateway.offered() == before and not (tmp_path / "a").exists()
    peer.send(b"one\n")
    gateway.commit()
    assert peer.said == b"+OK\n"


def test_a_port_is_closed_for_another_and_opened_again(make: Make, tmp_path: Path) -> None:
    """
    What an old port stands in the way of is opened after it; if that fails, the old one is back.
    """
    gateway = make(LISTENER)
    peer = gateway.connect("lines")
    assert gateway.apply(LISTENER + "backlog = 7\n") == (
        *(True, ["listener lines: backlog none -> 7, its port is opened anew"]),
    )
    inode = (tmp_path / "lines").stat().st_ino
    peer.send(b"one\n")
    gateway.commit()
    assert peer.said == b"+OK\n"
    # The owner does not exist, which only shows when the file is made.
    outcome = gateway.apply(LISTENER + 'socket_owner = "nobody-at-all"\n')
    assert not outcome.taken and "no user" in outcome.lines[0]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "lines"))
    assert (tmp_path / "lines").stat().st_ino == inode
    # Two that change places.
    two = LISTENER + '[listeners.b]\nendpoint = "unix:{0}/b"\nroute = "messages"\n'
    assert gateway.apply(two).taken
    swapped = two.replace("/b", "/x").replace("/lines", "/b").replace("/x", "/lines")
    outcome = gateway.apply(swapped)
    assert outcome.taken and len(outcome.lines) == 2, outcome
    assert {one.address for one in gateway.listeners} == {f"{tmp_path}/lines", f"{tmp_path}/b"}
    # Of two that change places with a third in the way, both are back.
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "taken"))
        other.listen()
        wrong = two + '[listeners.c]\nendpoint = "unix:{0}/taken"\nroute = "messages"\n'
        outcome = gateway.apply(wrong)
    assert [line.split(":")[0] for line in outcome.lines] == ["listeners.c.endpoint"]
    for name in ("lines", "b"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / name))
    assert (
        peer.said
        == b"+OK\n-BYE DRAIN :this listener is closed or changed; what has no answer"
        + (b" is not stored\n")
    )


def test_a_removed_listener_answers_first(make: Make) -> None:
    """Its peers hear -BYE DRAIN behind the answers that they wait for; those of others nothing."""
    two = LISTENER + '[listeners.b]\nendpoint = "unix:{0}/b"\nroute = "messages"\n'
    gateway = make(two)
    gone, stays = gateway.connect("b"), gateway.connect("lines")
    gone.send(b"one\ntwo\n")
    stays.send(b"three\n")
    assert gateway.apply(LISTENER) == (
        *(True, ["listener b: removed, its peers are disconnected after their answers"]),
    )
    assert gone.said == b"" and len(gateway.listeners.with_closing) == 2
    gateway.commit()
    assert gone.said.startswith(b"+OK\n+OK\n-BYE DRAIN ") and stays.said == b"+OK\n"
    gone.protocol.connectionLost()
    assert len(gateway.listeners.with_closing) == 1


def test_keys_for_those_who_are_connected(make: Make) -> None:
    """Route and window change at once; framing and words for new connections alone."""
    routes = '[routes.messages]\ntable = "a"\n[routes.others]\ntable = "b"\n'
    gateway = make(routes + LISTENER)
    old = gateway.connect("lines")
    outcome = gateway.apply(
        routes
        + LISTENER.replace('"messages"', '"others"')
        + 'window = 1\nack = "fine"\nframing = "netstring"\n'
    )
    assert sorted(outcome.lines) == [
        "listener lines: ack none -> fine, for new connections",
        "listener lines: framing line -> netstring, for new connections",
        "listener lines: route messages -> others, at once",
        "listener lines: window 1024 -> 1, at once",
    ]
    new = gateway.connect("lines")
    old.send(b"one\ntwo\n")
    new.send(b"3:one,")
    gateway.commit()
    assert (old.said, new.said) == (b"+OK\n+OK\n", b"4:fine,")
    assert {table for _, table in gateway.store.tries} == {"b"}


def test_a_smaller_window_under_unanswered_frames(make: Make) -> None:
    """A peer with more unanswered frames than the new window is answered all the same."""
    gateway = make(LISTENER)
    peer = gateway.connect("lines")
    peer.send(b"x\n" * 10)
    assert gateway.apply(LISTENER + "window = 2\n").taken
    peer.send(b"y\n" * 3)
    gateway.commit()
    assert peer.said == b"+OK\n" * 13


def test_another_dialect(make: Make) -> None:
    """A peer keeps the dialect that it speaks, until the route is gone that it writes to."""
    two = '[routes.messages]\ntable = "a"\n[routes.others]\ntable = "b"\n'
    one = '[routes.others]\ntable = "b"\n'
    commands = LISTENER.replace('route = "messages"', 'dialect = "command"')
    gateway = make(two + LISTENER)
    plain = gateway.connect("lines")
    assert gateway.apply(two + commands).taken
    new = gateway.connect("lines")
    plain.send(b"PUT others x\n")
    new.send(b"PUT others x\nPUT messages x\n")
    gateway.commit()
    assert plain.said == b"+OK\n" and new.said == b"+OK\n+OK\n"
    assert gateway.apply(one + commands).taken
    assert plain.said.startswith(b"+OK\n-BYE DRAIN ")
    new.send(b"PUT others x\nPUT messages x\n")
    gateway.commit()
    assert new.said == b"+OK\n" * 3 + b"-REJ ROUTE :no route messages\n"


def test_a_token_that_is_asked_for_from_now_on(make: Make, tmp_path: Path) -> None:
    """Peers that have not proved who they are cannot stay where that is asked for."""
    gateway = make(LISTENER + ACCESS)
    peer = gateway.connect("lines")
    tokens = ACCESS.replace("networks", "identities").replace("127.0.0.0/8", "till-*")
    text = LISTENER + "auth = true\n" + '[access]\ntokens = "tokens"\n' + tokens
    config = load(text.replace("{0}", str(tmp_path)))
    gateway.loaded = Loaded(config, {token.id: token for token in TOKENS}, {})
    outcome = gateway.again()
    assert outcome.taken and "listener lines: auth false -> true, for new connections" in (
        outcome.lines
    )
    assert peer.said.startswith(b"-BYE AUTH ")
    proved, silent = gateway.connect("lines"), gateway.connect("lines")
    proved.send(saying("till-1") + b"\none\n")
    gateway.commit()
    assert proved.said == b"+OK\n+OK\n"
    gateway.loaded = Loaded(
        load(text.replace("auth = true\n", "").replace("{0}", str(tmp_path))),
        gateway.loaded.tokens,
        {},
    )
    assert gateway.again().taken
    # What this one would say next it means as a token.
    assert silent.said.startswith(b"-BYE DRAIN ")
    proved.send(b"two\n")
    gateway.commit()
    assert proved.said == b"+OK\n" * 3


def test_channels_and_queries(make: Make) -> None:
    """Those that are there still go on, and keep what was counted; others are offered or not."""
    commands = LISTENER.replace('route = "messages"', 'dialect = "command"')
    channels = '[channels]\nallow = ["{}"]\n'
    query = "[queries.{}]\nsql = 'select 1 as a'\n"
    gateway = make(channels.format('a", "b') + query.format("q") + commands)
    one, two = gateway.connect("lines"), gateway.connect("lines")
    one.send(b"LISTEN a\n")
    two.send(b"LISTEN b\n")
    counters = gateway.channels.counters["b"]
    outcome = gateway.apply(channels.format('b", "c') + query.format("p") + commands)
    assert outcome.taken and {
        *("query p: added", "query q: removed", "channel c: added"),
        "channel a: removed, its subscribers are disconnected",
    } <= {*outcome.lines}
    assert one.said.startswith(b"+OK\n-BYE DENIED ")
    assert gateway.channels.counters["b"] is counters
    two.send(b"LISTEN a\nLISTEN c\nCALL q\n")
    answers = two.said.split(b"\n")
    assert answers[0] == answers[2] == b"+OK"
    assert answers[1].startswith(b"-REJ ") and b"no query 'q'" in answers[3]
    # A push that was on its way is for nobody.
    gateway.channels.notified([("a", "x")])
    gateway.channels.missed(["a"])


def test_one_reload_after_the_other(make: Make) -> None:
    """A reload that is asked for during another one waits for it."""
    gateway = make(LISTENER)
    gateway.apply(LISTENER)
    held = gateway.reload._turn.acquire()
    outcomes: list[object] = []
    for _ in range(2):
        Deferred.fromCoroutine(gateway.reload.apply()).addBoth(outcomes.append)
    assert held.called and not outcomes
    gateway.reload._turn.release()
    assert outcomes == [(True, ["nothing changed"])] * 2


def test_no_reload_in_a_stop(make: Make, tmp_path: Path) -> None:
    """A gateway that stops opens nothing."""
    gateway = make(LISTENER)
    gateway.service.is_stopping = True
    more = LISTENER + '[listeners.b]\nendpoint = "unix:{0}/b"\nroute = "messages"\n'
    assert gateway.apply(more) == (False, [STOPS])
    assert not (tmp_path / "b").exists()


def test_messages_keep_the_route_under_which_they_were_read(make: Make) -> None:
    """
    Batches have messages of one generation alone; definitions are forgotten when nothing is in
    flight for them.
    """
    head = "[routes.messages]\ntable = '{}'\n"
    gateway = make(head.format("one") + LISTENER)
    peers = [gateway.connect("lines") for _ in range(3)]
    peers[0].send(b"a\n")
    for table in ("two", "three"):
        for peer in peers:
            peer.send(b"b\n")
        assert gateway.apply(head.format(table) + LISTENER).taken
    for peer in peers:
        peer.send(b"c\n")
    assert len(gateway.routes._route_cache.replaced) == 2
    gateway.store.lost_replies = 2  # they are resolved by the same definition
    while gateway.writer.in_flight:
        gateway.commit()
        gateway.reactor.advance(1)
    tries = {(frame, table) for frames, table in gateway.store.tries for frame in frames}
    assert tries == {(b"a", "one"), (b"b", "one"), (b"b", "two"), (b"c", "three")}
    assert [peer.said for peer in peers] == [b"+OK\n" * count for count in (4, 3, 3)]
    assert gateway.apply(head.format("four") + LISTENER).taken
    assert not gateway.routes._route_cache.replaced
