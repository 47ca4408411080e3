"""
RELP's reader: what a sender is told of each message, and what it is not told.
"""

from __future__ import annotations

import pytest

from gateway.access.grants import AccessSection, GrantSection
from gateway.access.rights import Access
from gateway.dialects.base import Dialect
from gateway.dialects.by_content import ContentDialect
from gateway.dialects.plain import PlainDialect
from gateway.dialects.relp import RelpReader
from gateway.formats.registry import format_of
from gateway.model import wording
from gateway.model.route import Reading
from gateway.wire.relp import SERVER_CLOSE, opened, refused, stored
from tests.in_memory import Bench, HalfClosing

OFFERS = b"relp_version=0\nrelp_software=librelp,1.11.0\ncommands=syslog"

CHECK = "CONSTRAINT sqlstate=23514 :violates a check constraint"


def frame(number: int, command: bytes, data: bytes = b"") -> bytes:
    return b"%d %b %d%b\n" % (number, command, len(data), b" " + data if data else b"")


def syslog(first: int, *messages: bytes) -> bytes:
    """Messages in frames, numbered from first on."""
    return b"".join(frame(number, b"syslog", text) for number, text in enumerate(messages, first))


def half_closing() -> HalfClosing:
    return HalfClosing()  # type: ignore[no-untyped-call]


def grants(route: str) -> AccessSection:
    """Everybody may use one route."""
    return AccessSection(grants={"all": GrantSection(networks=("127.0.0.0/8",), routes=(route,))})


class Sender(Bench):
    """
    A sender that has opened its session; what it is told from then on.
    """

    def __init__(
        self,
        held: bool = False,
        dead_letter: bool = False,
        is_open: bool = True,
        by_content: bool = False,
        window: int = 100,
        granted: str = "*",
    ) -> None:
        messages: Dialect = PlainDialect("messages")
        if by_content:
            form = format_of(Reading("json"), ["to"])
            messages = ContentDialect(form, "to", {"one": "messages", "two": "other"})
        super().__init__(
            "relp",
            held,
            window=window,
            dialect=messages,
            reader=RelpReader,
            dead_letters=frozenset(["messages", "other"] if dead_letter else []),
            transport=half_closing(),
            known=["messages", "other"],
            access=grants(granted),
        )
        if is_open:
            self.peer.dataReceived(frame(1, b"open", OFFERS))
            assert self.told() == opened(1, 0)

    def told(self) -> bytes:
        """What was written since the last call."""
        said = self.said
        self.transport.clear()
        return said

    @property
    def bodies(self) -> list[bytes]:
        return [message for _, message in self.store.rows]

    @property
    def closed(self) -> bool:
        return bool(self.transport.half_closed or self.transport.disconnecting)


def test_messages_of_a_read_are_one_unit() -> None:
    """All of a read are one commit and one write of answers, in order, and only then."""
    sender = Sender(held=True)
    sender.peer.dataReceived(syslog(2, b"a", b"b", b"c"))
    assert sender.told() == b"" and sender.store.writes == [3]
    sender.peer.dataReceived(syslog(5, b"d"))
    assert sender.store.writes == [3]
    sender.store.commit()
    assert sender.told() == stored(2, 3) and sender.store.writes == [3, 1]
    sender.store.commit()
    assert sender.told() == stored(5, 1)
    assert sender.bodies == [b"a", b"b", b"c", b"d"]
    assert sender.inflight_limit.used == 0 and not sender.closed


def test_a_whole_session_in_one_read() -> None:
    """Open, messages, what is unknown and close are answered in order; hints are not."""
    sender = Sender(held=True, is_open=False)
    sender.peer.dataReceived(
        frame(1, b"open", OFFERS)
        + syslog(2, b"a", b"b")
        + frame(0, b"hint", b"x")
        + frame(4, b"starttls")
        + syslog(5, b"c")
        + frame(6, b"close")
        + syslog(7, b"never")
    )
    assert sender.told() == opened(1, 0)
    sender.store.commit()
    assert sender.told() == stored(2, 2) + refused(4, "unknown command starttls")
    sender.store.commit()
    assert sender.told() == stored(5, 1) + b"6 rsp 0\n" + SERVER_CLOSE
    assert sender.closed and sender.bodies == [b"a", b"b", b"c"]


def test_close_alone() -> None:
    """Close is answered after all that came before it is stored."""
    sender = Sender(held=True)
    sender.peer.dataReceived(syslog(2, b"a"))
    sender.peer.dataReceived(frame(3, b"close"))
    assert sender.told() == b"" and not sender.closed
    sender.store.commit()
    assert sender.told() == stored(2, 1) + b"3 rsp 0\n" + SERVER_CLOSE
    assert sender.closed


