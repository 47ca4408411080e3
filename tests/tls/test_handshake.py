"""
TLS on real sockets: who gets in, and that nobody else is seen by what is behind.

The server is Twisted's on pyOpenSSL; the clients are Python's own TLS and openssl(1).
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from gateway.access.peer_info import PeerCertificate
from gateway.config.listener import TlsSection
from gateway.tls.certificate_watch import CertificateWatch
from gateway.tls.contexts import Contexts
from gateway.tls.failure_reasons import NO_IDENTITY
from gateway.tls.files import Stamp
from gateway.tls.handshake import Handshake, ListenerTls
from gateway.tls.transport import TlsConnection
from tests.issuer import FOR_CLIENTS, FOR_SERVERS, Issued, Issuer
from tests.support import PATIENCE, logged, until


class Echo(Protocol):
    """
    What is behind the handshake.
    """

    transport: Any
    ended = False
    lost = False

    def __init__(self, identity: str | None) -> None:
        self.identity = identity
        self.heard = b""

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if b"quit" in data:
            self.transport.loseConnection()
        else:
            self.transport.write(data.upper())

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


@implementer(IHalfCloseableProtocol)
class LateEcho(Echo):
    """
    One that answers after the peer has ended.
    """

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def readConnectionLost(self) -> None:
        assert not self.ended
        self.ended = True
        real: Any = reactor
        real.callLater(0.05, self.answer)

    def answer(self) -> None:
        self.transport.write(self.heard.upper())
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing."""


class Served(Factory):
    """
    A listener with TLS.

    @ivar built: the protocols of those who got in.
    @ivar refused: why the others did not.
    """

    noisy = False

    def __init__(self, section: TlsSection, clock: Any = reactor, kind: type[Echo] = Echo) -> None:
        self.contexts = Contexts(section, "a", time.time)
        self.listener_tls = ListenerTls(self.contexts, clock)
        self.kind = kind
        self.lets_in = True
        self.built: list[Echo] = []
        self.refused: list[str] = []
        self.open: list[socket.socket] = []
        real: Any = reactor
        self._port = real.listenTCP(0, self, interface="127.0.0.1")
        self.port: int = self._port.getHost().port

    def buildProtocol(self, addr: object) -> Any:
        return self.listener_tls.protocol(self.build, self.refused.append)

    def build(self, certificate: PeerCertificate | None) -> IProtocol | None:
        """The listener's."""
        if not self.lets_in:
            return None
        self.built.append(self.kind(None if certificate is None else certificate.identity))
        return self.built[-1]

    async def stop(self) -> None:
        await self._port.stopListening()


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


