"""
The Twisted client: in memory with a clock of the test's, and over TLS on real sockets.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from gateway.client.answers import (
    BufferFull,
    Closed,
    Refused,
    StreamTaken,
    Unknown,
    Unsendable,
)
from gateway.client.buffer import DiskBuffer, MemoryBuffer
from gateway.client.service import GatewayClient
from tests.client.conftest import Authority
from tests.client.model import Model, Peer
from tests.client.server import ModelServer
from tests.in_memory import HalfClosing

Serve = Callable[..., ModelServer]


class Bench:
    """
    A client and a model of a gateway; the test carries the bytes and moves the clock.
    """

    def __init__(self, model: Model | None = None, **options: Any) -> None:
        self.model = model or Model()
        self.reactor: Any = MemoryReactorClock()
        options.setdefault("retry", lambda attempt: float(attempt))
        self.client = GatewayClient(
            TCP4ClientEndpoint(self.reactor, "gateway", 8002),
            reactor=self.reactor,
            dialect=self.model.dialect,
            framing=self.model.framing,
            **options,
        )
        self.peer: Peer | None = None
        self.protocol: Any = None
        self.transport: Any = None

    @property
    def attempts(self) -> int:
        return len(self.reactor.tcpClients)

    def start(self) -> None:
        self.client.startService()
        self.connect()

    def connect(self) -> None:
        """The last attempt succeeds."""
        self.peer = self.model.connect()
        self.transport = HalfClosing()  # type: ignore[no-untyped-call]
        self.protocol = self.reactor.tcpClients[-1][2].buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.pump()

    def refuse(self) -> None:
        """The last attempt fails."""
        factory = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def pump(self) -> None:
        """All bytes on their way arrive."""
        self.reactor.advance(0)
        assert self.peer is not None
        while data := self.transport.value():
            self.transport.clear()
            self.peer.receive(data)
            self.deliver()
            self.reactor.advance(0)
        self.deliver()

    def deliver(self) -> None:
        assert self.peer is not None
        out = bytes(self.peer.out)
        self.peer.out.clear()
        if out:
            self.protocol.dataReceived(out)

    def cut(self) -> None:
        assert self.peer is not None
        self.peer.lost()
        self.protocol.connectionLost(Failure(ConnectionLost()))

    def stop(self) -> Deferred[None]:
        """Stop, and let the connection end as the reactor would."""
        stopped = self.client.stopService()
        self.reactor.advance(0)
        if self.transport is not None and self.transport.disconnecting:
            self.cut()
        return stopped


def failure_of(deferred: Deferred[Any]) -> BaseException:
    found: list[Failure] = []
    deferred.addErrback(found.append)
    assert found and found[0].value is not None, "it has not failed"
    return found[0].value


def result_of(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addCallback(found.append)
    assert found, "it has not fired"
    return found[0]


def test_what_is_sent_in_a_turn_is_written_at_once() -> None:
    """Sends of one turn are one write, and each Deferred gets its own answer."""
    bench = Bench()
    bench.model.fate = lambda m: b"-REJ DATA :no" if m == b"bad" else b"+OK id=" + m
    early = bench.client.send(b"0")
    bench.start()
    sent = [bench.client.send(message) for message in (b"1", b"bad", b"3")]
    many = bench.client.send_many([b"4", b"bad", b"5"], route="other")
    bench.reactor.advance(0)
    assert bench.transport.value().count(b"\n") == 6
    bench.pump()
    assert result_of(early).values == {"id": "0"}
    assert result_of(sent[0]).values == {"id": "1"}
    refused = failure_of(sent[1])
    assert isinstance(refused, Refused) and refused.message == b"bad"
    assert result_of(sent[2]).word == "+OK"
    assert [(n, a.word) for n, a in result_of(many)] == [(1, "+OK"), (1, "-REJ"), (1, "+OK")]
    assert bench.model.table == [b"0", b"1", b"3", b"4", b"5"]


def test_it_connects_again_with_growing_delays() -> None:
    """Failures and useless connections wait longer each time; an answer begins anew."""
    bench = Bench()
    waiting = bench.client.whenConnected(failAfterFailures=2)
    bench.client.startService()
    bench.refuse()
    bench.reactor.advance(0.99)
    assert bench.attempts == 1
    bench.reactor.advance(0.02)
    assert bench.attempts == 2
    bench.refuse()
    assert isinstance(failure_of(waiting), ConnectionRefusedError)
    bench.reactor.advance(1.99)
    assert bench.attempts == 2
    bench.reactor.advance(0.02)
    bench.connect()
    bench.cut()
    bench.reactor.advance(2.99)
    assert bench.attempts == 3
    bench.reactor.advance(0.02)
    bench.connect()
    assert result_of(bench.client.whenConnected()) is None
    ping = bench.client.ping("x")
    bench.pump()
    assert result_of(ping) == "x"
    bench.cut()
    bench.reactor.advance(1.01)
    assert bench.attempts == 5


def test_a_stream_is_resumed() -> None:
    """What had no answer is sent again under its number, and stored once."""
    bench = Bench(stream="s")
    bench.start()
    first = bench.client.send(b"1")
    bench.reactor.advance(0)
    assert bench.peer is not None
    bench.peer.receive(bench.transport.value())
    bench.cut()
    second = bench.client.send(b"2")
    bench.reactor.advance(1.0)
    bench.connect()
    assert result_of(first).word == "+DUP" and result_of(second).word == "+OK"
    assert bench.model.table == [b"1", b"2"]


def test_a_stream_that_is_put_off_is_warned_of_once() -> None:
    """One warning while the gateway says the same, another when it says something else."""
    bench = Bench(stream="s")
    bench.start()
    assert result_of(bench.client.whenConnected()) is None
    first, second = b"-TRY GAP retry=1 :it is at #3", b"-TRY GAP retry=1 :it is at #4"
    said = [first, first, b"-TRY DOWN retry=1 :away", first, second, second]
    bench.model.put_off = lambda: said.pop(0) if said else b""
    with capturedLogs() as logs:
        bench.cut()
        bench.reactor.advance(1.0)
        bench.connect()
        late = bench.client.send(b"1")
        assert str(bench.client.put_off) == first.decode() == str(bench.client.trouble)
        for _ in range(100):
            bench.reactor.advance(1.0)
            bench.pump()
    assert bench.client.put_off is None and result_of(late).word == "+OK"
    warned = [event["answer"] for event in logs if event["log_level"] is LogLevel.warn]
    assert warned == [first.decode(), second.decode()]
    assert bench.attempts == 2


def test_a_mute_gateway_is_left() -> None:
    """Unanswered for longer than the deadline, a connection is aborted; a slow one is not."""
    bench = Bench(stream="s", answer_timeout=10.0)
    bench.start()
    assert bench.peer is not None
    bench.reactor.advance(300)
    bench.peer.mute = True
    bench.client.send(b"1")
    for _ in range(9):
        bench.reactor.advance(1)
        bench.pump()
    assert not bench.transport.aborted
    bench.reactor.advance(2.5)
    bench.reactor.advance(2.5)
    assert bench.transport.aborted


def test_who_only_listens_asks_whether_anyone_is_there() -> None:
    """A listener that hears nothing says PING, and leaves a gateway that does not answer."""
    bench = Bench(answer_timeout=10.0)
    bench.start()
    heard: list[str | None] = []
    listening = bench.client.listen("news", heard.append)
    bench.pump()
    assert result_of(listening) is None
    bench.model.notify("news", "one")
    bench.pump()
    assert heard == ["one"] and bench.peer is not None
    bench.peer.mute = True
    for _ in range(10):
        bench.reactor.advance(2.5)
        bench.pump()
    assert bench.transport.aborted
    bench.cut()
    bench.reactor.advance(2)
    bench.connect()
    assert heard == ["one", None]
    silent = bench.client.unlisten("news")
    bench.pump()
    bench.model.notify("news", "two")
    bench.pump()
    assert result_of(silent) is None and heard == ["one", None]


def test_queries() -> None:
    """Rows as dicts; a refusal fails; a cancelled one is not asked again."""
    bench = Bench()
    bench.model.queries["q"] = lambda arguments: [{"n": 1.5}, {"n": arguments}]
    bench.start()
    rows, exact = bench.client.call("q", [1]), bench.client.call("q", [1], exact=True)
    wrong = bench.client.call("nope")
    bench.pump()
    assert result_of(rows) == [{"n": 1.5}, {"n": [1]}]
    assert result_of(exact)[0]["n"] == Decimal("1.5")
    assert isinstance(failure_of(wrong), Refused)
    bench.cut()
    late = bench.client.call("q")
    late.cancel()
    assert isinstance(failure_of(late), CancelledError)
    bench.reactor.advance(2)
    bench.connect()
    assert not bench.transport.value()


def test_backpressure() -> None:
    """A full buffer takes nothing; room() tells when it is half empty, flush() when it is empty."""
    bench = Bench(buffer=MemoryBuffer(max_bytes=1000))
    bench.client.send_many([b"x" * 100] * 6)
    full = bench.client.send(b"y" * 200)
    assert isinstance(failure_of(full), BufferFull)
    room, flushed = bench.client.room(), bench.client.flush()
    fired: list[str] = []
    room.addCallback(lambda _: fired.append("room"))
    flushed.addCallback(lambda _: fired.append("flushed"))
    assert not fired and bench.client.unanswered == 6
    bench.start()
    assert sorted(fired) == ["flushed", "room"] and bench.client.unanswered == 0
    assert result_of(bench.client.room()) is None


def test_unsendable_and_unknown() -> None:
    """What a line cannot hold fails at once; resend=False tells that a fate is unknown."""
    bench = Bench(Model("plain"), resend=False)
    bench.start()
    assert isinstance(failure_of(bench.client.send(b"a\nb")), Unsendable)
    doubt = bench.client.send(b"x")
    bench.reactor.advance(0)
    bench.cut()
    assert isinstance(failure_of(doubt), Unknown)


def test_a_taken_stream_ends_the_client() -> None:
    """Taken over, everything fails with the reason, and nothing connects any more."""
    bench = Bench(stream="s")
    bench.start()
    other = bench.model.connect()
    other.receive(b"HELLO s\n")
    sent = bench.client.send(b"1")
    bench.pump()
    assert isinstance(failure_of(sent), StreamTaken)
    bench.reactor.advance(0)
    assert bench.transport.aborted
    bench.cut()
    bench.reactor.advance(100)
    assert bench.attempts == 1
    assert isinstance(failure_of(bench.client.send(b"2")), StreamTaken)
    assert isinstance(failure_of(bench.client.whenConnected()), StreamTaken)


def test_stopping_flushes_within_its_time() -> None:
    """A stop waits for answers; what has none in time fails and says what becomes of it."""
    bench = Bench(stop_timeout=3.0)
    bench.start()
    assert bench.peer is not None
    good = bench.client.send(b"1")
    stopped = bench.client.stopService()
    bench.pump()
    assert result_of(good).word == "+OK"
    bench.cut()
    assert result_of(stopped) is None
    assert isinstance(failure_of(bench.client.send(b"late")), Closed)
    bench.start()
    bench.peer.mute = True
    lost = bench.client.send(b"2")
    bench.reactor.advance(0)
    stopped = bench.client.stopService()
    bench.reactor.advance(2.9)
    assert not bench.transport.aborted
    bench.reactor.advance(0.2)
    bench.reactor.advance(0)
    assert bench.transport.aborted
    bench.cut()
    assert result_of(stopped) is None
    assert "may be stored or not" in str(failure_of(lost))
    assert not bench.reactor.getDelayedCalls()


def test_a_disk_buffer_hands_over_to_the_next_client(tmp_path: Path) -> None:
    """What a stopped client had no answer for is sent by the next one, once and in order."""
    path = tmp_path / "buffer"
    model = Model()
    bench = Bench(model, stream="s", buffer=DiskBuffer(path), stop_timeout=0.1)
    bench.start()
    bench.client.send(b"1")
    bench.pump()
    lost = bench.client.send_many([b"2", b"3"])
    bench.reactor.advance(0)
    assert bench.peer is not None
    bench.peer.receive(bench.transport.value())
    bench.cut()
    bench.client.send(b"4").addErrback(lambda reason: None)
    bench.client.stopService()
    bench.reactor.advance(1)
    assert "kept" in str(failure_of(lost))
    after = Bench(model, stream="s", buffer=DiskBuffer(path))
    after.start()
    fifth = after.client.send(b"5")
    after.pump()
    assert result_of(fifth).word == "+OK"
    assert model.table == [b"1", b"2", b"3", b"4", b"5"]
    after.stop()


def test_a_failing_listener_costs_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a callback is logged, and the next push still comes."""
    bench = Bench()
    bench.start()
    heard: list[str | None] = []

    def fails(payload: str | None) -> None:
        heard.append(payload)
        raise RuntimeError("mine")

    bench.client.listen("news", fails)
    bench.pump()
    bench.model.notify("news", "one")
    bench.model.notify("news", "two")
    bench.pump()
    assert heard == ["one", "two"]


