"""
Revoked certificates: lists in real handshakes, and what they do to those who are in.
"""

from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent

from gateway.access.peer_info import PeerCertificate
from gateway.config.listener import TlsSection
from gateway.config.load import load_config
from gateway.model.errors import ConfigError
from gateway.peers.factory import peer_info_of
from gateway.tls.certificate_watch import CertificateWatch
from gateway.tls.contexts import Contexts
from gateway.tls.files import stamp_of
from gateway.tls.identity import identity_of
from tests.daemon.test_tls import last_words, peer, show
from tests.in_memory import Bench
from tests.issuer import Issued, Issuer
from tests.support import PATIENCE, Gateway, logged, until
from tests.tls.test_handshake import (
    Served,
    client_context,
    hears_nothing,
    issuer,
    ours,
    refusal,
    serve,
    talk,
)

__all__ = ["issuer", "ours", "serve"]

LATE = "the list in crl has expired"


@pytest.fixture
def crl(tmp_path: Path, issuer: Issuer) -> Path:
    """A list with nobody on it."""
    path = tmp_path / "crl.pem"
    path.write_bytes(issuer.revoke())
    return path


def section(ours: Issued, issuer: Issuer, crl: Path) -> TlsSection:
    return TlsSection(certificate=str(ours.file), client_ca=str(issuer.file), crl=str(crl))


def put(crl: Path, *lists: bytes) -> None:
    """Write these into the file."""
    crl.write_bytes(b"".join(lists))


def kept(issued: Issued) -> PeerCertificate:
    """What the gateway keeps of a certificate."""
    found = issued.certificate
    ends = found.not_valid_after_utc.timestamp()
    identity = identity_of(found) or ""
    return PeerCertificate(identity, found.issuer.public_bytes(), found.serial_number, ends)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_revoked_certificate_is_refused(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, crl: Path, version: Any
) -> None:
    """From the next handshake after the list was read; others of the authority get in."""
    served = serve(ours, client_ca=str(issuer.file), crl=str(crl))
    good, bad = issuer.issue("good.example"), issuer.issue("bad.example")
    contexts = [client_context(issuer, shown) for shown in (good, bad)]
    for context in contexts:
        context.minimum_version = context.maximum_version = version
        assert await deferToThread(talk, served.port, context) == b""
    put(crl, issuer.revoke(bad))
    assert served.contexts.reload()
    served.built.clear()
    assert await deferToThread(hears_nothing, served.port, contexts[1])
    assert await refusal(served) == "handshake failed: certificate is revoked"
    await deferToThread(talk, served.port, contexts[0])
    assert [echo.identity for echo in served.built] == ["good.example"]


def noted(kept: list[Any], one: Any) -> Any:
    kept.append(one)
    return one


@pytest_twisted.ensureDeferred
async def test_a_list_that_comes_during_a_handshake(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, crl: Path
) -> None:
    """What was read between its begin and its end counts."""
    served = serve(ours, client_ca=str(issuer.file), crl=str(crl))
    bad = issuer.issue("bad.example")
    begun: list[Any] = []
    build = served.listener_tls.protocol
    served.listener_tls.protocol = lambda *given: noted(begun, build(*given))  # type: ignore[method-assign]
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as raw:
        await until(lambda: begun and begun[0].transport, "the connection")
        put(crl, issuer.revoke(bad))
        assert served.contexts.reload()

        def finish() -> None:
            with client_context(issuer, bad).wrap_socket(raw, server_hostname="localhost") as peer:
                assert peer.recv(1) == b""

        with suppress(OSError):  # it may hear of it that way
            await deferToThread(finish)
        assert await refusal(served) == "certificate is revoked"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("begins, ends, said", [(-9, -2, LATE), (1, 9, "not yet valid")])
async def test_a_list_out_of_its_time_lets_nobody_in(
    serve: Callable[..., Served],
    issuer: Issuer,
    ours: Issued,
    crl: Path,
    begins: float,
    ends: float,
    said: str,
) -> None:
    """Nor does one of another authority, or none of the one that signed."""
    put(crl, issuer.revoke(begins=begins, ends=ends))
    served = serve(ours, client_ca=str(issuer.file), crl=str(crl))
    context = client_context(issuer, issuer.issue("good.example"))
    assert await deferToThread(hears_nothing, served.port, context)
    assert said in await refusal(served)


