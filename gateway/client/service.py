"""
The client for programs on Twisted (skeleton: signatures are settled).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from .answers import Answer

Runs = list[tuple[int, Answer]]


class GatewayClient(Service):
    """
    One connection to a gateway that is made again whenever it is lost.

    Every method that returns a Deferred can be awaited.
    """

    def __init__(
        self,
        endpoint: str | IStreamClientEndpoint,
        *,
        route: str = "messages",
        stream: str | None = None,
        dialect: str = "command",
        framing: str = "line",
        window: int = 1000,
        buffer: object | None = None,
        resend: bool = True,
        takeover: str = "stop",
        tls: object | None = None,
        reactor: Any = None,
        retry: Callable[[int], float] | None = None,
        jitter: Callable[[], float] | None = None,
        connect_timeout: float = 30.0,
        answer_timeout: float = 60.0,
        stop_timeout: float = 5.0,
    ) -> None:
        """
        @param endpoint: a client endpoint string (C{tcp:localhost:8002}) or an endpoint.
        @param route: where messages go that name no route; the command dialect only.
        @param stream: the name of a numbered stream: each message is stored exactly once and in
            order, whatever connections do. Only one client at a time can have it.
        @param dialect: C{command}, or C{plain} for a listener that takes bare messages.
        @param framing: C{line}, C{netstring} or C{octet-counted}, as the listener has it.
        @param window: messages without an answer at a time.
        @param buffer: a L{gateway.client.buffer.DiskBuffer} to survive the end of this process;
            the default keeps up to 64 MiB in memory.
        @param resend: without a stream, whether what was unanswered when the connection was lost
            is sent again (at least once), or reported as not known.
        @param takeover: C{stop} where another client takes the stream over, or C{retry}.
        @param tls: C{True} for TLS with the system's authorities, or trust roots of your own
            (C{twisted.internet.ssl.Certificate}, C{trustRootFromCertificates(...)}, or the path
            of a PEM file). The host's name is always verified.
        @param retry: how many seconds to wait before connecting for the nth time in a row.
        @param answer_timeout: seconds without a word while something is unanswered, after which
            the connection is given up and made again.
        @param stop_timeout: seconds in which L{stopService} waits for answers.
        """

    @property
    def unanswered(self) -> int:
        """Messages taken that have no final answer yet."""

    def send(self, message: bytes, route: str | None = None) -> Deferred[Answer]:
        """
        Send one message.

        @return: fires with +OK, +DUP or +QUE. Fails with L{Refused} (-REJ, the message was
            refused for good), L{Unknown} (only with C{resend=False}), L{StreamLost}, L{StreamTaken},
            L{Closed}, and at once with L{BufferFull} or L{Unsendable}: then nothing was taken.
            -TRY is never seen: the client sends again.
        """

    def send_many(self, messages: Sequence[bytes], route: str | None = None) -> Deferred[Runs]:
        """
        Send messages as one chunk, which is many times faster than one by one.

        @return: fires with (how many, answer) for messages in a row, in their order, when all
            have one; refusals (-REJ) are among them and are no failure.
        """

    def room(self) -> Deferred[None]:
        """
        @return: fires when the buffer is less than half full: wait for it before the next
            L{send_many} of a long series.
        """

    def flush(self) -> Deferred[None]:
        """
        @return: fires when everything taken so far has its answer.
        """

    def call(
        self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None, *, exact: bool = False
    ) -> Deferred[list[dict[str, Any]]]:
        """
        Ask a query that the gateway's configuration names.

        @param exact: whether numbers with a point become C{decimal.Decimal}.
        @return: fires with the rows; fails with L{Refused}. Asked again where the gateway says
            -TRY or the connection is lost; cancel it, or C{addTimeout}, to stop waiting.
        """

    def rows(
        self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> Deferred[list[bytes]]:
        """
        As L{call}; fires with each row's JSON as it came.
        """

    def listen(self, channel: str, callback: Callable[[str | None], object]) -> Deferred[None]:
        """
        Have a channel's notifications, also after every reconnect.

        @param callback: called with each payload, and with C{None} where some may have been
            missed (the connection was lost, or the gateway's own to the database).
        @return: fires when the gateway has begun to listen; fails with L{Refused}.
        """

    def unlisten(self, channel: str) -> Deferred[None]:
        """Have them no longer."""

    def ping(self, text: str = "") -> Deferred[str]:
        """
        @return: fires with the text, once it went there and back.
        """

    def whenConnected(self, failAfterFailures: int | None = None) -> Deferred[None]:
        """
        @return: fires when the gateway has answered on a connection (for a plain listener: when it
            is there); fails after so many failures to connect in a row.
        """

    def startService(self) -> None:
        """Begin to connect."""

    def stopService(self) -> Deferred[None]:
        """
        Take nothing more, wait up to C{stop_timeout} for answers, then disconnect. What has none
        by then fails with L{Closed}; with a DiskBuffer it is sent by the next client on it.
        """

    async def __aenter__(self) -> GatewayClient:
        self.startService()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stopService()
