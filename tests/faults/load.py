"""
Load, and the oracle that judges what became of it.

Messages are numbered for each peer. What was acknowledged (C{+OK}: stored, C{+QUE}:
kept by the gateway and stored later) must be a subset of the table, every number
once, and what came over one connection in order.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support import PATIENCE, Database, Gateway, Peer, wait_until

ACKNOWLEDGED: Final = (b"+OK", b"+QUE")


class Loader(threading.Thread):
    """
    A peer that keeps a window of numbered messages in flight until told to stop.

    @ivar acknowledged: numbers answered C{+OK} or C{+QUE}.
    @ivar queued: how many of them were answered C{+QUE}.
    @ivar refused: every other answer.
    @ivar connections: the first number sent over each connection.
    """

    def __init__(
        self, number: int, port: int, window: int, reconnect: bool, pause: float = 0.0
    ) -> None:
        """
        @param pause: seconds to wait after each answered piece.
        @param reconnect: whether to go on with new numbers after the connection was lost.
        """
        super().__init__(daemon=True)
        self.number = number
        self.acknowledged: list[int] = []
        self.queued = 0
        self.refused: list[bytes] = []
        self.connections: list[int] = []
        self._port = port
        self._window = window
        self._reconnect = reconnect
        self._pause = pause
        self._sent = 0
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                self._converse()
            except (AssertionError, OSError):
                # What has no answer is free to be either.
                if not self._reconnect:
                    return
                self._stop_asked.wait(0.02)

    def _converse(self) -> None:
        peer = Peer(self._port)
        self.connections.append(self._sent)
        # Several sends are in flight at a time, so that order is not for free.
        piece = max(1, self._window // 4)
        due = self._sent
        try:
            while not self._stop_asked.is_set() or due < self._sent:
                while self._sent - due < self._window and not self._stop_asked.is_set():
                    first = self._sent
                    self._sent += piece
                    peer.send(
                        b"".join(b"%d %d\n" % (self.number, n) for n in range(first, self._sent))
                    )
                refusals = len(self.refused)
                for _ in range(min(piece, self._sent - due)):
                    self._note(due, peer.read_lines(1)[0])
                    due += 1
                if self._pause:
                    self._stop_asked.wait(self._pause)
                if len(self.refused) > refusals:
                    # "Send it again later": we are less patient than we are asked to be.
                    self._stop_asked.wait(0.05)
        finally:
            peer.close()

    def _note(self, number: int, answer: bytes) -> None:
        if answer in ACKNOWLEDGED:
            self.acknowledged.append(number)
            self.queued += answer == b"+QUE"
        elif answer.startswith((b"-TRY", b"-REJ")):
            self.refused.append(answer)
        else:
            raise AssertionError(answer)

    def by_connection(self, numbers: list[int]) -> list[list[int]]:
        """
        @param numbers: of this peer, in the order of the table.
        @return: for each connection those that were sent over it.
        """
        found: list[list[int]] = [[] for _ in self.connections]
        for number in numbers:
            found[bisect_right(self.connections, number) - 1].append(number)
        return found

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "still waits for an answer"


class Load:
    """
    Several loaders.
    """

    def __init__(
        self,
        where: Gateway | int,
        peers: int = 6,
        first: int = 0,
        window: int = 200,
        reconnect: bool = False,
        pause: float = 0.0,
    ) -> None:
        """
        @param where: a gateway, or the port of lines on 127.0.0.1.
        @param first: number of the first peer; no two peers may share one.
        """
        port = where if isinstance(where, int) else where.port("lines")
        self.loaders = [Loader(first + n, port, window, reconnect, pause) for n in range(peers)]
        for loader in self.loaders:
            loader.start()

    @property
    def acknowledged(self) -> int:
        return sum(len(loader.acknowledged) for loader in self.loaders)

    @property
    def refused(self) -> list[bytes]:
        return [answer for loader in self.loaders for answer in loader.refused]

    def wait_progress(self) -> None:
        """Every peer gets something acknowledged."""
        for loader in self.loaders:
            seen = len(loader.acknowledged)
            wait_until(
                lambda loader=loader, seen=seen: len(loader.acknowledged) > seen,
                f"peer {loader.number} goes on",
            )

    def finish(self) -> None:
        for loader in self.loaders:
            loader.finish()


def _stored(database: Database) -> dict[int, list[int]]:
    """Peer -> numbers, in the order of the table."""
    stored: dict[int, list[int]] = {}
    for peer, number in database.execute(
        "SELECT split_part(body, ' ', 1)::int, split_part(body, ' ', 2)::int"
        " FROM messages ORDER BY id"
    ):
        stored.setdefault(peer, []).append(number)
    return stored


def rows(database: Database) -> int:
    """How many messages are stored."""
    return int(database.column("SELECT count(*) FROM messages")[0])


def judge(database: Database, *loads: Load) -> None:
    """
    Hold the promise against the table.
    """
    stored = _stored(database)
    for load in loads:
        for loader in load.loaders:
            there = stored.get(loader.number, [])
            assert len(there) == len(set(there)), "a message is there twice"
            for one in loader.by_connection(there):
                assert one == sorted(one), "messages of a connection are out of order"
            missing = set(loader.acknowledged) - set(there)
            assert not missing, f"{len(missing)} acknowledged messages are missing"
            assert loader.acknowledged, "nothing was acknowledged"


def judge_soon(database: Database, *loads: Load) -> None:
    """
    As L{judge}, once what was acknowledged with C{+QUE} is stored too.
    """

    acknowledged = sum(load.acknowledged for load in loads)

    def complete() -> bool:
        if rows(database) < acknowledged:
            return False
        stored = _stored(database)
        return all(
            set(stored.get(loader.number, ())).issuperset(loader.acknowledged)
            for load in loads
            for loader in load.loaders
        )

    wait_until(complete, "everything acknowledged is in the table")
    judge(database, *loads)


class LagProbe(threading.Thread):
    """
    Asks a gateway for a C{PING} every 20 ms.

    What the machine takes is no fault of the gateway's: the time in which a thread of the gateway,
    or this one, could have gone on but had no processor.

    @ivar longest: the longest that an answer took beside that, in seconds.
    @ivar oversleep: the longest that this thread slept over.
    @ivar waited: the longest that the machine had one of them wait.
    """

    EVERY: Final = 0.02

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.oversleep = 0.0
        self.waited = 0.0
        self.answers = 0
        self._peer = gateway.connect("commands")
        self._process = gateway.process.pid
        self._stop_asked = threading.Event()

    @property
    def reactor_lag(self) -> float:
        """Seconds for which the reactor was busy with something else, at the worst."""
        return self.longest - self.oversleep

    def __enter__(self) -> LagProbe:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_asked.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "PING has no answer"

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                ready = self._without_processor()
                asked = time.monotonic()
                self._peer.send(b"PING\n")
                self._peer.read_lines(1)
                answered = time.monotonic()
                waited = self._without_processor() - ready
                self.answers += 1
                self.longest = max(self.longest, answered - asked - waited)
                self.waited = max(self.waited, waited)
                time.sleep(self.EVERY)
                self.oversleep = max(self.oversleep, time.monotonic() - answered - self.EVERY)
        finally:
            self._peer.close()

    def _without_processor(self) -> float:
        """
        Seconds so far that the gateway's threads and this one stood in line for a processor.

        @see: Documentation/scheduler/sched-stats.rst of Linux; it is not there everywhere.
        """
        own = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        nanoseconds = 0
        for file in (own, *Path(f"/proc/{self._process}/task").glob("*/schedstat")):
            # A thread may have ended since.
            with suppress(OSError):
                nanoseconds += int(file.read_text().split()[1])
        return nanoseconds / 1e9


@contextmanager
def responsive(gateway: Gateway) -> Iterator[LagProbe]:
    """
    Whatever happens meanwhile, the reactor is never held up for a tenth of a second.
    """
    with LagProbe(gateway) as probe:
        yield probe
    assert probe.answers
    assert probe.reactor_lag < 0.1, (
        f"{probe.longest:.3f} s, oversleep {probe.oversleep:.3f} s, waited {probe.waited:.3f} s"
    )
