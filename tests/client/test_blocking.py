"""
The blocking client against a model of a gateway on a real socket.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import trustme

from gateway.client.answers import Closed, Refused, StreamTaken, Unsendable
from gateway.client.blocking import BlockingClient
from tests.client.conftest import Authority
from tests.client.model import Model
from tests.client.server import ModelServer
from tests.support import wait_until

Serve = Callable[..., ModelServer]

PACKAGE = Path(__file__).parent.parent.parent / "gateway" / "client"


def quickly(attempt: int) -> float:
    return 0.01


def test_send_call_ping(serve: Serve) -> None:
    """Messages, queries with their rows, refusals as exceptions."""
    server = serve()
    server.model.queries["last"] = lambda arguments: [{"n": 1.25, "a": arguments}]
    server.model.fate = lambda m: b"-REJ DATA :no" if m == b"bad" else b"+OK id=7"
    with BlockingClient("127.0.0.1", server.port) as client:
        assert client.send(b"hello").values == {"id": "7"}
        with pytest.raises(Refused, match="DATA") as refused:
            client.send(b"bad")
        assert refused.value.message == b"bad" and refused.value.answer.code == "DATA"
        runs = client.send_many([b"a", b"b", b"bad", b"c"])
        assert [(count, a.word) for count, a in runs] == [(2, "+OK"), (1, "-REJ"), (1, "+OK")]
        assert client.send_many([]) == []
        assert client.call("last", {"n": 2}) == [{"n": 1.25, "a": {"n": 2}}]
        assert client.call("last", exact=True)[0]["n"] == Decimal("1.25")
        with pytest.raises(Refused, match="no such query"):
            client.call("nope")
        assert client.ping("hello you") == "hello you"
        with pytest.raises(Unsendable):
            client.send(b"a\nb")
    with pytest.raises(Closed):
        client.send(b"late")
    assert server.model.table == [b"hello", b"a", b"b", b"c"]


@pytest.mark.parametrize("framing", ["line", "netstring", "octet-counted"])
def test_a_stream_survives_cut_connections(serve: Serve, framing: str) -> None:
    """Connections end every few reads, answers are lost: all is stored once, in order."""
    server = serve(Model(framing=framing))
    server.cut_after = 4
    messages = [b"%d" % n for n in range(5000)]
    with BlockingClient(
        "127.0.0.1", server.port, stream="s", framing=framing, window=500, retry=quickly
    ) as client:
        answered = sum(count for count, _ in client.send_each(iter(messages)))
    assert answered == 5000
    assert server.model.table == messages
    assert server.accepted > 5


def test_plain_netstrings(serve: Serve) -> None:
    """A plain listener takes bare messages, of any bytes."""
    server = serve(Model("plain", "netstring"))
    with BlockingClient("127.0.0.1", server.port, dialect="plain", framing="netstring") as client:
        client.send(b"two\nlines")
        with pytest.raises(Unsendable, match="plain"):
            client.call("last")
    assert server.model.table == [b"two\nlines"]


def test_nobody_there(serve: Serve) -> None:
    """Without a gateway a call ends in time, says why, and keeps the message for the next."""
    server = serve()
    server.stop()
    client = BlockingClient("127.0.0.1", server.port, timeout=0.2, retry=quickly)
    with pytest.raises(TimeoutError, match=r"0\.2 seconds .*refused.*1 messages are unanswered"):
        client.send(b"hello")
    assert client.unanswered == 1
    client.close()


def test_a_stream_that_is_put_off_is_told(serve: Serve) -> None:
    """While the gateway does not open the stream a call ends in time, with the gateway's words."""
    server = serve()
    client = BlockingClient("127.0.0.1", server.port, stream="s", timeout=0.3, retry=quickly)
    client.send(b"1")
    server.model.put_off = lambda: b"-TRY GAP retry=0.05 :another gateway has the rest"
    server.cut()
    with pytest.raises(TimeoutError, match=r"-TRY GAP .*the rest.*1 messages are unanswered"):
        client.send(b"2")
    assert len(server.model.hellos) > 2
    server.model.put_off = lambda: b""
    client.flush()
    client.close()
    assert server.model.table == [b"1", b"2"]
    assert set(server.model.hellos[1:]) == {b"s seen=1 epoch=e-1"}


