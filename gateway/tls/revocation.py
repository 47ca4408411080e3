"""
Read lists of revoked certificates (CRL, RFC 5280 section 5) from a PEM file.

OpenSSL checks them in a handshake; this module reads them, watches their dates, and looks up the
certificates of open connections. While a list is expired, all peers of its authority are refused:
else an attacker could hold back the next list to keep a stolen certificate usable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from gateway.access.peer_info import PeerCertificate
from gateway.tls.certificates import Unusable, pem_blocks, why

Lists = Sequence[x509.CertificateRevocationList]


def read_lists(
    file: Path, authorities: Sequence[x509.Certificate]
) -> list[x509.CertificateRevocationList]:
    """
    Read the lists in a file.

    @param authorities: a list issued by one of them must have its signature.
    @raise Unusable: there is no list, or one that cannot be used.
    """
    blocks = [block for label, block in pem_blocks(file, "crl") if label.endswith("CRL")]
    if not blocks:
        raise Unusable("crl", f"{file}: no list of revoked certificates in PEM form in it")
    lists = []
    for number, block in enumerate(blocks, 1):
        try:
            one = x509.load_pem_x509_crl(block)
            # cryptography parses them only on access.
            _ = (one.issuer, one.last_update_utc, one.next_update_utc, len(one))
        except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
            raise Unusable(
                "crl", f"{file}: list {number} in it cannot be read: {why(error)}"
            ) from None
        _check_signature(file, number, one, authorities)
        lists.append(one)
    if authorities and not any(_of(authority, one) for authority in authorities for one in lists):
        issuers = ", ".join(dict.fromkeys(_issuer(one) for one in lists))
        raise Unusable(
            "crl",
            f"{file}: no list in it is of an authority of client_ca, but of {issuers}, so nobody"
            " whom those sign would get in; add the lists of the authorities of client_ca, or put"
            " the authority of this list into client_ca",
        )
    return lists


def strangers(lists: Lists, authorities: Sequence[x509.Certificate]) -> list[str]:
    """
    Return a warning for each list whose authority is not among C{authorities}: it may be an
    intermediate whose certificate peers send along, or unrelated.
    """
    return [
        f"list of {_issuer(one)}: this authority is none of client_ca, so it counts only for peers"
        " that show a certificate of it with their own; put it into client_ca, or take the list out"
        for one in lists
        if not any(_of(authority, one) for authority in authorities)
    ]


def _of(authority: x509.Certificate, one: x509.CertificateRevocationList) -> bool:
    return authority.subject == one.issuer


def list_name(one: x509.CertificateRevocationList) -> str:
    """Return the name of a list's authority, for messages."""
    return _issuer(one)


def list_note(one: x509.CertificateRevocationList) -> str:
    """
    Describe a list in a few words.
    """
    end = one.next_update_utc
    until = "for ever" if end is None else f"until {end:%Y-%m-%d %H:%M} UTC"
    return f"list of {_issuer(one)}, {len(one)} revoked, valid {until}"


def list_warning(one: x509.CertificateRevocationList, now: float) -> str | None:
    """
    Return a warning if a list is not valid now, or expires soon.

    @param now: seconds since 1970.
    @return: one line; C{None}: there is nothing to warn of.
    """
    begin, end = one.last_update_utc, one.next_update_utc
    lost = "peers with certificates of this authority are refused"
    if begin.timestamp() > now:
        return f"list of {_issuer(one)} is not valid before {begin:%Y-%m-%d %H:%M} UTC: {lost}"
    if end is None:
        return None
    soon, late = thresholds(one)
    if now >= late:
        return f"list of {_issuer(one)} expired at {end:%Y-%m-%d %H:%M} UTC: {lost}; renew it"
    if now >= soon:
        return f"list of {_issuer(one)} expires at {end:%Y-%m-%d %H:%M} UTC, then {lost}; renew it"
    return None


def thresholds(one: x509.CertificateRevocationList) -> tuple[float, ...]:
    """
    Return the times at which to warn of a list.

    @return: seconds since 1970: when the last quarter of its life begins, and its end; none for a
        list without an end.
    """
    if one.next_update_utc is None:
        return ()
    begin, end = one.last_update_utc.timestamp(), one.next_update_utc.timestamp()
    return (end - (end - begin) / 4, end)


def is_listed(lists: Lists, certificate: x509.Certificate) -> bool:
    """
    Say whether one certificate is revoked.
    """
    return any(
        one.issuer == certificate.issuer
        and one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        for one in lists
    )


def listed(lists: Lists, shown: Iterable[PeerCertificate]) -> set[PeerCertificate]:
    """
    Return those of many certificates that are revoked; each list is read through once.
    """
    wanted: dict[bytes, dict[int, PeerCertificate]] = {}
    for certificate in shown:
        wanted.setdefault(certificate.issuer, {})[certificate.serial] = certificate
    revoked_certificates: set[PeerCertificate] = set()
    for one in lists:
        serials = wanted.get(one.issuer.public_bytes())
        if serials:
            revoked_certificates |= {
                serials[entry.serial_number] for entry in one if entry.serial_number in serials
            }
    return revoked_certificates


def _check_signature(
    file: Path,
    number: int,
    one: x509.CertificateRevocationList,
    authorities: Sequence[x509.Certificate],
) -> None:
    """
    Check the signature of a list.

    @raise Unusable: its authority is known, and has not signed it. An unknown authority may be an
        intermediate; OpenSSL checks that signature in a handshake.
    """
    named = [authority for authority in authorities if authority.subject == one.issuer]
    for authority in named:
        try:
            if one.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
                return
        except (TypeError, ValueError, UnsupportedAlgorithm):
            continue
    if named:
        raise Unusable(
            "crl", f"{file}: list {number} in it is not signed by {_issuer(one)} of client_ca"
        )


def _issuer(one: x509.CertificateRevocationList) -> str:
    text = one.issuer.rfc4514_string() or "nobody"
    return text if text.isprintable() else repr(text)