@pytest.fixture
def ours(issuer: Issuer) -> Issued:
    """The server's."""
    return issuer.issue("localhost", "gw.example")


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts listeners and ends them; nothing unforeseen may have been logged meanwhile."""
    running: list[Served] = []
    failures: list[Any] = []

    @implementer(ILogObserver)
    def watch(event: dict[str, Any]) -> None:
        if "log_failure" in event:
            failures.append(event["log_failure"])

    def start(
        certificate: Issued, kind: type[Echo] = Echo, clock: Any = reactor, **keys: Any
    ) -> Served:
        section = TlsSection(certificate=str(certificate.file), **keys)
        running.append(Served(section, clock, kind))
        return running[-1]

    globalLogPublisher.addObserver(watch)
    yield start
    for served in running:
        pytest_twisted.blockon(Deferred.fromCoroutine(served.stop()))
    globalLogPublisher.removeObserver(watch)
    assert not failures, failures


def client_context(issuer: Issuer, shown: Issued | None = None) -> ssl.SSLContext:
    """One that trusts the issuer."""
    context = ssl.create_default_context(cafile=str(issuer.file))
    if shown is not None:
        context.load_cert_chain(shown.file)
    return context


def talk(
    port: int, context: ssl.SSLContext, data: bytes = b"hello quit", name: str = "localhost"
) -> bytes:
    """
    Say something over TLS and read all that comes.

    @raise OSError: refused.
    """
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw,
        context.wrap_socket(raw, server_hostname=name) as connection,
    ):
        connection.sendall(data)
        heard = b""
        while more := connection.recv(65536):
            heard += more
        return heard


def s_client(port: int, *options: str, data: bytes = b"") -> tuple[str, str]:
    """
    @return: what openssl(1) printed, its errors apart.
    """
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options],
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def hears_nothing(port: int, context: ssl.SSLContext) -> bool:
    """Whether a peer that speaks is cut off without a word, in whichever way it notices."""
    try:
        return talk(port, context) == b""
    except OSError:
        return True


async def refusal(served: Served) -> str:
    """Why the only peer was refused; nothing behind the handshake has heard of it."""
    await until(lambda: served.refused, "the refusal")
    assert not served.built
    (reason,) = served.refused
    return reason


@pytest_twisted.ensureDeferred
async def test_served(serve: Callable[..., Served], issuer: Issuer, ours: Issued) -> None:
    """TLS 1.2 and 1.3 carry bytes both ways; without client_ca nobody has an identity."""
    served = serve(ours)
    context = client_context(issuer)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.minimum_version = context.maximum_version = version
        await deferToThread(talk, served.port, context)
    assert [(echo.heard, echo.identity) for echo in served.built] == [(b"hello quit", None)] * 2
    await until(lambda: all(echo.lost for echo in served.built), "the end")
    assert not served.refused


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1", "-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
async def test_versions(
    serve: Callable[..., Served], ours: Issued, version: str, minimum: str
) -> None:
    """openssl(1) gets in with TLS 1.2 or later, or with 1.3 alone; nothing older."""
    served = serve(ours, minimum=minimum)
    # Without this, openssl itself would not speak the old ones.
    lax = ("-cipher", "DEFAULT@SECLEVEL=0", "-quiet")
    _, err = await deferToThread(s_client, served.port, version, *lax, data=b"hi quit")
    if version == "-tls1_3" or (version, minimum) == ("-tls1_2", "1.2"):
        await until(lambda: served.built, "a peer")
        assert served.built[0].heard == b"hi quit"
    else:
        assert "alert protocol version" in err
        assert await refusal(served) == "handshake failed: unsupported protocol"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "AES128-GCM-SHA256", "aNULL"]
)
async def test_weak_ciphers(serve: Callable[..., Served], ours: Issued, cipher: str) -> None:
    """No CBC, no key exchange without forward secrecy, no anonymous one."""
    served = serve(ours)
    lax = ("-cipher", f"{cipher}:@SECLEVEL=0", "-quiet")
    _, err = await deferToThread(s_client, served.port, "-tls1_2", *lax, data=b"hi")
    assert "alert handshake failure" in err
    assert await refusal(served) == "handshake failed: no shared cipher"


@pytest_twisted.ensureDeferred
async def test_what_openssl_sees(
    serve: Callable[..., Served], ours: Issued, issuer: Issuer
) -> None:
    """A certificate that it trusts, no compression, no protocol's name, no renegotiation."""
    served = serve(ours)
    for version, cipher in (("-tls1_2", "ECDHE-ECDSA-AES128-GCM"), ("-tls1_3", "TLS_AES")):
        options = (version, "-CAfile", str(issuer.file), "-verify_return_error", "-alpn", "h2,x")
        out, err = await deferToThread(s_client, served.port, *options, data=b"hi quit")
        assert "Verification: OK" in out and cipher in out
        assert "Compression: NONE" in out and "No ALPN negotiated" in out
    served.built.clear()
    out, err = await deferToThread(s_client, served.port, "-tls1_2", data=b"R\n")
    assert "RENEGOTIATING" in out + err and "no renegotiation" in err
    await until(lambda: all(echo.lost for echo in served.built), "the end")
    assert not served.refused and served.built[0].heard == b""


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_is_resumed(
    serve: Callable[..., Served], ours: Issued, issuer: Issuer, version: ssl.TLSVersion
) -> None:
    """Whoever comes back proves who it is anew: what it was given the last time opens nothing."""
    served = serve(ours, client_ca=str(issuer.file))
    context = client_context(issuer, issuer.issue("device.example"))
    context.minimum_version = context.maximum_version = version

    def come_back() -> None:
        session = None
        for _ in range(3):
            with (
                socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as raw,
                context.wrap_socket(raw, server_hostname="localhost", session=session) as again,
            ):
                again.sendall(b"quit")
                assert not again.recv(100) and not again.session_reused
                session = again.session

    await deferToThread(come_back)
    assert [echo.identity for echo in served.built] == ["device.example"] * 3


@pytest_twisted.ensureDeferred
async def test_the_chain_is_shown(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued
) -> None:
    """What stands behind the certificate in its file goes to the peer."""
    ours.file.write_bytes(ours.file.read_bytes() + issuer.pem)
    served = serve(ours)
    out, _ = await deferToThread(s_client, served.port, "-showcerts", data=b"quit")
    assert out.count("BEGIN CERTIFICATE") == 2


Shown = Callable[[Issuer, Path], Issued | None]

WRONG: dict[str, tuple[Shown, str]] = {
    "none": (
        lambda issuer, folder: None,
        "handshake failed: peer did not return a certificate",
    ),
    "expired": (
        lambda issuer, folder: issuer.issue("d.example", begins=-9, ends=-1),
        "handshake failed: certificate has expired",
    ),
    "early": (
        lambda issuer, folder: issuer.issue("d.example", begins=1, ends=9),
        "handshake failed: certificate is not yet valid",
    ),
    "stranger": (
        lambda issuer, folder: Issuer(folder).issue("d.example"),
        "handshake failed: authority of its certificate is not in client_ca",
    ),
    "server": (
        lambda issuer, folder: issuer.issue("d.example", purposes=[FOR_SERVERS]),
        "handshake failed: certificate is not for TLS clients (extended key usage)",
    ),
    "nobody": (
        lambda issuer, folder: issuer.issue(common_names=["two words"]),
        "its certificate names no usable identity",
    ),
}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("certificate", ["required", "optional"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_certificates_that_are_refused(
    serve: Callable[..., Served],
    issuer: Issuer,
    ours: Issued,
    tmp_path: Path,
    wrong: str,
    certificate: str,
    version: ssl.TLSVersion,
) -> None:
    """No certificate, or a wrong one, ends in the handshake; what is behind sees nobody."""
    make, reason = WRONG[wrong]
    served = serve(ours, client_ca=str(issuer.file), client_certificate=certificate)
    context = client_context(issuer, make(issuer, tmp_path))
    context.minimum_version = context.maximum_version = version
    if wrong == "none" and certificate == "optional":
        await deferToThread(talk, served.port, context)
        assert served.built[0].identity is None and not served.refused
        return
    assert await deferToThread(hears_nothing, served.port, context)
    assert await refusal(served) == reason


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("wanted", [True, False])
async def test_whoever_is_refused_cannot_stay(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, wanted: bool
) -> None:
    """A peer that is refused after its handshake is cut off at once, and not asked to go."""
    served = serve(ours, client_ca=str(issuer.file))
    served.lets_in = wanted
    shown = issuer.issue(common_names=["two words" if wanted else "ann"])

    def stay() -> None:
        client = open_client(served.port, SSL.TLS1_3_VERSION, shown)
        with pytest.raises(SSL.Error):
            client.recv(100)
        # Without a goodbye of ours TCP would stay as it is.
        with socket.socket(fileno=os.dup(client.fileno())) as raw:
            raw.settimeout(PATIENCE)
            with suppress(ConnectionResetError):
                assert raw.recv(100) == b""
        client.close()

    await deferToThread(stay)
    assert not served.built


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("certificate", ["required", "optional"])
@pytest.mark.parametrize("purposes", [[FOR_CLIENTS], []])
async def test_an_identity(
    serve: Callable[..., Served],
    issuer: Issuer,
    ours: Issued,
    certificate: str,
    purposes: list[x509.ObjectIdentifier],
) -> None:
    """A certificate of the right authority tells what is behind who is there."""
    served = serve(ours, client_ca=str(issuer.file), client_certificate=certificate)
    shown = issuer.issue("Device-7.example", purposes=purposes)
    assert await deferToThread(talk, served.port, client_context(issuer, shown)) == b""
    assert [(echo.identity, echo.heard) for echo in served.built] == [
        ("device-7.example", b"hello quit")
    ]


@pytest_twisted.ensureDeferred
async def test_an_authority_below_another(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, tmp_path: Path
) -> None:
    """Where client_ca is one that another vouches for, its clients get in and no others of that."""
    site, sister = Issuer(tmp_path, issuer), Issuer(tmp_path, issuer)
    served = serve(ours, client_ca=str(site.file))
    shown = site.issue("device.example")
    await deferToThread(talk, served.port, client_context(issuer, shown))
    assert [echo.identity for echo in served.built] == ["device.example"]
    stranger = sister.issue("device.example")
    stranger.file.write_bytes(stranger.file.read_bytes() + sister.pem)
    for other in (issuer.issue("device.example"), stranger):
        assert await deferToThread(hears_nothing, served.port, client_context(issuer, other))
    await until(lambda: len(served.refused) == 2, "the refusals")
    assert len(served.built) == 1
    assert set(served.refused) == {
        "handshake failed: authority of its certificate is not in client_ca"
    }


@pytest_twisted.ensureDeferred
async def test_openssl_is_told_whose_certificates_count(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued
) -> None:
    """A client with several certificates learns which one to show."""
    served = serve(ours, client_ca=str(issuer.file), client_certificate="optional")
    out, _ = await deferToThread(s_client, served.port, data=b"quit")
    authority = x509.load_pem_x509_certificate(issuer.pem)
    unit = authority.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)[0]
    assert "Acceptable client certificate CA names\n" in out and str(unit.value) in out


@pytest_twisted.ensureDeferred
async def test_whoever_is_not_wanted_behind(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued
) -> None:
    """Where no protocol is made for an identity its connection is cut, and that is all."""
    served = serve(ours)
    served.lets_in = False
    assert await deferToThread(hears_nothing, served.port, client_context(issuer))
    assert not served.built and not served.refused


def raw(port: int, data: bytes, end: str = "wait") -> bytes:
    """
    Bytes to a TLS port, and what comes back.

    @param end: wait for the other end, C{reset} or C{close}.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end != "wait":
            return b""
        heard = b""
        try:
            while more := connection.recv(65536):
                heard += more
        except ConnectionResetError:
            pass
        return heard


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "data",
    [
        b"hello\nworld\n",
        b"PUT messages hello\n",
        b"GET / HTTP/1.1\r\nHost: gw.example\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"5:hello,5:hello,",
        b"\0" * 40,
        b"\xff" * 40,
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    ],
)
async def test_no_tls(serve: Callable[..., Served], ours: Issued, data: bytes) -> None:
    """Plain text and garbage are known for what they are."""
    served = serve(ours)
    answer = await deferToThread(raw, served.port, data)
    # At most an alert: nothing of ours.
    assert len(answer) <= 7
    assert await refusal(served) == "not TLS"


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first flight of a real client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("length", [0, 1, 5, 6, 100, None])
async def test_a_handshake_broken_off(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, end: str, length: int | None
) -> None:
    """Whoever goes in the middle of it, in good order or not, leaves a line and nothing else."""
    served = serve(ours)
    hello = client_hello(client_context(issuer))
    await deferToThread(raw, served.port, hello[:length], end)
    assert await refusal(served) == "closed during the handshake"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("length", [0, 1, 100, None])
async def test_a_handshake_never_finished(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, length: int | None
) -> None:
    """Half a handshake, then silence: cut off when its time is over, and not before."""
    clock = Clock()
    served = serve(ours, clock=clock, handshake_timeout=7.5)
    hello = client_hello(client_context(issuer))
    silent = deferToThread(raw, served.port, hello[:length])
    await until(clock.getDelayedCalls, "a deadline")
    clock.advance(7.4)
    assert not served.refused and not silent.called
    # As long as nothing of the peer waits unread.

    def over() -> bool:
        clock.advance(0.2)
        return bool(served.refused)

    await until(over, "the end of its time")
    await silent
    assert await refusal(served) == "handshake not finished within 7.5 s"
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_bytes_that_we_have_not_read_are_no_fault_of_the_peer(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued
) -> None:
    """In a storm of peers the deadline waits for us to read what came, three times as long."""
    clock = Clock()
    served = serve(ours, clock=clock, handshake_timeout=10.0)
    with socket.create_connection(("127.0.0.1", served.port)) as late:
        await until(clock.getDelayedCalls, "a deadline")
        late.sendall(client_hello(client_context(issuer)))
        # The reactor does not run meanwhile, as if it were busy with others.
        clock.advance(10.0)
        clock.pump([1.0] * 15)
        assert not served.refused
        clock.pump([1.0] * 6)
        assert served.refused == ["handshake not finished within 10 s"]
    await until(lambda: served.refused, "the end")


@pytest_twisted.ensureDeferred
async def test_no_deadline_is_left(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued
) -> None:
    """After a handshake, good or bad, there is no timer any more."""
    clock = Clock()
    served = serve(ours, clock=clock)
    await deferToThread(talk, served.port, client_context(issuer))
    await deferToThread(raw, served.port, b"hello\n")
    await until(lambda: served.refused, "a refusal")
    assert served.built
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_what_follows_the_handshake_at_once(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, version: ssl.TLSVersion, step: int
) -> None:
    """Data in the same segment as the end of the handshake is the peer's first; in pieces too."""
    served = serve(ours)
    context = client_context(issuer)
    context.minimum_version = context.maximum_version = version

    def once() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65536))
            if version is ssl.TLSVersion.TLSv1_2:
                # Here the server has the last word of the handshake; in 1.3 the client has.
                assert not outgoing.pending
            client.write(b"at once")
            flight = outgoing.read()
            for start in range(0, len(flight), step):
                connection.sendall(flight[start : start + step])
            while True:
                try:
                    assert client.read(100) == b"AT ONCE"
                    return
                except ssl.SSLWantReadError:
                    incoming.write(connection.recv(65536))

    await deferToThread(once)
    assert served.built[0].heard == b"at once"


