"""
What docs/formats.md shows can be done as it stands: its routes are routes, its function reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any

from msgspec import Raw

from gateway.config.load import Config, load_config
from gateway.daemon.configuration import endpoint_fault
from gateway.formats.registry import format_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "formats.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def configurations() -> list[Config]:
    """Those of the page, each with a listener if it shows none."""
    found = []
    for text in blocks("toml"):
        if "[project." in text:
            continue
        (route,) = re.findall(r"^\[routes\.(\w+)\]$", text, re.MULTILINE)
        listener = f'[listeners.a]\nendpoint = "tcp:0"\nroute = "{route}"\n'
        whole = text if "[listeners." in text else listener + text
        found.append(load_config(whole, PurePath("/etc/g.toml"), endpoint_fault))
    return found


def test_routes() -> None:
    """Each is accepted as it stands, and its samples are messages of its format."""
    found = [route for config in configurations() for route in config.routes.values()]
    assert [route.reading.format for route in found] == ["gelf", "msgpack", "python"]
    for route in found:
        if route.samples and route.reading.format != "python":
            read = format_of(route.reading, route.fields).parse_frames(route.samples)
            assert not read.faults
            values = [value for cells in read.cells.values() for value in cells.values]
            assert Raw(b"null") not in values and None not in values


def test_the_function() -> None:
    """What is shown is Python, and reads the samples beside it."""
    (source,) = (text for text in blocks("python") if "def read" in text)
    names: dict[str, Any] = {"Mapping": Mapping, "Decimal": Decimal}
    exec(source, names)
    samples = next(c.routes["probes"].samples for c in configurations() if "probes" in c.routes)
    assert [names["read"](sample) for sample in samples] == [
        {"device": "P1", "values": {"temp": Decimal("25.1")}}
    ] * 2


def test_links() -> None:
    """What it refers to in other pages, and they in it, is there."""
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", TEXT):
        assert anchor in anchors((ROOT / "docs" / page).read_text()), (page, anchor)
    for page in ("routes.md", "commands.md"):
        text = (ROOT / "docs" / page).read_text()
        for anchor in re.findall(r"\]\(formats\.md#([\w-]+)\)", text):
            assert anchor in anchors(TEXT), (page, anchor)


def anchors(text: str) -> set[str]:
    """Those of its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
