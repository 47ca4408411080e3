"""
Tokens and grants of a real gateway, on real sockets.
"""

from __future__ import annotations

import re
import shutil
import signal
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.issuer import Issued, Issuer
from tests.support import Database, Gateway, Peer, tool, wait_until

Start = Callable[..., Gateway]

LISTENERS = """
[listeners.open]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[listeners.asks]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
auth = true
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
auth = true
[listeners.local]
endpoint = "unix:local.sock"
dialect = "command"
[listeners.orders]
endpoint = "tcp:0:interface=127.0.0.1"
route = "orders"
[routes.messages]
table = "messages"
create = true
[routes.messages.columns]
body = "@frame"
peer = "@identity"
[routes.orders]
table = "orders"
create = true
[routes.orders.columns]
body = "@frame"
peer = "@identity"
[queries.last]
sql = "select body, peer from messages order by id desc limit 1"
[queries.secret]
sql = "select 1 as secret"
[channels]
allow = ["news", "alarms"]
[access]
tokens = "tokens"
"""

GRANTS = """
[access.grants.tills]
identities = ["till-*"]
listeners = ["asks", "lines", "open"]
routes = ["messages"]
queries = ["last"]
channels = ["news"]
streams = ["{identity}", "{identity}/*"]
[access.grants.shop]
identities = ["shop"]
routes = ["*"]
queries = ["*"]
channels = ["*"]
streams = ["*"]
[access.grants.anybody]
networks = ["127.0.0.0/8"]
listeners = ["open"]
routes = ["orders"]
[access.grants.here]
networks = ["unix"]
queries = ["secret"]
"""


def token(folder: Path, identity: str, *options: str) -> str:
    """A new one."""
    done = tool("token", "add", identity, "--file", "tokens", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file of tokens, and what is said to prove each identity."""
    folder = tmp_path_factory.mktemp("issued")
    names = ("till-1", "till-2", "shop", "stranger")
    return folder / "tokens", {name: token(folder, name) for name in names}


@pytest.fixture
def tokens(issued: tuple[Path, dict[str, str]], tmp_path: Path) -> dict[str, str]:
    """Of four identities, one of which nothing is granted to; the file is the test's own."""
    file, said = issued
    shutil.copy2(file, tmp_path / "tokens")
    return dict(said)


@pytest.fixture
def gateway(tokens: dict[str, str], start_with: Start) -> Gateway:
    """With four kinds of listeners, and grants to identities and networks."""
    return start_with(LISTENERS + GRANTS)


def said(gateway: Gateway, listener: str, *lines: str) -> list[str]:
    """All answers to some lines."""
    answer = gateway.connect(listener).ask("".join(f"{line}\n" for line in lines).encode())
    return known(answer).decode().splitlines()


def known(answers: bytes) -> bytes:
    """Answers in which every epoch is E."""
    return re.sub(rb"(\+OK seq=\d+ epoch=)[0-9a-f-]{36}\b", rb"\1E", answers)


def denied(what: str) -> str:
    return f"-REJ DENIED :{what} is not granted"


def test_each_thing_is_granted_by_identity(
    gateway: Gateway, tokens: dict[str, str], database: Database
) -> None:
    """Route, query, channel and stream, each by itself; what is stored has the identity."""
    assert said(
        gateway,
        "asks",
        f"AUTH {tokens['till-1']}",
        *("PUT messages hello", "PUT orders no", "CALL last", "CALL secret"),
        *("LISTEN news", "LISTEN alarms", "UNLISTEN news"),
        *("HELLO till-2", "HELLO till-1", "PUT messages #1 numbered", "PUT orders #2 no"),
    ) == [
        *("+OK", "+OK", denied("PUT to orders"), "*1", '{"body":"hello","peer":"till-1"}'),
        *(denied("CALL of secret"), "+OK", denied("LISTEN to alarms"), "+OK"),
        *(denied("HELLO to till-2"), "+OK seq=0 epoch=E", "+OK", denied("PUT to orders")),
    ]
    assert said(
        gateway, "asks", f"AUTH {tokens['shop']}", "PUT orders a", "CALL secret", "LISTEN alarms"
    ) == ["+OK", "+OK", "*1", '{"secret":1}', "+OK"]
    rows = database.execute("SELECT body, peer FROM messages ORDER BY id")
    assert rows == [("hello", "till-1"), ("numbered", "till-1")]
    assert database.execute("SELECT body, peer FROM orders") == [("a", "shop")]


def test_networks_and_listeners(gateway: Gateway, tokens: dict[str, str], tmp_path: Path) -> None:
    """Who says no token has what its network is granted at this listener, and no more."""
    assert said(gateway, "open", "PUT orders a", "PUT messages b", "HELLO till-1") == [
        *("+OK", denied("PUT to messages"), denied("HELLO to till-1"))
    ]
    # What an identity is granted comes on top.
    assert said(gateway, "open", f"AUTH {tokens['till-1']}", "PUT orders a", "PUT messages b") == [
        *("+OK", "+OK", "+OK")
    ]
    # Nothing is granted to a network at this one, and a token is asked for at that.
    assert said(gateway, "orders", "a") == ["-BYE DENIED :nothing is granted to you here"]
    assert said(gateway, "asks", "PUT orders a") == ["-BYE AUTH :say AUTH and a token first"]
    local = Peer(str(tmp_path / "local.sock"))
    assert local.ask(b"CALL secret\nPUT orders a\n").decode().splitlines() == [
        *("*1", '{"secret":1}', denied("PUT to orders"))
    ]


def test_a_plain_listener(gateway: Gateway, tokens: dict[str, str], database: Database) -> None:
    """The token is the first frame, and no message."""
    assert said(gateway, "lines", tokens["till-1"], "one", "two") == ["+OK"] * 3
    assert said(gateway, "lines", "one", "two") == ["-BYE AUTH :no such token"]
    assert database.execute("SELECT body, peer FROM messages ORDER BY id") == [
        *(("one", "till-1"), ("two", "till-1"))
    ]


def test_nobody_forges_the_numbers_of_another(
    gateway: Gateway, tokens: dict[str, str], database: Database
) -> None:
    """A stream is claimed by its own identity alone, also while that is connected."""
    own = gateway.connect("asks")
    own.send(f"AUTH {tokens['till-1']}\nHELLO till-1\nPUT messages #1 a\n".encode())
    assert [*map(known, own.read_lines(3))] == [b"+OK", b"+OK seq=0 epoch=E", b"+OK"]
    for name in ("till-1", "till-1/x", "till-10", "till-*", "{identity}"):
        hello, put, again = said(
            gateway,
            "asks",
            f"AUTH {tokens['till-2']}",
            f"HELLO {name}",
            "PUT messages #2 forged",
            "HELLO till-2",
        )[1:]
        assert hello == denied(f"HELLO to {name}")
        assert put.startswith("-REJ FORMAT :a number needs a stream")
        assert again.startswith("+OK seq=")
    # Under its own name a number says nothing about the other's stream.
    assert said(gateway, "asks", f"AUTH {tokens['till-2']}", "HELLO till-2", "PUT messages #2 gap")[
        -1
    ].startswith("-TRY GAP seq=0")
    own.send(b"PUT messages #2 b\n")
    assert own.read_lines(1) == [b"+OK"]
    own.close()
    assert database.bodies() == ["a", "b"]
    names = database.column("SELECT name FROM gateway.stream")
    assert sorted(names) == ["till-1", "till-2"]


WRONG = "-BYE AUTH :no such token"


def test_tokens_that_are_not_good(
    gateway: Gateway, tokens: dict[str, str], database: Database, tmp_path: Path
) -> None:
    """Wrong, of another, expired, malformed: one answer for all; and one line in the log."""
    name, _, secret = tokens["till-1"].partition(".")
    other = tokens["till-2"].partition(".")[2]
    path = tmp_path / "tokens"
    old = token(tmp_path, "till-3")
    text = path.read_text()
    path.write_text(re.sub(r"(till-3 \S+) -", r"\1 2020-01-01T00:00:00Z", text))
    reload(gateway)
    for wrong in (
        *(f"{name}.{secret[:-1]}", f"{name}.{other}", f"{name}.", name, f".{secret}", secret),
        *(f"x{name}.{secret}", f"{name}.{secret}x", "x" * 300, old, "\x00\x01"),
    ):
        assert said(gateway, "asks", f"AUTH {wrong}", "PUT messages a") == [WRONG]
        assert said(gateway, "lines", wrong, "a") == [WRONG]
    refusal = "-BYE DENIED :nothing is granted to you here"
    assert said(gateway, "asks", f"AUTH {tokens['stranger']}", "PUT messages a") == [refusal]
    assert database.bodies() == []
    for listener in ("asks", "lines"):
        line = (
            rf"listener {listener}: \d+ peers? disconnected: no such token"
            r" \((?:last )?127\.0\.0\.1:\d+"
        )
        wait_until(lambda line=line: counted(gateway, line) == 11, "all are in the log")
        assert len(re.findall(line, gateway.log)) < 8, "each failure was logged by itself"
    gateway.wait_log(r"listener asks: 1 peer disconnected: nothing is granted to you here \(127")
    silent(gateway, tokens, [old])


def counted(gateway: Gateway, line: str) -> int:
    """How many peers the log says were disconnected so."""
    lines = [found[0] for found in re.finditer(line, gateway.log)]
    return sum(int(each.split(": ")[1].split()[0]) for each in lines)


def silent(gateway: Gateway, tokens: dict[str, str], more: list[str] | None = None) -> None:
    """No secret, no token and no hash in the log, not even a part."""
    for said_ in (*tokens.values(), *(more or ())):
        secret = said_.partition(".")[2]
        for part in (secret, secret[:12], secret[-12:]):
            assert part not in gateway.log
    assert "argon2" not in gateway.log and "Traceback" not in gateway.log


def reload(gateway: Gateway) -> None:
    """SIGHUP, and wait until it is done."""
    before = gateway.log.count("configuration reloaded")
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: gateway.log.count("configuration reloaded") > before, "the reload is said")