@pytest_twisted.ensureDeferred
async def test_tls(serve: Serve, authority: Authority) -> None:
    """Over TLS with a verified name a stream goes through connections that are cut."""
    server = await deferToThread(serve, None, authority.server)
    server.cut_after = 4
    messages = [b"%d" % n for n in range(3000)]
    async with GatewayClient(
        f"tcp:localhost:{server.port}",
        tls=authority.pem,
        stream="s",
        window=300,
        retry=lambda attempt: 0.01,
    ) as client:
        await client.whenConnected()
        for start in range(0, 3000, 100):
            client.send_many(messages[start : start + 100])
        await client.flush()
    assert server.model.table == messages
    assert server.accepted > 3


@pytest_twisted.ensureDeferred
async def test_tls_that_cannot_be_trusted(serve: Serve, authority: Authority) -> None:
    """Another host's name, an unknown authority, no TLS at all: refused, and not a byte is said."""
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(other)
    strange, right, plain = serve(tls=other), serve(tls=authority.server), serve()
    for server, name in ((strange, None), (right, "gateway.example"), (plain, None)):
        client = GatewayClient(
            f"tcp:localhost:{server.port}",
            tls=authority.pem,
            server_name=name,
            stop_timeout=0.0,
            connect_timeout=0.5,
            retry=lambda attempt: 0.01,
        )
        client.startService()
        sent = client.send(b"secret")
        sent.addErrback(lambda reason: reason.value)
        with pytest.raises(Exception) as refused:  # of several libraries
            await client.whenConnected(failAfterFailures=2)
        if server is not plain:
            text = repr(refused.value)
            assert "certificate verify failed" in text or "VerificationError" in text, text
        await client.stopService()
        assert isinstance(await sent, Closed)
        assert not server.model.table