def test_a_refused_message_is_the_last() -> None:
    """Without dead letters: 500 after the answers before it, nothing behind it, and the end."""
    sender = Sender()
    sender.store.poison.add(b"bad")
    sender.peer.dataReceived(syslog(2, b"a", b"b", b"bad", b"c", b"bad") + syslog(7, b"d"))
    assert sender.told() == stored(2, 2) + refused(4, CHECK)
    assert sender.closed and sender.bodies == [b"a", b"b"]
    counters = sender.factory.counters
    assert counters.messages == 6
    assert sorted(counters.answers.values()) == [1, 2]
    # What is still read is thrown away.
    sender.peer.dataReceived(syslog(8, b"e"))
    assert sender.told() == b"" and sender.bodies == [b"a", b"b"]


def test_a_refused_message_that_is_kept() -> None:
    """With dead letters it is acknowledged as a stored one, and the session goes on."""
    sender = Sender(dead_letter=True)
    sender.store.poison.add(b"bad")
    sender.peer.dataReceived(syslog(2, b"a", b"bad", b"c"))
    assert sender.told() == stored(2, 3) and not sender.closed
    assert sender.bodies == [b"a", b"c"]
    assert [message for message, _ in sender.store.dead_letters] == [b"bad"]
    sender.peer.dataReceived(syslog(5, b"d"))
    assert sender.told() == stored(5, 1)


@pytest.mark.parametrize("dead_letter", [False, True])
def test_a_message_over_the_limit(dead_letter: bool) -> None:
    """It is refused as any other: kept as far as the limit, or the last one of the connection."""
    sender = Sender(dead_letter=dead_letter)
    sender.peer.dataReceived(syslog(2, b"a", b"x" * 5000, b"c"))
    if dead_letter:
        assert sender.told() == stored(2, 3) and not sender.closed
        assert sender.bodies == [b"a", b"c"]
        ((kept, why),) = sender.store.dead_letters
        assert kept == b"x" * 100 and type(kept) is bytes and why.code == "TOOBIG"
    else:
        assert sender.told() == stored(2, 1) + refused(
            3, "TOOBIG :longer than max_frame of this listener"
        )
        assert sender.closed and sender.bodies == [b"a"]


def test_what_cannot_be_stored_now_is_not_answered() -> None:
    """Nothing of its read is stored or answered; then the connection is held, and closed."""
    sender = Sender(by_content=True)
    one, two = b'{"to":"one"}', b'{"to":"two"}'
    sender.store.closed.add("other")
    sender.peer.dataReceived(syslog(2, one, one))
    assert sender.told() == stored(2, 2)
    sender.peer.dataReceived(syslog(4, one, two, one))
    sender.wait(0.9)
    sender.peer.dataReceived(syslog(7, one))
    assert sender.told() == b"" and not sender.closed
    sender.wait(0.2)
    assert sender.told() == SERVER_CLOSE and sender.closed
    assert sender.bodies == [one, one]
    assert sender.inflight_limit.used == 0


def test_holds_are_longer_each_time() -> None:
    """1, 2, 4, ... 60 seconds as long as nothing is stored on the listener, then 1 again."""
    sender = Sender()
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        sender.store.closed.add("messages")
        assert held(sender) == seconds
    sender.store.closed.clear()
    sender.wait(60)
    peer, transport = sender.connect(half_closing())
    peer.dataReceived(frame(1, b"open", OFFERS) + syslog(2, b"a"))
    assert transport.value().endswith(stored(2, 1))
    sender.store.closed.add("messages")
    assert held(sender) == 1


def held(sender: Sender) -> float:
    """How long two connections are held whose message cannot be stored."""
    sender.peer.connectionLost()
    connections = [sender.connect(half_closing()) for _ in range(2)]
    for peer, _ in connections:
        peer.dataReceived(frame(1, b"open", OFFERS) + syslog(2, b"a"))
    begun = sender.clock.seconds()
    while not all(transport.value().endswith(SERVER_CLOSE) for _, transport in connections):
        sender.clock.advance(0.25)
    for peer, _ in connections:
        peer.connectionLost()
    return round(sender.clock.seconds() - begun)


