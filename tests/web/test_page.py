"""
The page as HTML.
"""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.status.history import History
from gateway.status.status import Status, Warning
from gateway.web.chart import Layer, chart
from gateway.web.page import page
from gateway.web.traffic import Traffic
from tests.status.samples import with_workers
from tests.web import made

VOID = {"meta", "link", "path", "rect"}

LINKS = ("/readyz?verbose", "/status.json")


class Parsed(HTMLParser):
    """
    A page taken apart.

    @ivar tags: each with its attributes.
    @ivar text: what is to be read.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def render(status: Status, history: History | None = None, machine: str = "box") -> str:
    return page(status, Traffic(status, history or made.history(status), 0.0), machine, LINKS)


def test_the_whole_page() -> None:
    """Every part of the status is there, warnings first; tags are balanced, headings in order."""
    source = render(made.troubled())
    parsed = Parsed(source)
    headings = [tag for tag, _ in parsed.tags if tag in ("h1", "h2", "h3")]
    assert headings == ["h1", *["h2"] * 11]
    places = [
        source.index(text)
        for text in (
            *("database-away", '<h2 id="of-traffic"', "203.0.113.7:8443", "out of service</span>"),
            *("PostgreSQL 18.1", "81,234", "taken over", ">news<", "gateway.example.org", "4711"),
        )
        if text != "gateway.example.org"
    ]
    assert places == sorted(places)
    assert "Spooling: Gateway on box" in source


def test_nothing_from_elsewhere() -> None:
    """With the policy default-src 'self' everything works: nothing is inline, nothing foreign."""
    parsed = Parsed(render(made.troubled()))
    for tag, attributes in parsed.tags:
        assert tag != "style" and "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "script" or "src" in attributes
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or (value.startswith("/") and not value.startswith("//"))


def test_tables_say_what_they_are() -> None:
    """Each head of a column or a row says which of both it is; each picture has words."""
    parsed = Parsed(render(made.troubled()))
    heads = [attributes for tag, attributes in parsed.tags if tag == "th"]
    assert heads and all(head["scope"] in ("col", "row") for head in heads)
    for tag, attributes in parsed.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_workers_have_a_table() -> None:
    """Each worker has a row with its process, its part and how the one before it ended, one that
    is away too; without workers there is no such section."""
    whole, _ = with_workers(3)
    gone = replace(whole.workers[2], state="away", pid=None, started=None, process=None)
    status = replace(whole, workers=[*whole.workers[:2], gone])
    parsed = Parsed(render(status))
    for text in ("process 4712, up 1 min", "killed by signal 9", "no process", "away"):
        assert text in parsed.text, text
    left = made.spool(state="keeping", messages=7, path="/spool-9.db")
    assert "no more, in /spool-9.db" in render(made.status(left_spools=[left]))
    assert 'id="workers"' in render(status) and 'id="workers"' not in render(made.status())


HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e\n"


def hostile(name: str) -> Status:
    """A status whose every name is this."""
    status = made.troubled()
    return made.status(
        reasons=[name],
        warnings=[Warning(code=name, subject=name, text=name)],
        listeners=[made.listener(name, address=name, framing=name, turned_away={name: 1})],
        routes=[made.route(name, table=name, state="out of service", reason=name)],
        pools=[made.pool(name, trouble=name, server=name)],
        spool=made.spool(state="refusing", reason=name, path=name),
        queries=[
            type(one)(name=name, answers={name: 1}, seconds=one.seconds)
            for one in made.status().queries
        ],
        channels=[
            type(one)(name=name, subscribers=1, notifications=1, pushes=1, gaps=1)
            for one in status.channels
        ],
        certificates=[
            type(one)(listener=name, kind=name, subject=name, expires=one.expires)
            for one in status.certificates
        ],
        version=name,
    )


@given(st.text(min_size=1, max_size=20))
def test_any_names(name: str) -> None:
    """Whatever names are made of, the page has the same tags and the same attributes."""
    plain, odd = (Parsed(render(hostile(one), machine=one)) for one in ("x", name))
    assert [(tag, set(attributes)) for tag, attributes in odd.tags] == [
        (tag, set(attributes)) for tag, attributes in plain.tags
    ]


def test_hostile_names() -> None:
    """Tags in names are text, and control characters and turned directions are visible."""
    source = render(hostile(HOSTILE), machine=HOSTILE)
    assert "<script>alert" not in source and "\x1b" not in source and "\u202e" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source and "\\u202e\\n" in source


@pytest.mark.parametrize(
    "changed",
    [
        {"listeners": [], "routes": [], "queries": [], "channels": [], "certificates": []},
        {"spool": None, "lanes": []},
        {"state": "starting"},
        {"state": "draining", "is_taking": False},
        {"is_storing": False, "is_taking": False},
    ],
)
@pytest.mark.parametrize("samples", [0, 1, 2, 361])
def test_a_gateway_with_little(changed: dict[str, Any], samples: int) -> None:
    """What is not there leaves no hole, nor does a history that has not begun."""
    status = made.status(**changed)
    Parsed(render(status, made.history(status, samples) if samples else History()))


def test_rates_and_the_hour() -> None:
    """Rates are those of the last minute; the line of the hour begins where history does."""
    status = made.status()
    history = History()
    for age in range(120, -10, -10):
        history.add(-age, {"listener.lines.messages": status.listeners[0].messages - age * 5.0})
    traffic = Traffic(status, history, 0.0)
    assert traffic.rate("listener.lines.messages") == pytest.approx(5.0)
    assert traffic.hour("listener.lines.messages") == pytest.approx([5.0] * 12)
    assert traffic.ages == [*range(110, -10, -10)]
    hour = Traffic(status, made.history(status), 0.0)
    assert len(hour.ages) <= 60 and hour.ages[-1] == 0 and hour.ages[0] > 3400


def luminance(colour: str) -> float:
    """
    Return how light a colour is.

    @see: U{https://www.w3.org/TR/WCAG22/#dfn-relative-luminance}
    """
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """Text stands out from what is behind it by 4.5, and figures by 3, in light and dark."""
    style = (files("gateway.web") / "static" / "page.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in style.split("@media", 2)[:2]
    )
    colours = light if scheme == "light" else dark
    assert set(light) == set(dark)
    for text, behind, least in (
        *((text, behind, 4.5) for text in ("text", "soft", "link") for behind in ("back", "card")),
        *((f"{tone}-text", f"{tone}-back", 4.5) for tone in ("good", "warn", "bad")),
        *(("bad-text", "back", 4.5), ("text", "off-back", 4.5)),
        *((tone, "card", 3.0) for tone in ("good", "warn", "bad")),
    ):
        darker, lighter = sorted(luminance(colours[name]) for name in (text, behind))
        contrast = (lighter + 0.05) / (darker + 0.05)
        assert contrast >= least, f"{text} on {behind}: {contrast:.2f}"


def test_layers_of_a_chart() -> None:
    """Areas stand upon one another and reach the top; none is drawn for nothing."""
    layers = [Layer("good", [1.0, 2.0]), Layer("warn", [0.0, 0.0]), Layer("bad", [1.0, 2.0])]
    drawn = chart([1800, 0], layers, "a <label>", "spark")
    assert 'class="good" d="M60.0 22.5L120.0 15.0L120.0 30.0L60.0 30.0Z"' in drawn
    assert 'class="bad" d="M60.0 15.0L120.0 0.0L120.0 15.0L60.0 22.5Z"' in drawn
    assert "warn" not in drawn and "a &lt;label&gt;" in drawn
    assert '<path class="good"' not in chart([], [Layer("good", [])], "", "spark")


def test_a_large_gateway() -> None:
    """With fifty listeners and fifty routes the page takes less than 50 ms, and is no book."""
    status = made.status(
        peers=1000,
        listeners=[made.listener(f"listener-{number}") for number in range(50)],
        routes=[made.route(f"route-{number}") for number in range(50)],
    )
    history = made.history(status)
    took = []
    for _ in range(5):
        begun = time.process_time()
        source = render(status, history)
        took.append(time.process_time() - begun)
    assert len(source.encode()) < 1_000_000
    assert min(took) < 0.05, f"{min(took):.3f} s for {len(source)} characters"
