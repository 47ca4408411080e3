"""
Who a peer is, by its certificate.

One rule, so that what was granted to one name cannot be had by another: the first URI among
the subject's alternative names, else the first host name, address or service name, else the
common name of the subject. What was found is taken or refused; the next is never tried in
its place.

Host and service names are as service-identity reads them. Its URIs are not used: it gives up
their case, which tells SPIFFE's paths apart, and cannot read URNs.

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
    @return: C{None} where it names nobody, or in a way that cannot be used: with blanks or
        control characters, too long, or with a wildcard, which would be many.
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
    Scheme and host in lower case, for there it makes no difference (RFC 3986 section 6.2.2.1).
    """
    found = _URI.fullmatch(text)
    if found is None:
        raise ValueError("no URI")
    scheme, authority, rest = found.groups()
    return f"{scheme.lower()}{(authority or '').lower()}{rest}"


def _common_name(certificate: x509.Certificate) -> str | None:
    """
    @return: C{None} where there is not exactly one.
    """
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1:
        return None
    value = found[0].value
    return value if isinstance(value, str) else None
