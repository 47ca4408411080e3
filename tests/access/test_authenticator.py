"""
AUTH and grants, in memory: who proves to be whom, and what that allows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.testing import StringTransport

from gateway.access.grants import AccessSection, GrantSection
from gateway.access.peer_info import PeerInfo
from gateway.access.rates import Allowance
from gateway.access.rights import Access
from gateway.dialects.by_content import ContentDialect
from gateway.formats.registry import format_of
from gateway.listeners.admission import Admission
from gateway.model.outcome import Words
from gateway.model.route import Reading
from gateway.peers.timeouts import Timeouts
from tests.in_memory import TOKENS, Bench, HalfClosing, saying, token_of

ROUTES = ["messages", "orders"]

TILL = GrantSection(
    identities=("till-*",),
    routes=("messages",),
    queries=("rows",),
    channels=("news",),
    streams=("{identity}", "{identity}/*"),
)

SHOP = GrantSection(identities=("shop",), routes=("*",), channels=("*",))

GRANTED = AccessSection(tokens="tokens", grants={"tills": TILL, "shop": SHOP})

TILL_1, TILL_2 = b"AUTH " + saying("till-1"), b"AUTH " + saying("till-2")

NO_TOKEN = b"-BYE AUTH :no such token"

FIRST = b"-BYE AUTH :say AUTH and a token first"


def bench(auth: bool = True, access: AccessSection | None = GRANTED, **options: Any) -> Bench:
    return Bench(routes=ROUTES, held=False, auth=auth, access=access, **options)


def say(found: Bench, *lines: bytes) -> list[bytes]:
    """What is answered to lines that come at once."""
    before = len(found.said)
    found.peer.dataReceived(b"".join(line + b"\n" for line in lines))
    return found.said[before:].splitlines()


def talk(*lines: bytes, **options: Any) -> list[bytes]:
    return say(bench(**options), *lines)


def stored(found: Bench) -> list[bytes]:
    return [message for _, message in found.store.rows]


# AUTH.


def test_a_token_opens_what_is_granted() -> None:
    """Before it only what needs no rights is answered, after it what its identity may do."""
    found = bench()
    assert say(found, b"PING a", b"help auth", b"@1 " + TILL_1, b"PUT messages x") == [
        *(b"+OK a", b"+OK AUTH token: prove who you are", b"@1 +OK", b"+OK")
    ]
    assert stored(found) == [b"x"]
    assert found.peer.peer_info.identity == "till-1"


@pytest.mark.parametrize(
    "frame",
    [
        *(b"PUT messages x", b"CALL rows", b"LISTEN news", b"UNLISTEN news", b"HELLO till-1"),
        *(b"QUIET", b"SYNC", b"GET / HTTP/1.1", b"", b"@ PUT messages x", b"@7 PUT messages x"),
        b"x" * 200,  # longer than max_frame
    ],
)
def test_without_a_token_anything_else_is_the_end(frame: bytes) -> None:
    """Nothing behind it is looked at, nothing is stored."""
    found = bench()
    assert say(found, b"PING a", frame, TILL_1, b"PUT messages y") == [b"+OK a", FIRST]
    assert stored(found) == []
    assert found.transport.disconnecting


def test_quit_needs_no_token() -> None:
    """Who comes by mistake may go."""
    assert talk(b"QUIT") == [b"+OK"]


@pytest.mark.parametrize(
    "token",
    [
        *(b"x", b"x.y", b"ID-of-till-1", b"ID-of-till-1.", b"ID-of-till-1.secret-of-till-2"),
        *(saying("till-1") + b" ", b"ID-of-stranger.secret", b"\xff.\x00", b"a" * 90),
    ],
)
def test_a_wrong_token_is_the_end(token: bytes) -> None:
    """Also where nobody asked for one; the answer says nothing of what was wrong."""
    for auth in (True, False):
        found = bench(auth, access=None)
        assert say(found, b"@t AUTH " + token, b"PUT messages x") == [NO_TOKEN]
        assert stored(found) == []


def test_what_follows_waits_for_the_answer() -> None:
    """Messages sent behind a token are stored when it is found right, or never."""
    found = bench()
    found.desk.held = True
    assert say(found, TILL_1, b"PUT messages a", b"PUT messages b") == []
    assert say(found, b"PUT messages c") == [] == stored(found)
    found.desk.work()
    assert found.said == b"+OK\n" * 4
    assert stored(found) == [b"a", b"b", b"c"]


def test_a_peer_may_go_while_its_token_is_looked_at() -> None:
    """Nothing happens then."""
    for token in (TILL_1, b"AUTH ID-of-till-1.x"):
        found = bench()
        found.desk.held = True
        say(found, token, b"PUT messages a")
        found.peer.connectionLost()
        found.desk.work()
        assert (found.said, stored(found)) == (b"", [])


def test_auth_is_not_offered_without_tokens() -> None:
    """Where the configuration names no file of them, AUTH is refused and costs nothing else."""
    found = bench(auth=False, access=None)
    found.authenticator.replace_tokens(None)
    refusal = b"-REJ QUERY :AUTH is not offered by this gateway; try HELP"
    assert say(found, TILL_1, b"PUT messages x") == [refusal, b"+OK"]


def test_an_identity_that_may_do_nothing_has_to_go() -> None:
    """A right token does not help who is granted nothing, or is on the list of the denied."""
    nothing = b"-BYE DENIED :nothing is granted to you here"
    found = bench()
    assert say(found, b"AUTH " + saying("nobody"), b"PUT messages x") == [nothing]
    denied = AccessSection(deny=("till-1",), grants=GRANTED.grants)
    found = bench(access=denied)
    assert say(found, TILL_1, b"PUT messages x") == [nothing]
    assert stored(found) == []
    assert talk(TILL_2, b"PUT messages x", access=denied) == [b"+OK", b"+OK"]


def test_auth_again() -> None:
    """The last token that was right counts; a wrong one is the end."""
    found = bench()
    assert say(found, TILL_1, b"HELLO till-2", TILL_2, b"HELLO till-2") == [
        *(b"+OK", b"-REJ DENIED :HELLO to till-2 is not granted", b"+OK", b"+OK seq=0 epoch=w1")
    ]
    assert say(found, b"AUTH x") == [NO_TOKEN]


@pytest.mark.parametrize("opened", [b"HELLO till-1", b"LISTEN news"])
def test_who_has_something_open_stays_who_it_is(opened: bytes) -> None:
    """A stream or channel does not become another identity's; the same one may renew its token."""
    found = bench()
    say(found, TILL_1, opened)
    (answer,) = say(found, TILL_2)
    assert answer == (
        b"-REJ DENIED :a stream or channel of another identity is open here; connect again"
    )
    assert found.peer.peer_info.identity == "till-1"
    second = replace(TOKENS[0], id="second-id", hash="other")
    found.authenticator.replace_tokens({"second-id": second})
    assert say(found, b"AUTH second-id.other") == [b"+OK"]
    token = found.peer.peer_info.token
    assert token is not None and token.id == "second-id"


