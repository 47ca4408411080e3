"""
What a parent hands a worker: its number, and the configuration in force.

A worker never reads the configuration's files: they may have changed since, and all workers have
the same configuration. Pickle carries it: the two are one program of one user, and nobody else has
the channel. Certificates and keys travel as DER.
"""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from msgspec.structs import replace

from gateway.access.tokens import Token
from gateway.admin.grammar import Request
from gateway.config.listener import TlsSection
from gateway.config.load import Config
from gateway.config.operator import OFF, AdminSection
from gateway.config.process import MIN_SPOOL, share_of, spool_path_of
from gateway.tls.certificates import PrivateKey
from gateway.tls.contexts import HTTP, Contexts
from gateway.tls.files import TlsFiles


@dataclass(frozen=True, slots=True)
class Address:
    """
    Address of a listener's port.

    @ivar host: C{None}: C{path} has it.
    @ivar path: of a Unix socket.
    """

    host: str | None = None
    port: int = 0
    path: str | bytes = ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    Configuration in force, as a worker gets it.

    @ivar config: with the worker's shares of limits.
    @ivar tls: listener -> its TLS, and the content of its files.
    @ivar addresses: listener -> where its port is.
    @ivar datagrams: listeners whose sockets come with this, in that order.
    """

    config: Config
    tokens: Mapping[str, Token] | None
    tls: Mapping[str, tuple[TlsSection, TlsFiles]]
    addresses: Mapping[str, Address]
    datagrams: Sequence[str] = ()

    def contexts(self) -> dict[str, Contexts]:
        """Build the TLS contexts of the listeners."""
        return contexts_of(self.tls)


@dataclass(frozen=True, slots=True)
class Start:
    """
    What a worker starts with.

    @ivar number: of the worker, from 1.
    @ivar workers: how many there are.
    @ivar data_dir: an absolute path.
    @ivar leftovers: paths of spools of workers that are no more, to be stored by this one.
    @ivar is_draining: whether the gateway stops.
    @ivar accepted: connections that all workers have had until now, for the IDs of its peers.
    @ivar orders: what the operator has said that holds for it too.
    """

    number: int
    workers: int
    configuration: Configuration
    data_dir: Path
    leftovers: Sequence[Path] = ()
    is_draining: bool = False
    accepted: int = 0
    orders: Sequence[Request] = ()


def contents_of(contexts: Mapping[str, Contexts]) -> dict[str, tuple[TlsSection, TlsFiles]]:
    """Return the TLS of listeners, and the content of its files."""
    return {name: (one.section, one.files) for name, one in contexts.items() if name != HTTP}


def contexts_of(contents: Mapping[str, tuple[TlsSection, TlsFiles]]) -> dict[str, Contexts]:
    """Build the TLS contexts of listeners from the content of their files."""
    return {
        name: Contexts(section, name, time.time, files)
        for name, (section, files) in contents.items()
    }


def config_of_worker(
    config: Config, number: int, workers: int, dsn: str, first_spool: Path
) -> Config:
    """
    Return the configuration of one worker: its share of limits, its spool, no operator's side.

    @param dsn: connection string of the database.
    @param first_spool: path of worker 1's spool.
    """

    def share(total: int, least: int = 1) -> int:
        return share_of(total, number, workers, least)

    def shared(database: Any) -> Any:
        pool_max = share(database.pool_max)
        return replace(
            database,
            pool_max=pool_max,
            pool_min=min(pool_max, share(database.pool_min)),
            query_connections=share(database.query_connections),
        )

    limits, spool = config.limits, config.spool
    return replace(
        config,
        database=replace(shared(config.database), dsn=dsn),
        databases={name: shared(database) for name, database in config.databases.items()},
        limits=replace(limits, bytes_in_flight=share(limits.bytes_in_flight)),
        spool=replace(
            spool,
            path=str(spool_path_of(first_spool, number)),
            max_bytes=share(spool.max_bytes, MIN_SPOOL),
        ),
        http=replace(config.http, endpoint=OFF, tls=None),
        admin=AdminSection(endpoint=OFF),
    )


def _certificate(data: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(data)


def _key(data: bytes) -> object:
    return load_der_private_key(data, None)


def _list(data: bytes) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(data)


class _Pickler(pickle.Pickler):
    """
    Pickler that knows certificates, their keys and lists.
    """

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, x509.Certificate):
            return _certificate, (value.public_bytes(Encoding.DER),)
        if isinstance(value, x509.CertificateRevocationList):
            return _list, (value.public_bytes(Encoding.DER),)
        if isinstance(value, PrivateKey):
            form = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            return _key, (value.private_bytes(*form),)
        return NotImplemented


def pack(value: object) -> bytes:
    """Return a value as bytes for the channel."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """Return the value that L{pack} made bytes of; they come from our own parent."""
    return pickle.loads(data)
