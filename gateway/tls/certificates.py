"""
Read certificates, their keys and authorities from PEM files.

Every error is one line that names the file and says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.dsa import DSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from gateway.model.errors import GatewayError
from gateway.system.regular_file import read_plain

PrivateKey = (
    RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey | DSAPrivateKey
)
"""Private key of a kind with which OpenSSL can sign a handshake."""

_BLOCK: Final = re.compile(
    rb"^-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?$.*?^-----END \1-----", re.DOTALL | re.MULTILINE
)

_NO_EXTENSION: Final = (
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    ValueError,
)
"""There is none of a kind, or none that can be read."""

_DAY_SECONDS: Final = 86400.0

SOON: Final = 21.0
"""
Days before its end at which a certificate is spoken of. Those of Let's Encrypt live for 90
days and are renewed 30 days before their end: by then a renewal has failed for nine days.
"""


class Unusable(GatewayError):
    """
    The operator must mend a TLS file.

    @ivar setting: key of the section that names the file at fault.
    """

    def __init__(self, setting: str, text: str) -> None:
        super().__init__(text)
        self.setting = setting


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Identity of a server: a certificate with its chain and its key.

    @ivar file: file of the certificate.
    """

    file: Path
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey


def read_identity(
    certificate: Path, key: Path | None = None, passphrase_file: Path | None = None
) -> Identity:
    """
    Read a certificate, its chain and its key.

    @param certificate: the file with the certificate first, then its chain.
    @param key: the file with the key; C{None}: it is in the same one.
    @param passphrase_file: passphrase of an encrypted key.
    @raise Unusable: something is missing, or key and certificate do not match.
    """
    first, *chain = _certificates(certificate, "certificate")
    key_file, setting = (certificate, "certificate") if key is None else (key, "key")
    block = next((b for label, b in pem_blocks(key_file, setting) if label.endswith("KEY")), None)
    if block is None:
        hint = "; put it there, or name its file in key" if key is None else ""
        raise Unusable(setting, f"{key_file}: no private key in PEM form in it{hint}")
    private = _private_key(key_file, setting, block, passphrase_file)
    public = _public_bytes(private.public_key())
    shown = _certified(first)
    if shown is None:
        raise Unusable(
            "certificate",
            f"{certificate}: the certificate of {certificate_name(first)} is for a key of an"
            " unknown kind; use RSA or EC",
        )
    if public != shown:
        if any(public == _certified(other) for other in chain):
            raise Unusable(
                "certificate",
                f"{certificate}: begins with the certificate of {certificate_name(first)}, which is"
                " not that of the key; put the gateway's own first, then its chain",
            )
        raise Unusable(
            setting,
            f"{key_file}: this key does not belong to the certificate of {certificate_name(first)}"
            f" in {certificate}",
        )
    return Identity(certificate, first, tuple(chain), private)


def read_authorities(file: Path) -> list[x509.Certificate]:
    """
    Read the certificates of the authorities that sign the peers'.

    @raise Unusable: there is none, or one is not an authority.
    """
    authorities = _certificates(file, "client_ca")
    for certificate in authorities:
        if certificate.issuer != certificate.subject and not _may_sign(certificate):
            raise Unusable(
                "client_ca",
                f"{file}: {certificate_name(certificate)} is not an authority (CA:FALSE); this file"
                " is for those that sign the clients' certificates",
            )
    return authorities


