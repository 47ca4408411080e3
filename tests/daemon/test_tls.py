"""
The daemon with TLS: certificates from its configuration, peers with theirs, changes while it runs.
"""

from __future__ import annotations

import re
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from OpenSSL import SSL

from gateway.client.blocking import BlockingClient
from gateway.client.service import GatewayClient
from tests.issuer import Issued, Issuer, key_pem
from tests.sending import send
from tests.support import PATIENCE, Database, Gateway, Peer, tool, wait_until

Start = Callable[..., Gateway]

LISTENERS: Final = """
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
frame_timeout = 3
route = "messages"
[listeners.secure.tls]
certificate = "gateway.pem"
client_ca = "authority.pem"
client_certificate = "optional"
handshake_timeout = {timeout}
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
frame_timeout = 3
dialect = "command"
tls = {{ certificate = "gateway.pem", client_ca = "authority.pem" }}
[listeners.plain]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
{more}
[routes.messages]
table = "messages"
columns = {{ body = "@frame", who = "@identity", peer = "@peer" }}
create = true
[routes.messages.create_columns]
id = "bigserial"
body = "text"
who = "text"
peer = "text"
[queries.count]
sql = "select count(*) from messages"
"""


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer(tmp_path)
    (tmp_path / "authority.pem").write_bytes(issuer.pem)
    return issuer


def show(issuer: Issuer, folder: Path, *names: str) -> Issued:
    """Give the gateway another certificate."""
    issued = issuer.issue(*(names or ("localhost",)))
    (folder / "new.pem").write_bytes(issued.file.read_bytes())
    (folder / "new.pem").rename(folder / "gateway.pem")
    return issued


def sections(timeout: float = 10, more: str = "") -> str:
    return LISTENERS.format(timeout=timeout, more=more)


@pytest.fixture
def gateway(start_with: Start, issuer: Issuer, tmp_path: Path) -> Gateway:
    show(issuer, tmp_path)
    return start_with(sections())


def peer(
    gateway: Gateway,
    issuer: Issuer,
    shown: Issued | None = None,
    listener: str = "secure",
    name: str = "localhost",
) -> Peer:
    """Somebody who speaks TLS."""
    context = ssl.create_default_context(cafile=str(issuer.file))
    if shown is not None:
        context.load_cert_chain(shown.file)
    found = Peer(gateway.port(listener))
    try:
        found.socket = context.wrap_socket(found.socket, server_hostname=name)
    except BaseException:
        found.close()
        raise
    return found


def last_words(found: Peer) -> bytes:
    """What somebody hears before the end, which may be a hard one; then it goes."""
    heard = b""
    try:
        while more := found.socket.recv(65536):
            heard += more
    except OSError:
        pass
    finally:
        found.close()
    return heard


def test_messages_over_tls(gateway: Gateway, issuer: Issuer, database: Database) -> None:
    """+OK over TLS; who a certificate names is in the row, nobody where there is none."""
    device = peer(gateway, issuer, issuer.issue("device-7.example"))
    device.send(b"one\ntwo\n")
    assert device.read_lines(2) == [b"+OK", b"+OK"]
    nobody = peer(gateway, issuer)
    nobody.send(b"three\n")
    assert nobody.read_lines(1) == [b"+OK"]
    plain = gateway.connect("plain")
    plain.send(b"four\n")
    assert plain.read_lines(1) == [b"+OK"]
    assert database.execute("SELECT body, who, peer FROM messages ORDER BY id") == [
        ("one", "device-7.example", device.name),
        ("two", "device-7.example", device.name),
        ("three", None, nobody.name),
        ("four", None, plain.name),
    ]
    for one in (device, nobody, plain):
        one.close()


def test_many_bytes_in_records_of_any_size(
    gateway: Gateway, issuer: Issuer, database: Database
) -> None:
    """However the stream is cut into TLS records, each message is stored and answered once."""
    messages = [b"%d:" % number + b"x" * (number * 37 % 9000) for number in range(300)]
    device = peer(gateway, issuer)
    stream = b"".join(message + b"\n" for message in messages)
    start = 0
    for number in range(len(stream)):
        size = (1, 2, 16384, 5000, 3)[number % 5]
        device.send(stream[start : start + size])
        start += size
        if start >= len(stream):
            break
    assert device.read_lines(300) == [b"+OK"] * 300
    device.close()
    assert database.bodies() == [message.decode() for message in messages]


