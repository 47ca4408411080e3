"""
The base of dialects with an acknowledgement of their own: one read at a time, and every way out.
"""

from __future__ import annotations

from gateway.dialects.acknowledging import AcknowledgingReader
from gateway.model.outcome import Code, goodbye
from tests.in_memory import Bench
from tests.lumberjack import window
from tests.support import logged

STOP = goodbye(Code.DRAIN, "the gateway stops")


class Odd(AcknowledgingReader):
    """
    A reader of Beats' windows that fails, waits, or stores and says what became of it.
    """

    async def handle(self, frames: list[bytes]) -> bool:
        for frame in frames:
            if frame == b"fail":
                raise AssertionError("a bug")
            if frame == b"wait":
                await self.hold(60.0)
                self.write(b"waited;")
            else:
                runs = await self.store([frame])
                self.write(b";".join(fate.word.encode() for _, fate in runs) + b";", runs)
        return False


def odd() -> Bench:
    return Bench("beats", True, reader=Odd)


def take(bench: Bench, *frames: bytes) -> None:
    """Have the gateway read frames at once."""
    bench.peer.dataReceived(b"".join([window([frame]) for frame in frames]))


def test_a_bug_ends_the_connection() -> None:
    """Where frames cannot be handled for a bug of ours, their peer does not wait for ever."""
    bench = odd()
    with logged() as events:
        take(bench, b"fail")
    assert bench.transport.disconnecting
    assert [event["event"] for event in events if "log_failure" in event] == ["frames-failed"]


def test_one_read_at_a_time() -> None:
    """What comes behind is handled when what is before is settled, in order."""
    bench = odd()
    take(bench, b"a")
    take(bench, b"b")
    assert bench.store.waiting_writes == 1
    bench.store.commit()
    assert bench.said == b"+OK;"
    bench.store.commit()
    assert bench.said == b"+OK;+OK;"
    assert [message for _, message in bench.store.rows] == [b"a", b"b"]


def test_a_stop_ends_what_only_waits() -> None:
    """A hold ends when the gateway stops; storing is waited for."""
    bench = odd()
    take(bench, b"wait", b"a")
    assert bench.said == b""
    bench.peer.close_with(STOP)
    assert bench.said == b"waited;"
    assert not bench.transport.disconnecting
    bench.store.commit()
    assert bench.said == b"waited;+OK;"
    assert bench.transport.disconnecting


def test_a_peer_that_is_gone() -> None:
    """What it sent is stored, and nothing is said."""
    bench = odd()
    take(bench, b"a")
    bench.peer.connectionLost()
    bench.store.commit()
    assert bench.said == b""
    assert [message for _, message in bench.store.rows] == [b"a"]
