"""
A connected socket for a blocking client; over TLS always with a verified name.
"""

from __future__ import annotations

import os
import socket
import ssl

Tls = bool | str | os.PathLike[str] | ssl.SSLContext
"""Whether, with the authorities of which PEM file, or in which context."""


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """
    @raise ValueError: this context would trust anyone.
    """
    if tls is False:
        return None
    if tls is True:
        return ssl.create_default_context()
    if isinstance(tls, ssl.SSLContext):
        if not tls.check_hostname or tls.verify_mode != ssl.CERT_REQUIRED:
            raise ValueError("tls: this context does not verify the gateway's certificate and name")
        return tls
    return ssl.create_default_context(cafile=os.fspath(tls))


def dial(
    host: str, port: int, context: ssl.SSLContext | None, server_name: str, timeout: float
) -> socket.socket:
    """
    @param host: a name or an address; with a slash, the path of a Unix socket.
    @param timeout: seconds for each step, TLS being one.
    @return: connected, not blocking.
    @raise OSError: no connection; C{ssl.SSLCertVerificationError}: it would be the wrong one.
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