def test_auth_begins_when_all_before_is_answered() -> None:
    """What was sent under one identity is stored under it."""
    found = Bench(routes=ROUTES, auth=False, access=None)
    say(found, b"PUT messages a", TILL_1, b"PUT messages b")
    assert found.peer.peer_info.identity is None
    found.commit_all()
    assert found.peer.peer_info.identity == "till-1"
    found.commit_all()
    assert found.said == b"+OK\n" * 3
    assert [origin.identity for origin, _ in found.store.rows] == [None, "till-1"]


def test_the_time_for_a_token() -> None:
    """It ends for who says none; not while one is looked at, nor afterwards."""
    ten = Timeouts(first=10)
    late = bench(timeouts=ten)
    late.wait(9)
    say(late, b"PING a")
    late.wait(3)
    assert late.said.endswith(b"\n-BYE RATE :no first message within 10 s\n")
    found = bench(timeouts=ten)
    found.desk.held = True
    say(found, TILL_1)
    found.wait(20)
    found.desk.work()
    found.wait(100)
    assert found.said == b"+OK\n" and not found.transport.disconnecting


# Grants.


def test_each_thing_is_granted_by_itself() -> None:
    """What is not granted is refused one by one, whether it exists or not."""
    assert talk(
        TILL_1,
        b"PUT messages a",
        b"@1 PUT orders b",
        b"PUT nowhere c",
        b"CALL rows",
        b"CALL secrets",
        b"LISTEN news",
        b"LISTEN orders",
        b"HELLO shop",
        b"UNLISTEN news",
        b"PUT messages d",
    ) == [
        b"+OK",
        b"+OK",
        b"@1 -REJ DENIED :PUT to orders is not granted",
        b"-REJ DENIED :PUT to nowhere is not granted",
        *(b"*3", b"", b"", b""),
        b"-REJ DENIED :CALL of secrets is not granted",
        b"+OK",
        b"-REJ DENIED :LISTEN to orders is not granted",
        b"-REJ DENIED :HELLO to shop is not granted",
        *(b"+OK", b"+OK"),
    ]


def test_what_is_granted_and_not_there_is_said_so() -> None:
    """Who may use every route hears of a mistake in its name."""
    assert talk(b"AUTH " + saying("shop"), b"PUT nowhere x", b"LISTEN nowhere")[1:] == [
        b"-REJ ROUTE :no route nowhere",
        b"-REJ DENIED :channel 'nowhere' is not offered",
    ]


@pytest.mark.parametrize(
    "stream",
    [b"till-2", b"till-10", b"till-1-x", b"ill-1", b"TILL-1", b"*", b"{identity}", b"till-2/1"],
)
def test_nobody_writes_the_stream_of_another(stream: bytes) -> None:
    """Neither by HELLO nor by numbers: they need a stream, and are of the one that is open."""
    found = bench()
    answers = say(
        found,
        TILL_1,
        b"HELLO " + stream,
        b"PUT messages #1 forged",
        b"HELLO till-1",
        b"HELLO " + stream,
        b"PUT messages #1 own",
    )
    denied = b"-REJ DENIED :HELLO to " + stream + b" is not granted"
    assert answers[1] == answers[4] == denied
    assert answers[2].startswith(b"-REJ FORMAT :a number needs a stream")
    assert answers[3] == b"+OK seq=0 epoch=w1" and answers[5] == b"+OK"
    assert stored(found) == [b"own"]
    claim = say(bench(), TILL_2, b"HELLO till-2")
    assert claim == [b"+OK", b"+OK seq=0 epoch=w1"]


def test_streams_of_ones_own() -> None:
    """An identity's pattern allows all that begins with it as configured."""
    assert talk(TILL_1, b"HELLO till-1/7", b"HELLO till-1/")[1:] == [
        *(b"+OK seq=0 epoch=w1", b"+OK seq=0 epoch=w3")
    ]


def test_in_a_stream_what_is_denied_uses_its_number_up() -> None:
    """As every refusal does, so that a peer need not wait for answers."""
    found = bench()
    assert say(
        found,
        *(TILL_1, b"HELLO till-1", b"PUT messages #1 a", b"PUT orders #2 b", b"PUT messages #3 c"),
        *(b"PUT orders #2 b", b"HELLO till-1"),
    ) == [
        *(
            b"+OK",
            b"+OK seq=0 epoch=w1",
            b"+OK",
            b"-REJ DENIED :PUT to orders is not granted",
            b"+OK",
        ),
        *(b"-REJ DENIED :PUT to orders is not granted", b"+OK seq=3 epoch=w3"),
    ]
    assert stored(found) == [b"a", b"c"]


def test_networks_grant_without_a_token() -> None:
    """By address, and by nothing else."""
    section = AccessSection(
        grants={
            "near": GrantSection(networks=("127.0.0.0/8",), routes=("messages",)),
            "here": GrantSection(networks=("unix",), routes=("orders",)),
        }
    )
    found = bench(auth=False, access=section)
    assert say(found, b"PUT messages a", b"PUT orders b") == [
        *(b"+OK", b"-REJ DENIED :PUT to orders is not granted")
    ]
    for address, answer in (
        (UNIXAddress("/x"), b"-REJ DENIED :PUT to messages is not granted\n+OK\n"),
        (IPv4Address("TCP", "192.0.2.1", 9), b"-BYE DENIED :nothing is granted to you here\n"),
    ):
        peer = found.factory.buildProtocol(address)
        transport = StringTransport()
        peer.makeConnection(transport)  # type: ignore[no-untyped-call]
        peer.dataReceived(b"PUT messages a\nPUT orders b\n")
        assert transport.value() == answer
    assert len(stored(found)) == 2


