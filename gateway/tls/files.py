"""
Read all TLS files of one listener together, with every problem reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from gateway.config.listener import TlsSection
from gateway.model.errors import ConfigError
from gateway.tls.certificates import (
    Identity,
    Unusable,
    host_names,
    read_authorities,
    read_identity,
)
from gateway.tls.revocation import read_lists

Stamp = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and time of change in ns of each file; it differs when one of them does."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    Content of the TLS files of one listener.

    @ivar default: used for peers that send no server name, or an unknown one.
    @ivar others: certificates of the C{sni} directory.
    @ivar by_name: host name, maybe with a wildcard -> one of C{others}.
    @ivar authorities: certificates of authorities that sign those of peers.
    @ivar lists: lists of certificates that the authorities have revoked.
    """

    default: Identity
    others: Sequence[Identity]
    by_name: Mapping[str, Identity]
    authorities: Sequence[x509.Certificate]
    lists: Sequence[x509.CertificateRevocationList] = ()

    def named(self, name: bytes | None) -> Identity:
        """
        Return the identity for the server name (SNI) that a peer sent.
        """
        if name is None:
            return self.default
        host = name.decode("ascii", "replace").lower().rstrip(".")
        # A wildcard stands for one label (RFC 9525 section 6.3).
        wildcard = f"*.{host.partition('.')[2]}"
        return self.by_name.get(host) or self.by_name.get(wildcard) or self.default


def stamp_of(section: TlsSection) -> Stamp:
    """
    Return the stamp of the files, which differs after a change of one of them.
    """
    own = (section.certificate, section.key, section.passphrase_file)
    names = (*own, section.client_ca, section.crl)
    stamp = []
    for path in [*(Path(name) for name in names if name is not None), *_sni_files(section)]:
        try:
            stat = path.stat()
        except OSError:
            stamp.append((str(path), 0, 0, 0))
        else:
            stamp.append((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(stamp)


def read_files(section: TlsSection, where: str) -> TlsFiles:
    """
    Read all files of a section.

    @param where: the section's key, for messages.
    @raise ConfigError: with every problem.
    """
    problems: list[str] = []

    @contextmanager
    def noting(setting: str | None = None) -> Iterator[None]:
        try:
            yield
        except Unusable as error:
            problems.append(f"{where}.{setting or error.setting}: {error}")

    def path(name: str | None) -> Path | None:
        return None if name is None else Path(name)

    key, passphrase, client_ca = map(
        path, (section.key, section.passphrase_file, section.client_ca)
    )
    default: Identity | None = None
    with noting():
        default = read_identity(Path(section.certificate), key, passphrase)
    authorities: list[x509.Certificate] = []
    if client_ca is not None:
        with noting():
            authorities = read_authorities(client_ca)
    lists: list[x509.CertificateRevocationList] = []
    if section.crl is not None:
        with noting():
            lists = read_lists(Path(section.crl), authorities)
    others: list[Identity] = []
    by_name: dict[str, Identity] = {}
    for file in _sni_files(section):
        with noting("sni"):
            identity = read_identity(file, None, passphrase)
            others.append(identity)
            _enter(by_name, identity)
    if section.sni is not None and not _sni_files(section):
        problems.append(f"{where}.sni: {section.sni}: no *.pem in this directory")
    if problems:
        raise ConfigError(problems)
    assert default is not None
    return TlsFiles(default, others, by_name, authorities, lists)


def _sni_files(section: TlsSection) -> list[Path]:
    return [] if section.sni is None else sorted(Path(section.sni).glob("*.pem"))


def _enter(by_name: dict[str, Identity], identity: Identity) -> None:
    names = host_names(identity.certificate)
    if not names:
        raise Unusable("sni", f"{identity.file}: its certificate names no host")
    for name in names:
        other = by_name.setdefault(name, identity)
        if other is not identity:
            raise Unusable(
                "sni", f"{identity.file}: {name} is in {other.file} too; leave one of them"
            )
