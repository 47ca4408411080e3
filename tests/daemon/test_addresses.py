"""
Where peers come from: a real HAProxy in front, networks, both families, Unix sockets; and
what the kernel was asked to do for them.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path, PurePath

import psutil
import pytest

from gateway.config.load import load_config
from gateway.daemon.configuration import endpoint_fault
from gateway.model.errors import ConfigError
from tests.faults.look import assert_quiet
from tests.installing import Installer
from tests.issuer import Issuer
from tests.support import PATIENCE, Database, Gateway, Peer, wait_until

Start = Callable[..., Gateway]

LINES = """
[listeners.lines]
endpoint = "{endpoint}"
route = "messages"
{keys}
"""

ROOT = Path(__file__).parents[2]

_numbers = count()


def lines(endpoint: str = "tcp:0:interface=127.0.0.1", keys: str = "") -> str:
    return LINES.format(endpoint=endpoint, keys=keys)


def talk(port: int, data: bytes, source: str = "127.0.0.1", to: str = "127.0.0.1") -> bytes:
    """
    @param source: the address to come from.
    @return: all that is said until the end.
    """
    with socket.create_connection((to, port), PATIENCE, (source, 0)) as peer:
        # Who is refused at once may be reset before all is sent.
        with suppress(OSError):
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
        return heard(peer)


def heard(peer: socket.socket) -> bytes:
    """All until the end, which may be a hard one."""
    said = b""
    with suppress(ConnectionResetError):
        while more := peer.recv(65536):
            said += more
    return said


class HAProxy:
    """
    The real one, in front of a gateway.

    @ivar port: where it listens.
    """

    def __init__(self, program: str, folder: Path, to: int, how: str, host: str) -> None:
        """
        @param to: the gateway's port.
        @param how: options of its C{server}.
        @param host: the address that it listens on.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        number = next(_numbers)
        config = folder / f"haproxy-{number}.cfg"
        self._control = folder / f"haproxy-{number}.sock"
        with socket.create_server((host, 0), family=family) as listening:
            self.port: int = listening.getsockname()[1]
            config.write_text(
                f"global\n stats socket {self._control}\n"
                "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n"
                " timeout server 60s\n"
                f"listen gateway\n bind fd@{listening.fileno()}\n"
                f" server gateway 127.0.0.1:{to} {how}\n"
            )
            self.process = subprocess.Popen(
                [program, "-db", "-f", str(config)], pass_fds=[listening.fileno()]
            )

    def ask(self, command: str) -> str:
        """Its own account of itself; what it says while it starts is nothing."""
        with socket.socket(socket.AF_UNIX) as control:
            try:
                control.connect(str(self._control))
            except OSError:
                return ""
            control.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: control.recv(65536), b"")).decode()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def in_front(tmp_path: Path, installer: Installer) -> Iterator[Callable[..., HAProxy]]:
    """Starts HAProxy and ends it."""
    running: list[HAProxy] = []

    def start(gateway: Gateway, how: str, host: str = "127.0.0.1") -> HAProxy:
        program = installer.program("haproxy")
        running.append(HAProxy(program, tmp_path, proxied_port(gateway), how, host))
        return running[-1]

    yield start
    for one in running:
        one.end()


def proxied_port(gateway: Gateway) -> int:
    """A listener behind a proxy says where it listens, and not how a person may use it."""
    found = gateway.wait_log(r"listener lines: .* on [\d.]+:(\d+); through a proxy alone\n")
    return int(found[1])


PROXIED = 'trusted_proxies = ["127.0.0.1/32"]'