def test_the_line_at_the_start(gateway: Gateway, issuer: Issuer) -> None:
    """What a listener with TLS suggests works as it stands."""
    found = gateway.wait_log(
        r"listener secure: line frames over TLS on ([\d.:]+); try: (openssl s_client -quiet"
        r" -connect \1)(?: -cert YOURS\.pem)?\n"
    )
    done = subprocess.run(
        [*found[2].split(), "-no_ign_eof"],
        input=b"hello\n",
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "depth=0" in done.stderr.decode()
    gateway.wait_log(r"listener plain: line frames on [\d.:]+; try: printf ")


@pytest.mark.parametrize("goodbye", [True, False])
def test_half_close(gateway: Gateway, issuer: Issuer, database: Database, goodbye: bool) -> None:
    """A peer that says goodbye, or ends TCP alone, hears the answers to all it had sent."""
    # Python's own TLS does not read after its goodbye.
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with socket.create_connection(("127.0.0.1", gateway.port("secure"))) as raw:
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.do_handshake()
        connection.sendall(b"message\n" * 500 + b"unfinished")
        if goodbye:
            connection.shutdown()
        else:
            raw.shutdown(socket.SHUT_WR)
        heard = b""
        with pytest.raises(SSL.ZeroReturnError):
            while True:
                heard += connection.recv(65536)
    assert heard == b"+OK\n" * 500
    assert database.column("SELECT count(*) FROM messages") == [500]


def test_whoever_fails_is_one_line_for_all(
    start_with: Start, issuer: Issuer, database: Database, tmp_path: Path
) -> None:
    """
    Plain text, no certificate, a stranger's, silence: refused without a word of ours, with one
    line for each reason, and nothing of it is stored; others are served meanwhile.
    """
    show(issuer, tmp_path)
    gateway = start_with(sections(timeout=0.3))
    device = peer(gateway, issuer)
    for _ in range(3):
        plain = Peer(gateway.port("secure"))
        plain.send(b"hello\nworld\n")
        assert b"+" not in last_words(plain)
    silent = Peer(gateway.port("secure"))
    assert last_words(silent) == b""
    for shown in (None, Issuer(tmp_path).issue("device.example")):
        stranger = peer(gateway, issuer, shown, "commands")
        with suppress(OSError):
            stranger.send(b"PUT messages hello\n")
        assert last_words(stranger) == b""
    device.send(b"one\n")
    assert device.read_lines(1) == [b"+OK"]
    gateway.wait_log(r"listener secure: \d peers? disconnected: not TLS \(.*127\.0\.0\.1:\d+\)")
    gateway.wait_log(r"listener secure: 1 peer disconnected: handshake not finished within 0\.3 s")
    gateway.wait_log(
        r"listener commands: 1 peer disconnected: handshake failed: peer did not return"
    )
    gateway.wait_log(
        r"listener commands: 1 peer disconnected: handshake failed: authority of its"
        " certificate is not"
    )
    device.close()
    assert database.bodies() == ["one"]
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log


def test_handshakes_are_connections(start_with: Start, issuer: Issuer, tmp_path: Path) -> None:
    """Who is still shaking hands counts as a connection, and no more when it is gone."""
    show(issuer, tmp_path)
    more = sections(timeout=60).replace(
        "[listeners.secure.tls]", "max_connections = 2\n[listeners.secure.tls]"
    )
    gateway = start_with(more)
    port = gateway.port("secure")
    silent = [Peer(port), Peer(port)]
    third = Peer(port)
    # Without a word: nothing can be said in the clear here.
    assert last_words(third) == b""
    gateway.wait_log("listener secure: 1 peer disconnected: too many connections at this listener")
    silent[0].close()

    def come_in() -> Peer | None:
        try:
            return peer(gateway, issuer)
        except OSError:
            return None

    device = wait_until(come_in, "a place")
    device.send(b"one\n")
    assert device.read_lines(1) == [b"+OK"]
    assert last_words(Peer(port)) == b""
    device.close()
    silent[1].close()
    both = [wait_until(come_in, "a place"), wait_until(come_in, "another")]
    for one in both:
        one.send(b"two\n")
        assert one.read_lines(1) == [b"+OK"]
        one.close()


def test_a_listener_gets_tls_while_it_runs(
    gateway: Gateway, issuer: Issuer, tmp_path: Path
) -> None:
    """
    A reload that gives a listener TLS, or takes it away, disconnects its peers; a file that cannot
    be used refuses all of it.
    """

    def reload(text: str) -> str:
        file = tmp_path / "gateway.toml"
        head = file.read_text().partition("[listeners")[0]
        (tmp_path / "new.toml").write_text(head + text)
        (tmp_path / "new.toml").rename(file)
        done = tool("reload", "--config", "gateway.toml", cwd=tmp_path)
        return done.stdout + done.stderr

    secured = '[listeners.plain.tls]\ncertificate = "{}"\n'
    plain, others = gateway.connect("plain"), peer(gateway, issuer)
    assert "not reloaded" in reload(sections(more=secured.format("none.pem")))
    plain.send(b"one\n")
    assert plain.read_lines(1) == [b"+OK"]
    line = "listener plain: tls {}, its peers are disconnected after their answers\n"
    assert reload(sections(more=secured.format("gateway.pem"))).startswith(line.format("added"))
    assert plain.read_all().startswith(b"-BYE DRAIN ")
    late = gateway.connect("plain")
    late.send(b"two, in more bytes than TLS needs to see that it is none\n")
    assert b"+OK" not in last_words(late)
    secure = peer(gateway, issuer, listener="plain")
    secure.send(b"three\n")
    assert secure.read_lines(1) == [b"+OK"]
    assert reload(sections()) == line.format("removed")
    assert last_words(secure).startswith(b"-BYE DRAIN ")
    assert gateway.connect("plain").ask(b"four\n") == b"+OK\n"
    others.send(b"five\n")
    assert others.read_lines(1) == [b"+OK"]
    others.close()
    assert "Traceback" not in gateway.log


def test_certificates_change_while_it_runs(
    gateway: Gateway, issuer: Issuer, tmp_path: Path
) -> None:
    """
    SIGHUP and a change of the files bring a new certificate to those who come; one that cannot
    be used is named and changes nothing. Who is connected stays.
    """
    device = peer(gateway, issuer)

    def still_there() -> None:
        device.send(b"here\n")
        assert device.read_lines(1) == [b"+OK"]

    show(issuer, tmp_path, "second.example")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    peer(gateway, issuer, name="second.example").close()
    still_there()
    other = issuer.issue("third.example")
    (tmp_path / "gateway.pem").write_bytes(
        other.certificate_file.read_bytes() + issuer.issue("x.example").key_file.read_bytes()
    )
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log(
        r"not reloaded: .*gateway\.toml: listeners\.secure\.tls\.certificate: .*gateway\.pem: this"
        r" key does not belong to the certificate of third\.example"
    )
    peer(gateway, issuer, name="second.example").close()
    still_there()
    # Nobody says anything this time.
    show(issuer, tmp_path, "third.example")
    gateway.wait_log(r"listener secure: certificate read again: .*third\.example, \d+ days left")
    gateway.wait_log(r"listener commands: certificate read again: .*third\.example")
    peer(gateway, issuer, name="third.example").close()
    with pytest.raises(ssl.SSLCertVerificationError):
        peer(gateway, issuer, name="second.example")
    still_there()
    device.close()
    assert "Traceback" not in gateway.log


def test_a_certificate_that_ends_soon(start_with: Start, issuer: Issuer, tmp_path: Path) -> None:
    """It is served, and the log says when it ends."""
    (tmp_path / "gateway.pem").write_bytes(issuer.issue("localhost", ends=5.5).file.read_bytes())
    gateway = start_with(sections())
    gateway.wait_log(
        r"listener secure: certificate in .*gateway\.pem: localhost expires in 5 days, 20"
    )
    peer(gateway, issuer).close()


def test_a_stop_in_the_middle_of_a_handshake(gateway: Gateway, issuer: Issuer) -> None:
    """Peers in their handshake do not hold up a stop, nor leave a trace in the log."""
    silent = Peer(gateway.port("secure"))
    device = peer(gateway, issuer)
    device.send(b"one\n")
    assert device.read_lines(1) == [b"+OK"]
    assert gateway.terminate() == 0
    assert last_words(silent) == b""
    assert last_words(device).startswith(b"-BYE DRAIN")
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log


def test_a_reset_peer(gateway: Gateway, issuer: Issuer, database: Database) -> None:
    """A reset after the message, in the middle of TLS, is no error of ours."""
    device = peer(gateway, issuer)
    device.send(b"one\n")
    device.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    device.close()
    other = peer(gateway, issuer)
    other.send(b"two\n")
    assert other.read_lines(1) == [b"+OK"]
    other.close()
    assert set(database.bodies()) - {"one"} == {"two"}
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log


def test_no_start_with_files_that_cannot_be_used(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """One line for each problem and status 1; check says the same; a good one has its days told."""
    config = tmp_path / "gateway.toml"
    # A query's table would have to be there.
    without = sections().partition("[queries.")[0]
    config.write_text(f"[database]\ndsn = '''{database.dsn}'''\n{without}")
    ours, other = issuer.issue("localhost"), issuer.issue("other.example")
    (tmp_path / "gateway.pem").write_bytes(
        ours.certificate_file.read_bytes() + other.key_file.read_bytes()
    )
    wrong = (
        f"{config}: listeners.secure.tls.certificate: {tmp_path}/gateway.pem: this key does not"
        f" belong to the certificate of localhost in {tmp_path}/gateway.pem"
    )
    gateway = Gateway(("--config", str(config)), tmp_path)
    try:
        assert gateway.process.wait(PATIENCE) == 1
    finally:
        gateway.end()
    assert wrong in gateway.log and "Traceback" not in gateway.log
    done = tool("check", str(config))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [wrong, wrong.replace("secure", "commands")]
    (tmp_path / "gateway.pem").write_bytes(ours.file.read_bytes())
    done = tool("check", str(config))
    assert done.returncode == 0, done.stderr
    assert f"listeners.secure.tls: {tmp_path}/gateway.pem: localhost, 89 days left\n" in done.stdout
    (tmp_path / "gateway.pem").write_bytes(
        issuer.issue("late.example", ends=-0.5).file.read_bytes()
    )
    done = tool("check", str(config))
    assert done.returncode == 0
    assert re.search(
        r"^warning: listeners\.secure\.tls: .*late\.example expired on", done.stdout, re.M
    )


def test_endpoints_with_tls_of_their_own(start_with: Start, issuer: Issuer, tmp_path: Path) -> None:
    """ssl: endpoints go on, several on any port too; a tls table beside one is a mistake."""
    ours = issuer.issue("localhost")
    one = f"ssl:0:privateKey={ours.key_file}:certKey={ours.certificate_file}:interface=127.0.0.1"
    listeners = "".join(
        f'[listeners.{name}]\nendpoint = "{one}"\nroute = "messages"\n' for name in ("a", "b")
    )
    gateway = start_with(listeners)
    for name in ("a", "b"):
        gateway.wait_log(f"listener {name}: .*; try: openssl s_client -quiet -connect 127")
        found = peer(gateway, issuer, listener=name)
        found.send(b"hello\n")
        assert found.read_lines(1) == [b"+OK"]
        found.close()
    config = tmp_path / "other.toml"
    config.write_text(
        f'[listeners.a]\nendpoint = "{one}"\nroute = "messages"\n'
        'tls = { certificate = "gateway.pem" }\n'
    )
    done = tool("check", str(config))
    assert done.returncode == 1 and "listeners.a.tls: is for a tcp: endpoint" in done.stderr


def test_a_unix_socket_with_tls(start_with: Start, issuer: Issuer, tmp_path: Path) -> None:
    """TLS does not need TCP."""
    show(issuer, tmp_path)
    gateway = start_with(
        '[listeners.local]\nendpoint = "unix:g.sock"\nroute = "messages"\n'
        'tls = { certificate = "gateway.pem" }\n'
    )
    gateway.wait_log(rf"try: openssl s_client -quiet -unix {tmp_path}/g\.sock\n")
    found = Peer(str(tmp_path / "g.sock"))
    context = ssl.create_default_context(cafile=str(issuer.file))
    found.socket = context.wrap_socket(found.socket, server_hostname="localhost")
    found.send(b"hello\n")
    assert found.read_lines(1) == [b"+OK"]
    found.close()


@pytest.mark.long
def test_the_clients_show_their_certificates(
    gateway: Gateway, issuer: Issuer, database: Database
) -> None:
    """
    BlockingClient, gateway send and gateway call prove who they are; without a certificate, or
    where the gateway has another name, nothing is sent.
    """
    port, ca = gateway.port("commands"), str(issuer.file)
    ours = issuer.issue("Device-7.example")
    with BlockingClient("localhost", port, tls=ca, certificate=ours.file) as client:
        assert client.send(b"one").word == "+OK"
    with BlockingClient(
        "localhost", port, tls=ca, certificate=ours.certificate_file, key=ours.key_file
    ) as client:
        assert client.send(b"two").word == "+OK"
    with (
        BlockingClient("localhost", port, tls=ca, timeout=0.5) as client,
        pytest.raises((TimeoutError, OSError)),
    ):
        client.ping()
    shown = ("--certificate", str(ours.certificate_file), "--key", str(ours.key_file))
    trust = ("--ca", ca)
    command = ("--route", "messages", *trust)
    done = send(f"tcp:localhost:{port}", *command, *shown, given=b"three\n")
    assert done.returncode == 0, done.stderr
    done = send(f"tcp:localhost:{port}", *command, "--no-retry", given=b"four\n")
    assert done.returncode == 3 and b"alert certificate required" in done.stderr, done.stderr
    assert b"0 stored; " in done.stderr  # nothing was said before somebody answered
    done = send(f"tcp:localhost:{port}", *command, "--give-up-after", "0.5", given=b"four\n")
    assert done.returncode == 3 and b"alert certificate required" in done.stderr, done.stderr
    # The same gateway by a name that its certificate does not have.
    done = send(f"tcp:127.0.0.1:{port}", *command, *shown, "--no-retry", given=b"five\n")
    assert done.returncode == 3, done.stderr
    done = send(f"tcp:localhost:{gateway.port('secure')}", "--no-retry", given=b"six of seven\n")
    assert done.returncode == 3
    asked = ("--endpoint", f"tcp:localhost:{port}", *trust, "--timeout", "5")
    called = tool("call", *asked, "--certificate", str(ours.file), "count")
    assert (called.returncode, called.stdout) == (0, '{"count":3}\n'), called.stderr
    assert database.execute("SELECT body, who FROM messages ORDER BY id") == [
        (word, "device-7.example") for word in ("one", "two", "three")
    ]


def test_certificates_of_clients_that_cannot_be_used(issuer: Issuer, tmp_path: Path) -> None:
    """A key of another, an encrypted one, none at all: told at once, and no terminal is asked."""
    ours, other = issuer.issue("a.example"), issuer.issue("b.example")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key_pem(ours.key, b"secret"))
    certificate, ca = str(ours.certificate_file), str(issuer.file)
    for key, why in (
        (other.key_file, "does not belong"),
        (locked, "encrypted"),
        (ours.certificate_file, "no key in PEM form"),
    ):
        done = send(
            *("tcp:localhost:1", "--ca", ca, "--certificate", certificate, "--key", str(key))
        )
        assert done.returncode == 2 and why.encode() in done.stderr, done.stderr
        with pytest.raises(ValueError, match=r"certificate: .*issued"):
            BlockingClient("localhost", 1, tls=ca, certificate=certificate, key=key)
    done = send("tcp:localhost:1", "--ca", ca, "--key", str(ours.key_file))
    assert done.returncode == 2 and b"--key is for --certificate" in done.stderr
    for keys in ({"certificate": certificate}, {"tls": ca, "key": ours.key_file}):
        with pytest.raises(ValueError, match="certificate"):
            BlockingClient("localhost", 1, **keys)
        with pytest.raises(ValueError, match="certificate"):
            GatewayClient("tcp:localhost:1", **keys)


def test_behind_a_proxy(
    start_with: Start, issuer: Issuer, database: Database, tmp_path: Path
) -> None:
    """
    A trusted proxy's header comes before TLS, in one piece with it or not; whoever comes without
    one is refused, and nobody hears plain text.
    """
    show(issuer, tmp_path)
    trusting = 'trusted_proxies = ["127.0.0.0/8"]\n[listeners.secure.tls]'
    gateway = start_with(sections().replace("[listeners.secure.tls]", trusting))
    gateway.wait_log("listener secure: line frames over TLS on .*; through a proxy alone")
    port = int(gateway.wait_log(r"listener secure: .* on 127\.0\.0\.1:(\d+);")[1])
    context = ssl.create_default_context(cafile=str(issuer.file))
    context.load_cert_chain(issuer.issue("device.example").file)
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"
    found = Peer(port)
    found.send(header)
    found.socket = context.wrap_socket(found.socket, server_hostname="localhost")
    found.send(b"one\n")
    assert found.read_lines(1) == [b"+OK"]
    found.close()
    # Header and the beginning of the handshake in one segment.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    found = Peer(port)
    before = header
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            found.send(before + outgoing.read())
            before = b""
            incoming.write(found.socket.recv(65536))
    client.write(b"two\n")
    found.send(outgoing.read())
    wait_until(lambda: len(database.bodies()) == 2, "the second message")
    found.close()
    assert database.execute("SELECT body, who, peer FROM messages ORDER BY id") == [
        ("one", "device.example", "192.0.2.7:4711"),
        ("two", "device.example", "192.0.2.7:4711"),
    ]
    found = Peer(port)
    with pytest.raises(OSError):
        found.socket = context.wrap_socket(found.socket, server_hostname="localhost")
    found.close()
    gateway.wait_log("listener secure: .* peers? disconnected: .*header")


def test_who_is_kept_out_hears_no_plain_text(
    start_with: Start, issuer: Issuer, tmp_path: Path
) -> None:
    """An address that may not connect to a TLS port is closed before any handshake."""
    show(issuer, tmp_path)
    text = sections()
    for listener, key in (
        ("secure", 'deny = ["127.0.0.0/8"]'),
        ("commands", 'trusted_proxies = ["10.0.0.1/32"]'),
    ):
        text = text.replace(f"[listeners.{listener}]\n", f"[listeners.{listener}]\n{key}\n")
    gateway = start_with(text)
    for listener in ("secure", "commands"):
        port = int(gateway.wait_log(rf"listener {listener}: .* on 127\.0\.0\.1:(\d+);")[1])
        assert last_words(Peer(port)) == b""
    gateway.wait_log(
        "listener secure: 1 peer disconnected: connections from your address are not allowed"
    )
    gateway.wait_log(
        "listener commands: 1 peer disconnected: connections come through a proxy here"
    )


def test_what_a_certificate_may_do(
    start_with: Start, issuer: Issuer, database: Database, tmp_path: Path
) -> None:
    """
    A valid certificate opens what its name was granted: its own stream, nobody else's; one that
    was granted nothing, or is denied, hears so and is disconnected.
    """
    show(issuer, tmp_path)
    access = """
[access]
deny = ["device-13"]
[access.grants.devices]
identities = ["device-*"]
listeners = ["commands"]
routes = ["messages"]
streams = ["{identity}"]
"""
    gateway = start_with(sections() + access)

    def certified(name: str) -> Peer:
        return peer(gateway, issuer, issuer.issue(common_names=[name]), "commands")

    device = certified("device-7")
    device.send(b"HELLO device-8\nHELLO device-7\nPUT messages #1 one\n")
    first, second, third = device.read_lines(3)
    assert first.startswith(b"-REJ DENIED") and second.startswith(b"+OK")
    assert third.startswith(b"+OK")
    device.close()
    for name in ("device-13", "printer-1"):
        stranger = certified(name)
        with suppress(OSError):
            stranger.send(b"PUT messages two\n")
        assert last_words(stranger).startswith(b"-BYE DENIED")
    assert database.execute("SELECT body, who FROM messages") == [("one", "device-7")]
