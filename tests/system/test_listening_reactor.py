"""
Listening sockets: made as they should be, open to whom they should be, gone in the end.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol

from gateway.system.listening_reactor import (
    BACKLOG,
    DEFAULT_OPTIONS,
    ListeningReactor,
    ListenOptions,
)
from gateway.system.unix_socket import bind_local, owner_of, take_away
from tests.support import until


class Held(Factory):
    """
    Keeps those who connect.
    """

    noisy = False

    def __init__(self) -> None:
        self.peers: list[Protocol] = []
        self.protocol = Protocol

    def buildProtocol(self, addr: object) -> Protocol:
        self.peers.append(Protocol())
        return self.peers[-1]


class Listening:
    """
    One endpoint that listens.
    """

    def __init__(self, text: str, options: ListenOptions = DEFAULT_OPTIONS) -> None:
        self.factory = Held()
        self._text = text
        self._reactor = ListeningReactor(reactor, text, options)

    async def __aenter__(self) -> Listening:
        self.port: Any = await serverFromString(self._reactor, self._text).listen(self.factory)
        return self

    async def __aexit__(self, *how: object) -> None:
        for peer in self.factory.peers:
            if peer.transport is not None:
                peer.transport.loseConnection()
        await self.port.stopListening()

    @property
    def open(self) -> socket.socket:
        listening: socket.socket = self.port.socket
        return listening

    async def accepted(self) -> socket.socket:
        """The gateway's end of a connection that was made meanwhile."""
        await until(lambda: self.factory.peers, "somebody is accepted")
        transport: Any = self.factory.peers[-1].transport
        connection: socket.socket = transport.getHandle()
        return connection


def option(connection: socket.socket, name: str) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, getattr(socket, name))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@contextmanager
def connected(where: Any, family: int = socket.AF_INET) -> Iterator[socket.socket]:
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(where)
        yield client


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("text", "family", "host"),
    [
        ("tcp:0:interface=127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("tcp6:0:interface=\\:\\:1", socket.AF_INET6, "::1"),
        ("haproxy:tcp:0:interface=127.0.0.1", socket.AF_INET, "127.0.0.1"),
    ],
)
async def test_tcp(text: str, family: int, host: str) -> None:
    """Both families and what wraps them: the options are there, nothing else listens after."""
    options = ListenOptions(send_buffer=30000, receive_buffer=40000)
    async with Listening(text, options) as listening:
        address = listening.port.getHost()
        assert address.host == host
        assert option(listening.open, "SO_REUSEADDR")
        assert not option(listening.open, "SO_REUSEPORT")
        assert option(listening.open, "SO_RCVBUF") == 80000
        assert not listening.open.get_inheritable()
        assert not os.get_blocking(listening.open.fileno())
        with connected((address.host, address.port), family):
            ours = await listening.accepted()
            # The kernel doubles them, socket(7).
            assert option(ours, "SO_RCVBUF") == 80000 and option(ours, "SO_SNDBUF") == 60000
            assert option(ours, "SO_OOBINLINE")
    with pytest.raises(ConnectionRefusedError), connected((address.host, address.port), family):
        pass


@pytest_twisted.ensureDeferred
async def test_the_kernel_chooses_buffers() -> None:
    """Unless told otherwise buffers are left to the kernel, which lets them grow."""
    with socket.socket() as plain:
        async with Listening("tcp:0:interface=127.0.0.1") as listening:
            assert option(listening.open, "SO_RCVBUF") == option(plain, "SO_RCVBUF")


@pytest_twisted.ensureDeferred
async def test_reuse_port() -> None:
    """Two may listen on one port if both say so, and each hears of a failure otherwise."""
    shared = ListenOptions(reuse_port=True)
    async with Listening("tcp:0:interface=127.0.0.1", shared) as one:
        text = f"tcp:{one.port.getHost().port}:interface=127.0.0.1"
        async with Listening(text, shared) as other:
            assert option(other.open, "SO_REUSEPORT")
        with pytest.raises(CannotListenError) as caught:
            await Listening(text).__aenter__()
        assert caught.value.socketError.errno == errno.EADDRINUSE


SOMAXCONN = int(Path("/proc/sys/net/core/somaxconn").read_text())


