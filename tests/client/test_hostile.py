"""
Gateways that lie, and what is no gateway: a clear error of the client, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor

from gateway.client import outbox as outbox_module
from gateway.client import pushes as pushes_module
from gateway.client.answers import ClientError, Garbled, Refused, WrongListener, parse
from gateway.client.blocking import BlockingClient
from gateway.client.buffer import MemoryBuffer
from gateway.client.parcel import Push
from gateway.client.probe import stranger
from gateway.client.pushes import PushBuffer
from gateway.client.requests import decoded
from gateway.client.service import GatewayClient
from gateway.client.session import NONSENSE, Session
from tests.client.hostile import LIES, HostileServer, Says, endless, once
from tests.client.model import Model
from tests.client.test_session import Wired

Lie = Callable[..., HostileServer]


def quickly(attempt: int) -> float:
    return 0.01


@pytest.fixture
def lie() -> Iterator[Lie]:
    """Starts servers that lie, and ends them."""
    running: list[HostileServer] = []

    def start(says: Says, greets: bool = True) -> HostileServer:
        running.append(HostileServer(says, greets))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.mark.parametrize("name", LIES)
def test_a_script_that_calls(lie: Lie, name: str) -> None:
    """The blocking client says what is wrong with the answer to its CALL."""
    says, words = LIES[name]
    with BlockingClient("127.0.0.1", lie(says).port, retry=quickly) as client:
        with pytest.raises(Garbled, match=words) as raised:
            client.call("last")
        assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", LIES)
@pytest_twisted.ensureDeferred
async def test_a_program_that_calls(lie: Lie, name: str) -> None:
    """The Twisted client says what is wrong with the answer to its call."""
    says, words = LIES[name]
    where = f"tcp:127.0.0.1:{lie(says).port}"
    async with GatewayClient(where, retry=quickly, stop_timeout=0.0) as client:
        with pytest.raises(Garbled, match=words):
            await client.call("last").addTimeout(60, reactor)


@pytest.mark.parametrize("name", ["digits", "no line end", "pushes", "no word", "no code"])
def test_a_script_that_sends(lie: Lie, name: str) -> None:
    """Nonsense as the answer to a message, again and again, ends the blocking client."""
    client = BlockingClient("127.0.0.1", lie(LIES[name][0]).port, retry=quickly)
    with pytest.raises(Garbled):
        client.send(b"hello")
    client.close()


@pytest.mark.parametrize("name", ["digits", "no line end", "pushes", "no word", "no code"])
@pytest_twisted.ensureDeferred
async def test_a_program_that_sends(lie: Lie, name: str) -> None:
    """Nonsense as the answer to a message, again and again, ends the Twisted client."""
    where = f"tcp:127.0.0.1:{lie(LIES[name][0]).port}"
    async with GatewayClient(where, retry=quickly, stop_timeout=0.0) as client:
        with pytest.raises(Garbled):
            await client.send(b"hello").addTimeout(60, reactor)


def test_rows_that_never_come(lie: Lie) -> None:
    """They are waited for as long as the call may take, and no longer."""
    server = lie(once(b'*5\n{"a":1}\n'))
    client = BlockingClient("127.0.0.1", server.port, timeout=1.0, answer_timeout=0.2)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 seconds"):
        client.call("last")
    client.close()


@pytest.mark.parametrize(
    "first", [b"x" * 10_000, b"+OK " + b"x" * 10_000, b">news x\n" * 1000, b"*1\n{}\n"]
)
def test_words_before_the_first_answer(lie: Lie, first: bytes) -> None:
    """What comes in place of the answer to the PING is not gathered: there is nothing long."""
    client = BlockingClient("127.0.0.1", lie(endless(first), greets=False).port, retry=quickly)
    with pytest.raises(WrongListener, match="no answer of a gateway"):
        client.send(b"hello")
    client.close()


@pytest.mark.parametrize(
    ("framing", "begun"), [("line", b"+OK " + b"x" * 4096), ("netstring", b"4097:+OK x")]
)
def test_a_first_answer_is_short(framing: str, begun: bytes) -> None:
    """More than 4 KiB of it are not waited for; of a later answer they are."""
    wired = Wired(Model(framing=framing))
    wired.connect()
    wired.session.output(0.0)
    with pytest.raises(WrongListener):
        wired.session.receive(begun, 0.0)
    wired = Wired(Model(framing=framing))
    wired.begin()
    wired.session.receive(begun, 0.0)
    assert wired.session.failure is None


def test_a_query_with_a_nonsensical_answer_is_asked_once() -> None:
    """It fails, and what else is to be done goes on over the next connection."""
    model = Model()
    wired = Wired(model)
    wired.begin()
    asked = wired.session.call("last", None)
    wired.session.output(0.0)
    with pytest.raises(Garbled):
        wired.session.receive(b"*-1\n", 0.0)
    assert isinstance(asked.failure, Garbled) and asked in wired.session.take_events()
    wired.cut()
    sent = wired.session.put("r", [b"hello"])
    wired.settle()
    assert sent.left == 0 and not asked.rows and asked.answer is None


def test_nonsense_now_and_then_ends_no_client() -> None:
    """Who stored something since the last nonsense is asked again, and the stream goes on."""
    wired = Wired(Model(), stream="s")
    for number in range(3 * NONSENSE):
        parcel = wired.session.put("r", [b"%d" % number])
        wired.settle()
        assert parcel.left == 0
        with pytest.raises(Garbled):
            wired.session.receive(b"+OK\n", wired.now)
        assert wired.session.failure is None
        wired.cut()


def test_numbers_that_nobody_could_mean() -> None:
    """Thousands of digits are no number, and no wait is for ever."""
    digits = "9" * 5000
    answer = parse(f"-TRY GAP retry={digits} seq={digits} :x".encode())
    assert (answer.retry, answer.seq) == (None, None)
    answer = parse(b"-TRY GAP retry=9999999999 seq=12 :x")
    assert (answer.retry, answer.seq) == (3600.0, 12)
    wired = Wired(Model(), stream="s")
    wired.begin()
    wired.session.output(0.0)
    wired.session.receive(f"+OK seq={digits} epoch=e\n".encode(), 0.0)
    assert isinstance(wired.session.failure, Refused)


def test_numbers_in_rows() -> None:
    """Digits that Python does not read are an error of the client; rows are objects."""
    for exact in (False, True):
        for row in (b'{"n":%b}' % (b"9" * 5000), b'{"n":1e9999999999999999999', b"null", b""):
            with pytest.raises(Garbled, match="row 1 "):
                decoded([row], exact)


def test_a_long_value_is_read_in_little_memory() -> None:
    """One of many megabytes, of escapes only, is no burden."""
    value = b"\\n" * 1_000_000
    answer = parse(b'+OK a="%b" b=1' % value)
    assert answer.values == {"a": "\n" * 1_000_000, "b": "1"}


def test_answers_that_fill_a_parcel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long ones to messages that were sent together are kept up to a bound."""
    monkeypatch.setattr(outbox_module, "MAX_HELD_ANSWERS", 10_000)
    model = Model()
    model.fate = lambda message: b"+OK a=" + message * 100
    wired = Wired(model)
    wired.session.put("r", [b"%03d" % number for number in range(100)])
    wired.begin()
    wired.up()
    with pytest.raises(Garbled, match="answers of more than 10,000 bytes"):
        wired.down()


