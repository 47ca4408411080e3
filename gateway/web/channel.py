"""
HTTP for one connection: one request, one answer, and the end.

Strategy: Twisted's parser, with less of what it allows. A connection serves a single request, so
that nobody can queue answers or stay; its head has a limit in bytes and in time; a body is not
read. An answer is whole when it is written, and whoever does not take it is disconnected. The end
is sent behind it, and what the client still sends is thrown away: closing at once with unread
bytes would make TCP drop the answer (RFC 1122 section 4.2.2.13).
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request, datetimeToString
from zope.interface import implementer

from gateway.system.transport import Transport, close_half
from gateway.web.answer import Answer, text

REQUEST_TIMEOUT: Final = 10.0
"""Seconds for a request to be complete."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds to take the answer; a slow phone gets the largest page within ten."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer."""

Respond = Callable[["StatusRequest"], Answer]
"""Returns the answer to a request whose head is complete."""

BAD_REQUEST: Final = text(400, "this is no request that can be answered here")


class StatusRequest(Request):
    """
    Request of one connection.
    """

    channel: StatusChannel
    _log = Logger()

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)  # type: ignore[no-untyped-call]

    def handleContentChunk(self, data: bytes) -> None:
        """Throw a part of the body away."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Answer; what Twisted would take out of arguments and forms before is not needed."""
        self.method, self.uri, self.clientproto = command, path, version
        self.process()

    def process(self) -> None:
        try:
            answer = self.channel.respond(self)
        except Exception:  # noqa: BLE001 - a bug in a page must not go unsaid, nor end the gateway
            self._log.failure("http: the page could not be made", event="page-failed")
            answer = text(500, "the gateway could not make this page; its log says why")
        self.setResponseCode(answer.code, HTTPStatus(answer.code).phrase.encode())
        for name, value in headers_of(answer).items():
            self.setHeader(name, value)  # type: ignore[no-untyped-call]
        self.write(answer.body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]

    def headers(self, name: bytes) -> list[str]:
        """Return the values of a header, whatever bytes they are made of."""
        values = self.requestHeaders.getRawHeaders(name) or []
        return [value.decode("latin-1") for value in values]


def headers_of(answer: Answer) -> dict[str, str]:
    """Return the headers of an answer."""
    return {
        "Date": datetimeToString().decode(),
        "Content-Type": answer.kind,
        "Content-Length": str(len(answer.body)),
        **HEADERS,
        **answer.headers,
    }


@implementer(IHalfCloseableProtocol)
class StatusChannel(HTTPChannel):
    """
    Protocol of one connection.

    @ivar respond: returns the answer to the request.
    """

    transport: Transport
    requestFactory = StatusRequest
    timeOut = None
    maxHeaders = 100
    totalHeadersSize = 16384
    MAX_LENGTH = 16384
    length: int | None

    def __init__(self, respond: Respond, clock: IReactorTime, gone: Callable[[], None]) -> None:
        """
        @param gone: called when the connection is closed.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.respond = respond
        self._clock = clock
        self._gone = gone
        self._is_over = False
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        self._deadline = self._clock.callLater(REQUEST_TIMEOUT, self._expire)

    def dataReceived(self, data: bytes) -> None:
        if not self._is_over:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def lineReceived(self, line: bytes) -> None:
        if not self._is_over:
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def rawDataReceived(self, data: bytes) -> None:
        """Throw away what follows the head of the request."""

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def allHeadersReceived(self) -> None:
        self.requests[-1].requestHeaders.removeHeader("Expect")
        super().allHeadersReceived()  # type: ignore[no-untyped-call]
        # A body is not waited for.
        self.length = 0

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        return False

    def loseConnection(self) -> None:
        """Send the end, once everything is written, and wait for that of the client."""
        self._is_over = True
        self._cancel()
        self._deadline = self._clock.callLater(ANSWER_TIMEOUT, self._expire)
        self.transport.unregisterProducer()
        if not close_half(self.transport):
            self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        self._is_over = True
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: our direction is closed after the answer, which is on its way."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_over = True
        self._cancel()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._gone()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._is_over:
            return
        lines = [f"{name}: {value}" for name, value in headers_of(BAD_REQUEST).items()]
        reason = HTTPStatus(BAD_REQUEST.code).phrase
        head = "\r\n".join([f"HTTP/1.1 {BAD_REQUEST.code} {reason}", *lines, "", ""])
        self.transport.write(head.encode() + BAD_REQUEST.body)
        self.loseConnection()

    def _expire(self) -> None:
        self._deadline = None
        self.transport.abortConnection()

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