@pytest_twisted.ensureDeferred
async def test_each_authority_has_its_list(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, crl: Path, tmp_path: Path
) -> None:
    """
    A file holds several; without the one of its authority nobody gets in, and an authority below
    another is refused where that one has revoked it.
    """
    below = Issuer(tmp_path, issuer)
    device = below.issue("device.example")
    context = client_context(issuer)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(device.file.read_bytes() + below.pem)
    context.load_cert_chain(chain)
    served = serve(ours, client_ca=str(issuer.file), crl=str(crl))
    assert await deferToThread(hears_nothing, served.port, context)
    assert await refusal(served) == (
        "handshake failed: crl has no list of the authority of its certificate"
    )
    put(crl, issuer.revoke(), below.revoke())
    assert served.contexts.reload()
    assert await deferToThread(talk, served.port, context) == b""
    served.built.clear()
    served.refused.clear()
    put(crl, issuer.revoke(below), below.revoke())
    assert served.contexts.reload()
    assert await deferToThread(hears_nothing, served.port, context)
    assert await refusal(served) == "handshake failed: certificate is revoked"


@pytest_twisted.ensureDeferred
async def test_an_authority_trusted_as_it_stands(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, crl: Path, tmp_path: Path
) -> None:
    """One below another that is not known here needs no list but its own."""
    below = Issuer(tmp_path, issuer)
    put(crl, below.revoke())
    served = serve(ours, client_ca=str(below.file), crl=str(crl))
    context = client_context(issuer, below.issue("device.example"))
    assert await deferToThread(talk, served.port, context) == b""
    assert [echo.identity for echo in served.built] == ["device.example"]


def test_faults_of_a_list(issuer: Issuer, ours: Issued, crl: Path, tmp_path: Path) -> None:
    """Each is one line that names the file; a list needs authorities to be of."""
    (tmp_path / "other").mkdir()
    below = Issuer(tmp_path, issuer)
    stranger = Issuer(tmp_path / "other", below)
    name = x509.load_pem_x509_crl(stranger.revoke()).issuer.rfc4514_string()
    namesake = x509.load_pem_x509_crl(issuer.revoke())
    for content, said in (
        (b"", "no list of revoked certificates in PEM form in it"),
        (ours.file.read_bytes(), "no list of revoked certificates in PEM form in it"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "list 1 in it cannot be"),
        (issuer.revoke() + forged(namesake), "list 2 in it is not signed by"),
        (stranger.revoke(), f"no list in it is of an authority of client_ca, but of {name}, so"),
    ):
        put(crl, content)
        with pytest.raises(ConfigError) as raised:
            Contexts(section(ours, issuer, crl), "a", time.time)
        (problem,) = raised.value.problems
        assert problem.startswith(f"listeners.a.tls.crl: {crl}: ") and said in problem
    text = '[listeners.a]\nendpoint = "tcp:1"\ndialect = "command"\n'
    text += '[listeners.a.tls]\ncertificate = "a.pem"\ncrl = "b.pem"\n'
    with pytest.raises(ConfigError, match=r"listeners\.a\.tls\.crl: is for the certificates of"):
        load_config(text, PurePath("/etc/g.toml"), lambda endpoint: None)


def test_a_list_of_an_authority_that_is_not_known(
    issuer: Issuer, ours: Issued, crl: Path, tmp_path: Path
) -> None:
    """Beside a good one it is warned of: it may be one below, or have nothing to do with peers."""
    below = Issuer(tmp_path, issuer)
    put(crl, issuer.revoke(), below.revoke())
    (warning,) = Contexts(section(ours, issuer, crl), "a", time.time).warnings()
    assert warning.startswith(f"{crl}: list of ") and "none of client_ca" in warning
    put(crl, issuer.revoke())
    assert Contexts(section(ours, issuer, crl), "a", time.time).warnings() == []