def host_names(certificate: x509.Certificate) -> list[str]:
    """
    Return the DNS names of a certificate, in lower case; maybe with a wildcard.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except _NO_EXTENSION:
        return []
    return [name.lower() for name in names.value.get_values_for_type(x509.DNSName)]


def certificate_name(certificate: x509.Certificate) -> str:
    """
    Return a name for messages: a host name, the common name or the whole subject.
    """
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = [*host_names(certificate), *(str(name.value) for name in common)]
    text = next(iter(names), None) or certificate.subject.rfc4514_string() or "nobody"
    return text if text.isprintable() else repr(text)


def days_left(certificate: x509.Certificate, now: float) -> int:
    """
    Return the days until a certificate expires.

    @param now: seconds since 1970.
    @return: whole days; negative after it expired.
    """
    return floor((certificate.not_valid_after_utc.timestamp() - now) / _DAY_SECONDS)


def validity_warning(certificate: x509.Certificate, now: float) -> str | None:
    """
    Return a warning if a certificate is not valid now, or expires soon; else C{None}.
    """
    name = certificate_name(certificate)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin.timestamp() > now:
        return f"{name} is not valid before {begin:%Y-%m-%d %H:%M} UTC"
    days = days_left(certificate, now)
    if days < 0:
        return f"{name} expired on {end:%Y-%m-%d %H:%M} UTC; renew it"
    if days < SOON:
        return f"{name} expires in {days} days, {end:%Y-%m-%d %H:%M} UTC; renew it"
    return None


def _read_pem(file: Path, setting: str) -> bytes:
    try:
        return read_plain(file)
    except OSError as error:
        raise Unusable(setting, f"{file}: cannot be read: {error.strerror}") from None


def pem_blocks(file: Path, setting: str) -> list[tuple[str, bytes]]:
    """
    Return label and text of each PEM block in a file.
    """
    match = _BLOCK.finditer(_read_pem(file, setting))
    return [(block[1].decode("ascii"), block[0] + b"\n") for block in match]


def _certificates(file: Path, setting: str) -> list[x509.Certificate]:
    blocks = [block for label, block in pem_blocks(file, setting) if label.endswith("CERTIFICATE")]
    if not blocks:
        raise Unusable(setting, f"{file}: no certificate in PEM form in it")
    certificates = []
    for number, block in enumerate(blocks, 1):
        try:
            certificates.append(_certificate(block))
        except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
            raise Unusable(
                setting, f"{file}: certificate {number} in it cannot be read: {why(error)}"
            ) from None
    return certificates


def _certificate(block: bytes) -> x509.Certificate:
    """
    Load a certificate, and read its names and dates: cryptography does so only on access.
    """
    certificate = x509.load_pem_x509_certificate(block)
    for part in ("subject", "issuer", "not_valid_before_utc", "not_valid_after_utc"):
        getattr(certificate, part)
    return certificate


def _private_key(
    file: Path, setting: str, block: bytes, passphrase_file: Path | None
) -> PrivateKey:
    passphrase = None
    if b"ENCRYPTED" in block:
        if passphrase_file is None:
            raise Unusable(
                setting,
                f"{file}: the key is encrypted; name a file with its passphrase in passphrase_file",
            )
        passphrase = _passphrase(passphrase_file)
    try:
        key = load_pem_private_key(block, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if passphrase is not None and "password" in str(error):
            raise Unusable(
                "passphrase_file", f"{passphrase_file}: is not the passphrase of the key in {file}"
            ) from None
        raise Unusable(setting, f"{file}: the key cannot be read: {why(error)}") from None
    if not isinstance(key, PrivateKey):
        raise Unusable(setting, f"{file}: a key of this kind cannot sign; use RSA or EC")
    return key


def _passphrase(file: Path) -> bytes:
    lines = _read_pem(file, "passphrase_file").splitlines()
    if not lines or not lines[0]:
        raise Unusable("passphrase_file", f"{file}: its first line should be the passphrase")
    return lines[0]


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certified(certificate: x509.Certificate) -> bytes | None:
    """
    Return the public key of a certificate as DER; C{None} where its kind is unknown.
    """
    try:
        return _public_bytes(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except _NO_EXTENSION:
        # Certificates of version 1 have no extensions; OpenSSL decides.
        return True
    return basic.value.ca


def why(error: BaseException) -> str:
    """
    Return the text of an exception, in one line.
    """
    words: Sequence[str] = str(error).split()
    return " ".join(words) or type(error).__name__
