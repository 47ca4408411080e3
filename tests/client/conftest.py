"""
Fixtures for clients.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.client.model import Model
from tests.client.server import ModelServer


@pytest.fixture
def serve() -> Iterator[Callable[..., ModelServer]]:
    """Starts models of a gateway on real sockets and ends them."""
    running: list[ModelServer] = []

    def start(model: Model | None = None, tls: ssl.SSLContext | None = None) -> ModelServer:
        server = ModelServer(model or Model(), tls)
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@dataclass
class Authority:
    """
    @ivar pem: its certificate, in a file.
    @ivar server: a server's context with a certificate for localhost.
    """

    pem: Path
    server: ssl.SSLContext


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that vouches for localhost."""
    ca = trustme.CA()
    pem = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    return Authority(pem, context)
