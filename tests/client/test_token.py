"""
Clients that say who they are, against a model of a gateway that asks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gateway.client.answers import NotAllowed, Refused
from gateway.client.blocking import BlockingClient
from gateway.client.buffer import DiskBuffer
from tests.client.model import Model
from tests.client.server import ModelServer
from tests.client.test_service import Bench
from tests.client.test_session import Wired

Serve = Callable[..., ModelServer]

TOKEN = "id-of-till.secret-of-till"


def asking(dialect: str = "command", framing: str = "line", token: str = TOKEN) -> Model:
    """A gateway that asks for this token."""
    model = Model(dialect, framing)
    model.token = token.encode()
    return model


@pytest.mark.parametrize("framing", ["line", "netstring", "octet-counted"])
@pytest.mark.parametrize("options", [{}, {"stream": "s"}, {"dialect": "plain"}])
def test_the_token_is_said_first_on_each_connection(framing: str, options: dict[str, Any]) -> None:
    """Before HELLO and all messages, again after each reconnect, in every framing."""
    options = dict(options)
    wired = Wired(asking(options.pop("dialect", "command"), framing), token=TOKEN, **options)
    first = wired.session.put("r", [b"1", b"2"])
    wired.settle()
    wired.cut()
    second = wired.session.put("r", [b"3"])
    wired.settle()
    assert wired.model.table == [b"1", b"2", b"3"]
    assert wired.runs(first) + wired.runs(second) == [(2, "+OK"), (1, "+OK")]


def test_nothing_is_said_before_the_token_is_taken() -> None:
    """What comes behind a token that has to be said again later would be the end."""
    model = asking()
    model.later = 2
    wired = Wired(model, token=TOKEN, stream="s")
    parcel = wired.session.put("r", [b"1"])
    wired.settle()
    assert wired.session.failure is None
    assert (model.table, model.later, wired.runs(parcel)) == ([b"1"], 0, [(1, "+OK")])


@pytest.mark.parametrize("dialect", ["command", "plain"])
@pytest.mark.parametrize("token", [None, "id-of-till.guessed"])
def test_a_token_that_is_not_taken_is_the_end(dialect: str, token: str | None) -> None:
    """The session fails for good, once, and says what the gateway said and not the token."""
    wired = Wired(asking(dialect), token=token)
    wired.session.put("r", [b"1"])
    wired.settle()
    assert isinstance(wired.session.failure, NotAllowed)
    assert "-BYE AUTH" in str(wired.session.failure)
    assert "guessed" not in str(wired.session.failure)
    assert wired.model.table == []
    with pytest.raises(NotAllowed):
        wired.session.put("r", [b"2"])


def test_a_gateway_without_tokens_is_told_apart() -> None:
    """Where AUTH is not offered the client says so, without the token."""
    model = asking()
    model.offered = False
    wired = Wired(model, token=TOKEN)
    wired.settle()
    failure = wired.session.failure
    assert isinstance(failure, Refused) and "not offered" in str(failure)
    assert failure.message == b"AUTH"


def test_a_busy_gateway_is_asked_again() -> None:
    """-BYE BUSY is for now: the next connection says the token again."""
    model = asking()
    model.busy = 1
    wired = Wired(model, token=TOKEN)
    wired.session.put("r", [b"1"])
    wired.settle()
    assert (wired.session.failure, model.table) == (None, [b"1"])


@pytest.mark.parametrize("token", ["", "a b", "a\n", "ä", "x" * 257])
def test_what_is_no_token(token: str) -> None:
    """It is refused before anything is said, and is not in the error."""
    with pytest.raises(ValueError, match="token") as raised:
        BlockingClient("localhost", 1, token=token)
    assert not token.strip("ax") or token not in str(raised.value)


def test_the_twisted_client_ends() -> None:
    """Everything that waits fails, it does not connect again, and later calls fail too."""
    bench = Bench(asking(), token="id-of-till.guessed")
    sent, connected = bench.client.send(b"1"), bench.client.whenConnected()
    found: list[Any] = []
    for deferred in (sent, connected):
        assert isinstance(deferred, Deferred)
        deferred.addErrback(found.append)
    bench.start()
    bench.reactor.advance(100)
    assert all(isinstance(each, Failure) and each.check(NotAllowed) for each in found)
    assert (len(found), bench.attempts) == (2, 1)
    bench.client.send(b"2").addErrback(found.append)
    assert found[-1].check(NotAllowed)


def test_the_blocking_client_ends(serve: Serve, tmp_path: Path) -> None:
    """At once, not when its time is over; what its buffer has goes with the next client."""
    server = serve(asking())
    buffer = DiskBuffer(tmp_path / "buffer")
    with (
        pytest.raises(NotAllowed, match="-BYE AUTH"),
        BlockingClient("127.0.0.1", server.port, token="no.such", buffer=buffer) as client,
    ):
        client.send(b"kept")
    assert server.accepted == 1
    buffer = DiskBuffer(tmp_path / "buffer")
    with BlockingClient("127.0.0.1", server.port, token=TOKEN, buffer=buffer) as client:
        client.flush()
    assert server.model.table == [b"kept"]
