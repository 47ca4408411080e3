"""
Build client endpoints; with TLS the other end is always verified.

TLS always means that service-identity verifies name and authority, through Twisted; there is no
option for less, and no fallback to plain TCP.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from zope.interface import implementer

from .dial import Shown

_HOST: Final = re.compile(r"tcp:(?:host=)?((?:[^:\\]|\\.)+)")

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\r?\n?", re.DOTALL
)

_PRIVATE_KEY: Final = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----.+?-----END (?:[A-Z]+ )*PRIVATE KEY-----", re.DOTALL
)


def client_endpoint(
    where: str | IStreamClientEndpoint,
    tls: object,
    server_name: str | None,
    reactor: Any,
    certificate: Shown = None,
    key: Shown = None,
) -> IStreamClientEndpoint:
    """
    Return an endpoint, wrapped in TLS according to C{tls}.

    @param where: a client endpoint string, or an endpoint.
    @param tls: C{None} or C{False}: as C{where} says. C{True}: TLS with the system's authorities. A
        path: TLS with the authorities of that PEM file. Else: trust roots as C{optionsForClientTLS}
        takes them.
    @param server_name: name to verify, if not that of the endpoint string.
    @param certificate: PEM file of the client's certificate and its chain.
    @param key: PEM file with the key; C{None}: it is in the same one.
    @raise ValueError: the parameters do not fit together, or the other end could not be verified.
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
    if certificate is None and key is not None:
        raise ValueError("key= is for certificate=, which is missing")
    if tls is None or tls is False:
        if certificate is not None:
            raise ValueError("certificate= needs tls=")
        return endpoint
    match = _HOST.match(text)
    if text and match is None and (server_name is None or re.match(r"(tls|ssl):", text)):
        raise ValueError(f"{text}: with tls= the endpoint is tcp:HOST:PORT")
    if server_name is None:
        if match is None:
            raise ValueError("tls= with an endpoint object needs server_name=, the name to verify")
        server_name = re.sub(r"\\(.)", r"\1", match[1])
    # Imported here, since pyOpenSSL is only needed for TLS.
    from twisted.internet.ssl import optionsForClientTLS

    trust = None if tls is True else _trust_root(tls)
    shown = (
        None
        if certificate is None
        else _certificate_arguments(Path(certificate), Path(key or certificate))
    )
    options = optionsForClientTLS(server_name, trustRoot=trust, extraCertificateOptions=shown)
    return wrapClientTLS(_AnyAuthority(options), endpoint)


def check_names(certificate: Any) -> None:
    """
    See that there was something to compare a name with. Twisted 26 logs a certificate without
    alternative names, or with one that is no name, as a bug, and takes it as if it had matched.

    @param certificate: the gateway's, as pyOpenSSL has it.
    @raise ConnectionError: there is no telling whose it is.
    """
    from service_identity import CertificateError
    from service_identity.cryptography import extract_patterns

    try:
        names = extract_patterns(certificate.to_cryptography())
    except (CertificateError, ValueError) as error:
        raise ConnectionError(f"the certificate's alternative names are none: {error}") from None
    if not names:
        raise ConnectionError("the certificate has no subject alternative names")


@implementer(IOpenSSLClientConnectionCreator)
class _AnyAuthority:
    """
    Connections that trust an authority as it stands, whether at the end of its own chain or not,
    as L{gateway.client.dial.tls_context} and the gateway's C{client_ca} do.
    """

    def __init__(self, options: Any) -> None:
        """
        @param options: of C{optionsForClientTLS}.
        """
        self._options = options

    def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
        from OpenSSL.crypto import X509StoreFlags

        connection = self._options.clientConnectionForTLS(tlsProtocol)
        connection.get_context().get_cert_store().set_flags(X509StoreFlags.PARTIAL_CHAIN)
        return connection


def _certificate_arguments(certificate: Path, key: Path) -> dict[str, Any]:
    """
    Return arguments of C{CertificateOptions} for the client's certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(_block(key, _PRIVATE_KEY), None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key}: no key that can be used: {error}") from None
    first, *chain = x509.load_pem_x509_certificates(_block(certificate, _CERTIFICATE))
    if private.public_key() != first.public_key():
        raise ValueError(f"{key}: this key does not belong to the certificate in {certificate}")
    return {"privateKey": private, "certificate": first, "extraCertChain": chain}


def _block(path: Path, pattern: re.Pattern[bytes]) -> bytes:
    """
    Return the blocks of one kind from a PEM file, without the others.
    """
    blocks = pattern.findall(path.read_bytes())
    if not blocks:
        raise ValueError(
            f"{path}: no {'key' if pattern is _PRIVATE_KEY else 'certificate'} in PEM form in it"
        )
    return b"\n".join(blocks)


def _trust_root(tls: object) -> Any:
    if not isinstance(tls, (str, os.PathLike)):
        return tls
    from OpenSSL.crypto import Error
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    path = Path(tls)
    blocks = _CERTIFICATE.findall(path.read_bytes())
    if not blocks:
        raise ValueError(f"{path}: no certificate in PEM form in it")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(pem) for pem in blocks])
    except Error:
        raise ValueError(f"{path}: a certificate in it is damaged") from None
