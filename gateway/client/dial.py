"""
Connect a socket for the blocking client; over TLS always with a verified name.
"""

from __future__ import annotations

import os
import socket
import ssl

Tls = bool | str | os.PathLike[str] | ssl.SSLContext
"""Whether, with the authorities of which PEM file, or in which context."""

Shown = str | os.PathLike[str] | None
"""The path of a PEM file, or none."""


def tls_context(tls: Tls, certificate: Shown = None, key: Shown = None) -> ssl.SSLContext | None:
    """
    Return a context for TLS; C{None} for none.

    @param certificate: PEM file of the client's certificate and its chain.
    @param key: PEM file with the key; C{None}: it is in the same one.
    @raise ValueError: the context would trust anyone, or the certificate cannot be used.
    """
    if certificate is None and key is not None:
        raise ValueError("key: is for certificate=, which is missing")
    if certificate is not None and (tls is False or isinstance(tls, ssl.SSLContext)):
        raise ValueError("certificate: needs tls=True or a PEM file; a context has its own")
    if tls is False:
        return None
    if isinstance(tls, ssl.SSLContext):
        if not tls.check_hostname or tls.verify_mode != ssl.CERT_REQUIRED:
            raise ValueError("tls: this context does not verify the gateway's certificate and name")
        return tls
    context = ssl.create_default_context(cafile=None if tls is True else os.fspath(tls))
    # The same certificates are good on every Python, and for the client on Twisted too: since 3.13
    # the default judges their form as well, and on no version does it insist on alternative names.
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    if certificate is not None:
        try:
            # Without this function OpenSSL would ask for a passphrase on the terminal.
            context.load_cert_chain(certificate, key, lambda: "")
        except (ssl.SSLError, ValueError) as error:
            why = getattr(error, "reason", None) or "no key, no certificate, or an encrypted key"
            raise ValueError(f"certificate: {certificate}, {key or 'its key too'}: {why}") from None
    return context


def dial(
    host: str, port: int, context: ssl.SSLContext | None, server_name: str, timeout: float
) -> socket.socket:
    """
    Connect a socket.

    @param host: a name or an address; with a slash, the path of a Unix socket.
    @param timeout: limit of each step in seconds; TLS is one step.
    @return: a connected, non-blocking socket.
    @raise OSError: no connection; C{ssl.SSLCertVerificationError}: the other end is not verified.
    """
    if "/" in host:
        connection = socket.socket(socket.AF_UNIX)
    else:
        connection = socket.create_connection((host, port), timeout=timeout)
    try:
        if "/" in host:
            connection.settimeout(timeout)
            connection.connect(host)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname=server_name)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection
