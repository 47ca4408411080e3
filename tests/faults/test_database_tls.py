"""
TLS to PostgreSQL (fault 46): the server that was meant, or none, and never in plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
import trustme
from psycopg2.extensions import make_dsn
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol

from gateway.config.load import Database
from gateway.model.errors import Unavailable
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.resolver import Addresses
from tests.support import Gateway, tool
from tests.tcp_server import PASSWORD, TcpServer, system_binaries

Start = Callable[..., Gateway]

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What asks a server for TLS (PostgreSQL documentation, "Message Formats", SSLRequest)."""

GSS_REQUEST = bytes.fromhex("0000000804d21630")

RULES = """
hostssl all device all cert
hostssl all gateway all scram-sha-256
"""


CONFIG = """
[database]
dsn_file = "dsn"
acquire_timeout = 0.1
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
"""


class Site:
    """
    A server with TLS, its authority and another one, and a client's certificate.
    """

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.server = TcpServer(folder, binaries)
        self.authority = folder / "authority.pem"
        self.other = folder / "other.pem"
        self.certificate = folder / "device.pem"
        self.key = folder / "device.key"
        self._folder = folder

    def start(self) -> None:
        authority, other = trustme.CA(), trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        other.cert_pem.write_to_path(str(self.other))
        device = authority.issue_cert("device.test", common_name="device")
        device.cert_chain_pems[0].write_to_path(str(self.certificate))
        device.private_key_pem.write_to_path(str(self.key))
        self.key.chmod(0o600)
        self.server.initialize(RULES)
        pem = self.server.data / "server.pem"
        own = authority.issue_cert("db.test", "localhost")
        own.private_key_and_cert_chain_pem.write_to_path(str(pem))
        pem.chmod(0o600)
        settings = {"ssl_cert_file": pem, "ssl_key_file": pem, "ssl_ca_file": self.authority}
        self.server.start({"ssl": "on", **{key: str(path) for key, path in settings.items()}})
        self.server.database.execute("CREATE ROLE device LOGIN")

    def dsn(self, host: str, **more: str) -> str:
        said = {"sslmode": "verify-full", "sslrootcert": str(self.authority), **more}
        return make_dsn(self.server.dsn(host, password=PASSWORD), **said)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The system's PostgreSQL with TLS; the embedded one has none."""
    binaries = system_binaries()
    if binaries is None:
        pytest.skip("needs a PostgreSQL of the system, which is not here")
    site = Site(tmp_path_factory.mktemp("tls"), binaries)
    site.start()
    yield site
    site.server.stop()


class Plain(Protocol):
    """A server without TLS, as far as a client gets that asks for it; keeps what it is told."""

    def dataReceived(self, data: bytes) -> None:
        assert isinstance(self.factory, Record)
        self.factory.told += data
        assert self.transport is not None
        if self.factory.told.endswith((SSL_REQUEST, GSS_REQUEST)):
            self.transport.write(b"N")


class Record(Factory):
    protocol = Plain

    def __init__(self) -> None:
        self.told = b""


@pytest.fixture
def plain() -> Iterator[tuple[Record, str]]:
    """What a server without TLS was told, and its port."""
    record = Record()
    port = cast(Any, reactor).listenTCP(0, record, interface="127.0.0.1")
    yield record, str(port.getHost().port)
    pytest_twisted.blockon(port.stopListening())


def resolve(name: str) -> Deferred[Addresses]:
    """Every name is this machine, as a name server that lies may say."""
    return succeed(["127.0.0.1"])


async def opened(dsn: str) -> Connection:
    """A connection, as the pool opens it."""
    outside = Environment({}, "/nonexistent", lambda path: None)
    return await Connector(Database(), reactor, outside, resolve).begin(dsn).connect()


async def refusal(dsn: str) -> str:
    """Why there is none."""
    with pytest.raises(Unavailable) as caught:
        await opened(dsn)
    text = str(caught.value)
    assert "\n" not in text and PASSWORD not in text
    return text


USED = "SELECT ssl, current_user::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("host", ["db.test", "localhost"])
async def test_the_right_server(site: Site, host: str) -> None:
    """Under verify-full a name that the gateway resolves is held against the certificate."""
    connection = await opened(site.dsn(host))
    assert await connection.query(USED, None, 10) == [(True, "gateway")]
    connection.discard()


@pytest_twisted.ensureDeferred
async def test_another_servers_certificate(site: Site) -> None:
    """A server whose certificate is for another name is refused, wherever the name leads."""
    text = await refusal(site.dsn("wrong.test"))
    assert 'server certificate for "db.test" (and 1 other name) does not match host name' in text
    assert text.endswith(
        "(host= must be a name in the certificate; hostaddr= beside it may say where that is)"
    )
    text = await refusal(site.dsn("", hostaddr="127.0.0.1"))
    assert "add host= with the name in the server's certificate" in text


