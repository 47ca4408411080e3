"""
Build the OpenSSL contexts of a listener from its files.

Strategy: all contexts of a listener are built together or not at all, and then replaced at once; a
connection keeps its context for as long as it lives. C{CertificateOptions} sets what it can; the
few options it lacks are set before a context is first used.

@see: U{https://ssl-config.mozilla.org/guidelines/5.7.json}, "intermediate", for versions and
    ciphers; those with DHE are left out, for they need parameters and are slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion
from twisted.logger import Logger

from gateway.access.peer_info import PeerCertificate
from gateway.config.listener import TlsSection
from gateway.model.errors import ConfigError
from gateway.tls.certificates import (
    Identity,
    Unusable,
    certificate_name,
    days_left,
    validity_warning,
)
from gateway.tls.failure_reasons import REVOKED
from gateway.tls.files import Stamp, TlsFiles, read_files, stamp_of
from gateway.tls.revocation import (
    is_listed,
    list_name,
    list_note,
    list_warning,
    listed,
    strangers,
    thresholds,
)
from gateway.tls.transport import TlsConnection

CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
)

HTTP: Final = "[http]"
"""In place of a listener's name: the site for health, metrics and status."""

_Choose = Callable[[bytes | None], SSL.Context]


class Contexts:
    """
    The TLS contexts of one listener.

    @ivar section: the configuration they are built from.
    @ivar key: where it is in the file.
    @ivar stamp: stamp of the files when last read, also if they could not be used.
    @ivar files: the files in use.
    """

    _log = Logger()

    def __init__(
        self,
        section: TlsSection,
        listener: str,
        now: Callable[[], float],
        files: TlsFiles | None = None,
    ) -> None:
        """
        @param listener: its name in the configuration, or L{HTTP}, for messages.
        @param now: seconds since 1970.
        @param files: read by another process; C{None}: read them here.
        @raise ConfigError: with every problem, as C{listeners.NAME.tls.KEY: fault and remedy}.
        """
        self.section = section
        self.key = "http.tls" if listener == HTTP else f"listeners.{listener}.tls"
        self._user = "http" if listener == HTTP else f"listener {listener}"
        self._now = now
        self._warned = now()
        self._load(files)

    def reload(self) -> bool:
        """
        Read the files again, for new connections; C{False}: they cannot be used, and the old ones
        stay.
        """
        try:
            self._load()
        except ConfigError as error:
            self._log.error(
                "{user}: the certificate stays as it was: {problems}",
                event="certificate-kept",
                user=self._user,
                problems="; ".join(error.problems),
            )
            return False
        self._log.info(
            "{user}: certificate read again: {notes}",
            event="certificate-read",
            user=self._user,
            notes="; ".join(self.notes()),
        )
        self.warn()
        return True

    @property
    def changed_stamp(self) -> Stamp | None:
        """
        Current stamp of the files, if it is not C{stamp}; else C{None}.
        """
        stamp = stamp_of(self.section)
        return None if stamp == self.stamp else stamp

    def notes(self) -> list[str]:
        """
        Return one line for each certificate, authority and list in use, with its time until expiry.
        """
        now = self._now()
        return [
            *(
                f"{file}: {certificate_name(one)}, {days_left(one, now)} days left"
                for file, one in self._dated
            ),
            *(f"{self.section.crl}: {list_note(one)}" for one in self.files.lists),
        ]

    def warnings(self) -> list[str]:
        """
        Return one line for each certificate or list that is not valid now or soon, and for each
        list whose authority is not in C{client_ca}.
        """
        now = self._now()
        dated_warnings = [(file, validity_warning(one, now)) for file, one in self._dated]
        crl, lists = str(self.section.crl), self.files.lists
        dated_warnings += [(crl, list_warning(one, now)) for one in lists]
        dated_warnings += [(crl, warning) for warning in strangers(lists, self.files.authorities)]
        return [f"{file}: {warning}" for file, warning in dated_warnings if warning is not None]

    @property
    def warns_anew(self) -> bool:
        """
        True if a list came to one of its warning times since the last warning: a list may live for
        hours.
        """
        now = self._now()
        return any(
            self._warned < moment <= now for one in self.files.lists for moment in thresholds(one)
        )

    def revoked(self, shown: Iterable[PeerCertificate]) -> set[PeerCertificate]:
        """
        Return those of the peers' certificates that are revoked now.
        """
        return listed(self.files.lists, shown)

    @property
    def _dated(self) -> list[tuple[str, x509.Certificate]]:
        files = self.files
        own = [(str(one.file), one.certificate) for one in (files.default, *files.others)]
        return own + [(str(self.section.client_ca), one) for one in files.authorities]

    def expiries(self) -> list[tuple[str, str, float]]:
        """
        Return kind, name and time of expiry of each certificate, authority and list in use.

        The kinds are C{certificate}, C{authority} and C{list}; the time is in seconds since 1970.
        """
        files = self.files
        own = [one.certificate for one in (files.default, *files.others)]
        dated = [("certificate", one) for one in own]
        dated += [("authority", one) for one in files.authorities]
        return [
            *(
                (kind, certificate_name(one), one.not_valid_after_utc.timestamp())
                for kind, one in dated
            ),
            *(
                ("list", list_name(one), one.next_update_utc.timestamp())
                for one in files.lists
                if one.next_update_utc is not None
            ),
        ]

    def warn(self) -> None:
        """
        Log the warnings.
        """
        self._warned = self._now()
        for warning in self.warnings():
            self._log.warn(
                "{user}: {what} in {warning}",
                event="certificate-warning",
                user=self._user,
                what="list" if warning.startswith(f"{self.section.crl}: ") else "certificate",
                warning=warning,
            )

    def connection(self) -> TlsConnection:
        """
        Return the TLS side of a new connection.
        """
        return TlsConnection(self._default)

    def _load(self, given: TlsFiles | None = None) -> None:
        """
        Read the files and build the contexts.

        @param given: files that are read already.
        @raise ConfigError: with every problem.
        """
        where = self.key
        # The stamp first: a change during the read is then noticed later.
        self.stamp = stamp_of(self.section)
        files = read_files(self.section, where) if given is None else given
        contexts: dict[int, SSL.Context] = {}

        def choose(name: bytes | None) -> SSL.Context:
            return contexts[id(files.named(name))]

        problems = []
        for identity in (files.default, *files.others):
            try:
                contexts[id(identity)] = _context(self.section, files, identity, choose)
            except Unusable as error:
                key = error.setting if identity is files.default else "sni"
                problems.append(f"{where}.{key}: {error}")
        if problems:
            raise ConfigError(problems)
        self.files = files
        self._default = contexts[id(files.default)]


