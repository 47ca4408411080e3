"""
Upstream: the centre's endpoints, which of them is in use, and all links to it.

The first endpoint that works is used, in their order. One link without a stream is always kept: it
tells that the centre is there, measures the round trip, and hears over which edges the centre's own
messages go. Where that path comes back to this edge there is a loop, and nothing is sent. While
another endpoint than the first is in use, those before it are tried again now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.client.answers import Answer
from gateway.client.secure import client_endpoint
from gateway.config.relay import RelaySection
from gateway.config.secrets import read_secret
from gateway.logs.last_reason import LastReason
from gateway.model.errors import ConfigError, RouteError, Unavailable
from gateway.postgres.connect.pool import PoolFigures
from gateway.relay.link import Link, LinkError

WATCH: Final = 10.0
"""Seconds between two looks at the centre."""

BACK: Final = 30.0
"""Seconds between two tries of an endpoint before the one in use."""

WAIT: Final = 5.0
"""Seconds that messages wait for the first connection."""

LOOP: Final = (
    "the centre's own messages come back to this gateway: [relay] must not lead in a circle"
)


class Upstream:
    """
    The centre, as its edge reaches it.

    @ivar max: most links, for the status.
    @ivar generation: counts changes of the endpoint; links of an earlier one end once they are
        free.
    @ivar round_trip: seconds from a command to its answer, of the last look; 0 where none was made.
    @ivar busy: links on which messages are under way, as L{gateway.relay.store} counts them.
    """

    _log = Logger()

    def __init__(
        self,
        settings: RelaySection,
        reactor: Any,
        backoff: Callable[[int], float],
        identifier: str,
        most: int,
    ) -> None:
        """
        @param backoff: failed attempts -> seconds to wait.
        @param identifier: a word made up for this process.
        @param most: most links.
        """
        self.max = most
        self.generation = 0
        self.round_trip = 0.0
        self.busy = 0
        self._settings = settings
        self._reactor = reactor
        self._backoff = backoff
        self._identifier = identifier
        self._place = 0
        self._watching: Link | None = None
        self._links: set[Link] = set()
        self._opening = 0
        self._opened = 0
        self._lost = 0
        self._connects = 0
        self._trouble = ""
        self._logged = LastReason()
        self._waiting: list[Deferred[None]] = []
        self._sleeping: Deferred[None] | None = None
        self._running: Deferred[None] | None = None

    # Life.

    def start(self, dsn: str = "") -> None:
        """Start to connect; never fails."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._bug)

    def close(self) -> None:
        """Close all links, whatever they are doing."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
        for link in list(self._links):
            link.close()

    def renew(self) -> None:
        """Replace all links; messages under way on them are sent again."""
        for link in list(self._links):
            link.close()

    @property
    def size(self) -> int:
        """Number of open links."""
        return len(self._links)

    @property
    def endpoint(self) -> str:
        """The endpoint in use, or that was."""
        return self._settings.endpoints[self._place]

    @property
    def endpoints(self) -> Sequence[str]:
        """All endpoints, in order."""
        return self._settings.endpoints

    @property
    def is_connected(self) -> bool:
        """Whether the centre was there when it was last looked for."""
        return self._watching is not None

    @property
    def path(self) -> Sequence[str]:
        """Identifiers of the edges that this edge's messages go over, itself the first."""
        beyond = () if self._watching is None else self._watching.path
        return [self._identifier, *beyond]

    @property
    def figures(self) -> PoolFigures:
        """Current figures, in the terms of a pool."""
        size = len(self._links)
        return PoolFigures(
            size=size,
            in_use=min(self.busy, size),
            idle=size - min(self.busy, size),
            waiting=len(self._waiting),
            opening=self._opening,
            opened=self._opened,
            lost=self._lost,
            reconnects=max(0, self._connects - 1),
            generation=self.generation,
            trouble=self._trouble,
            server=self._server(),
        )

    def _server(self) -> str:
        if self._watching is None:
            return ""
        return f"{self.endpoint}, round trip {self.round_trip * 1000:.1f} ms"

    # Links.

    async def link(self) -> Link:
        """
        Open a link to the endpoint in use.

        @raise Unavailable: the centre cannot be reached.
        """
        await self.connected()
        try:
            return await self.open(self._place)
        except LinkError as error:
            raise Unavailable(f"the centre {self.endpoint}: {error}") from None

    async def connected(self) -> None:
        """
        Wait for the first connection, for a moment.

        @raise Unavailable: the centre cannot be reached.
        """
        if self._watching is not None:
            return
        if not self._trouble:
            waiting: Deferred[None] = Deferred()
            waiting.addTimeout(WAIT, self._reactor)
            self._waiting.append(waiting)
            try:
                await waiting
            except Exception:  # noqa: BLE001 - TimeoutError is Twisted's own
                self._trouble = self._trouble or f"no connection within {WAIT:g} s"
        if self._watching is None:
            raise Unavailable(f"the centre cannot be reached: {self._trouble}")

    async def ask(self, payload: bytes) -> Answer:
        """
        Ask the centre, over the link that is always there.

        @raise Unavailable: it does not answer.
        """
        await self.connected()
        link = self._watching
        if link is None:
            raise Unavailable(f"the centre cannot be reached: {self._trouble}")
        try:
            return await link.ask(payload)
        except LinkError as error:
            raise Unavailable(f"the centre {self.endpoint}: {error}") from None

    async def check_route(self, route: str) -> None:
        """
        See that the centre takes messages for a route.

        @raise RouteError: it has no such route, or does not grant it.
        @raise Unavailable: it does not answer.
        """
        answer = await self.ask(b"HELP PUT " + route.encode())
        if not answer.kept:
            raise RouteError(f"the centre refuses route {route}: {answer}")

    # The endpoint in use.

    async def open(self, place: int) -> Link:
        """
        Open a link to one of the endpoints.

        @param place: its index.
        @raise LinkError: it cannot be used.
        """
        self._opening += 1
        try:
            link = Link(
                self._endpoint(place),
                self._settings.framing,
                self._reactor,
                self.generation,
                self._ended,
            )
            self._links.add(link)
            try:
                await link.open(self._token(), self._identifier)
            except BaseException:
                self._links.discard(link)
                raise
        finally:
            self._opening -= 1
        self._opened += 1
        if self._identifier in link.path:
            link.close()
            raise LinkError(LOOP)
        return link

    def _endpoint(self, place: int) -> IStreamClientEndpoint:
        settings = self._settings
        text = settings.endpoints[place]
        kind, _, rest = text.partition(":")
        try:
            if kind == "tls":
                return client_endpoint(
                    f"tcp:{rest}",
                    settings.ca or True,
                    None,
                    self._reactor,
                    settings.certificate,
                    settings.key,
                )
            return client_endpoint(text, None, None, self._reactor)
        except (ValueError, OSError) as error:
            raise LinkError(str(error)) from None

    def _token(self) -> str | None:
        if self._settings.token_file is None:
            return None
        try:
            return read_secret(self._settings.token_file)
        except ConfigError as error:
            raise LinkError(str(error)) from None

    def _ended(self, link: Link) -> None:
        if link in self._links:
            self._links.discard(link)
            self._lost += 1
        if link is self._watching:
            self._watching = None
            self._wake()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                link = await self._first_that_works()
                if link is not None:
                    failures = 0
                    await self._watch(link)
                    continue
            except CancelledError:
                raise
            except Exception:  # noqa: BLE001 - a bug must not leave the edge without a centre for ever
                self._bug(Failure())
            failures += 1
            await deferLater(self._reactor, self._backoff(failures))

    async def _first_that_works(self) -> Link | None:
        troubles = []
        for place, endpoint in enumerate(self._settings.endpoints):
            try:
                link = await self.open(place)
            except LinkError as error:
                troubles.append(f"{endpoint}: {error}")
                continue
            self._use(place, link)
            return link
        self._trouble = "; ".join(troubles)
        if self._logged.note(self._trouble):
            self._log.warn(
                "relay: the centre cannot be reached: {reason}",
                event="relay-away",
                reason=self._trouble,
            )
        self._tell()
        return None

    def _use(self, place: int, link: Link) -> None:
        if place != self._place or self._connects == 0:
            self.generation += 1
        link.generation = self.generation
        self._place = place
        before, self._watching = self._watching, link
        if before is not None:
            self._links.discard(before)
            before.close()
        self._trouble = ""
        self._connects += 1
        self._logged.forget()
        self._log.info(
            "relay: connected to the centre {endpoint}",
            event="relay-connected",
            endpoint=self.endpoint,
        )
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:
                deferred.callback(None)

    async def _watch(self, link: Link) -> None:
        """Look after a link until it is lost."""
        since = self._reactor.seconds()
        while link is self._watching:
            began = self._reactor.seconds()
            try:
                await link.ask_path(self._identifier)
            except LinkError:
                link.close()
                break
            self.round_trip = self._reactor.seconds() - began
            if self._identifier in link.path:
                self._trouble = LOOP
                if self._logged.note(LOOP):
                    self._log.error("relay: {reason}", event="relay-loop", reason=LOOP)
                self._watching = None
                link.close()
                break
            await self._sleep(WATCH)
            if self._place and self._reactor.seconds() - since >= BACK and link is self._watching:
                since = self._reactor.seconds()
                link = await self._earlier() or link
        if self._watching is link:
            self._watching = None

    async def _earlier(self) -> Link | None:
        """Go back to an endpoint before the one in use, if one works."""
        for place in range(self._place):
            try:
                link = await self.open(place)
            except LinkError:
                continue
            self._use(place, link)
            return link
        return None

    async def _sleep(self, seconds: float) -> None:
        self._sleeping = Deferred()
        call = self._reactor.callLater(seconds, self._wake)
        try:
            await self._sleeping
        finally:
            if call.active():
                call.cancel()

    def _wake(self) -> None:
        sleeping, self._sleeping = self._sleeping, None
        if sleeping is not None and not sleeping.called:
            sleeping.callback(None)

    def _bug(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("relay: it failed", event="relay-failed", failure=failure)