def open_client(port: int, version: int, shown: Issued | None = None) -> SSL.Connection:
    """
    A client on OpenSSL itself: Python's own TLS does not read after its goodbye.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if shown is not None:
        context.use_certificate(shown.certificate)
        context.use_privatekey(shown.key)
    raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    raw.setblocking(True)
    client = SSL.Connection(context, raw)
    client.set_connect_state()
    client.do_handshake()
    return client


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("how", ["goodbye", "goodbye and end", "end"])
async def test_a_peer_that_has_said_all_hears_its_answers(
    serve: Callable[..., Served], ours: Issued, version: int, how: str
) -> None:
    """Half-close: by TLS's goodbye, by TCP's end, or both; answers come, then our goodbye."""
    served = serve(ours, kind=LateEcho)

    def ask() -> bytes:
        client = open_client(served.port, version)
        client.sendall(b"one ")
        client.sendall(b"two")
        if how != "end":
            assert not client.shutdown()
        if how != "goodbye":
            client.sock_shutdown(socket.SHUT_WR)
        heard = b""
        with pytest.raises(SSL.ZeroReturnError):
            while True:
                heard += client.recv(100)
        client.close()
        return heard

    assert await deferToThread(ask) == b"ONE TWO"
    await until(lambda: served.built[0].lost, "the end")
    assert served.built[0].heard == b"one two" and served.built[0].ended


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_whoever_cannot_hear_of_an_end_is_closed(
    serve: Callable[..., Served], ours: Issued, version: int
) -> None:
    """A protocol that knows no half-close is gone with its peer's goodbye, as Twisted does it."""
    served = serve(ours)

    def ask() -> None:
        client = open_client(served.port, version)
        client.shutdown()
        with pytest.raises(SSL.ZeroReturnError):
            client.recv(100)
        client.close()

    await deferToThread(ask)
    await until(lambda: served.built[0].lost, "the end")


