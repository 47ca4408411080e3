"""
Which certificates of a gateway clients take: both the same ones, on every Python.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.threads import deferToThread

from gateway.client.answers import Closed
from gateway.client.blocking import BlockingClient
from gateway.client.service import GatewayClient
from tests.client.server import ModelServer
from tests.issuer import FOR_CLIENTS, Issued, Issuer, key_pem

Serve = Callable[..., ModelServer]


def homemade(folder: Path) -> tuple[Path, Path]:
    """
    An authority as it is made with few options: without key usage and key identifiers.

    @return: its certificate, and one for localhost with its key.
    """
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    now = datetime.now(UTC)

    def signed(
        subject: x509.Name, of: ec.EllipticCurvePrivateKey, *what: x509.ExtensionType
    ) -> Path:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        for extension in what:
            builder = builder.add_extension(extension, critical=False)
        pem = builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        file = folder / f"homemade-{len(list(folder.iterdir()))}.pem"
        file.write_bytes(pem + key_pem(of))
        return file

    return (
        signed(authority, authority_key, x509.BasicConstraints(ca=True, path_length=None)),
        signed(x509.Name([]), key, x509.SubjectAlternativeName([x509.DNSName("localhost")])),
    )


def made(kind: str, folder: Path) -> tuple[Path, Path]:
    """
    @return: a file of authorities, and what the gateway shows.
    """
    issuer = Issuer(folder)
    if kind == "a homemade one":
        return homemade(folder)
    if kind == "its authority is below another, which is not in the file":
        below = Issuer(folder, issuer)
        return below.file, below.issue("localhost").file
    shown: Issued = {
        "of a known authority": lambda: issuer.issue("localhost"),
        "without extended key usage": lambda: issuer.issue("localhost", purposes=()),
        "only a common name": lambda: issuer.issue(common_names=["localhost"]),
        "a name that is none": lambda: issuer.issue("*"),
        "for clients only": lambda: issuer.issue("localhost", purposes=[FOR_CLIENTS]),
        "expired": lambda: issuer.issue("localhost", begins=-2.0, ends=-1.0),
        "for another host": lambda: issuer.issue("gateway.example"),
        "of another authority": lambda: Issuer(folder).issue("localhost"),
    }[kind]()
    return issuer.file, shown.file


KINDS = {
    "of a known authority": True,
    "without extended key usage": True,
    "a homemade one": True,
    "its authority is below another, which is not in the file": True,
    "only a common name": False,
    "a name that is none": False,
    "for clients only": False,
    "expired": False,
    "for another host": False,
    "of another authority": False,
}
"""What docs/client.md says of each: whether it is taken."""


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_both_clients_take_the_same(kind: str, serve: Serve, tmp_path: Path) -> None:
    """What one client takes or refuses, the other does."""
    authorities, shown = made(kind, tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown)
    server = serve(tls=context)

    def blocking() -> bool:
        try:
            with BlockingClient("localhost", server.port, tls=authorities) as client:
                return client.ping("there") == "there"
        except ssl.SSLCertVerificationError:
            return False

    assert await deferToThread(blocking) is KINDS[kind]
    twisted = GatewayClient(f"tcp:localhost:{server.port}", tls=authorities, stop_timeout=0.0)
    twisted.startService()
    if KINDS[kind]:
        await twisted.whenConnected()
        assert await twisted.ping("there") == "there"
    else:
        with pytest.raises(
            Exception, match=r"certificate verify failed|VerificationError|alternative names"
        ):
            await twisted.whenConnected(failAfterFailures=1)
    await twisted.stopService()


@pytest.mark.parametrize("names", [(), ("*",)])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_of_twisted_refuses_them_too(
    names: tuple[str, ...], serve: Serve, tmp_path: Path
) -> None:
    """With C{tls:} in the endpoint nothing is said either to who has no name to compare with."""
    issuer = Issuer(tmp_path)
    roots = tmp_path / "roots"
    roots.mkdir()
    (roots / "authority.pem").write_bytes(issuer.pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issuer.issue(*names, common_names=["localhost"]).file)
    server = serve(tls=context)
    client = GatewayClient(f"tls:localhost:{server.port}:trustRoots={roots}", stop_timeout=0.0)
    client.startService()
    sent = client.send(b"secret")
    sent.addErrback(lambda reason: reason.value)
    with pytest.raises(ConnectionError, match="alternative names"):
        await client.whenConnected(failAfterFailures=1)
    await client.stopService()
    assert isinstance(await sent, Closed)
    assert not server.model.table


def test_our_own_are_of_the_strict_form(serve: Serve, tmp_path: Path) -> None:
    """Where a context judges the form too, the certificates that tests call good are good."""
    root = Issuer(tmp_path)
    for issuer in (root, Issuer(tmp_path, root)):
        for issued in (issuer.issue("localhost"), issuer.issue("localhost", common_names=["a"])):
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(issued.file)
            strict = ssl.create_default_context(cafile=str(root.file))
            strict.load_verify_locations(issuer.file)
            strict.verify_flags |= ssl.VERIFY_X509_STRICT
            with BlockingClient("localhost", serve(tls=context).port, tls=strict) as client:
                assert client.ping("there") == "there"