def test_endpoints_that_would_trust_anyone_are_refused(authority: Authority) -> None:
    """No name to verify, no certificate in a file: told at once, with what to write instead."""
    reactor: Any = MemoryReactorClock()
    with pytest.raises(ValueError, match="tls:HOST:PORT"):
        GatewayClient("ssl:localhost:8002", reactor=reactor)
    with pytest.raises(ValueError, match="server_name"):
        GatewayClient(TCP4ClientEndpoint(reactor, "h", 1), tls=True, reactor=reactor)
    with pytest.raises(ValueError, match="tcp:HOST:PORT"):
        GatewayClient("tls:localhost:8002", tls=True, reactor=reactor)
    with pytest.raises(ValueError, match="no certificate"):
        GatewayClient("tcp:localhost:8002", tls=__file__, reactor=reactor)


@pytest_twisted.ensureDeferred
async def test_tls_endpoint_strings(serve: Serve, authority: Authority) -> None:
    """tls:HOST:PORT works as Twisted has it, with an authority of one's own."""
    server = serve(tls=authority.server)
    roots = authority.pem.parent / "roots"
    roots.mkdir()
    authority.pem.rename(roots / "ca.pem")
    where = f"tls:localhost:{server.port}:trustRoots={roots}"
    async with GatewayClient(where, reactor=global_reactor) as client:
        assert (await client.send(b"hello")).word == "+OK"
    assert server.model.table == [b"hello"]