def test_a_network_does_not_let_in_who_is_asked_for_a_token() -> None:
    """Where a token is asked for, what a network grants is for those who have said one."""
    section = AccessSection(grants={"a": GrantSection(networks=("127.0.0.0/8",), routes=("*",))})
    assert talk(b"PUT messages a", access=section) == [FIRST]
    assert talk(TILL_1, b"PUT messages a", access=section) == [b"+OK", b"+OK"]


# Plain listeners.


def plain(**options: Any) -> Bench:
    return Bench(held=False, access=options.pop("access", GRANTED), **options)


def test_a_plain_listener_s_first_frame_is_the_token() -> None:
    """It is answered as a message is; what follows are messages, and wait for it."""
    found = plain(auth=True)
    found.desk.held = True
    found.peer.dataReceived(saying("till-1") + b"\na\nb\n")
    found.peer.dataReceived(b"c\n")
    assert (found.said, stored(found)) == (b"", [])
    found.desk.work()
    assert found.said == b"+OK\n" * 4
    assert stored(found) == [b"a", b"b", b"c"]
    found.peer.dataReceived(saying("till-1") + b"\n")
    assert stored(found)[-1] == saying("till-1")


@pytest.mark.parametrize(
    "first", [b"", b"hello", b"ID-of-till-1.x", b"AUTH " + saying("till-1"), b"x" * 200]
)
def test_a_plain_listener_stores_nothing_without_a_token(first: bytes) -> None:
    """A wrong first frame is the end."""
    found = plain(auth=True)
    found.peer.dataReceived(first + b"\na\n")
    assert (found.said, stored(found)) == (NO_TOKEN + b"\n", [])
    assert found.transport.disconnecting


@pytest.mark.parametrize("framing", ["netstring", "octet-counted"])
def test_a_token_in_every_framing(framing: str) -> None:
    """Each frame is what the framing says."""
    found = plain(auth=True, framing=framing)
    frame = found.peer._framing.frame
    found.peer.dataReceived(frame(saying("till-1")) + frame(b"a"))
    assert found.said == frame(b"+OK") * 2


def test_a_listener_s_own_words_are_said_to_a_token_too() -> None:
    """A device hears nothing but what it knows."""
    found = plain(auth=True, words=Words(b"fine", b"no"))
    found.peer.dataReceived(saying("till-1") + b"\na\n")
    assert found.said == b"fine\nfine\n"
    found = plain(auth=True, words=Words(b"fine", b"no"))
    found.peer.dataReceived(b"x\na\n")
    assert found.said == b"no\n"


def test_a_plain_listener_whose_route_is_not_granted() -> None:
    """Every message is refused."""
    section = AccessSection(grants={"a": GrantSection(identities=("till-1",), routes=("orders",))})
    found = plain(auth=True, access=section)
    found.peer.dataReceived(saying("till-1") + b"\na\nb\n")
    denied = b"-REJ DENIED :route messages is not granted\n"
    assert (found.said, stored(found)) == (b"+OK\n" + denied * 2, [])


def test_content_is_granted_route_by_route() -> None:
    """Of a read the messages for other routes are stored, in their order."""
    reading = Reading("json")
    dialect = ContentDialect(
        format_of(reading, ["to"]), "to", {"m": "messages", "o": "orders"}, "other"
    )
    section = AccessSection(
        grants={"a": GrantSection(networks=("127.0.0.0/8",), routes=("messages", "other"))}
    )
    found = plain(access=section, dialect=dialect, known=("messages", "orders", "other"))
    sent = [b'{"to":"m"}', b'{"to":"o"}', b'{"to":"x"}', b'{"to":"o"}', b'{"to":"m"}']
    found.peer.dataReceived(b"".join(line + b"\n" for line in sent))
    denied = b"-REJ DENIED :route orders is not granted\n"
    assert found.said == b"+OK\n" + denied + b"+OK\n" + denied + b"+OK\n"
    assert stored(found) == [sent[0], sent[2], sent[4]]