def test_pushes_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other channels are not kept; too many of one's own become a gap."""
    monkeypatch.setattr(pushes_module, "MAX_SIZE", 10_000)
    pushes = PushBuffer()
    pushes.add(Push("elsewhere", "x"))
    assert not pushes
    pushes.expect("news")
    for number in range(1000):
        pushes.add(Push("news", str(number)))
    found = []
    while pushes:
        found.append(pushes.next().payload)
    assert found[0] is None and found[-1] == "999" and len(found) < 60
    assert found[1:] == [str(number) for number in range(1001 - len(found), 1000)]


@pytest.mark.parametrize(
    ("beginning", "what"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP server"),
        (b"<html>", "an HTTP server"),
        (b"\x15\x03\x01\0\x02\x02\x46", "a listener with TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server"),
        (b"-ERR unknown command\r\n", "a Redis server"),
        (b"220 mail.example.org ESMTP\r\n", "an SMTP or FTP server"),
        (b"E\0\0\0\x80SFATAL\0", "a PostgreSQL server"),
        (b"16:-BYE FORMAT :no,", "framing netstring, not line"),
        (b"16 -BYE FORMAT :no", "framing octet-counted, not line"),
        (b"-REJ DATA :no\0", "framing nul, not line"),
        (b"hello\n", "no answer of a gateway: b'hello"),
        (b"", "no answer of a gateway"),
    ],
)
def test_who_says_that(beginning: bytes, what: str) -> None:
    """The error names what was met, as far as its first bytes tell."""
    assert what in stranger(beginning, "line", plain=False)[0]