def test_revoking_and_adding_take_hold_at_a_reload(
    gateway: Gateway, tokens: dict[str, str], tmp_path: Path
) -> None:
    """Who is connected with a revoked token has to go, all others stay; a new one is taken."""
    one, two = gateway.connect("asks"), gateway.connect("asks")
    for peer, name in ((one, "till-1"), (two, "till-2")):
        peer.send(f"AUTH {tokens[name]}\n".encode())
        assert peer.read_lines(1) == [b"+OK"]
    second = token(tmp_path, "till-1")
    assert said(gateway, "asks", f"AUTH {second}") == [WRONG]
    done = tool(
        "token", "revoke", tokens["till-1"].partition(".")[0], "--file", "tokens", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    reload(gateway)
    assert one.read_all() == b"-BYE AUTH :the token is not good any more\n"
    two.send(b"PUT messages a\n")
    assert two.read_lines(1) == [b"+OK"]
    assert said(gateway, "asks", f"AUTH {tokens['till-1']}") == [WRONG]
    assert said(gateway, "asks", f"AUTH {second}", "HELLO till-1") == ["+OK", "+OK seq=0 epoch=E"]
    one.close()
    two.close()
    silent(gateway, tokens, [second])


def test_a_token_that_expires_while_its_peers_are_connected(
    gateway: Gateway, tokens: dict[str, str], tmp_path: Path
) -> None:
    """They hear so and are disconnected, others stay; the log names them, and no secret."""
    text = (tmp_path / "tokens").read_text()
    end = datetime.now(UTC) + timedelta(seconds=3)
    stamp = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    (tmp_path / "tokens").write_text(re.sub(r"(till-1 \S+) -", rf"\1 {stamp}", text))
    reload(gateway)
    plain, one, two = (gateway.connect(name) for name in ("lines", "asks", "asks"))
    plain.send(f"{tokens['till-1']}\n".encode())
    for peer, name in ((one, "till-1"), (two, "till-2")):
        peer.send(f"AUTH {tokens[name]}\n".encode())
    for peer in (plain, one, two):
        assert peer.read_lines(1) == [b"+OK"]
    for peer in (plain, one):
        assert peer.read_all() == b"-BYE AUTH :the token or certificate has expired\n"
    two.send(b"PING\n")
    assert two.read_lines(1) == [b"+OK"]
    id_ = tokens["till-1"].partition(".")[0]
    for peer, listener in ((plain, "lines"), (one, "asks")):
        gateway.wait_log(
            rf"listener {listener}: 1 connection let in as till-1 by token {id_}"
            rf" \(from {peer.name}\)"
        )
        gateway.wait_log(
            rf"listener {listener}: 1 peer disconnected: the token"
            " or certificate has exp"
        )
    for peer in (plain, one, two):
        peer.close()
    silent(gateway, tokens)


def test_grants_take_hold_at_a_reload(
    gateway: Gateway, tokens: dict[str, str], tmp_path: Path
) -> None:
    """Other rights for those who are connected; who has none left, or is denied, has to go."""
    peers = {}
    for name in ("till-1", "till-2", "shop"):
        peers[name] = gateway.connect("asks")
        peers[name].send(f"AUTH {tokens[name]}\nHELLO {name}\n".encode())
        assert [*map(known, peers[name].read_lines(2))] == [b"+OK", b"+OK seq=0 epoch=E"]
    config = tmp_path / "gateway.toml"
    text = config.read_text()
    changed = text.replace('tokens = "tokens"', 'tokens = "tokens"\ndeny = ["till-2"]')
    config.write_text(changed.replace('routes = ["messages"]', 'routes = ["orders"]'))
    reload(gateway)
    assert peers["till-2"].read_all() == b"-BYE DENIED :nothing is granted to you here\n"
    peers["till-1"].send(b"PUT messages #1 a\nPUT orders #2 b\n")
    assert peers["till-1"].read_lines(2) == [denied("PUT to messages").encode(), b"+OK"]
    config.write_text(
        text[: text.index("[access.grants.tills]")] + GRANTS[GRANTS.index("[access.grants.shop]") :]
    )
    reload(gateway)
    assert peers["till-1"].read_all() == b"-BYE DENIED :nothing is granted to you here\n"
    peers["shop"].send(b"PUT messages #1 a\n")
    assert peers["shop"].read_lines(1) == [b"+OK"]
    for peer in peers.values():
        peer.close()


@pytest.mark.parametrize("fault", ["mode", "line", "gone"])
def test_a_reload_with_a_faulty_file_changes_nothing(
    gateway: Gateway, tokens: dict[str, str], tmp_path: Path, fault: str
) -> None:
    """The tokens from before stay, and the log names the file and what is wrong."""
    path = tmp_path / "tokens"
    peer = gateway.connect("asks")
    peer.send(f"AUTH {tokens['till-1']}\n".encode())
    assert peer.read_lines(1) == [b"+OK"]
    if fault == "mode":
        path.chmod(0o644)
    elif fault == "line":
        path.write_text("what is this\n")
    else:
        path.unlink()
    gateway.process.send_signal(signal.SIGHUP)
    words = {"mode": "has mode 0644", "line": ":1: has 3 words", "gone": "is not there"}[fault]
    gateway.wait_log(rf"not reloaded: \S*/tokens:? ?{words}|not reloaded: \S*tokens{words}")
    gateway.wait_log("the configuration from before stays in force")
    peer.send(b"PING still\n")
    assert peer.read_lines(1) == [b"+OK still"]
    assert said(gateway, "asks", f"AUTH {tokens['till-2']}") == ["+OK"]
    peer.close()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path: path.chmod(0o640), "has mode 0640: others may get at it; run: chmod 600"),
        (lambda path: path.write_text("a b\n"), ":1: has 2 words; a token has 5"),
        (lambda path: path.unlink(), "is not there; 'gateway token add IDENTITY --file"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(
    tokens: dict[str, str], tmp_path: Path, break_it: Callable[[Path], object], words: str
) -> None:
    """With one line for the gateway and for check, and without a hash."""
    config = tmp_path / "gateway.toml"
    config.write_text(LISTENERS + GRANTS)
    break_it(tmp_path / "tokens")
    gateway = Gateway(("--config", str(config)), tmp_path)
    assert gateway.process.wait(60) == 1
    assert words in gateway.log and "Traceback" not in gateway.log
    done = tool("check", str(config))
    assert done.returncode == 1 and words in done.stderr
    assert "argon2" not in gateway.log + done.stderr + done.stdout


def test_a_configuration_that_grants_what_is_not_there(tmp_path: Path) -> None:
    """check names every grant at fault."""
    config = tmp_path / "gateway.toml"
    faulty = GRANTS.replace('"last"', '"lst"').replace('"127.0.0.0/8"', '"127.0.0.1/8"')
    config.write_text(LISTENERS.replace('tokens = "tokens"', "") + faulty)
    done = tool("check", str(config))
    assert done.returncode == 1
    for words in (
        "listeners.asks.auth: asks for a token",
        "listeners.lines.auth: asks for a token",
        "access.grants.tills.queries: there is no query 'lst'; did you mean 'last'?",
        "access.grants.anybody.networks: 127.0.0.1/8 has host bits set",
    ):
        assert words in done.stderr
    assert len(done.stderr.splitlines()) == 4


# The commands.


def where(gateway: Gateway, listener: str) -> tuple[str, str]:
    return "--endpoint", f"tcp:127.0.0.1:{gateway.port(listener)}"


def test_commands_say_a_token(
    gateway: Gateway, tokens: dict[str, str], database: Database, tmp_path: Path
) -> None:
    """From a file or the environment; the file beats the environment."""
    file = tmp_path / "till-1.token"
    file.write_text(tokens["till-1"] + "\n")
    by_file = ("--token-file", str(file))
    environment = {"GATEWAY_TOKEN": tokens["till-2"]}
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\n")
    for arguments in (
        ("send", *where(gateway, "lines"), *by_file, str(lines)),
        ("send", *where(gateway, "asks"), *by_file, "--stream", "till-1", str(lines)),
        ("send", *where(gateway, "asks"), *by_file, "--route", "messages", str(lines)),
        ("call", *where(gateway, "asks"), *by_file, "last"),
        ("bench", f"tcp:127.0.0.1:{gateway.port('lines')}", *by_file, "--count", "500"),
        (
            *("bench", f"tcp:127.0.0.1:{gateway.port('asks')}", *by_file, "--count", "500"),
            *("--route", "messages"),
        ),
    ):
        for found in ({}, environment):
            done = tool(*arguments, environment=found)
            assert done.returncode == 0, (arguments, done.stderr)
    peers = database.column("SELECT DISTINCT peer FROM messages")
    assert peers == ["till-1"]
    done = tool("call", *where(gateway, "asks"), "last", environment=environment)
    assert done.returncode == 0
    done = tool(
        *("send", *where(gateway, "asks"), "--stream", "till-1", str(lines)),
        environment=environment,
    )
    assert done.returncode == 2 and "-REJ DENIED" in done.stderr


@pytest.mark.parametrize("given", ["none", "wrong", "stranger"])
def test_commands_are_told_once(
    gateway: Gateway, tokens: dict[str, str], tmp_path: Path, given: str
) -> None:
    """A token that is missing or not taken ends each command at once, and is not shown."""
    wrong = tokens["till-1"][:-5] + "abcde"
    environment = {
        "none": {},
        "wrong": {"GATEWAY_TOKEN": wrong},
        "stranger": {"GATEWAY_TOKEN": tokens["stranger"]},
    }[given]
    expected = "-BYE DENIED" if given == "stranger" else "-BYE AUTH"
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\n")
    commands: list[tuple[int, tuple[str, ...]]] = [
        (3, ("send", *where(gateway, "lines"), str(lines))),
        (3, ("send", *where(gateway, "asks"), "--stream", "s", str(lines))),
        (1, ("call", *where(gateway, "asks"), "last")),
        (1, ("listen", *where(gateway, "asks"), "news")),
    ]
    if given != "none":
        bench = ("bench", f"tcp:127.0.0.1:{gateway.port('lines')}", "--count", "10")
        commands.append((1, bench))
    for status, arguments in commands:
        done = tool(*arguments, environment=environment)
        assert done.returncode == status, (arguments, done.stderr)
        assert done.stderr.count(expected) == 1, (arguments, done.stderr)
        assert "Traceback" not in done.stderr and "trying again" not in done.stderr
        assert wrong.partition(".")[2] not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "a token has 1 to 256 characters"), ("a b", "no spaces"), ("x" * 300, "1 to 256")],
)
def test_a_token_file_that_has_none(tmp_path: Path, content: str, words: str) -> None:
    """Is a mistake of usage, and its content is not shown."""
    file = tmp_path / "token"
    file.write_text(content)
    done = tool("call", "--token-file", str(file), "last")
    assert done.returncode == 2 and words in done.stderr
    assert not content or content not in done.stderr


