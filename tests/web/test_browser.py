"""
The page in a real browser: whole without a script, quiet with one, readable on a phone.

Its pictures stay in C{$GATEWAY_TEST_ARTIFACTS}, where that is set.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest
from twisted.internet.task import Clock

from gateway.status.status import Status
from gateway.status.watch import Watch
from gateway.web.answer import Answer, Query
from gateway.web.channel import headers_of
from gateway.web.pages import Pages
from tests.installing import Installer
from tests.support import PATIENCE
from tests.web import made

ARTIFACTS: Final = "GATEWAY_TEST_ARTIFACTS"
"""Of the environment: a folder for what a person may want to look at after the run."""

PHONE_WIDTH: Final = 390
"""Pixels; Chromium without a window is no narrower than 500, so the page is put into a frame."""

PHONE: Final = f"""<!DOCTYPE html><title>waiting</title>
<body style="margin: 0"><iframe src="/" width="{PHONE_WIDTH}" height="3600" style="border: 0">
</iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const wide = [page.documentElement, ...page.querySelectorAll("section, header, dl, table")]
    .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.id || one.tagName);
  document.title =
    `${{page.documentElement.clientWidth}}, too wide: ${{wide.join() || "none"}}`;
}};
</script>"""
"""A page as wide as a phone, and whether anything is wider than it."""

FLAGS: Final = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update", "hide-scrollbars"),
    *("enable-logging=stderr", "log-level=0"),
)


class MadeUpWatch:
    """
    Watch whose status is made up, and changes with each reading.

    @ivar status: reads it.
    """

    def __init__(self, status: Status) -> None:
        self.history = made.history(status)
        self._status = status
        self.readings = 0

    def status(self) -> Status:
        self.readings += 1
        return self._status


class Site:
    """
    The pages of a made-up gateway, served to a browser with the headers that they have.

    @ivar asked: paths that were asked for.
    """

    def __init__(self, status: Status) -> None:
        watch: Watch = MadeUpWatch(status)  # type: ignore[assignment]
        clock = Clock()
        pages = Pages(watch, clock, "box")
        asked = self.asked = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                asked.append(path)
                if path == "/phone":
                    answer = Answer(200, PHONE.encode(), "text/html")
                    headers = {"Content-Type": answer.kind}
                else:
                    answer = pages(Query(path, {}))
                    headers = headers_of(answer)
                for_frames = headers.get("Content-Security-Policy", "")
                if "phone" in self.headers.get("Referer", ""):
                    headers["Content-Security-Policy"] = for_frames.replace(
                        "frame-ancestors 'none'", "frame-ancestors 'self'"
                    )
                self.send_response(answer.code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Status], Site]]:
    """Serves the pages of a status."""
    running: list[Site] = []

    def start(status: Status) -> Site:
        running.append(Site(status))
        return running[-1]

    yield start
    for one in running:
        one.close()


class Browser:
    """
    Chromium without a window.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def run(self, url: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Open a page; whatever the browser complains of is a fault of the page."""
        done = subprocess.run(
            [
                *(self._program, *(f"--{flag}" for flag in (*FLAGS, *flags))),
                *(f"--user-data-dir={self._folder / 'browser'}", url),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        return done

    def picture(self, url: str, name: str, width: int, height: int, *flags: str) -> Path:
        """Take a picture of a page."""
        path = self._folder / f"{name}.png"
        self.run(url, f"screenshot={path}", f"window-size={width},{height}", "timeout=3000", *flags)
        if folder := os.environ.get(ARTIFACTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
        return path


@pytest.fixture
def browser(installer: Installer, tmp_path: Path) -> Browser:
    """Chromium, with nothing of an earlier run."""
    return Browser(installer.program("chromium"), tmp_path)


def size_of(picture: Path) -> tuple[int, int]:
    """Return width and height of a PNG."""
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return width, height


@pytest.mark.parametrize(
    ("name", "width", "height", "flags"),
    [
        ("status-light", 1280, 1700, ()),
        ("status-dark", 1280, 1700, ("blink-settings=preferredColorScheme=0",)),
    ],
)
def test_pictures(
    serve: Callable[[Status], Site],
    browser: Browser,
    name: str,
    width: int,
    height: int,
    flags: tuple[str, ...],
) -> None:
    """The page can be looked at in light and dark, and nothing of it breaks its own policy."""
    site = serve(made.troubled())
    picture = browser.picture(site.url, name, width, height, *flags)
    assert size_of(picture) == (width, height) and picture.stat().st_size > 20_000
    assert "/page.css" in site.asked


def test_it_refreshes_itself(serve: Callable[[Status], Site], browser: Browser) -> None:
    """With a script the page is asked for again, and its content stays."""
    site = serve(made.troubled())
    done = browser.run(site.url, "dump-dom", "virtual-time-budget=30000")
    assert site.asked.count("/") >= 3 and site.asked.count("/page.css") == 1
    assert "database-away" in done.stdout and '<p id="lost" role="status"></p>' in done.stdout


@pytest.mark.parametrize("is_large", [False, True], ids=["bad-night", "large"])
def test_it_fits_a_phone(serve: Callable[[Status], Site], browser: Browser, is_large: bool) -> None:
    """On a narrow screen nothing is wider than it, with fifty routes and long names neither."""
    large = made.status(
        listeners=[
            made.listener(f"listener-with-a-long-name-{n}", address=f"/{'x' * 90}/{n}")
            for n in range(50)
        ],
        routes=[made.route(f"route-{'x' * 60}-{n}", reason="y" * 90) for n in range(50)],
    )
    site = serve(large if is_large else made.troubled())
    name = "status-phone-large" if is_large else "status-phone"
    browser.picture(f"{site.url}phone", name, 500, 3600)
    done = browser.run(f"{site.url}phone", "dump-dom", "virtual-time-budget=3000")
    assert f"<title>{PHONE_WIDTH}, too wide: none</title>" in done.stdout, done.stdout[:300]
