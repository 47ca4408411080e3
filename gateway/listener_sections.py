"""
The sections of a listener in a configuration file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class TlsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    C{[listeners.NAME.tls]}. Paths are resolved against the configuration file's folder.

    @ivar certificate: PEM file with the certificate, its chain, and the key where C{key} is not.
    @ivar key: PEM file with the private key.
    @ivar passphrase_file: whose first line opens encrypted keys.
    @ivar sni: directory of C{*.pem}, each with certificate, chain and key, chosen by the host
        names in them.
    @ivar client_ca: PEM file with the authorities whose clients are let in.
    @ivar client_certificate: whether a client must have one; C{client_ca} alone asks for one.
    @ivar minimum: lowest version of TLS.
    @ivar handshake_timeout: seconds for the handshake.
    """

    certificate: str
    key: str | None = None
    passphrase_file: str | None = None
    sni: str | None = None
    client_ca: str | None = None
    client_certificate: Literal["required", "optional"] = "required"
    minimum: Literal["1.2", "1.3"] = "1.2"
    handshake_timeout: Annotated[float, Meta(gt=0)] = 10.0