class Counting(TlsConnection):
    """
    @ivar taken: bytes that came from the network.
    """

    taken = 0

    def bio_write(self, buf: Any) -> int:
        self.taken += len(buf)
        return super().bio_write(buf)


class Counted(Contexts):
    """
    Those whose connections count.
    """

    counting: Counting | None = None

    def connection(self) -> TlsConnection:
        self.counting = Counting(super().connection().get_context())
        return self.counting


@pytest_twisted.ensureDeferred
async def test_nothing_is_kept_of_what_follows_a_goodbye(
    serve: Callable[..., Served], ours: Issued
) -> None:
    """A peer that goes on after its end fills no memory of ours while its answers are awaited."""

    class Mute(LateEcho):
        def readConnectionLost(self) -> None:
            self.ended = True

    served = serve(ours, kind=Mute)
    contexts = Counted(served.contexts.section, "a", time.time)
    served.listener_tls.contexts = contexts

    def ask() -> None:
        client = open_client(served.port, SSL.TLS1_3_VERSION)
        client.sendall(b"x")
        client.shutdown()
        # Not through TLS, which would not let us.
        with socket.socket(fileno=os.dup(client.fileno())) as raw:
            # More than the kernel keeps, so that it has been read when all is sent.
            for _ in range(1024):
                raw.sendall(b"\x17\x03\x03\x40\x00" + b"y" * 16384)
        client.close()

    await deferToThread(ask)
    await until(lambda: served.built and served.built[0].lost, "the end")
    assert served.built[0].heard == b"x" and served.built[0].ended
    # At most the read that the goodbye came with.
    assert contexts.counting is not None and contexts.counting.taken < 2**20