def _context(
    section: TlsSection, files: TlsFiles, identity: Identity, choose: _Choose
) -> SSL.Context:
    """
    Build the context of one certificate. All contexts of a listener are alike except for it: with
    the context that a host name selects, OpenSSL takes over its authorities too.

    @raise Unusable: OpenSSL refuses the certificate or its key.
    """
    options = CertificateOptions(
        acceptableCiphers=AcceptableCiphers.fromOpenSSLCipherString(CIPHERS),
        raiseMinimumTo=TLSVersion.TLSv1_3 if section.minimum == "1.3" else TLSVersion.TLSv1_2,
        **_client_options(section, files.authorities),
    )
    context = options.getContext()
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    context.set_tlsext_servername_callback(
        lambda peer: peer.set_context(choose(peer.get_servername()))
    )
    # There is one protocol here; Twisted would refuse every peer that offers others by ALPN.
    context.set_alpn_select_callback(lambda peer, offered: SSL.NO_OVERLAPPING_PROTOCOLS)
    if files.authorities:
        # An intermediate authority is trusted by itself, without trust in the others that its
        # issuer has signed.
        store = context.get_cert_store()
        assert store is not None
        flags = crypto.X509StoreFlags.PARTIAL_CHAIN
        if section.crl is not None:
            # Checks the peer's own certificate only. CRL_CHECK_ALL would refuse everybody whose
            # chain ends below a root; the others in the chain are looked up in _note_fault.
            flags |= crypto.X509StoreFlags.CRL_CHECK
        for revocations in files.lists:
            store.add_crl(revocations)
        store.set_flags(flags)
        context.set_verify(context.get_verify_mode(), partial(_note_fault, files.lists))
        for authority in files.authorities:
            context.add_client_ca(authority)
    try:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        for link in identity.chain:
            context.add_extra_chain_cert(link)
    except SSL.Error as error:
        reason = error.args[0][-1][-1] if error.args and error.args[0] else "no reason given"
        raise Unusable("certificate", f"{identity.file}: OpenSSL refuses it: {reason}") from None
    return context


def _client_options(section: TlsSection, authorities: Sequence[x509.Certificate]) -> dict[str, Any]:
    """
    Return the options for client certificates: none where no authority is configured.
    """
    if not authorities:
        return {}
    return {
        "verify": True,
        "caCerts": [crypto.X509.from_cryptography(authority) for authority in authorities],
        "requireCertificate": section.client_certificate == "required",
    }


def _note_fault(
    lists: Sequence[x509.CertificateRevocationList],
    connection: SSL.Connection,
    certificate: crypto.X509,
    fault: int,
    depth: int,
    valid: int,
) -> bool:
    """
    Verify callback: keep OpenSSL's fault for the log, and look up the rest of the peer's chain.

    @param lists: OpenSSL looks up the peer's own certificate in them, but none above it.
    """
    if valid and depth and lists and is_listed(lists, certificate.to_cryptography()):
        fault, valid = REVOKED, 0
    if not valid and isinstance(connection, TlsConnection):
        connection.fault = fault
    return bool(valid)
