"""
Service of the HTTP site: it listens, says where, and takes over what a reload brings.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.config.load import Config
from gateway.config.operator import HTTP_ENDPOINT, OFF, HttpSection
from gateway.peers.factory import place_name
from gateway.status.watch import StatusWatch
from gateway.system.addresses import Networks, address_of
from gateway.system.listening_reactor import ListeningReactor
from gateway.tls.contexts import HTTP
from gateway.tls.registry import TlsRegistry
from gateway.web.hosts import OwnHosts
from gateway.web.pages import Pages
from gateway.web.site import StatusSite


class HttpService:
    """
    Service of the HTTP site.
    """

    _log = Logger()

    def __init__(
        self, section: HttpSection, watch: StatusWatch, tls: TlsRegistry, reactor: Any
    ) -> None:
        """
        @param tls: has the site's contexts, where the section has C{tls}.
        """
        self._endpoint = section.endpoint
        self._reactor = reactor
        self._port: IListeningPort | None = None
        self._fault: str | None = None
        machine = socket.gethostname()
        self._site = StatusSite(
            Pages(watch, reactor, machine), OwnHosts([machine]), reactor, tls.listener_tls(HTTP)
        )
        self._let_in(section)

    def reload(self, config: Config) -> None:
        """Apply the networks of a new configuration, for new connections."""
        self._let_in(config.http)

    def listen(self) -> None:
        """
        Open the port; do nothing if it is open, or was found taken.

        @raise SystemExit: with one line, if an endpoint that somebody wrote cannot be opened.
        """
        if self._port is not None or self._fault is not None or self._endpoint == OFF:
            return
        where = self._endpoint or HTTP_ENDPOINT
        endpoint = serverFromString(ListeningReactor(self._reactor, where), where)
        results: list[object] = []
        endpoint.listen(self._site).addBoth(results.append)
        result = results[0] if results else None
        if isinstance(result, Failure):
            reason: Any = result.value
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            fault = f"cannot listen on {where!r}: {getattr(reason, 'strerror', None) or reason}"
            if self._endpoint is not None:
                raise SystemExit(f"gateway: http {fault}")
            self._fault = fault
            return
        assert IListeningPort.providedBy(result)
        self._port = result

    def log_address(self) -> None:
        """Log where the site is, or why it is nowhere."""
        if self._fault is not None:
            self._log.warn(
                "http: {reason}; the gateway goes on without health, metrics and status; set"
                ' http.endpoint, or "off"',
                event="no-http",
                reason=self._fault,
            )
        elif self._port is not None:
            self._log.info(
                "http: health, metrics and status on {address}",
                event="http",
                address=self.address,
            )

    @property
    def address(self) -> str:
        """URL of the site, or the path of its socket; C{""} while it does not listen."""
        if self._port is None:
            return ""
        address: Any = self._port.getHost()
        name = getattr(address, "name", None)
        if name is not None:
            return f"unix:{name.decode() if isinstance(name, bytes) else name}"
        found = address_of(address.host)
        # A browser does not go to what means all addresses.
        everywhere = found is not None and found.is_unspecified
        host = {4: "127.0.0.1", 6: "::1"}[found.version] if found and everywhere else address.host
        is_tls = self._site.tls is not None or (self._endpoint or "").startswith(("ssl:", "tls:"))
        url = f"http{'s' if is_tls else ''}://{place_name(host, address.port)}/"
        return f"{url}, and on all other addresses" if everywhere else url

    async def stop(self) -> None:
        """Close the port; connections that are open end by themselves."""
        if self._port is not None:
            stopping = self._port.stopListening()
            if isinstance(stopping, Deferred):
                await stopping

    def _let_in(self, section: HttpSection) -> None:
        self._site.allow, self._site.deny = Networks(section.allow), Networks(section.deny)
