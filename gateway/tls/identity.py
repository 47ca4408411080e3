"""
Derive a peer's identity from its certificate.

One rule, so that no other certificate can claim a name that was granted: the first URI among the
subject's alternative names, else the first host name, address or service name, else the common name
of the subject. The name found is accepted or refused; the next kind is never tried instead.

Host and service names are parsed by service-identity. Its URIs are not used: it drops their case,
which distinguishes SPIFFE's paths, and cannot parse URNs.

@see: U{https://datatracker.ietf.org/doc/html/rfc9525} and
    U{https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md}
"""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID
from service_identity import CertificateError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNSPattern, IPAddressPattern, SRVPattern

LONGEST: Final = 255
"""Bytes of an identity; a host name has at most as many (RFC 1035 section 2.3.4)."""

_MALFORMED: Final = (
    CertificateError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    # Of cryptography's parsers, and of service-identity's for an empty service name.
    ValueError,
    IndexError,
)

_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)(//[^/?#]*)?(.*)", re.DOTALL)


def identity_of(certificate: x509.Certificate) -> str | None:
    """
    Return the identity in a certificate.

    @return: C{None} where there is no name or an unusable one: with spaces or control characters,
        too long, or with a wildcard, which would stand for many.
    """
    try:
        name = _name(certificate)
    except _MALFORMED:
        return None
    if name is None or not 0 < len(name.encode("utf-8", "replace")) <= LONGEST:
        return None
    usable = name.isprintable() and " " not in name and "*" not in name
    return name if usable else None


def _name(certificate: x509.Certificate) -> str | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return _common_name(certificate)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if uris:
        return _uri(uris[0])
    for pattern in extract_patterns(certificate):
        if isinstance(pattern, DNSPattern):
            return pattern.pattern.decode("ascii")
        if isinstance(pattern, IPAddressPattern):
            return str(pattern.pattern)
        if isinstance(pattern, SRVPattern):
            return f"_{pattern.name_pattern.decode()}.{pattern.dns_pattern.pattern.decode()}"
    return _common_name(certificate)


def _uri(text: str) -> str:
    """
    Return a URI with scheme and host in lower case, where case does not matter (RFC 3986 section
    6.2.2.1).
    """
    match = _URI.fullmatch(text)
    if match is None:
        raise ValueError("no URI")
    scheme, authority, rest = match.groups()
    return f"{scheme.lower()}{(authority or '').lower()}{rest}"


def _common_name(certificate: x509.Certificate) -> str | None:
    """
    Return the common name of the subject; C{None} where there is not exactly one.
    """
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        return None
    value = names[0].value
    return value if isinstance(value, str) else None
