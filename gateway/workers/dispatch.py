"""
Dispatch of connections: each goes to the worker that has the fewest.

The parent keeps its copy of a connection until the worker says that it is its own; where the
worker dies before that, another one gets it, and its peer notices nothing. Limits of connections
and of addresses are counted here, exactly, for all workers together.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

import msgspec
from twisted.logger import Logger

from gateway.access.connection_limit import ConnectionLimit
from gateway.config.listener import Listener
from gateway.system.addresses import Address, Networks, address_of, site_of
from gateway.workers.messages import RESERVE, Ended, Passed, Reserved, Taken
from gateway.workers.processes import SIGN_INTERVAL, Worker

_LATE: Final = 3 * SIGN_INTERVAL
"""Seconds without a sign of life after which a worker gets none, where another is alive."""

_MOST_UNTAKEN: Final = 64
"""
Connections that wait to be taken by all workers together: each holds two descriptors of the
parent, which needs others to start a worker. A worker that lives takes its own within milliseconds.
"""

_LEAST_UNTAKEN: Final = 4
"""The same of each worker at least."""


class Seat(NamedTuple):
    """
    Place of one connection among those that are counted.

    @ivar key: unit that limits of one address count.
    @ivar refusal: limit that it exceeds; C{""}: none.
    """

    is_counted: bool
    key: Hashable
    refusal: str = ""


class Seats:
    """
    Limits of one listener's connections.

    @ivar limit: the count.
    """

    def __init__(self, name: str, around: ConnectionLimit, listener: Listener) -> None:
        self.name = name
        self.limit = ConnectionLimit(around=around)
        self.replace(listener)

    def replace(self, listener: Listener) -> None:
        """Apply the limits of a new configuration."""
        self._allow, self._deny = Networks(listener.allow), Networks(listener.deny)
        self._proxies = Networks(listener.trusted_proxies)
        self.limit.most = listener.max_connections or inf
        self.limit.most_alike = listener.max_connections_per_address or inf

    def seat(self, address: Address | None) -> Seat:
        """Count a connection, unless its worker will refuse it."""
        if self._proxies:
            if address not in self._proxies:
                return Seat(False, None)
            # For whom the proxy speaks is known to the worker alone, later.
            key: Hashable = object()
        else:
            if address in self._deny or (self._allow and address not in self._allow):
                return Seat(False, None)
            key = site_of(address)
        return self._seat_of(key)

    def reseat(self, seat: Seat, site: str) -> Seat:
        """
        Count a connection by the address for which a proxy speaks.

        @param seat: what it was counted as until now.
        """
        self.leave(seat)
        return self._seat_of(site)

    def _seat_of(self, key: Hashable) -> Seat:
        excess, what = self.limit.excess(key)
        if excess > 0:
            return Seat(False, key, what)
        self.limit.enter(key)
        return Seat(True, key)

    def leave(self, seat: Seat) -> None:
        """Count a connection no more."""
        if seat.is_counted:
            self.limit.leave(seat.key)


class Room(NamedTuple):
    """
    Limits of all connections.

    @ivar most: of all workers together.
    @ivar each: of one worker, which must keep files for itself also while the others are away.
    """

    most: int
    each: int


@dataclass(slots=True)
class _Connection:
    """
    Connection that a worker has, or is to get.

    @ivar own: this process's copy; C{None} once the worker has taken it.
    """

    number: int
    seats: Seats
    family: int
    seat: Seat
    own: socket.socket | None
    worker: int = 0


class Dispatch:
    """
    Dispatch of connections to workers.

    @ivar limit: count of all connections.
    @ivar is_full: whether so many connections wait for each worker that none should be accepted.
    """

    _log = Logger()

    def __init__(self, room: Room, now: Callable[[], float]) -> None:
        """
        @param now: seconds of the clock by which workers give signs of life.
        """
        self.limit = ConnectionLimit(room.most)
        self._each = room.each
        self.is_full = False
        self._now = now
        self._filled: Callable[[], None] = lambda: None
        self._next = 0
        self._turn = 0
        self._connections: dict[int, _Connection] = {}
        self._waiting: deque[_Connection] = deque()
        self._loads: dict[int, int] = {}
        self._turns: dict[int, int] = {}
        self._untaken: dict[int, int] = {}
        self._workers: dict[int, Worker] = {}

    def on_filled(self, call: Callable[[], None]) -> None:
        """Have a function called when C{is_full} has changed."""
        self._filled = call

    def replace_room(self, room: Room) -> None:
        """Apply the limits of a new configuration."""
        self.limit.most, self._each = room

    def counts(self) -> dict[int, int]:
        """Return worker -> connections that it has or is to get, for those that serve."""
        return dict(self._loads)

    @property
    def accepted(self) -> int:
        """Number of connections that were accepted since the start."""
        return self._next

    @property
    def count(self) -> int:
        """Number of connections, those that are refused among them."""
        return len(self._connections)

    def opened(self, worker: Worker) -> None:
        """Note that a worker has a channel."""
        assert worker.channel is not None
        worker.channel.on_message(Taken, self._taken)
        worker.channel.on_message(Ended, self._ended)
        worker.channel.serve(RESERVE, self._reserve)

    def serving(self, worker: Worker) -> None:
        """Give a worker connections from now on."""
        self._workers[worker.number] = worker
        self._loads[worker.number] = 0
        self._turns[worker.number] = 0
        self._untaken[worker.number] = 0
        waiting, self._waiting = self._waiting, deque()
        for connection in waiting:
            self._pass(connection)
        self._note_filling()

    def gone(self, worker: Worker) -> None:
        """Note that a worker's process is gone: what it has not taken goes to another."""
        self._workers.pop(worker.number, None)
        self._loads.pop(worker.number, None)
        self._turns.pop(worker.number, None)
        self._untaken.pop(worker.number, None)
        lost = [one for one in self._connections.values() if one.worker == worker.number]
        for connection in lost:
            if connection.own is None:
                self._forget(connection)
            else:
                self._pass(connection)
        self._note_filling()

    def accept(self, seats: Seats, own: socket.socket, host: str | None) -> None:
        """
        Pass a connection to a worker.

        @param own: it is this object's from now on.
        @param host: where it comes from; C{None}: a Unix socket.
        """
        seat = seats.seat(address_of(host))
        self._next += 1
        connection = _Connection(self._next, seats, own.family, seat, own)
        self._connections[connection.number] = connection
        self._pass(connection)
        self._note_filling()

    def close(self) -> None:
        """Close all connections that nobody has taken."""
        for connection in [one for one in self._connections.values() if one.own is not None]:
            self._forget(connection)
        self._waiting.clear()

    def _pass(self, connection: _Connection) -> None:
        loads = self._loads
        if not loads:
            connection.worker = 0
            self._waiting.append(connection)
            return
        late, most = self._now() - _LATE, self._most_untaken
        # Among equals it is whose last one was the longest ago.
        number = min(
            loads,
            key=lambda one: (
                self._workers[one].sign < late or self._untaken[one] >= most,
                *(loads[one], self._turns[one]),
            ),
        )
        self._turn += 1
        self._turns[number] = self._turn
        refusal = connection.seat.refusal
        if not refusal and loads[number] >= self._each:
            refusal = "connections"
        loads[number] += 1
        self._untaken[number] += 1
        connection.worker = number
        channel = self._workers[number].channel
        assert channel is not None and connection.own is not None
        message = Passed(connection.number, connection.seats.name, connection.family, refusal)
        try:
            channel.send(message, (connection.own.fileno(),))
        except OSError as error:
            # No descriptor is left; nothing was read from it, so its peer may come again.
            self._log.warn(
                "listener {listener}: a connection is closed that could not be passed: {reason}",
                event="pass-failed",
                listener=connection.seats.name,
                reason=error.strerror,
            )
            self._forget(connection)

    @property
    def _most_untaken(self) -> int:
        """Connections that may wait to be taken by each worker."""
        return max(_LEAST_UNTAKEN, _MOST_UNTAKEN // max(1, len(self._loads)))

    def _note_filling(self) -> None:
        most = self._most_untaken
        if self.is_full:
            most //= 2
        least = min(self._untaken.values(), default=0)
        if (least >= most) is not self.is_full:
            self.is_full = not self.is_full
            self._filled()

    def _taken(self, taken: Taken, descriptors: Sequence[int]) -> None:
        connection = self._connections.get(taken.number)
        if connection is not None and connection.own is not None:
            connection.own.close()
            connection.own = None
            self._untaken[connection.worker] -= 1
            self._note_filling()

    async def _reserve(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        asked = msgspec.msgpack.decode(payload, type=Reserved)
        connection = self._connections.get(asked.number)
        if connection is None:
            return b""  # it has ended meanwhile
        connection.seat = connection.seats.reseat(connection.seat, asked.site)
        return connection.seat.refusal.encode()

    def _ended(self, ended: Ended, descriptors: Sequence[int]) -> None:
        for number in ended.numbers:
            connection = self._connections.get(number)
            if connection is not None:
                self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        del self._connections[connection.number]
        if connection.worker in self._loads:
            self._loads[connection.worker] -= 1
            self._untaken[connection.worker] -= connection.own is not None
        if connection.own is not None:
            connection.own.close()
        connection.seats.leave(connection.seat)
