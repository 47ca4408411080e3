"""
Circuit breakers: a route on which every row fails is out of service until its operator acts.

While it is out of service its peers are told to try later without a statement in the database
for each batch; one probe at a time, with back-off, finds out when it is repaired.
A probe that succeeds puts it back, but only a stored batch resets the back-off:
a fault that a probe cannot see (a trigger that fails) is not tried in a hot loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.commit.pauses import Pauses
from gateway.logs.last_reason import LastReason
from gateway.model import wording
from gateway.model.errors import RouteError, StoreError
from gateway.model.outcome import Outcome
from gateway.model.store import Store


class CircuitBreakers:
    """
    Circuit breakers of all routes; a route in service costs a lookup in a small dictionary.

    @ivar answers: route -> the answer to its peers, for those out of service.
    @ivar failing: route -> why it is or was out of service, as logged; empty where L{stored} has
        nothing to do.
    @ivar pauses: routes that their operator has paused.
    """

    _log = Logger()

    def __init__(self, store: Store, clock: IReactorTime, backoff: Callable[[int], float]) -> None:
        """
        @param backoff: failed probes -> seconds to wait.
        """
        self._store = store
        self._clock = clock
        self._backoff = backoff
        self.answers: dict[str, Outcome] = {}
        self.pauses = Pauses()
        self._failures: dict[str, int] = {}
        self.failing = defaultdict[str, LastReason](LastReason)
        self._probes: dict[str, Deferred[None]] = {}

    @property
    def closed(self) -> dict[str, str]:
        """Route -> why it is out of service, for those that are."""
        return {route: self.failing[route].text for route in self.answers}

    def trip(self, route: str, error: RouteError) -> None:
        """
        Take a route out of service, since every row of it would fail, and begin to probe it.
        """
        self.answers[route] = wording.out_of_service(error.sqlstate)
        self._log_reason(route, str(error))
        if route not in self._probes:
            probe = self._probes[route] = Deferred.fromCoroutine(self._probe(route))
            probe.addErrback(self._bug, route)

    def forget(self, routes: Collection[str]) -> None:
        """
        Put routes back into service, since their definitions are others now.
        """
        for route in routes:
            self.answers.pop(route, None)
            self.failing.pop(route, None)
        failures = self._failures.items()
        self._failures = {route: count for route, count in failures if route not in routes}

    def stored(self, route: str) -> None:
        """
        Put a route back into service if it was out, since a batch of it was stored.
        """
        if self.failing.pop(route, None) is not None:
            self._failures.pop(route, None)
            self.answers.pop(route, None)
            self._log.info("route {route}: storing again", event="route-storing", route=route)

    async def _probe(self, route: str) -> None:
        try:
            while True:
                failures = self._failures[route] = self._failures.get(route, 0) + 1
                await deferLater(self._clock, self._backoff(failures))
                if route not in self.answers:
                    return
                try:
                    await self._store.probe(route)
                except RouteError as error:
                    self._log_reason(route, str(error))
                except StoreError:
                    pass  # an unreachable database is logged elsewhere
                else:
                    self.answers.pop(route, None)
                    return
        finally:
            del self._probes[route]

    def _log_reason(self, route: str, text: str) -> None:
        """
        Log one line when a route begins to fail, or fails for another reason.
        """
        if self.failing[route].note(text):
            self._log.warn(
                "route {route}: out of service, peers are told to try later: {reason}",
                event="route-out-of-service",
                route=route,
                reason=text,
            )

    def _bug(self, failure: Failure, route: str) -> None:
        self.answers.pop(route, None)  # else it would never be probed again
        self._log.failure(
            "route {route}: probing failed",
            event="route-probe-failed",
            failure=failure,
            route=route,
        )
