"""
Frames out, answers in: whatever the cuts, each request gets its own answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.answers import Garbled
from gateway.client.wire import make_wire
from gateway.relay.conversation import Conversation, Farewell, Request

FRAMINGS = ("netstring", "octet-counted", "int32")

ANSWERS = (b"+OK", b"+DUP", b"+QUE", b"+OK id=1", b"-REJ DATA :no", b"-TRY GAP seq=1 :next")


def framed(framing: str, frames: Sequence[bytes]) -> bytes:
    wire = make_wire(framing, None)
    return b"".join(map(wire.frame, frames))


@given(
    st.sampled_from(FRAMINGS),
    st.lists(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=20), max_size=8),
    st.integers(1, 40),
)
def test_answers_go_to_their_requests(framing: str, answers: list[list[bytes]], step: int) -> None:
    """In whatever cuts they come, each request has its answers in order."""
    talk = Conversation(framing)
    ended: list[Request] = []
    for number, some in enumerate(answers):
        talk.put(b"r", number + 1, [b"x"] * len(some), ended.append)
    data = framed(framing, [answer for some in answers for answer in some])
    for at in range(0, len(data), step):
        talk.receive(data[at : at + step])
    assert [
        [answer.raw for count, answer in request.runs for _ in range(count)] for request in ended
    ] == answers
    assert talk.owed == 0


def test_what_has_no_answer_ends_with_the_connection() -> None:
    """A request whose answers do not all come says how many are missing."""
    talk = Conversation("netstring")
    ended: list[Request] = []
    written = talk.put(b"r", 7, [b"a", b"b", b"c"], ended.append)
    assert written == framed("netstring", [b"PUT r #7 a", b"PUT r #8 b", b"PUT r #9 c"])
    with pytest.raises(Farewell):
        talk.receive(framed("netstring", [b"+OK", b"-BYE DRAIN :the gateway stops"]))
    assert not ended
    talk.lost()
    (request,) = ended
    assert request.left == 2 and [count for count, _ in request.runs] == [1]


@pytest.mark.parametrize("data", [b"3:+OK,", b"5:hello,", b"HTTP/1.1 400 Bad Request"])
def test_nonsense(data: bytes) -> None:
    """An answer that nobody asked for, or that is none, is no answer."""
    with pytest.raises(Garbled):
        Conversation("netstring").receive(data)