def test_a_hold_ends_with_the_peer() -> None:
    """A peer that goes, and a gateway that stops, are not waited for."""
    sender = Sender()
    sender.store.closed.add("messages")
    sender.peer.dataReceived(syslog(2, b"a"))
    sender.factory.close_all(wording.LISTENER_CLOSES)
    assert sender.told() == SERVER_CLOSE and sender.closed
    peer, _ = sender.connect(half_closing())
    peer.dataReceived(frame(1, b"open", OFFERS) + syslog(2, b"a"))
    peer.connectionLost()
    assert sender.inflight_limit.used == 0


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (frame(1, b"open", b""), refused(1, "the sender does not offer the command syslog")),
        (
            frame(1, b"open", b"relp_version=new\ncommands=syslog"),
            refused(1, "relp_version is no number"),
        ),
        (syslog(1, b"a"), SERVER_CLOSE),
        (frame(1, b"close"), b"1 rsp 0\n" + SERVER_CLOSE),
        (
            frame(1, b"open", OFFERS) + frame(2, b"open", OFFERS) + syslog(3, b"a"),
            opened(1, 0) + refused(2, "the session is open already"),
        ),
        (frame(1, b"open", OFFERS) + syslog(3, b"a"), opened(1, 0) + SERVER_CLOSE),
        (b"GET / HTTP/1.1\r\n", SERVER_CLOSE),
        (b"hello\n", SERVER_CLOSE),
    ],
)
def test_what_is_no_session(said: bytes, answer: bytes) -> None:
    """A session begins with open, once, and goes on in order; else the connection is closed."""
    sender = Sender(is_open=False)
    sender.peer.dataReceived(said + syslog(4, b"never"))
    assert sender.told() == answer and sender.closed
    assert sender.bodies == []


def test_what_came_before_a_fault_is_answered() -> None:
    """Frames before one that is none are stored and acknowledged; then the connection is closed."""
    sender = Sender(held=True)
    sender.peer.dataReceived(syslog(2, b"a", b"b") + b"4 syslog x\n" + syslog(5, b"never"))
    assert sender.told() == b"" and not sender.closed
    sender.store.commit()
    assert sender.told() == stored(2, 2) + SERVER_CLOSE
    assert sender.closed and sender.bodies == [b"a", b"b"]


def test_a_window_of_messages() -> None:
    """More messages than the window come out as several units, one after the other."""
    sender = Sender(window=10)
    sender.peer.dataReceived(syslog(2, *(b"%d" % n for n in range(25))))
    assert sender.told() == stored(2, 25)
    assert sender.store.writes == [10, 10, 5]


def test_the_database_is_away_for_a_moment() -> None:
    """A commit that is lost on its way is looked for; nothing is answered until it is known."""
    sender = Sender()
    sender.store.lost_replies = 1
    sender.peer.dataReceived(syslog(2, b"a", b"b"))
    assert sender.told() == b""
    sender.wait(5)
    assert sender.told() == stored(2, 2) and sender.bodies == [b"a", b"b"]


def test_a_route_that_is_not_granted() -> None:
    """Whoever may not use the route cannot open a session, so that no message of it is lost."""
    sender = Sender(is_open=False, granted="other")
    sender.peer.dataReceived(frame(1, b"open", OFFERS) + syslog(2, b"a"))
    assert sender.told() == refused(1, "route messages is not granted") and sender.closed
    sender = Sender()
    sender.factory.replace_access(Access(grants("other"), ["messages", "other"]), lambda one: one)
    sender.peer.dataReceived(syslog(2, b"a"))
    sender.wait(1.1)
    assert sender.told() == SERVER_CLOSE and sender.closed
    assert sender.bodies == []


def test_a_message_over_the_limit_behind_one_that_is_stored() -> None:
    """It waits for its turn, as all behind it do, and each is answered in order."""
    sender = Sender(held=True, dead_letter=True)
    sender.peer.dataReceived(syslog(2, b"a") + frame(3, b"syslog", b"x" * 200)[:50])
    sender.peer.dataReceived(frame(3, b"syslog", b"x" * 200)[50:] + syslog(4, b"b"))
    while sender.store.waiting_writes:
        sender.store.commit()
    assert sender.told() == stored(2, 3) and not sender.closed
    assert sender.bodies == [b"a", b"b"]
    assert [letter for letter, _ in sender.store.dead_letters] == [b"x" * 100]


def test_a_session_that_is_not_opened_is_counted() -> None:
    """Why a sender was sent away is in the gateway's figures, not only in its own log."""
    sender = Sender(is_open=False)
    sender.peer.dataReceived(frame(1, b"open", b"relp_version=0"))
    assert b" rsp " in sender.told() and sender.closed
    assert sender.factory.counters.let_go["format"] == 1
