"""
An authority for tests, and certificates of every kind from it: good, late, early, wrong.

The good ones have the form that RFC 5280 asks for, as C{ssl.VERIFY_X509_STRICT} wants to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOR_CLIENTS: Final = ExtendedKeyUsageOID.CLIENT_AUTH
FOR_SERVERS: Final = ExtendedKeyUsageOID.SERVER_AUTH

_numbers = count(1)


@dataclass(frozen=True)
class Issued:
    """
    @ivar file: certificate and key in one PEM file.
    @ivar certificate_file: the certificate alone.
    @ivar key_file: the key alone.
    """

    file: Path
    certificate_file: Path
    key_file: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Issuer:
    """
    @ivar file: its own certificate, in a file.
    """

    def __init__(self, folder: Path, above: Issuer | None = None) -> None:
        """
        @param above: who vouches for this one; C{None}: nobody but itself.
        """
        self._folder = folder
        self._ca: trustme.CA = trustme.CA() if above is None else above._ca.create_child_ca()
        self.file = folder / f"authority-{next(_numbers)}.pem"
        self.file.write_bytes(self.pem)

    @property
    def pem(self) -> bytes:
        return self._ca.cert_pem.bytes()

    def issue(
        self,
        *host_names: str,
        names: Sequence[x509.GeneralName] = (),
        common_names: Sequence[str] = (),
        begins: float = -1.0,
        ends: float = 90.0,
        purposes: Sequence[x509.ObjectIdentifier] = (FOR_CLIENTS, FOR_SERVERS),
    ) -> Issued:
        """
        @param names: alternative names besides the hosts'.
        @param begins: days from now.
        @param ends: days from now.
        @param purposes: of the extended key usage; none: it has none.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(
            self.sign(
                key.public_key(),
                *host_names,
                names=names,
                common_names=common_names,
                begins=begins,
                ends=ends,
                purposes=purposes,
            ),
            key,
        )

    def sign(
        self,
        key: CertificatePublicKeyTypes,
        *host_names: str,
        names: Sequence[x509.GeneralName] = (),
        common_names: Sequence[str] = (),
        begins: float = -1.0,
        ends: float = 90.0,
        purposes: Sequence[x509.ObjectIdentifier] = (FOR_CLIENTS, FOR_SERVERS),
    ) -> x509.Certificate:
        """
        The certificate alone, for any key.
        """
        authority = x509.load_pem_x509_certificate(self.pem)
        now = datetime.now(UTC)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(authority.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=begins))
            .not_valid_after(now + timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._signer.public_key()),
                critical=False,
            )
        )
        found = [*(x509.DNSName(name) for name in host_names), *names]
        if found:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(found), critical=not subject
            )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return builder.sign(self._signer, hashes.SHA256())

    def revoke(self, *revoked: Issued | Issuer, begins: float = -1.0, ends: float = 7.0) -> bytes:
        """
        A list of revoked certificates, in PEM.

        @param begins: days from now.
        @param ends: days from now.
        """
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.load_pem_x509_certificate(self.pem).subject)
            .last_update(now + timedelta(days=begins))
            .next_update(now + timedelta(days=ends))
        )
        for one in revoked:
            if isinstance(one, Issuer):
                serial = x509.load_pem_x509_certificate(one.pem).serial_number
            else:
                serial = one.certificate.serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(self._signer, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    @property
    def _signer(self) -> ec.EllipticCurvePrivateKey:
        signer = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        return signer

    def _write(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
        stem = f"issued-{next(_numbers)}"
        both, alone, private = (
            self._folder / f"{stem}{end}" for end in (".pem", ".cert.pem", ".key.pem")
        )
        public_pem = certificate.public_bytes(serialization.Encoding.PEM)
        alone.write_bytes(public_pem)
        private.write_bytes(key_pem(key))
        both.write_bytes(public_pem + key_pem(key))
        return Issued(both, alone, private, certificate, key)


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A key as a file has it, encrypted where there is a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase),
    )