def test_who_may_do_nothing_does_not_get_in() -> None:
    """It is told before it is let in, and takes nobody's place."""
    found = bench(auth=False)
    admission = Admission(found.factory, found.clock)
    transport: Any = HalfClosing()  # type: ignore[no-untyped-call]
    stranger: Any = admission.buildProtocol(IPv4Address("TCP", "192.0.2.1", 9))
    before = found.factory.connection_limit.count
    stranger.makeConnection(transport)
    assert transport.value() == b"-BYE DENIED :nothing is granted to you here\n"
    assert found.factory.connection_limit.count == before and stranger not in found.factory.peers


# What changes while somebody is connected.


def judged(found: Bench, section: AccessSection | None = GRANTED, *tokens: Any) -> None:
    """As a reload does."""
    known = tokens or TOKENS
    found.authenticator.replace_tokens({token.id: token for token in known})

    def still(peer_info: PeerInfo) -> PeerInfo | None:
        token = peer_info.token
        if token is None:
            return peer_info
        current = found.authenticator.current(token)
        return None if current is None else peer_info.proved(current)

    found.factory.replace_access(Access(section, ROUTES), still)


def test_a_revoked_token_ends_its_connections() -> None:
    """Those of others go on."""
    found = bench()
    say(found, TILL_1)
    other, transport = found.connect()
    other.dataReceived(TILL_2 + b"\n")
    judged(found, GRANTED, *TOKENS[1:])
    assert found.said.splitlines()[-1] == b"-BYE AUTH :the token is not good any more"
    other.dataReceived(b"PUT messages a\n")
    assert transport.value() == b"+OK\n+OK\n"


def test_rights_change_while_a_peer_is_connected() -> None:
    """What is granted now counts for the next message, whatever the dialect."""
    less = AccessSection(grants={"a": GrantSection(identities=("*",), routes=("orders",))})
    found = bench()
    say(found, TILL_1)
    judged(found, less)
    assert say(found, b"PUT messages a", b"PUT orders b") == [
        *(b"-REJ DENIED :PUT to messages is not granted", b"+OK")
    ]
    judged(found, None)
    assert say(found, b"PUT messages c") == [b"+OK"]
    found = plain(auth=True)
    found.peer.dataReceived(saying("till-1") + b"\na\n")
    judged(found, less)
    found.peer.dataReceived(b"b\n")
    judged(found)
    found.peer.dataReceived(b"c\n")
    assert found.said.splitlines()[2:] == [b"-REJ DENIED :route messages is not granted", b"+OK"]


@pytest.mark.parametrize(
    "section",
    [
        AccessSection(deny=("till-1",), grants=GRANTED.grants),
        AccessSection(grants={"shop": SHOP}),
    ],
)
def test_who_may_do_nothing_any_more_has_to_go(section: AccessSection) -> None:
    """When what it sent is answered."""
    found = Bench(routes=ROUTES, auth=True, access=GRANTED)
    say(found, TILL_1, b"PUT messages a")
    judged(found, section)
    assert found.said == b"+OK\n"
    found.commit_all()
    assert found.said.splitlines() == [
        *(b"+OK", b"+OK", b"-BYE DENIED :nothing is granted to you here")
    ]


@pytest.mark.parametrize("opened", [b"HELLO till-1", b"LISTEN news"])
def test_who_has_something_open_that_is_not_granted_any_more(opened: bytes) -> None:
    """It is told to go; one whose streams and channels are still granted stays."""
    without = AccessSection(
        grants={"a": GrantSection(identities=("*",), routes=("*",), queries=("*",))}
    )
    found = bench()
    say(found, TILL_1, opened)
    judged(found)
    assert say(found, b"PING a") == [b"+OK a"]
    judged(found, without)
    assert found.said.splitlines()[-1] == b"-BYE DENIED :what is open here is not granted any more"
    assert found.transport.disconnecting