@pytest_twisted.ensureDeferred
async def test_an_abort_in_the_middle(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued
) -> None:
    """What is behind may cut its peer off at once, even while it is being connected."""

    class Rude(Echo):
        def connectionMade(self) -> None:
            self.transport.abortConnection()

    served = serve(ours, kind=Rude)
    assert await deferToThread(hears_nothing, served.port, client_context(issuer))
    await until(lambda: served.built[0].lost, "the end")
    assert served.built[0].heard == b"" and not served.refused


@pytest_twisted.ensureDeferred
async def test_names(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, tmp_path: Path
) -> None:
    """Each host gets its own certificate, an unknown one the default; clients are asked alike."""
    names = tmp_path / "names"
    names.mkdir()
    for number, host in enumerate(("a.example", "*.wild.example")):
        issuer.issue(host).file.rename(names / f"{number}.pem")
    served = serve(ours, sni=str(names), client_ca=str(issuer.file))
    context = client_context(issuer, issuer.issue("device.example"))
    for host in ("a.example", "x.wild.example", "gw.example"):
        assert await deferToThread(talk, served.port, context, b"quit", host) == b""
    for host in ("b.example", "x.y.wild.example"):
        with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
            await deferToThread(talk, served.port, context, b"quit", host)
    assert [echo.identity for echo in served.built] == ["device.example"] * 3
    strange = client_context(issuer, Issuer(tmp_path).issue("device.example"))
    with pytest.raises(OSError):
        await deferToThread(talk, served.port, strange, b"quit", "a.example")
    await until(lambda: len(served.refused) == 3, "the refusals")
    assert served.refused[2] == (
        "handshake failed: authority of its certificate is not in client_ca"
    )


@pytest_twisted.ensureDeferred
async def test_reload(
    serve: Callable[..., Served], issuer: Issuer, ours: Issued, tmp_path: Path
) -> None:
    """New peers see the new certificate, connected ones stay; a bad one changes nothing."""
    served = serve(ours, client_ca=str(issuer.file))
    shown = issuer.issue("device.example")
    old = client_context(issuer, shown)
    connected: list[ssl.SSLSocket] = []

    def connect() -> None:
        plain = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        connected.append(old.wrap_socket(plain, server_hostname="localhost"))

    def ask() -> bytes:
        connected[0].sendall(b"still here")
        return connected[0].recv(100)

    await deferToThread(connect)
    other = Issuer(tmp_path)
    theirs = other.issue("localhost")
    good = ours.file.read_bytes()
    ours.file.write_bytes(theirs.certificate_file.read_bytes() + ours.key_file.read_bytes())
    with logged() as events:
        assert not served.contexts.reload()
    assert [event["log_level"].name for event in events] == ["error"]
    assert "does not belong" in events[0]["problems"] and "\n" not in events[0]["problems"]
    assert await deferToThread(talk, served.port, old) == b""
    ours.file.write_bytes(theirs.file.read_bytes())
    issuer.file.write_bytes(other.pem)
    assert served.contexts.reload()
    assert await deferToThread(ask) == b"STILL HERE"
    connected[0].close()
    new = ssl.create_default_context(cafile=str(other.file))
    new.load_cert_chain(other.issue("device.example").file)
    assert await deferToThread(talk, served.port, new) == b""
    new.load_cert_chain(shown.file)
    with pytest.raises(OSError):
        await deferToThread(talk, served.port, new)
    ours.file.write_bytes(good)


