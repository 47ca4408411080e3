"""
Pages of the site: path in, answer out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Final

import msgspec
from twisted.internet.interfaces import IReactorTime

from gateway.model.text import closest
from gateway.status.prometheus import exposition
from gateway.status.watch import StatusWatch
from gateway.web.answer import Answer, Query, text
from gateway.web.page import page
from gateway.web.readiness import readiness
from gateway.web.traffic import Traffic

HTML: Final = "text/html; charset=utf-8"

_FILES: Final = {
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}
"""Files of the page, which are in the package."""

_FRESH: Final = 1.0
"""Seconds for which a page is shown again: however often it is asked for, it is made once."""


class Pages:
    """
    Answers to all paths of the site.
    """

    def __init__(self, watch: StatusWatch, clock: IReactorTime, machine: str) -> None:
        """
        @param clock: that of the watch.
        @param machine: its name, for the page's title.
        """
        self._watch = watch
        self._clock = clock
        self._machine = machine
        self._made = -_FRESH
        self._page = b""
        folder = files("gateway.web") / "static"
        content = {path: (folder / path[1:]).read_bytes() for path in _FILES}
        self._pages: dict[str, Callable[[Query], Answer]] = {
            "/": self._status_page,
            "/livez": self._liveness,
            "/readyz": lambda query: readiness(watch.status(), query),
            "/status.json": self._status_json,
            "/metrics": self._metrics,
        }
        self._linked = ("/livez", "/readyz?verbose", "/status.json", "/metrics")
        for path, kind in _FILES.items():
            self._pages[path] = _always(Answer(200, content[path], kind))

    def __call__(self, query: Query) -> Answer:
        """Return the answer to a request."""
        found = self._pages.get(query.path)
        if found is not None:
            return found(query)
        near = closest(query.path, self._pages)
        hint = f"did you mean {near}?" if near else f"there is {', '.join(self._pages)}"
        return text(404, f"there is no such page; {hint}")

    def _status_page(self, query: Query) -> Answer:
        now = self._clock.seconds()
        if now - self._made >= _FRESH:
            status = self._watch.status()
            traffic = Traffic(status, self._watch.history, now)
            self._page = page(status, traffic, self._machine, self._linked).encode()
            self._made = now
        return Answer(200, self._page, HTML)

    def _metrics(self, query: Query) -> Answer:
        watch = self._watch
        return Answer(200, *exposition(watch.status(), query.accept, watch.by_worker()))

    def _liveness(self, query: Query) -> Answer:
        if self._watch.is_alive():
            return text(200, "ok")
        return text(503, "a worker has given no sign of life for a while")

    def _status_json(self, query: Query) -> Answer:
        return Answer(200, msgspec.json.encode(self._watch.status()), "application/json")


def _always(answer: Answer) -> Callable[[Query], Answer]:
    """Return a page that is always the same."""
    return lambda query: answer