# Certificates.

SECURE = """
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
auth = true
[listeners.secure.tls]
certificate = "gateway.pem"
client_ca = "authority.pem"
client_certificate = "optional"
"""


def secure(gateway: Gateway, issuer: Issuer, shown: Issued | None, *lines: str) -> list[str]:
    """All answers to some lines, said by who shows a certificate or none."""
    context = ssl.create_default_context(cafile=str(issuer.file))
    if shown is not None:
        context.load_cert_chain(shown.file)
    peer = gateway.connect("secure")
    peer.socket = context.wrap_socket(peer.socket, server_hostname="localhost")
    # Over TLS an end cannot be one-sided: the peer asks for it.
    peer.send("".join(f"{line}\n" for line in (*lines, "QUIT")).encode())
    answers = known(peer.read_all()).decode().splitlines()
    peer.close()
    return answers


def test_certificates_and_tokens(
    tokens: dict[str, str], start_with: Start, database: Database, tmp_path: Path
) -> None:
    """Either proves an identity; what it is granted, and whether it is denied, does not depend."""
    issuer = Issuer(tmp_path)
    (tmp_path / "authority.pem").write_bytes(issuer.pem)
    (tmp_path / "gateway.pem").write_bytes(issuer.issue("localhost").file.read_bytes())
    tills = GRANTS.replace('"asks", "lines"', '"asks", "lines", "secure"')
    gateway = start_with(LISTENERS + tills + SECURE)
    till = issuer.issue("till-1")
    assert secure(gateway, issuer, till, "PUT messages a", "HELLO till-1", "HELLO till-2") == [
        *("+OK", "+OK seq=0 epoch=E", denied("HELLO to till-2"), "+OK")
    ]
    # The last that was proved counts.
    assert secure(gateway, issuer, till, f"AUTH {tokens['shop']}", "PUT orders b") == ["+OK"] * 3
    refusal = "-BYE AUTH :say AUTH and a token first"
    assert secure(gateway, issuer, None, "PUT messages a") == [refusal]
    assert secure(gateway, issuer, None, f"AUTH {tokens['till-1']}", "HELLO till-1") == [
        *("+OK", "+OK seq=0 epoch=E", "+OK")
    ]
    assert database.column("SELECT peer FROM messages") == ["till-1"]
    assert database.column("SELECT peer FROM orders") == ["shop"]
    nothing = "-BYE DENIED :nothing is granted to you here"
    assert secure(gateway, issuer, issuer.issue("stranger"), "PUT messages a") == [nothing]
    config = tmp_path / "gateway.toml"
    text = config.read_text()
    config.write_text(text.replace('tokens = "tokens"', 'tokens = "tokens"\ndeny = ["till-1"]'))
    reload(gateway)
    assert secure(gateway, issuer, till, "PUT messages a") == [nothing]
    assert secure(gateway, issuer, None, f"AUTH {tokens['till-1']}") == [nothing]
    silent(gateway, tokens)
