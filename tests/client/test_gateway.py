"""
Both clients against a real gateway: what it refuses, queries, notifications, a restart.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import psycopg2
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread

from gateway.client.answers import Refused, StreamLost, StreamTaken
from gateway.client.blocking import BlockingClient
from gateway.client.buffer import DiskBuffer
from gateway.client.service import GatewayClient
from tests.sending import Running, hold_all
from tests.support import PATIENCE, Database, Gateway, lasting_port, wait_until

Start = Callable[..., Gateway]

CONFIG = """
[channels]
allow = ["news"]
[queries.last]
sql = "select id, body, 1.25::numeric as n from messages order by id desc limit %(n)s"
[queries.last.params.n]
type = "integer"
"""


@pytest.fixture
def config() -> str:
    """Listeners of commands in every framing, on ports that stay over a restart."""
    found = CONFIG
    for framing in ("line", "netstring", "octet-counted"):
        port = lasting_port()
        found += (
            f'[listeners.{framing}]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n'
            f'framing = "{framing}"\ndialect = "command"\nmax_frame = 1000\n'
        )
    return found


def quickly(attempt: int) -> float:
    return 0.05


@pytest.mark.parametrize("framing", ["line", "netstring", "octet-counted"])
def test_refusals_in_a_stream(
    start_with: Start, database: Database, config: str, framing: str
) -> None:
    """Too long, not UTF-8, no such route: each refused alone; the stream goes on, kill -9 too."""
    gateway = start_with(config)
    messages = [b"1", b"x" * 2000, b"2", b"\xff", b"y" * 2000, b"3", b"\0"]
    options: dict[str, Any] = {"framing": framing, "stream": "s", "retry": quickly}
    with BlockingClient("127.0.0.1", gateway.port(framing), **options) as client:
        runs = client.send_many(messages)
        codes = [answer.code for count, answer in runs for _ in range(count)]
        assert codes == ["", "TOOBIG", "", "DATA", "TOOBIG", "", "DATA"]
        with pytest.raises(Refused, match="ROUTE"):
            client.send(b"4", route="nowhere")
        gateway.process.kill()
        gateway.process.wait()
        gateway = start_with(config)
        assert client.send(b"5").word == "+OK"
        assert client.unanswered == 0
    assert database.bodies() == ["1", "2", "3", "5"]
    assert "Traceback" not in gateway.log


def test_queries_and_notifications(start_with: Start, database: Database, config: str) -> None:
    """Rows of a query, its refusals; pushes, and a gap where the gateway was gone meanwhile."""
    gateway = start_with(config)
    client = BlockingClient("127.0.0.1", gateway.port("line"), retry=quickly)
    client.send_many([b"a", b"b", b"c"])
    assert [row["body"] for row in client.call("last", {"n": 2})] == ["c", "b"]
    assert client.call("last", [0]) == []
    for wrong in (("nope", None), ("last", {"n": "many"}), ("last", {})):
        with pytest.raises(Refused, match="QUERY"):
            client.call(*wrong)
    with pytest.raises(Refused, match="DENIED"):
        client.listen("secret")
    pushes = client.listen("news")
    database.execute("NOTIFY news, 'one two'")
    assert next(pushes).payload == "one two"
    gateway.process.kill()
    gateway.process.wait()
    gateway = start_with(config)
    assert next(pushes).payload is None
    database.execute("NOTIFY news, 'three'")
    assert next(pushes).payload == "three"
    client.close()


@pytest_twisted.ensureDeferred
async def test_twisted(start_with: Start, database: Database, config: str) -> None:
    """The same with Deferreds: messages, a query, a notification, through a kill."""
    gateway = await deferToThread(start_with, config)
    heard: list[str | None] = []
    async with GatewayClient(
        f"tcp:127.0.0.1:{gateway.port('netstring')}",
        framing="netstring",
        stream="s",
        retry=quickly,
    ) as client:
        await client.listen("news", heard.append)
        await client.send_many([b"a\nb", b"c"])
        gateway.process.kill()
        late = client.send(b"late")
        gateway = await deferToThread(start_with, config)
        assert (await late).kept
        rows = await client.call("last", {"n": 5}, exact=True)
        assert [row["body"] for row in rows] == ["late", "c", "a\nb"]
        assert str(rows[0]["n"]) == "1.25"
        await deferToThread(database.execute, "NOTIFY news, 'x'")
        await deferToThread(wait_until, lambda: "x" in heard, "a push")
    assert heard == [None, "x"]


def test_streams_know_their_client(
    start_with: Start, database: Database, config: str, tmp_path: Path
) -> None:
    """A second client takes a stream over; what the first had not heard of cannot be known."""
    gateway = start_with(config)
    port = gateway.port("line")
    first = BlockingClient("127.0.0.1", port, stream="s", buffer=DiskBuffer(tmp_path / "a"))
    first.send(b"1")
    with BlockingClient("127.0.0.1", port, stream="s") as second:
        second.send(b"2")
        with pytest.raises(StreamTaken):
            first.send(b"3")
    first.close()
    with (
        pytest.raises(StreamLost, match="another client took it over"),
        BlockingClient("127.0.0.1", port, stream="s", buffer=DiskBuffer(tmp_path / "a")) as again,
    ):
        again.flush()
    assert database.bodies() == ["1", "2"]


def cut_off(gateway: Gateway, database: Database, send: Callable[[], object]) -> None:
    """
    Have messages sent that get no answer and are never stored, and kill the gateway.

    @param send: returns when they are sent.
    """
    waiting = "wait_event_type = 'Lock' AND datname = current_database()"
    with closing(psycopg2.connect(database.dsn)) as holding, holding.cursor() as cursor:
        cursor.execute("LOCK TABLE messages")
        send()
        count = f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}"
        wait_until(lambda: database.column(count)[0] > 0, "an INSERT that waits")
        gateway.process.kill()
        gateway.process.wait()
        database.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {waiting}")
        wait_until(lambda: not database.column(count)[0], "its end")


@pytest.mark.parametrize(
    ("takeover", "told", "said"),
    [
        ("stop", StreamTaken, "another client has taken it"),
        ("retry", StreamLost, "another client took it over"),
    ],
)
def test_a_stream_taken_while_its_client_was_cut_off(
    start_with: Start, database: Database, config: str, takeover: str, told: type, said: str
) -> None:
    """It ends when it connects again, as one that was connected does; it does not ask for ever."""
    gateway = start_with(config)
    port = gateway.port("line")
    first = BlockingClient(
        "127.0.0.1", port, stream="s", retry=quickly, timeout=2.0, takeover=takeover
    )
    first.send(b"1")

    def send() -> None:
        first.post([b"2", b"3"])
        with pytest.raises(TimeoutError):
            first.flush()

    cut_off(gateway, database, send)
    start_with(config)
    with BlockingClient("127.0.0.1", port, stream="s") as second:
        second.send_many([b"x", b"y", b"z"])
        with pytest.raises(told, match=said):
            first.flush()
    first.close()
    assert database.bodies()[:4] == ["1", "x", "y", "z"]


@pytest_twisted.ensureDeferred
async def test_taken_while_cut_off_twisted(
    start_with: Start, database: Database, config: str
) -> None:
    """The same of the client for Twisted: what waits for its answers is told."""
    gateway = await deferToThread(start_with, config)
    port = gateway.port("line")
    paused: list[float] = [0.05]
    first = GatewayClient(f"tcp:127.0.0.1:{port}", stream="s", retry=lambda attempt: paused[0])
    first.startService()
    await first.send(b"1")
    paused[0] = 5.0  # so that the other one is there first
    late: list[Deferred[Any]] = []

    def send() -> None:
        blockingCallFromThread(
            cast(Any, reactor), lambda: late.append(first.send_many([b"2", b"3"]))
        )

    await deferToThread(cut_off, gateway, database, send)
    await deferToThread(start_with, config)

    def take() -> None:
        with BlockingClient("127.0.0.1", port, stream="s") as second:
            second.send_many([b"x", b"y"])

    await deferToThread(take)
    with pytest.raises(StreamTaken, match="another client has taken it"):
        await late[0]
    await first.stopService()
    assert database.bodies() == ["1", "x", "y"]


def test_a_run_of_send_that_was_cut_off(start_with: Start, database: Database, config: str) -> None:
    """The older one ends with status 3, and says that another client has the stream."""
    gateway = start_with(config)
    where = f"tcp:127.0.0.1:{gateway.port('line')}"
    older = Running(where, "--stream", "s")
    older.write(b"a\n")
    hold_all(database, "a")
    cut_off(gateway, database, lambda: older.write(b"b\nc\n"))
    older.process.send_signal(signal.SIGSTOP)
    start_with(config)
    newer = Running(where, "--stream", "s")
    newer.write(b"x\ny\n")
    _, said = newer.finish()
    assert newer.process.returncode == 0, said
    older.process.send_signal(signal.SIGCONT)
    assert older.process.wait(PATIENCE) == 3
    _, said = older.finish()
    assert "another client has taken it" in said
    assert database.bodies() == ["a", "x", "y"]
