"""
What a client begins with: listeners of commands answer it, all others say which ones they are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.client.probe import probe
from gateway.client.wire import WIRES
from gateway.model.outcome import Words
from gateway.peers.timeouts import Timeouts
from gateway.wire.framing import FRAMINGS
from gateway.wire.probe import MAX_PROBE_BYTES, probe_framing
from tests.in_memory import Bench
from tests.support import PATIENCE, Database, Gateway

Start = Callable[..., Gateway]

NONCE: Final = "0123456789abcdef"


def said_by_client(framing: str) -> bytes:
    """As it goes over the wire."""
    return WIRES[framing]().frame(probe(framing, NONCE))


NEARLY: Final = (
    b"PING",
    b"PING hello",
    b"PING gateway-client-5e2b9c41d7",
    b"PING gateway-client-5e2b9c41d7 hello",
    b"x" + probe("line", NONCE),
    b"ping gateway-client-5e2b9c41d7 \0x",
    b"12",
    b"12 PING",
    b"48:PING gateway-client-5e2b9c41d7 \0",
    b"PING gateway-client-5e2b9c41d7 \x02",
)
"""First lines that are messages."""


@pytest.mark.parametrize("spoken", FRAMINGS)
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("routes", [None, ["messages"]], ids=["plain", "commands"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_every_client_at_every_listener(
    spoken: str, framing: str, routes: Sequence[str] | None, step: int
) -> None:
    """However TCP cuts it, it is answered where it is right, named where not, and never stored."""
    bench = Bench(framing, held=False, routes=routes)
    stream = said_by_client(spoken) + said_by_client(spoken)
    for place in range(0, len(stream), step):
        bench.peer.dataReceived(stream[place : place + step])
    assert bench.store.rows == [] and bench.store.waiting_writes == 0
    if routes is not None and spoken == framing:
        assert bench.said.count(b"+OK gateway-client-5e2b9c41d7 ") == 2
        assert bench.said.count(NONCE.encode()) == 2
    else:
        dialect = "plain" if routes is None else "command"
        text = f"-BYE FORMAT :this is listener lines (dialect {dialect}, framing {framing}): "
        assert text.encode() in bench.said and bench.said.count(b"-BYE") == 1
        assert bench.transport.disconnecting


@pytest.mark.parametrize("words", [Words(b"", b""), Words(b"saved", b"refused")])
def test_a_listener_with_words_of_its_own(words: Words) -> None:
    """A client that is wrong there does not know them, and hears the protocol's."""
    bench = Bench(held=False, words=words)
    bench.peer.dataReceived(said_by_client("line"))
    assert bench.said.startswith(b"-BYE FORMAT :this is listener lines ")


def test_a_listener_that_asks_for_a_token() -> None:
    """The probe is not taken for one; before it proves who it is a client may say it."""
    bench = Bench(held=False, auth=True)
    bench.peer.dataReceived(said_by_client("line"))
    assert bench.said.startswith(b"-BYE FORMAT :this is listener lines ")
    bench = Bench(held=False, auth=True, routes=["messages"])
    bench.peer.dataReceived(said_by_client("line"))
    assert bench.said.startswith(b"+OK gateway-client-")


@pytest.mark.parametrize("line", [*NEARLY, b"", b"P", b"hello"])
def test_first_lines_that_are_messages(line: bytes) -> None:
    """What only looks a little like a probe is stored, and so is a probe that comes later."""
    bench = Bench(held=False)
    for piece in (line[:3], line[3:], b"\n", b"PING hello\n"):
        bench.peer.dataReceived(piece)
    # What holds a NUL cannot be text.
    assert bench.said.count(b"\n") == 2 and bench.said.endswith(b"+OK\n")
    assert (bench.said == b"+OK\n+OK\n") is (b"\0" not in line)
    bench = Bench(held=False)
    bench.peer.dataReceived(line + b"\n" + said_by_client("line"))
    assert bench.said.count(b"\n") == 2 and b"-BYE" not in bench.said


@given(st.binary(max_size=80))
@example(probe("line", NONCE))
@example(b"49:" + probe("netstring", NONCE))
def test_any_beginning_is_known_in_time(stream: bytes) -> None:
    """With enough bytes it is decided, and more of them change nothing."""
    answers = [probe_framing(stream[:end]) for end in range(len(stream) + 1)]
    decided = [answer for answer in answers if answer is not None]
    assert len(set(decided)) <= 1
    assert len(stream) < MAX_PROBE_BYTES or decided


def test_a_beginning_is_a_frame_that_is_not_finished() -> None:
    """A peer that stops there hears of the time that a frame may take, as for any other."""
    bench = Bench(timeouts=Timeouts(frame=2.0))
    bench.peer.dataReceived(b"PING gate")
    bench.wait(3.0)
    assert b"-BYE RATE" in bench.said


@pytest.fixture
def gateway(database: Database, start_with: Start) -> Gateway:
    """With two plain listeners."""
    return start_with(
        '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
        '[listeners.netstrings]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
        'framing = "netstring"\n[routes.messages]\ntable = "messages"\ncreate = true\n'
    )


@pytest.mark.parametrize("listener", ["lines", "netstrings"])
def test_a_real_gateway(gateway: Gateway, database: Database, listener: str) -> None:
    """Nothing of it reaches the table, and the log says who was wrong."""
    for spoken in FRAMINGS:
        with socket.create_connection(
            ("127.0.0.1", gateway.port(listener)), timeout=PATIENCE
        ) as connection:
            connection.sendall(said_by_client(spoken) + b"PUT messages x\n")
            with connection.makefile("rb") as answers:
                assert b"-BYE FORMAT :this is listener " + listener.encode() in answers.read()
    assert database.bodies() == []
    assert f"this is listener {listener}" in gateway.log