def forged(real: x509.CertificateRevocationList) -> bytes:
    """A list in the name of the same authority, signed by somebody else."""
    assert real.next_update_utc is not None
    builder = x509.CertificateRevocationListBuilder().issuer_name(real.issuer)
    builder = builder.last_update(real.last_update_utc).next_update(real.next_update_utc)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def test_a_list_is_watched_and_warned_of(issuer: Issuer, ours: Issued, crl: Path) -> None:
    """It is read again when it changes; the log speaks of it in its last quarter and at its end."""
    now = [datetime.now(UTC).timestamp()]
    put(crl, issuer.revoke(begins=0, ends=1))
    contexts = Contexts(section(ours, issuer, crl), "a", lambda: now[0])
    assert f"{crl}: list of " in contexts.notes()[-1] and " 0 revoked, " in contexts.notes()[-1]
    clock, changes = Clock(), list[int]()
    watch = CertificateWatch(clock, 2.0, lambda: changes.append(1))
    watch.watch([contexts])
    said: list[str] = []

    def hours(count: float) -> list[str]:
        now[0] += count * 3600
        with logged() as events:
            clock.pump([2.0] * 3)
        return [str(formatEvent(event)) for event in events]

    watch.start()
    assert hours(17) == []
    said = hours(2)
    assert len(said) == 1 and "list in" in said[0] and "then peers with certificates" in said[0]
    assert hours(1) == []
    said = hours(5)
    assert len(said) == 1 and "expired at" in said[0] and "are refused; renew it" in said[0]
    assert not changes
    bad = issuer.issue("bad.example")
    put(crl, issuer.revoke(bad, ends=30))
    assert stamp_of(contexts.section) != contexts.stamp
    assert any("1 revoked" in line for line in hours(0)) and changes == [1]
    assert contexts.revoked([kept(bad), kept(issuer.issue("a"))]) == {kept(bad)}
    assert contexts.warnings() == []
    watch.stop()


def enter(found: Bench, issued: Issued) -> StringTransport:
    """Somebody who has shown a certificate."""
    transport = StringTransport()
    peer_info = peer_info_of(IPv4Address("TCP", "192.0.2.1", 9)).showing(kept(issued))
    found.factory.peer(peer_info).makeConnection(transport)  # type: ignore[no-untyped-call]
    return transport


def test_a_certificate_that_expires_ends_its_connection(issuer: Issuer) -> None:
    """Within one look of the sweep; one that holds for longer stays."""
    found = Bench(held=False)
    found.desk.now = time.time()
    short, long = enter(found, issuer.issue("a", ends=1)), enter(found, issuer.issue("b", ends=2))
    found.wait(30)
    assert (short.value(), long.value()) == (b"", b"")
    found.desk.now += 86401
    found.wait(6)
    assert short.value() == b"-BYE AUTH :the token or certificate has expired\n"
    assert short.disconnecting and long.value() == b""


LISTENER = """
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[listeners.commands.tls]
certificate = "gateway.pem"
client_ca = "authority.pem"
crl = "crl.pem"
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["file", "signal"])
def test_who_is_revoked_while_connected(
    start_with: Callable[..., Gateway], issuer: Issuer, tmp_path: Path, how: str
) -> None:
    """
    A list that names somebody who is in ends that connection, when the file is looked at or at
    SIGHUP; others stay, and the log says who was let in.
    """
    (tmp_path / "authority.pem").write_bytes(issuer.pem)
    show(issuer, tmp_path)
    (tmp_path / "crl.pem").write_bytes(issuer.revoke())
    gateway = start_with(LISTENER)
    good, bad = issuer.issue(common_names=["good"]), issuer.issue(common_names=["bad"])
    stays, goes = (peer(gateway, issuer, shown, "commands") for shown in (good, bad))
    for each in (stays, goes):
        each.send(b"PING\n")
        assert each.read_lines(1) == [b"+OK"]
    gateway.wait_log(
        "listener commands: 1 connection let in as bad by certificate"
        rf" {bad.certificate.serial_number:X} \(from {goes.name}\)"
    )
    (tmp_path / "new.pem").write_bytes(issuer.revoke(bad))
    (tmp_path / "new.pem").rename(tmp_path / "crl.pem")
    if how == "signal":
        gateway.process.send_signal(signal.SIGHUP)
    assert last_words(goes) == b"-BYE AUTH :the certificate is revoked\n"
    stays.send(b"PING\n")
    assert stays.read_lines(1) == [b"+OK"]
    stays.close()
    with pytest.raises(OSError):
        late = peer(gateway, issuer, bad, "commands")
        assert last_words(late) == b""
        raise OSError("closed")
    gateway.wait_log("1 peer disconnected: handshake failed: certificate is revoked")
    assert "Traceback" not in gateway.log
