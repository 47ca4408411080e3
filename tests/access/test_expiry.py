"""
What proved who somebody is and does so no more, while that peer is connected.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from tests.access.test_authenticator import GRANTED, ROUTES, TILL_1, TILL_2, bench, judged, say
from tests.in_memory import TOKENS, Bench, token_of
from tests.support import logged


def test_a_token_that_expires_ends_its_connections() -> None:
    """
    What is in flight is answered, what waits for that is not begun; others of the listener stay,
    and so does who has said a newer one.
    """
    found = Bench(routes=ROUTES, auth=True, access=GRANTED)
    at = datetime.fromtimestamp(found.desk.now + 60, UTC)
    short = token_of("till-1", expires=at)
    newer = replace(short, id="second-id", expires=None)
    found.authenticator.replace_tokens({token.id: token for token in (short, newer, *TOKENS[1:])})
    renewed, its_transport = found.connect()
    other, transport = found.connect()
    say(found, TILL_1, b"PUT messages a", b"CALL rows")
    renewed.dataReceived(TILL_1 + b"\nAUTH second-id.secret-of-till-1\n")
    other.dataReceived(TILL_2 + b"\n")
    found.wait(30)
    assert found.said == b"+OK\n"
    found.desk.now += 60
    with logged() as events:
        found.wait(12)
    # One line, though it is looked at again while its answer is due.
    assert sum("has expired" in str(event.get("reason")) for event in events) == 1
    found.commit_all()
    assert found.said.splitlines() == [
        *(b"+OK", b"+OK", b"-REJ DENIED :CALL of rows is not granted"),
        b"-BYE AUTH :the token or certificate has expired",
    ]
    assert its_transport.value() == b"+OK\n+OK\n" and transport.value() == b"+OK\n"


def test_an_expiry_that_a_reload_moves() -> None:
    """What the file says now counts for those who are connected too."""
    found = bench()
    never = token_of("till-1")
    soon = token_of("till-1", expires=datetime.fromtimestamp(found.desk.now + 60, UTC))
    start = found.desk.now
    for first, then in ((never, soon), (soon, never)):
        found.desk.now = start
        found.authenticator.replace_tokens({first.id: first})
        peer, transport = found.connect()
        peer.dataReceived(TILL_1 + b"\n")
        judged(found, GRANTED, then)
        found.desk.now += 61
        found.wait(6)
        assert (b"-BYE AUTH" in transport.value()) is (then is soon)


def test_another_secret_for_the_same_id() -> None:
    """Who said the old one is told to go, as if it were revoked."""
    found = bench()
    say(found, TILL_1)
    judged(found, GRANTED, replace(TOKENS[0], hash="new"), *TOKENS[1:])
    assert found.said.splitlines()[-1] == b"-BYE AUTH :the token is not good any more"


def test_one_timer_for_all_that_expires() -> None:
    """A thousand tokens that expire need no timer but the listener's own."""
    found = bench()
    at = datetime.fromtimestamp(found.desk.now + 60, UTC)
    token = token_of("till-1", expires=at)
    found.authenticator.replace_tokens({token.id: token})
    before = len(found.clock.getDelayedCalls())
    for _ in range(1000):
        peer, _ = found.connect()
        peer.dataReceived(TILL_1 + b"\n")
    # One more counts for the log who was let in.
    assert len(found.clock.getDelayedCalls()) <= before + 1
