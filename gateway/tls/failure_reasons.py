"""
Name the reason of a failed handshake, in a few words for the log.

The words come from fixed lists, ours and OpenSSL's, never from the peer, so that many bad peers
make few different lines.
"""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL

NOT_TLS: Final = "not TLS"

CLOSED: Final = "closed during the handshake"

LISTED: Final = "certificate is revoked"

NO_IDENTITY: Final = "its certificate names no usable identity"

REVOKED: Final = 23
"""OpenSSL's number for a certificate that is on a list."""

_FAULTS: Final = {
    2: "authority of its certificate is not in client_ca",
    3: "crl has no list of the authority of its certificate",
    7: "signature of its certificate is wrong",
    9: "certificate is not yet valid",
    8: "signature of the list in crl is wrong",
    10: "certificate has expired",
    11: "the list in crl is not yet valid",
    12: "the list in crl has expired",
    18: "certificate is self-signed, and not in client_ca",
    19: "authority of its certificate is not in client_ca",
    20: "authority of its certificate is not in client_ca",
    21: "authority of its certificate is not in client_ca",
    REVOKED: LISTED,
    24: "authority of its certificate is none",
    26: "certificate is not for TLS clients (extended key usage)",
    27: "certificate is not trusted for TLS clients",
    66: "key of its certificate is too weak",
    67: "key of its authority is too weak",
    68: "signature of its certificate is too weak",
}
"""
@see: X509_STORE_CTX_get_error(3)
"""

_GENERAL: Final = "record layer failure"

_NO_TLS_REASONS: Final = frozenset(
    {
        "http request",
        "https proxy request",
        "packet length too long",
        "unknown protocol",
        "unsupported record type",
        "wrong version number",
        "bad record type",
        "invalid record type",
    }
)
"""Reasons that OpenSSL gives where received bytes are no TLS record."""


def reason_of(error: BaseException | None, fault: int) -> str:
    """
    Return the reason of a failed handshake.

    @param error: reason of the lost connection.
    @param fault: OpenSSL's error number for the peer's certificate; 0: none.
    """
    if fault:
        return f"handshake failed: {_FAULTS.get(fault, f'certificate refused (error {fault})')}"
    queue = error.args[0] if isinstance(error, SSL.Error) and error.args else None
    if not isinstance(queue, list) or not queue:
        return CLOSED
    # OpenSSL 3.2 and 3.3 put a general reason behind the one that tells.
    reasons = [str(entry[-1]) for entry in queue if entry[-1] != _GENERAL] or [_GENERAL]
    return NOT_TLS if reasons[-1] in _NO_TLS_REASONS else f"handshake failed: {reasons[-1]}"
