"""
Where to connect to, and the certainty that it is the right one.

TLS always means the host's name and the authority verified, by service-identity through
Twisted; there is no way to ask for less, and nothing falls back to plain.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint

_HOST: Final = re.compile(r"tcp:(?:host=)?((?:[^:\\]|\\.)+)")

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\r?\n?", re.DOTALL
)


def client_endpoint(
    where: str | IStreamClientEndpoint, tls: object, server_name: str | None, reactor: Any
) -> IStreamClientEndpoint:
    """
    @param where: a client endpoint string, or an endpoint.
    @param tls: C{None} or C{False}: as C{where} says. C{True}: TLS, with the system's
        authorities. A path: TLS, with the authorities of that PEM file. Else: trust roots as
        C{optionsForClientTLS} takes them.
    @param server_name: the name to verify, where it is not the one connected to.
    @raise ValueError: that cannot be done, or could not be trusted.
    """
    text = where if isinstance(where, str) else ""
    if re.match(r"ssl:", text) and not re.search(r":hostname=.", text):
        raise ValueError(
            f"{text}: would take the certificate of any host; write tls:HOST:PORT instead,"
            " or add hostname="
        )
    if isinstance(where, str):
        endpoint: IStreamClientEndpoint = clientFromString(reactor, where)
    else:
        endpoint = where
    if tls is None or tls is False:
        return endpoint
    found = _HOST.match(text)
    if text and found is None and (server_name is None or re.match(r"(tls|ssl):", text)):
        raise ValueError(f"{text}: with tls= the endpoint is tcp:HOST:PORT")
    if server_name is None:
        if found is None:
            raise ValueError("tls= with an endpoint object needs server_name=, the name to verify")
        server_name = re.sub(r"\\(.)", r"\1", found[1])
    # Here, for pyOpenSSL is not needed by who does without TLS.
    from twisted.internet.ssl import optionsForClientTLS

    trust = None if tls is True else _trust_root(tls)
    return wrapClientTLS(optionsForClientTLS(server_name, trustRoot=trust), endpoint)


def _trust_root(tls: object) -> Any:
    if not isinstance(tls, (str, os.PathLike)):
        return tls
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    path = Path(tls)
    found = _CERTIFICATE.findall(path.read_bytes())
    if not found:
        raise ValueError(f"{path}: no certificate in PEM form in it")
    return trustRootFromCertificates([Certificate.loadPEM(pem) for pem in found])