@pytest.mark.parametrize(
    ("text", "configured", "expected"),
    [
        ("tcp:0", None, BACKLOG),
        ("tcp:0:backlog=50", None, 50),
        ("tcp:0:backlog=7", None, 7),
        ("tcp:0:backlog=7", 9, 9),
        ("unix:{folder}/s", None, BACKLOG),
        ("unix:{folder}/s:backlog=7", None, 7),
        ("unix:{folder}/s", 9, 9),
    ],
)
@pytest_twisted.ensureDeferred
async def test_backlog(text: str, configured: int | None, expected: int, tmp_path: Path) -> None:
    """The key says how many may wait, else the endpoint, else more than Twisted's 50."""
    text = text.format(folder=tmp_path)
    async with Listening(text, ListenOptions(backlog=configured)) as listening:
        if text.startswith("tcp"):
            # tcpi_sacked is the backlog of a socket that listens: tcp_get_info() in the kernel.
            info = listening.open.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            assert int.from_bytes(info[28:32], "little") == min(expected, SOMAXCONN)
        else:
            waiting = []
            listening.port.stopReading()
            for _ in range(min(expected, 60) + 1):
                client = socket.socket(socket.AF_UNIX)
                client.setblocking(False)
                client.connect(str(tmp_path / "s"))
                waiting.append(client)
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                if expected < 60:
                    with pytest.raises(BlockingIOError):
                        client.connect(str(tmp_path / "s"))
            for client in waiting:
                client.close()


@pytest.mark.parametrize(
    ("end", "configured", "expected"),
    [
        ("", None, 0o600),
        (":mode=666", None, 0o666),
        (":mode=640", None, 0o640),
        (":640", None, 0o640),
        (":mode=666", 0o660, 0o660),
    ],
)
@pytest_twisted.ensureDeferred
async def test_mode(end: str, configured: int | None, expected: int, tmp_path: Path) -> None:
    """A Unix socket is its owner's alone, unless the endpoint or the key says otherwise."""
    mask = os.umask(0)
    os.umask(mask)
    path = tmp_path / "s"
    async with Listening(f"unix:{path}{end}", ListenOptions(mode=configured)) as listening:
        assert mode_of(path) == expected
        assert os.umask(mask) == mask
        assert not (tmp_path / "s.lock").is_symlink()
        with connected(str(path), socket.AF_UNIX):
            await listening.accepted()
    assert not path.exists()


def test_nobody_is_let_in_too_early(tmp_path: Path) -> None:
    """Whatever the mask, a socket has its mode before it listens, and was never wider."""
    path = tmp_path / "s"
    mask = os.umask(0)
    try:
        with bind_local(str(path), 0o600, None):
            assert mode_of(path) == 0o600
            with pytest.raises(ConnectionRefusedError), connected(str(path), socket.AF_UNIX):
                pass
    finally:
        os.umask(mask)


NARROW = """
import os, stat, sys
from gateway.system.unix_socket import bind_local

def look(event, arguments):
    if event in ("os.chown", "os.chmod"):
        print(event, oct(stat.S_IMODE(os.lstat(path).st_mode)))

path = sys.argv[1]
os.umask(0)
sys.addaudithook(look)
bind_local(path, 0o666, (os.geteuid(), os.getegid()))
"""


def test_narrow_from_the_first_moment(tmp_path: Path) -> None:
    """Until the file has its owner and its mode it is for nobody but who runs the gateway."""
    said = subprocess.run(
        [sys.executable, "-c", NARROW, str(tmp_path / "s")], capture_output=True, check=True
    )
    assert said.stdout.splitlines() == [b"os.chown 0o600", b"os.chmod 0o600"]
    assert mode_of(tmp_path / "s") == 0o666


def test_another_owner(tmp_path: Path) -> None:
    """Root may give the file to anybody; who may not do so leaves none behind."""
    path = tmp_path / "s"
    if os.geteuid() == 0:
        with bind_local(str(path), 0o660, (4321, 4322)):
            found = path.lstat()
            assert (found.st_uid, found.st_gid, mode_of(path)) == (4321, 4322, 0o660)
    else:
        with pytest.raises(PermissionError):
            bind_local(str(path), 0o660, (0, 0))
        assert not path.exists()


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("root", (0, -1)),
        ("root:root", (0, 0)),
        (":root", (-1, 0)),
        ("0:0", (0, 0)),
        ("4321", (4321, -1)),
    ],
)
def test_owner(text: str, owner: tuple[int, int]) -> None:
    """A user, a group or both, by name or number."""
    assert owner_of(text) == owner


@pytest.mark.parametrize(
    ("text", "why"),
    [("nosuch", "there is no user 'nosuch'"), ("root:nosuch", "there is no group 'nosuch'")],
)
@pytest_twisted.ensureDeferred
async def test_no_such_owner(text: str, why: str, tmp_path: Path) -> None:
    """A name that nobody has is one line, and no socket."""
    with pytest.raises(CannotListenError) as caught:
        await Listening(f"unix:{tmp_path}/s", ListenOptions(owner=text)).__aenter__()
    assert caught.value.socketError.strerror == why
    assert not names(tmp_path)


