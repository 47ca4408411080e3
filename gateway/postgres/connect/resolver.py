"""
Resolve host names without blocking the reactor.

libpq resolves names synchronously, even when it connects asynchronously (psycopg2's issues 69 and
342). The system's resolver cannot be interrupted, so it runs in threads of our own: daemon threads,
which do not hold up the end of the process, whereas Twisted waits for the threads of the reactor's
pool. There is at most one thread for each name, however many callers wait, so that a resolver that
hangs costs one thread a name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Addresses = Sequence[str]
"""IPv6 and IPv4 addresses as text, best first."""

Lookup = Callable[[str], Addresses]
"""Resolves a name, however long it takes; raises C{OSError} where it cannot."""

Resolver = Callable[[str], "Deferred[Addresses]"]
"""Resolves a name without blocking. The Deferred may be cancelled."""


def look_up(name: str) -> list[str]:
    """
    Resolve a name with the system's resolver, as libpq does, in its order of preference (RFC 6724).

    @raise OSError: there is no address.
    """
    addresses = []
    # As bytes, since Python would encode text in a way that libpq does not (IDNA).
    for *_, place in socket.getaddrinfo(os.fsencode(name), None, type=socket.SOCK_STREAM):
        address = str(place[0])
        if len(place) == 4 and place[3] and "%" not in address:
            address = f"{address}%{place[3]}"  # a link-local one is of no use without
        if address not in addresses:
            addresses.append(address)
    return addresses


class ThreadedResolver:
    """
    A L{Resolver} that runs a L{Lookup} in threads.
    """

    def __init__(self, reactor: Any, lookup: Lookup = look_up) -> None:
        self._reactor = reactor
        self._lookup = lookup
        self._waiting: dict[str, list[Deferred[Addresses]]] = {}

    def __call__(self, name: str) -> Deferred[Addresses]:
        """
        Resolve a name; the Deferred fails with C{OSError} where it has no address.
        """

        def forget(answer: Deferred[Addresses]) -> None:
            waiting = self._waiting.get(name, [])
            if answer in waiting:
                waiting.remove(answer)

        answer: Deferred[Addresses] = Deferred(forget)
        if name in self._waiting:
            self._waiting[name].append(answer)
            return answer
        self._waiting[name] = [answer]
        try:
            Thread(target=self._run, args=(name,), name=f"resolves {name}", daemon=True).start()
        except RuntimeError as error:
            self._done(name, Failure(OSError(str(error))))  # no more threads to be had
        return answer

    def _run(self, name: str) -> None:
        result: Addresses | Failure
        try:
            result = self._lookup(name)
        except Exception:  # noqa: BLE001 - those who wait are in another thread: they get it
            result = Failure()
        self._reactor.callFromThread(self._done, name, result)

    def _done(self, name: str, result: Addresses | Failure) -> None:
        for answer in self._waiting.pop(name):
            if not answer.called:  # given up by one that was answered just now
                answer.callback(result)
