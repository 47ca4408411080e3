"""
Other protocols where lines are spoken: nothing that a web page or TLS sends is a message.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.model.errors import ForeignError, FramingError
from gateway.wire.framing import FRAMINGS, OVERSIZE
from tests.in_memory import Bench
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway

BODY: Final = b"PUT messages stolen\nstolen\n"

REQUESTS: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n",
    b"POST /x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:8002\r\nContent-Length: 27\r\n\r\n" + BODY,
    b"POST http://127.0.0.1:8000/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + BODY,
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + BODY,
    b"CONNECT 127.0.0.1:8000 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n" + BODY,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + BODY,
    b"patch /x HTTP/1.1\n" + BODY,
    b"GET / HTTP/1.0\n\n" + BODY,
    b"PUT /messages HTTP/1.1\r\nHost: x\r\n\r\n" + BODY,
    b"Host: 127.0.0.1:8000\r\n" + BODY,
    b"HOST:x\n" + BODY,
    b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n" + BODY,
    b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n" + BODY,
)

HELLOS: Final = tuple(
    b"\x16\x03%c\x02\x00\x01\x00\x01\xfc\x03\x03" % version + b"r\n\0" * 200
    for version in (0, 1, 3)
)
"""What TLS clients begin with: SSL 3.0 as a record's version, TLS 1.0 as most do, and TLS 1.2."""

GOOD: Final = (
    b"\x16",
    b"\x16\x03",
    b"\x16\x03\x01 is data",
    b"\x16 and more",
    b"hello",
    b"GET / was asked for",
    b"GET /index.html",
    b"PUT messages HTTP/1.1",
    b"Host is up",
    b"Host: a and b",
    b"<13>1 - - - - - - GET / HTTP/1.1",
    b"x" * 9000,
    b"",
)
"""First lines that are messages."""


@pytest.mark.parametrize("request_", [*REQUESTS, *HELLOS], ids=range(len(REQUESTS + HELLOS)))
@pytest.mark.parametrize("framing", ["line", "nul"])
@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_a_request_is_cut_off(request_: bytes, framing: str, step: int) -> None:
    """However TCP cuts it, nothing of it is a frame, but that a line may have been too long."""
    cut = FRAMINGS[framing](60_000, refuses_http=True)
    found: list[bytes] = []
    with pytest.raises(ForeignError) as raised:
        for place in range(0, len(request_), step):
            found += cut.receive(request_[place : place + step])
    assert not [frame for frame in found + raised.value.frames if frame is not OVERSIZE]


@given(st.lists(st.sampled_from(GOOD) | st.binary(max_size=30)), st.integers(1, 40))
@example([b"GET / HTTP/1.1 is how it begins", b"GET / HTTP/1.1"], 5)
def test_what_is_none_is_not_disturbed(lines: list[bytes], step: int) -> None:
    """The same frames come out, whether HTTP is looked for or not, and where it comes later."""
    stream = b"hello\n" + b"".join(line + b"\n" for line in lines) + REQUESTS[0]
    found: list[list[bytes]] = []
    for refuses in (False, True):
        cut = FRAMINGS["line"](100, refuses_http=refuses)
        found.append([])
        for place in range(0, len(stream), step):
            found[-1] += cut.receive(stream[place : place + step])
    assert found[0] == found[1]


@pytest.mark.parametrize("line", GOOD)
@pytest.mark.parametrize(("framing", "end"), [("line", b"\n"), ("nul", b"\0")])
def test_first_lines_that_are_messages(line: bytes, framing: str, end: bytes) -> None:
    """What only looks a little like HTTP or TLS is a frame, however it is cut."""
    for step in (1, 3, 10_000):
        stream = line + end + b"next message" + end
        cut = FRAMINGS[framing](10_000, refuses_http=True)
        found: list[bytes] = []
        for place in range(0, len(stream), step):
            found += cut.receive(stream[place : place + step])
        assert found == [line, b"next message"]


@given(st.binary(max_size=200))
def test_whatever_comes_first(stream: bytes) -> None:
    """No bytes do more than end the stream."""
    for framing in FRAMINGS.values():
        with suppress(FramingError):
            framing(50, refuses_http=True).receive(stream)


@pytest.mark.parametrize("routes", [None, ["messages"]], ids=["plain", "commands"])
def test_the_peer_is_told(routes: Sequence[str] | None) -> None:
    """It hears -BYE FORMAT, nothing is stored, and the log has a line."""
    bench = Bench(held=False, routes=routes)
    bench.peer.dataReceived(REQUESTS[1])
    assert bench.transport.value().startswith(b"-BYE FORMAT :this is no HTTP server")
    bench.peer.dataReceived(BODY)
    assert bench.store.rows == [] and bench.transport.disconnecting


def test_a_tls_client_is_told() -> None:
    """It hears which port it has reached, nothing is stored, and the log gives no wrong advice."""
    bench = Bench(held=False)
    bench.peer.dataReceived(HELLOS[1])
    assert bench.transport.value().startswith(b"-BYE FORMAT :this listener has no TLS")
    assert bench.store.rows == [] and bench.transport.disconnecting


PAGE: Final = """<!DOCTYPE html><title>working</title><script>
const tries = [];
for (const port of [{ports}])
    for (const [method, body] of [["POST", "PUT messages stolen\\nstolen\\n"], ["GET", undefined]])
        for (const path of ["/", "/" + "x".repeat(70000)])
            tries.push(fetch(`http://127.0.0.1:${{port}}${{path}}`, {{
                method, mode: "no-cors", body, signal: AbortSignal.timeout(10000)}})
                .then(() => "answered", () => "failed"));
Promise.all(tries).then(found => {{ document.title = "done: " + found.length }});
</script>"""


@pytest.fixture
def serve() -> Iterator[Callable[[str], str]]:
    """Serves one page, as any site on the net does."""
    pages: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(pages[0].encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()

    def start(page: str) -> str:
        pages.append(page)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


LISTENERS: Final = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
{more}
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
{more}
"""


@pytest.mark.parametrize("refuses", [True, False])
def test_a_page_in_a_real_browser(
    database: Database,
    start_with: Callable[..., Gateway],
    installer: Installer,
    serve: Callable[[str], str],
    tmp_path: Path,
    refuses: bool,
) -> None:
    """Chromium is told to send messages and commands: none is stored, unless it is allowed."""
    gateway = start_with(LISTENERS.format(more="" if refuses else "refuse_http = false"))
    ports = f"{gateway.port('lines')}, {gateway.port('commands')}"
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync"
    flags += " disable-background-networking disable-component-update"
    done = subprocess.run(
        [
            *(installer.program("chromium"), *(f"--{flag}" for flag in flags.split())),
            *(f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=30000"),
            *("--dump-dom", serve(PAGE.format(ports=ports))),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "<title>done: 8</title>" in done.stdout, done.stdout + done.stderr
    stored = [body for body in database.bodies() if "stolen" in body]
    if refuses:
        assert database.bodies() == []
        assert gateway.log.count("this is no HTTP server") == 2
    else:
        assert stored