@pytest_twisted.ensureDeferred
async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a dead process left is taken away, and nothing is left beside it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    async with Listening(f"unix:{path}") as listening:
        with connected(str(path), socket.AF_UNIX):
            await listening.accepted()
        assert names(tmp_path) == ["s"]
    assert not names(tmp_path)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("full", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_live_socket_is_in_use(kind: int, full: bool, tmp_path: Path) -> None:
    """A socket that somebody has open stays, whether or not it has room for one more peer."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, kind) as live, socket.socket(socket.AF_UNIX) as waiting:
        live.bind(str(path))
        if kind == socket.SOCK_STREAM:
            live.listen(0)
            if full:
                waiting.connect(str(path))
        before = path.lstat()
        with pytest.raises(CannotListenError) as caught:
            await Listening(f"unix:{path}").__aenter__()
        assert caught.value.socketError.strerror == f"{path} is in use"
        assert path.lstat() == before


@pytest.mark.parametrize("what", ["file", "folder", "link", "link to a stale socket", "dangling"])
@pytest_twisted.ensureDeferred
async def test_what_is_no_socket_is_left_alone(what: str, tmp_path: Path) -> None:
    """A file, a folder or a link in its place is not ours, wherever a link may lead."""
    path = tmp_path / "s"
    target = tmp_path / "target"
    if what == "file":
        path.write_text("precious")
    elif what == "folder":
        path.mkdir()
    else:
        if what == "link":
            target.write_text("precious")
        elif what == "link to a stale socket":
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(target))
        path.symlink_to(target)
    before = path.lstat(), names(tmp_path)
    with pytest.raises(CannotListenError) as caught:
        await Listening(f"unix:{path}").__aenter__()
    assert caught.value.socketError.strerror == f"{path} is there, is no socket, and is left alone"
    assert (path.lstat(), names(tmp_path)) == before


@pytest_twisted.ensureDeferred
async def test_only_our_own_file_goes(tmp_path: Path) -> None:
    """At the end the file of somebody who came after us stays, and one that is gone is no error."""
    path = tmp_path / "s"
    async with Listening(f"unix:{path}"):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"
    path.unlink()
    async with Listening(f"unix:{path}"):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as another:
            another.bind(str(path))
    assert path.is_socket()
    async with Listening(f"unix:{path}"):
        path.unlink()


def test_two_at_the_same_time(tmp_path: Path) -> None:
    """
    One that made its socket between the other's look and its grip has it back, though
    it may well have the inode of the one that was seen.
    """
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    os.utime(path, (1, 1))
    seen = path.lstat()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as quick:
        quick.bind(str(path))
        quick.listen()
        with pytest.raises(OSError, match="in use"):
            take_away(str(path), seen)
        with connected(str(path), socket.AF_UNIX):
            assert names(tmp_path) == ["s"]


@pytest_twisted.ensureDeferred
async def test_a_name_without_a_file() -> None:
    """The abstract namespace has no files to take care of."""
    name = f"gateway-test-{os.getpid()}"
    async with Listening(f"unix:\0{name}") as listening:
        with connected(f"\0{name}", socket.AF_UNIX):
            await listening.accepted()


@pytest_twisted.ensureDeferred
async def test_sockets_of_others(tmp_path: Path) -> None:
    """One that systemd made keeps its mode, its file, and its own end."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        path.chmod(0o620)
        theirs.listen()
        theirs.setblocking(False)
        factory = Held()
        adopting: Any = ListeningReactor(reactor, "systemd:...")
        port = adopting.adoptStreamPort(theirs.fileno(), socket.AF_UNIX, factory)
        assert mode_of(path) == 0o620
        with connected(str(path), socket.AF_UNIX):
            await until(lambda: factory.peers, "somebody is accepted")
        await port.stopListening()
        assert path.is_socket()


@pytest_twisted.ensureDeferred
async def test_ports_of_others() -> None:
    """A TCP port that systemd opened gets the listener's options all the same."""
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        theirs.setblocking(False)
        factory = Held()
        adopting: Any = ListeningReactor(reactor, "systemd:...", ListenOptions(send_buffer=30000))
        port = adopting.adoptStreamPort(theirs.fileno(), socket.AF_INET, factory)
        with connected(theirs.getsockname()):
            await until(lambda: factory.peers, "somebody is accepted")
            ours: Any = factory.peers[0].transport
            assert option(ours.getHandle(), "SO_SNDBUF") == 60000
            assert option(ours.getHandle(), "SO_OOBINLINE")
        ours.loseConnection()
        await port.stopListening()


def test_the_rest_is_the_reactors() -> None:
    """What is not about listening is the reactor's own."""
    assert ListeningReactor(reactor, "tcp:0").callLater == reactor.callLater


def test_a_socket_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused; the working directory keeps its mode."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    with pytest.raises(OSError, match="a Unix socket needs a path"):
        bind_local("", 0o600, None)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