def test_who_has_still_to_prove_itself_is_left_alone() -> None:
    """A reload does not end it, nor let it in."""
    found = bench()
    judged(found)
    assert say(found, b"PING a", b"PUT messages a") == [b"+OK a", FIRST]


def test_a_token_that_is_looked_at_during_a_reload() -> None:
    """What counts is what holds when the answer is given."""
    found = bench()
    found.desk.held = True
    say(found, TILL_1, b"PUT messages a")
    judged(found, AccessSection(grants={"shop": SHOP}))
    found.desk.work()
    assert found.said == b"-BYE DENIED :nothing is granted to you here\n"
    assert stored(found) == []


def test_expired() -> None:
    """A token that has expired is wrong."""
    found = bench()
    old = token_of("till-1", expires=TOKENS[0].created)
    found.authenticator.replace_tokens({old.id: old})
    assert say(found, TILL_1) == [NO_TOKEN]


def test_who_has_ended_is_revoked_too() -> None:
    """What is in flight is answered; what was only read, or waits for that, is not done."""
    found = Bench(routes=ROUTES, auth=True, access=GRANTED)
    say(found, TILL_1, b"PUT messages a", b"CALL rows", b"PUT messages b")
    found.peer.readConnectionLost()
    judged(found, GRANTED, *TOKENS[1:])
    found.commit_all()
    assert found.said.splitlines() == [
        *(b"+OK", b"+OK", b"-REJ DENIED :CALL of rows is not granted"),
        b"-BYE AUTH :the token is not good any more",
    ]
    assert stored(found) == [b"a"]


NO_CHANNEL = GrantSection(identities=("*",), routes=("*",), streams=("*",))

NO_STREAM = GrantSection(identities=("*",), routes=("*",), channels=("*",))


def test_a_channel_that_is_asked_for_while_it_is_taken_away() -> None:
    """Nobody stays subscribed to what is not granted any more."""
    found = Bench(routes=ROUTES, auth=True, access=GRANTED)
    say(found, TILL_1, b"PUT messages a", b"LISTEN news")
    judged(found, AccessSection(grants={"a": NO_CHANNEL}))
    found.commit_all()
    assert found.said.splitlines()[1:] == [*(b"+OK", b"-REJ DENIED :LISTEN to news is not granted")]
    found.notifier.notify(("news", "x"))
    assert b">news" not in found.said


def test_a_stream_that_is_opened_while_it_is_taken_away() -> None:
    """Nobody has a stream that is not granted any more."""
    found = Bench(routes=ROUTES, auth=True, access=GRANTED)
    say(found, TILL_1, b"HELLO till-1", b"PUT messages #1 a")
    other, transport = found.connect()
    # The first one's message has to be settled before the stream is the second one's.
    other.dataReceived(TILL_1 + b"\nHELLO till-1\n")
    judged(found, AccessSection(grants={"a": NO_STREAM}))
    found.commit_all()
    assert transport.value() == b"+OK\n-REJ DENIED :HELLO to till-1 is not granted\n"
    other.dataReceived(b"PUT messages #2 b\n")
    assert b"a number needs a stream" in transport.value()


def test_a_token_is_not_refused_for_what_its_neighbours_send() -> None:
    """Who proved nothing yet draws on no bucket but its own, however often it comes."""
    found = bench(allowance=Allowance(messages=2))
    for _ in range(20):
        stranger, _ = found.connect()
        stranger.dataReceived(b"PING\n" * 10)
    assert say(found, TILL_1) == [b"+OK"]


def test_who_sends_too_much_does_not_win_time() -> None:
    """The time for a token runs while a peer is not read for what it sends over its rate."""
    transport = HalfClosing()  # type: ignore[no-untyped-call]
    limits: dict[str, Any] = {"allowance": Allowance(messages=10), "timeouts": Timeouts(first=10)}
    found = bench(transport=transport, **limits)
    for _ in range(130):
        found.peer.dataReceived(b"PING\n" * 10)
        found.wait(0.1)
    assert found.said.endswith(b"-BYE RATE :no first message within 10 s\n")