@pytest_twisted.ensureDeferred
async def test_an_unknown_authority(site: Site) -> None:
    """A certificate that another authority signed is refused, and so is having none to ask."""
    text = await refusal(site.dsn("db.test", sslrootcert=str(site.other)))
    assert "certificate verify failed (sslrootcert= must name the authority that signed" in text
    text = await refusal(site.dsn("db.test", sslrootcert="/nonexistent/ca.pem"))
    assert 'root certificate file "/nonexistent/ca.pem" does not exist (put the auth' in text
    assert "disable" not in text
    # Whoever gives a root certificate wants it used.
    text = await refusal(site.dsn("db.test", sslmode="require", sslrootcert=str(site.other)))
    assert "certificate verify failed" in text


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
async def test_a_server_without_tls(site: Site, plain: tuple[Record, str], sslmode: str) -> None:
    """It hears that TLS is wanted and not one byte more, and the line says what to do there."""
    record, port = plain
    text = await refusal(site.dsn("db.test", sslmode=sslmode, port=port))
    assert "server does not support SSL, but SSL was required (switch it on there: ssl = on" in text
    assert record.told.removeprefix(GSS_REQUEST) == SSL_REQUEST


@pytest_twisted.ensureDeferred
async def test_several_hosts(site: Site, plain: tuple[Record, str]) -> None:
    """The first that is who it should be is taken; if none is, each has its reason."""
    record, port = plain
    dsn = site.dsn(
        "db.test,wrong.test,localhost", port=f"{port},{site.server.port},{site.server.port}"
    )
    connection = await opened(dsn)
    assert await connection.query(USED, None, 10) == [(True, "gateway")]
    assert connection.server.startswith("localhost (127.0.0.1")
    connection.discard()
    assert record.told.removeprefix(GSS_REQUEST) == SSL_REQUEST
    text = await refusal(site.dsn("db.test,wrong.test", port=f"{port},{site.server.port}"))
    first, second = text.split("; wrong.test ")
    assert "but SSL was required (switch it on" in first
    assert "does not match host name" in second


@pytest_twisted.ensureDeferred
async def test_a_server_that_wants_tls(site: Site) -> None:
    """Whoever comes without is told which setting is missing."""
    text = await refusal(site.dsn("db.test", sslmode="disable"))
    assert "no pg_hba.conf entry" in text and text.endswith(
        "(it may want TLS: sslmode=verify-full)"
    )


@pytest_twisted.ensureDeferred
async def test_a_clients_certificate(site: Site) -> None:
    """sslcert and sslkey prove who the gateway is; a key that all may read does not."""
    own = {"user": "device", "password": "", "sslcert": str(site.certificate)}
    connection = await opened(site.dsn("db.test", sslkey=str(site.key), **own))
    assert await connection.query(USED, None, 10) == [(True, "device")]
    connection.discard()
    text = await refusal(site.dsn("db.test", user="device", sslcert="/nonexistent"))
    assert "connection requires a valid client certificate (name one that the server" in text
    text = await refusal(site.dsn("db.test", sslkey="/nonexistent/key", **own))
    assert text.endswith("(name the certificate's key with sslkey=)")
    open_key = site.key.with_name("open.key")
    open_key.write_bytes(site.key.read_bytes())
    open_key.chmod(0o644)
    text = await refusal(site.dsn("db.test", sslkey=str(open_key), **own))
    assert "has group or world access" in text and text.endswith("(chmod 600 it)")


def test_a_whole_gateway(site: Site, start_gateway: Start, tmp_path: Path) -> None:
    """All that a gateway says to its database goes through TLS; it has no warning to give."""
    (tmp_path / "dsn").write_text(site.dsn("localhost"))
    (tmp_path / "dsn").chmod(0o600)
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)
    gateway = start_gateway("--config", str(config))
    assert gateway.connect().ask(b"hello\n") == b"+OK\n"
    sessions = site.server.database.execute(
        "SELECT ssl, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE application_name = 'gateway' GROUP BY ssl"
    )
    assert [ssl for ssl, _ in sessions] == [True]
    # A busy machine may take longer than CONFIG has patience.
    warnings = re.findall("#warn. (?!not ready yet)(.*)", gateway.log)
    assert [line.partition(":")[0] for line in warnings] == ["database"], warnings  # fsync = off


def test_a_gateway_refuses(site: Site, tmp_path: Path) -> None:
    """With another authority's server a gateway stays unready, and check says the same."""
    (tmp_path / "dsn").write_text(site.dsn("localhost", sslrootcert=str(site.other)))
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)
    refused = Gateway(("--config", str(config)), tmp_path)
    try:
        refused.wait_log("not ready yet: .*certificate verify failed .sslrootcert= must name")
        assert refused.connect().ask(b"hello\n").startswith((b"+QUE", b"-TRY"))
    finally:
        refused.end()
    done = tool("check", str(config))
    assert done.returncode == 3
    assert "database.dsn_file: " in done.stderr and "(sslrootcert= must name" in done.stderr