def test_a_mute_gateway_is_left(serve: Serve) -> None:
    """A connection on which no answer comes is given up, and the message sent over another."""
    server = serve()
    client = BlockingClient("127.0.0.1", server.port, answer_timeout=0.2, retry=quickly, stream="s")
    client.ping()
    with server.lock:
        server.model.peers[0].mute = True
    assert client.send(b"hello").word == "+DUP"
    assert server.accepted == 2
    client.close()


def test_listen(serve: Serve) -> None:
    """Notifications come as they are pushed, through a reconnect, which is told as a gap."""
    server = serve()
    server.model.denied = {"secret"}
    client = BlockingClient("127.0.0.1", server.port, retry=quickly)
    with pytest.raises(Refused, match="DENIED"):
        client.listen("secret")
    pushes = client.listen("news", "weather")
    server.model.notify("news", "one")
    server.say()
    first = next(pushes)
    assert (first.channel, first.payload) == ("news", "one")
    server.cut()
    gaps = {next(pushes), next(pushes)}
    assert {(gap.channel, gap.payload) for gap in gaps} == {("news", None), ("weather", None)}
    server.model.notify("weather", "rain")
    server.say()
    assert next(pushes).payload == "rain"
    client.unlisten("news")
    assert list(client.listen("weather", timeout=0.05)) == []
    client.close()


def test_a_taken_stream_ends_the_client(serve: Serve) -> None:
    """Another client on the same stream: the older one stops with a clear error."""
    server = serve()
    first = BlockingClient("127.0.0.1", server.port, stream="s")
    first.send(b"1")
    with BlockingClient("127.0.0.1", server.port, stream="s") as second:
        second.send(b"2")
        server.say()
        with pytest.raises(StreamTaken, match="stream s"):
            first.send(b"3")
    first.close()
    assert server.model.table == [b"1", b"2"]


def test_unix_socket(tmp_path: Path) -> None:
    """A host with a slash is a Unix socket's path."""
    import socket

    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"+OK " + connection.recv(100).removeprefix(b"PING "))
                assert connection.recv(100) == b"PUT messages hello\n"
                connection.sendall(b"+OK\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with BlockingClient(str(path)) as client:
            assert client.send(b"hello").word == "+OK"
        thread.join()


def test_tls(serve: Serve, authority: Authority) -> None:
    """A gateway that an authority of ours vouches for is talked to, cut and resumed."""
    server = serve(tls=authority.server)
    server.cut_after = 4
    messages = [b"%d" % n for n in range(3000)]
    with BlockingClient(
        "localhost", server.port, tls=authority.pem, stream="s", retry=quickly
    ) as client:
        client.send_many(messages)
    assert server.model.table == messages


def test_tls_that_cannot_be_trusted(serve: Serve, authority: Authority) -> None:
    """Another host's name, an unknown authority, no TLS at all: refused, and not a byte is said."""
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(other)
    strange, right = serve(tls=other), serve(tls=authority.server)
    with (
        BlockingClient("localhost", strange.port, tls=authority.pem) as client,
        pytest.raises(ssl.SSLCertVerificationError, match=r"self.signed|unable to get"),
    ):
        client.ping()
    with (
        BlockingClient(
            "localhost", right.port, tls=authority.pem, server_name="gateway.example"
        ) as client,
        pytest.raises(ssl.SSLCertVerificationError, match=r"gateway\.example"),
    ):
        client.ping()
    plain = serve()
    with (
        BlockingClient("localhost", plain.port, tls=authority.pem, timeout=0.3) as client,
        pytest.raises(TimeoutError),
    ):
        client.ping()
    lax = ssl.create_default_context()
    lax.check_hostname = False
    with pytest.raises(ValueError, match="does not verify"):
        BlockingClient("localhost", right.port, tls=lax)
    assert not strange.model.peers and not right.model.peers
    wait_until(lambda: plain.accepted, "a connection without TLS")
    assert not plain.model.table


def test_the_folder_works_elsewhere(serve: Serve, tmp_path: Path) -> None:
    """Copied under another name, without the gateway or any package, it sends."""
    copy = tmp_path / "gw"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("service", "link", "connection", "secure"):
        (copy / f"{name}.py").unlink()
    server = serve()
    program = (
        "import sys; sys.path[:0] = ['.']; from gw.blocking import BlockingClient;"
        f"c = BlockingClient('127.0.0.1', {server.port}); print(c.send(b'hi')); c.close();"
        "bad = {'twisted', 'gateway', 'attr'} & set(sys.modules); assert not bad, bad"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.stdout == "+OK\n", said.stderr
    assert server.model.table == [b"hi"]