@pytest_twisted.ensureDeferred
async def test_watch(serve: Callable[..., Served], issuer: Issuer, ours: Issued) -> None:
    """
    Files that change are read again once they stay as they are; what cannot be used is tried
    once, and again when it changes.
    """
    served = serve(ours)
    clock = Clock()
    watch = CertificateWatch(clock, interval=2.0)
    watch.watch([served.contexts])
    watch.start()
    first = served.contexts.notes()
    with logged() as events:
        clock.pump([2.0] * 3)
        assert not events
        new = issuer.issue("new.example")
        ours.file.write_bytes(new.certificate_file.read_bytes())
        clock.advance(2.0)
        ours.file.write_bytes(new.file.read_bytes())
        clock.advance(2.0)
        assert not events and served.contexts.notes() == first
        clock.advance(2.0)
        assert ["new.example" in line for line in served.contexts.notes()] == [True]
        assert [event["log_level"].name for event in events] == ["info"]
        ours.file.write_bytes(b"nonsense")
        clock.pump([2.0] * 5)
        assert [event["log_level"].name for event in events] == ["info", "error"]
        ours.file.unlink()
        clock.pump([2.0] * 5)
        assert [event["log_level"].name for event in events] == ["info", "error", "error"]
        late = issuer.issue("late.example", ends=2)
        ours.file.write_bytes(late.file.read_bytes())
        clock.pump([2.0] * 5)
        assert [event["log_level"].name for event in events[3:]] == ["info", "warn"]
        assert "late.example expires in 1 days" in events[4]["warning"]
        clock.advance(86400)
        assert [event["log_level"].name for event in events[5:]] == ["warn"]
        watch.stop()
        assert not clock.getDelayedCalls()


class Broken:
    """
    Files that are new at every other look, and fail in a way that nobody thought of.
    """

    def __init__(self) -> None:
        self.reloads = 0

    @property
    def changed_stamp(self) -> Stamp:
        return (("x", self.reloads, 0, 0),)

    def reload(self) -> bool:
        self.reloads += 1
        raise RuntimeError("unforeseen")

    warns_anew = False

    def warn(self) -> None:
        """Nothing."""


def test_the_watch_survives_what_nobody_thought_of() -> None:
    """Any exception is logged as a bug, and the watch goes on, over the other files as well."""
    clock = Clock()
    watch = CertificateWatch(clock, interval=2.0)
    both = Broken(), Broken()
    watch.watch(both)  # type: ignore[arg-type]
    watch.start()
    with logged() as events:
        clock.pump([2.0] * 4)
    assert [each.reloads for each in both] == [2, 2]
    assert [event["log_level"].name for event in events] == ["critical"] * 4
    watch.stop()


flights = st.one_of(
    st.binary(min_size=1, max_size=200),
    # Records of every kind, with lengths that may or may not be right.
    st.builds(
        lambda kind, version, length, rest: struct.pack(">BHH", kind, version, length) + rest,
        st.sampled_from([20, 21, 22, 23, 24, 0, 255]),
        st.sampled_from([0x0300, 0x0301, 0x0303, 0x0304, 0x0000]),
        st.integers(0, 65535),
        st.binary(max_size=300),
    ),
)


@pytest_twisted.ensureDeferred
async def test_garbage(serve: Callable[..., Served], issuer: Issuer, ours: Issued) -> None:
    """
    Whatever comes in place of a handshake, or in the middle of one, is refused with one line:
    nothing unforeseen, and nobody behind hears of it.
    """
    served = serve(ours)
    hello = client_hello(client_context(issuer))
    damaged = st.builds(
        lambda at, new, tail: hello[: at % len(hello)] + new + hello[at % len(hello) :] + tail,
        st.integers(0, 5000),
        st.binary(max_size=4),
        flights,
    )

    @settings(max_examples=150)
    @given(st.one_of(flights, damaged), st.integers(1, 300))
    def send(data: bytes, step: int) -> None:
        served.refused.clear()
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", served.port)) as connection,
        ):
            for start in range(0, len(data), step):
                connection.sendall(data[start : start + step])
        real: Any = reactor
        blockingCallFromThread(real, lambda: Deferred.fromCoroutine(refusal(served)))  # type: ignore[arg-type]

    await deferToThread(send)


def test_a_certificate_that_cannot_be_read_names_nobody() -> None:
    """What OpenSSL takes and cryptography does not is refused, and is no error of ours."""

    class Shown:
        aborted = False

        @property
        def certificate(self) -> None:
            raise x509.InvalidVersion("7 is not a valid X509 version", 7)

        def abortConnection(self) -> None:
            self.aborted = True

    built: list[PeerCertificate | None] = []
    refused: list[str] = []
    clock: Any = Clock()
    gate = Handshake(10.0, clock, built.append, refused.append)
    shown: Any = Shown()
    gate.makeConnection(shown)  # type: ignore[no-untyped-call]
    gate.handshakeCompleted()
    assert refused == [NO_IDENTITY] and built == [] and shown.aborted
    assert not clock.getDelayedCalls()