@pytest.mark.long
@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
def test_behind_haproxy(
    how: str, start_with: Start, in_front: Callable[..., HAProxy], database: Database
) -> None:
    """The peer's own address is stored, of either family, by each version of the header."""
    gateway = start_with(lines(keys=PROXIED))
    names = []
    for host in ("127.0.0.1", "::1"):
        proxy = in_front(gateway, how, host)
        with socket.create_connection((host, proxy.port), PATIENCE) as peer:
            name, port = peer.getsockname()[:2]
            names.append(f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
            peer.sendall(b"hello\nworld\n")
            peer.shutdown(socket.SHUT_WR)
            assert heard(peer) == b"+OK\n+OK\n"
    assert database.execute("SELECT body, peer FROM messages ORDER BY id") == [
        (body, name) for name in names for body in ("hello", "world")
    ]
    assert_quiet(gateway)


def test_networks_behind_haproxy(
    start_with: Start, in_front: Callable[..., HAProxy], database: Database
) -> None:
    """Networks are those of the peers, not of the proxy: some get in through it and some do not."""
    gateway = start_with(lines(keys=f'{PROXIED}\ndeny = ["127.0.0.3/32"]'))
    port = in_front(gateway, "send-proxy-v2").port
    assert talk(port, b"hello\n", "127.0.0.2") == b"+OK\n"
    assert talk(port, b"hello\n", "127.0.0.3").startswith(b"-BYE DENIED ")
    assert database.column("SELECT split_part(peer, ':', 1) FROM messages") == ["127.0.0.2"]


@pytest.mark.parametrize("how", ["send-proxy-v2 check check-send-proxy", "send-proxy check"])
def test_health_checks_of_haproxy(
    how: str, start_with: Start, in_front: Callable[..., HAProxy], database: Database
) -> None:
    """HAProxy's own connections, with LOCAL or without a word, leave nothing in the log."""
    gateway = start_with(lines(keys=PROXIED))
    proxy = in_front(gateway, f"{how} inter 20")
    wait_until(lambda: ",L4OK," in proxy.ask("show stat"), "a check finds the gateway alive")
    assert talk(proxy.port, b"hello\n") == b"+OK\n"
    assert "disconnected" not in gateway.log
    assert_quiet(gateway)


MALFORMED = [
    b"hello\n",
    b"PROXY TCP4 192.0.2.7\r\nhello\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\nhello\n",
    b"PROXY TCP4 999.0.2.7 198.51.100.1 56324 443\r\nhello\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04\xc0\x00\x02\x07hello\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xffhello\n",
]


def test_malformed_headers(start_with: Start, database: Database) -> None:
    """A trusted proxy that sends none, or a bad one, is closed without a word; others go on."""
    gateway = start_with(lines(keys=PROXIED))
    port = proxied_port(gateway)
    for sent in MALFORMED:
        assert talk(port, sent) == b""
        assert talk(port, b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nfine\n") == b"+OK\n"
    assert database.execute("SELECT DISTINCT body, peer FROM messages") == [
        ("fine", "192.0.2.7:56324")
    ]
    for why in (
        "these are not its first bytes",
        "no address of TCP4",
        "over the limit of 4096 bytes",
    ):
        gateway.wait_log(rf"disconnected: no PROXY header: {why}.* \((last )?127\.0\.0\.1:\d+\)")
    assert_quiet(gateway)


def test_nobody_spoofs_an_address(start_with: Start, database: Database) -> None:
    """A header from anybody else is not believed, and not even read."""
    gateway = start_with(lines(keys=f"{PROXIED}\nframe_timeout = 1.0"))
    header = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
    said = talk(proxied_port(gateway), header + b"hello\n", "127.0.0.2")
    assert said == b"-BYE DENIED :connections come through a proxy here\n"
    gateway.wait_log("1 peer disconnected: connections come through a proxy here ")
    assert database.column("SELECT count(*) FROM messages") == [0]


def test_without_proxies_a_header_is_a_message(start_with: Start, database: Database) -> None:
    """Where no proxy is trusted a header is what it looks like: a line."""
    gateway = start_with(lines())
    peer = gateway.connect()
    name = peer.name
    assert peer.ask(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n") == b"+OK\r\n"
    assert database.column("SELECT peer FROM messages") == [name]


TLS = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
frame_timeout = 1.0
route = "messages"
trusted_proxies = ["127.0.0.1/32"]
deny = ["127.0.0.3/32"]
[listeners.lines.tls]
certificate = "{certificate}"
client_ca = "{authority}"
[routes.messages]
table = "messages"
columns = {{ body = "@frame", who = "@identity", peer = "@peer" }}
create = true
create_columns = {{ body = "text", who = "text", peer = "text" }}
"""


def behind_tls(issuer: Issuer) -> str:
    """A listener with TLS, as a section of a configuration file."""
    certificate = issuer.issue("localhost").file
    return TLS.format(certificate=certificate, authority=issuer.file)


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2"])
def test_tls_behind_haproxy(
    how: str,
    start_with: Start,
    in_front: Callable[..., HAProxy],
    database: Database,
    tmp_path: Path,
) -> None:
    """The header comes before TLS: the proxy tells the address, the certificate the identity."""
    issuer = Issuer(tmp_path)
    port = in_front(start_with(behind_tls(issuer)), how).port
    context = ssl.create_default_context(cafile=str(issuer.file))
    context.load_cert_chain(issuer.issue("device-1").file)
    with socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.0.0.2", 0)) as plain:
        where = ":".join(map(str, plain.getsockname()))
        with context.wrap_socket(plain, server_hostname="localhost") as peer:
            peer.sendall(b"hello\n")
            assert peer.recv(100) == b"+OK\n"
    assert database.execute("SELECT * FROM messages") == [("hello", "device-1", where)]


def test_no_words_before_tls(start_with: Start, tmp_path: Path) -> None:
    """Who is refused at a listener with TLS hears nothing, since it could not understand."""
    gateway = start_with(behind_tls(Issuer(tmp_path)))
    port = proxied_port(gateway)
    assert talk(port, b"\x16\x03\x01", "127.0.0.2") == b""
    denied = b"PROXY TCP4 127.0.0.3 127.0.0.1 1 2\r\n"
    assert talk(port, denied + b"\x16\x03\x01") == b""
    gateway.wait_log(r"connections come through a proxy here \(127\.0\.0\.2:\d+\)")
    gateway.wait_log(r"connections from your address are not allowed here \(127\.0\.0\.3:1\)")
    assert_quiet(gateway)


def test_both_families(start_with: Start, database: Database) -> None:
    """A listener for IPv6 takes IPv4 as well, and a network of either is meant by either."""
    gateway = start_with(lines("tcp6:0", 'allow = ["127.0.0.2/32", "::1/128"]'))
    port = int(gateway.wait_log(r"listener lines: .* on \[::\]:(\d+);")[1])
    assert talk(port, b"six\n", "::1", "::1") == b"+OK\n"
    assert talk(port, b"four\n", "127.0.0.2") == b"+OK\n"
    assert talk(port, b"four\n").startswith(b"-BYE DENIED ")
    assert database.execute("SELECT body, peer LIKE '[%%]:%%' FROM messages ORDER BY id") == [
        ("six", True),
        ("four", True),
    ]


def test_two_gateways_on_one_port(start_gateway: Start, database: Database, tmp_path: Path) -> None:
    """With reuse_port both get peers; without it the second says that the port is taken."""

    def start(name: str, endpoint: str, reuse: bool) -> Gateway:
        folder = tmp_path / name
        folder.mkdir()
        text = lines(endpoint, f"reuse_port = {str(reuse).lower()}")
        (folder / "g.toml").write_text(f"[database]\ndsn = '''{database.dsn}'''\n{text}")
        return start_gateway("--config", "g.toml", cwd=folder)

    one = start("one", "tcp:0:interface=127.0.0.1", True)
    port = one.port("lines")
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    other = start("other", endpoint, True)
    peers = [Peer(port) for _ in range(60)]
    for peer in peers:
        peer.send(b"hello\n")
    for peer in peers:
        assert peer.read_lines(1) == [b"+OK"]
    served = [
        sum(
            each.status == psutil.CONN_ESTABLISHED and each.laddr[1] == port
            for each in psutil.Process(gateway.process.pid).net_connections("tcp")
        )
        for gateway in (one, other)
    ]
    assert sum(served) == 60 and min(served) > 0
    for peer in peers:
        peer.close()
    with pytest.raises(AssertionError, match=f"'tcp:{port}:.*Address already in use"):
        start("third", endpoint, False)


def socket_of(gateway: Gateway, peer: Peer) -> socket.socket:
    """
    The gateway's end of a connection, as a socket of ours.

    @see: pidfd_getfd(2).
    """
    ours = peer.socket.getsockname()[:2]

    def find() -> int | None:
        for each in psutil.Process(gateway.process.pid).net_connections("tcp"):
            if each.raddr and tuple(each.raddr) == ours:
                return int(each.fd)
        return None

    pidfd = os.pidfd_open(gateway.process.pid)
    number = ctypes.CDLL(None, use_errno=True).syscall(
        438, pidfd, wait_until(find, "the connection is there"), 0
    )
    os.close(pidfd)
    assert number >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=number)


def settings(connection: socket.socket) -> list[int]:
    """What the kernel was asked to do for a connection."""
    tcp = socket.IPPROTO_TCP
    asked = [
        *((socket.SOL_SOCKET, socket.SO_SNDBUF), (socket.SOL_SOCKET, socket.SO_RCVBUF)),
        *((tcp, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
        *((tcp, socket.TCP_KEEPIDLE), (tcp, socket.TCP_USER_TIMEOUT)),
    ]
    return [connection.getsockopt(*each) for each in asked]


def test_options_of_connections(start_with: Start) -> None:
    """Each key of a listener can be seen at the sockets of its peers."""
    keys = """
        send_buffer = 30000
        receive_buffer = 40000
        no_delay = false
        keepalive = 7
        user_timeout = 33.5
    """
    gateway = start_with(lines(keys=keys))
    peer = gateway.connect()
    with socket_of(gateway, peer) as theirs:
        # The kernel doubles buffers, socket(7).
        assert settings(theirs) == [60000, 80000, 0, 1, 7, 33500]
    peer.close()


def test_options_unless_told(start_with: Start) -> None:
    """Answers go out at once, peers that vanish are noticed, buffers are the kernel's choice."""
    gateway = start_with(lines())
    peer = gateway.connect()
    with socket_of(gateway, peer) as theirs, socket.socket() as plain:
        assert settings(theirs)[2:] == [1, 1, 60, 120_000]
        assert settings(theirs)[0] != settings(plain)[0] * 2
    peer.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_unix_socket(start_with: Start, tmp_path: Path, database: Database) -> None:
    """
    Its mode and owner are those configured; after a kill the next gateway takes its place,
    and an orderly stop takes it away.
    """
    path = tmp_path / "g.sock"
    keys = 'socket_mode = "0660"\nsocket_owner = ":4321"' if os.geteuid() == 0 else ""
    gateway = start_with(lines("unix:g.sock", keys))
    assert Peer(str(path)).ask(b"one\n") == b"+OK\n"
    if keys:
        assert (mode_of(path), path.stat().st_gid) == (0o660, 4321)
    gateway.process.kill()
    gateway.process.wait()
    assert path.is_socket()
    gateway = start_with(lines("unix:g.sock"))
    assert mode_of(path) == 0o600
    assert Peer(str(path)).ask(b"two\n") == b"+OK\n"
    assert gateway.terminate() == 0
    assert not path.exists()
    assert database.execute("SELECT body, peer FROM messages ORDER BY id") == [
        ("one", "unix"),
        ("two", "unix"),
    ]


def traits(path: Path) -> tuple[int, ...]:
    """What must not change: which file it is, who may use it, what is in it."""
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_uid, found.st_mtime_ns, found.st_size


@pytest.mark.parametrize("what", ["socket", "file", "folder", "link"])
def test_what_is_in_the_way(
    what: str, start_with: Start, tmp_path: Path, database: Database
) -> None:
    """A path that is taken is one line that says by what, status 1, and stays as it is."""
    path, target = tmp_path / "g.sock", tmp_path / "target"
    with socket.socket(socket.AF_UNIX) as another:
        if what == "socket":
            another.bind(str(path))
            another.listen()
        elif what == "file":
            path.write_text("precious")
        elif what == "folder":
            path.mkdir()
        else:
            target.write_text("precious")
            path.symlink_to(target)
        before = traits(path)
        with pytest.raises(AssertionError) as caught:
            start_with(lines("unix:g.sock"))
        assert traits(path) == before
    why = "is in use" if what == "socket" else "is there, is no socket, and is left alone"
    said = str(caught.value)
    assert f"gateway: listener 'lines' cannot listen on 'unix:{path}': {path} {why}\n" in said
    assert "Traceback" not in said


def test_a_socket_that_became_anothers(start_with: Start, tmp_path: Path) -> None:
    """A stop does not take away what somebody else has put in the socket's place."""
    path = tmp_path / "g.sock"
    gateway = start_with(lines("unix:g.sock"))
    path.unlink()
    path.write_text("another's")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(PATIENCE) == 0
    assert path.read_text() == "another's"
    assert_quiet(gateway)


def documented(kind: str) -> list[str]:
    """What docs/security.md shows about addresses, by how it begins."""
    text = (ROOT / "docs" / "security.md").read_text()
    section = text.partition("\n## Addresses\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\w*\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith(kind)]


def test_documented_listeners() -> None:
    """The listeners that the documentation shows are valid as they stand."""
    blocks = documented("[listeners.")
    assert len(blocks) == 2
    listeners = load_config("".join(blocks), PurePath("/etc/g.toml"), endpoint_fault).listeners
    assert listeners["public"].trusted_proxies and listeners["local"].socket_owner == ":adm"


def test_documented_proxy(tmp_path: Path, installer: Installer) -> None:
    """HAProxy takes the lines that the documentation has for it."""
    program = installer.program("haproxy")
    (block,) = documented("listen gateway")
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"defaults\n timeout connect 5s\n{block}")
    said = subprocess.run([program, "-c", "-f", str(config)], capture_output=True, check=False)
    assert (said.returncode, b"WARN" in said.stderr) == (0, False), said


@pytest.mark.parametrize(
    ("endpoint", "keys", "problem"),
    [
        (
            "haproxy:tcp:0",
            PROXIED,
            "trusted_proxies: is for a tcp: or unix: endpoint;"
            " haproxy: reads what comes first itself",
        ),
        (
            "tcp:0",
            'trusted_proxies = ["10.0.0.1/8"]',
            "trusted_proxies: 10.0.0.1/8 has host bits set;"
            ' networks are "10.0.0.0/8", "2001:db8::/32" or "unix"',
        ),
        ("unix:g.sock", "reuse_port = true", "reuse_port: is for TCP; leave it out"),
        ("tcp:0", 'socket_mode = "0600"', "socket_mode: is for a unix: endpoint; leave it out"),
    ],
)
def test_keys_that_do_not_fit(endpoint: str, keys: str, problem: str) -> None:
    """A key that would do nothing, or not what it seems to, is named and explained."""
    with pytest.raises(ConfigError) as caught:
        load_config(lines(endpoint, keys), PurePath("/etc/g.toml"), endpoint_fault)
    assert caught.value.problems == (f"/etc/g.toml: listeners.lines.{problem}",)