@pytest.mark.parametrize("framing", ["line", "nul", "netstring", "octet-counted"])
def test_an_answer_that_was_cut_is_no_stranger(framing: str) -> None:
    """A connection that is lost within its first answer is made again."""
    wired = Wired(Model(framing=framing))
    sent = wired.session.put("r", [b"hello"])
    for most in range(1, 40, 3):
        wired.connect()
        wired.up()
        wired.down(most)
        wired.cut()
        assert wired.session.failure is None
    wired.settle()
    assert sent.left == 0


@pytest.mark.parametrize("dialect", ["command", "plain"])
@pytest.mark.parametrize("said", [b"-BYE FORMAT :bad length", b"-BYE BUSY :x", b"-REJ DATA :x"])
def test_another_framing_is_named(dialect: str, said: bytes) -> None:
    """A gateway's answer in netstrings, where lines were spoken, ends the client."""
    session = Session(MemoryBuffer(), lambda attempt: 0.1, dialect=dialect)
    session.put("messages", [b"hello"])
    session.connected()
    session.output(0.0)
    session.receive(b"%d:%b," % (len(said), said), 0.0)
    session.lost()
    assert isinstance(session.failure, WrongListener)
    assert "framing netstring, not line" in str(session.failure)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"+OK", "may have stored it"),
        (b"+OK id=7", "may have stored it"),
        (b"+QUE", "may have stored it"),
        (b"-REJ DATA :NUL", "(-REJ DATA :NUL)"),
        (b"-TRY DOWN :x", "(-TRY DOWN :x)"),
        (b"+OK gateway-client-5e2b9c41d7  0000000000000000", "for a message"),
    ],
)
@pytest.mark.parametrize("understood", [False, True])
def test_a_plain_listener_of_an_earlier_version(
    answer: bytes, words: str, understood: bool
) -> None:
    """Whatever it answers, nothing follows the PING, and the error says what may be stored."""
    wired = Wired(Model())
    if understood:
        wired.session.put("r", [b"first"])
        wired.settle()
        wired.cut()
    wired.session.put("r", [b"second"])
    wired.connect()
    assert wired.session.output(0.0).count(b"\n") == 1
    wired.session.receive(answer + b"\n", 0.0)
    assert isinstance(wired.session.failure, WrongListener)
    assert words in str(wired.session.failure)
    assert wired.session.output(9.0) == b""


def test_a_probe_that_comes_too_soon() -> None:
    """A gateway that wants fewer frames in a second is asked again when it says."""
    wired = Wired(Model())
    wired.session.put("r", [b"hello"])
    wired.connect()
    first = wired.session.output(0.0)
    wired.session.receive(b"-TRY RATE retry=2 :slowly\n", 0.0)
    assert wired.session.failure is None and wired.session.output(1.9) == b""
    assert wired.session.output(2.0) == first


def test_bare_messages_for_a_listener_of_commands() -> None:
    """A plain client that is wrong says so, and repeats neither token nor message."""
    session = Session(MemoryBuffer(), lambda attempt: 0.1, dialect="plain", token="secret")
    session.connected()
    assert session.output(0.0) == b"secret\n"
    with pytest.raises(WrongListener, match="listener of commands") as raised:
        session.receive(b"-REJ FORMAT :unknown verb secret; try HELP\n", 0.0)
    assert session.failure is raised.value and "secret" not in str(raised.value)


def test_every_error_is_one_of_the_clients() -> None:
    """So that C{except ClientError} is enough, and one that knew Garbled still is."""
    assert issubclass(WrongListener, Garbled) and issubclass(Garbled, ClientError)
