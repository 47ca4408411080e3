"""
Functions of the user's: found where packages are installed, and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.formats.fields import Tokens
from gateway.formats.python import PythonFormat, load_function, name_fault
from gateway.model.errors import RouteError

MODULE = """
from types import MappingProxyType

def read(frame):
    word, _, rest = frame.partition(b" ")
    match word:
        case b"value": raise ValueError("too hot")
        case b"empty": raise ValueError
        case b"key": return {}["x"]
        case b"list": return [1]
        case b"exit": raise SystemExit(3)
        case b"deep":
            return read(frame)
        case b"view": return MappingProxyType({"a": 1})
        case b"odd": return {"a": {1, 2}}
    return {"a": word, "b": {"c": rest.decode()}}

async def later(frame):
    return {}

class Reader:
    @staticmethod
    def read(frame):
        return {"a": 2}

number = 5
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a module, as a package with entry points, in a folder where Python looks."""
    before = set(sys.modules)

    def install(name: str, source: str = MODULE, **points: str) -> Path:
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{point} = {value}" for point, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[gateway.formats]", *lines, ""]))
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def read(function: str, *frames: bytes) -> tuple[dict[str, list[str]], dict[int, str]]:
    """@return: what the fields hold, and why some frames were refused."""
    found = PythonFormat(["a", "b.c"], function).parse_frames(frames)
    cells = {}
    for name, cell in found.cells.items():
        assert isinstance(cell, Tokens)
        cells[name] = [bytes(token).decode() for token in cell.values]
    return cells, {row: outcome.text for row, outcome in found.faults}


def test_fields_and_exceptions(install: Install) -> None:
    """What it returns are the fields; what it raises refuses that message alone, in its words."""
    install("device_one")
    words = [b"x y", b"value", b"empty", b"key", b"list", b"exit", b"deep", b"odd", b"view", b"z"]
    cells, faults = read("device_one:read", *words)
    nothing = ["null"] * 7
    assert cells == {
        "a": ['"\\\\x78"', *nothing, "1", '"\\\\x7a"'],
        "b.c": ['"y"', *nothing, "null", '""'],
    }
    faults[6] = faults[6][: len("RecursionError: maximum recursion depth exceeded")]
    assert faults == {
        1: "too hot",
        2: "ValueError",
        3: "KeyError: 'x'",
        4: "TypeError: the function returned list, not a mapping",
        5: "SystemExit: 3",
        6: "RecursionError: maximum recursion depth exceeded",
        7: "field 'a': a value in it is of type set, which no column takes",
    }


def test_entry_points(install: Install) -> None:
    """A package may give its function a name."""
    install("device_two", thermometer="device_two:Reader.read")
    assert load_function("thermometer")(b"") == {"a": 2}
    install("device_three", thermometer="device_three:read")
    with pytest.raises(ValueError, match="'thermometer' has several functions: device_t"):
        load_function("thermometer")
    with pytest.raises(ValueError, match=r"no .* point 'barometer' .*; there are thermometer"):
        load_function("barometer")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("device_four:later", "device_four:later is a coroutine function"),
        ("device_four:number", "device_four:number is no function"),
        ("device_four:reed", "device_four has no 'reed'"),
        ("device_four:Reader.reed", "device_four has no 'Reader.reed'"),
        (
            "device_none:read",
            "device_none cannot be imported: ModuleNotFoundError: No module named",
        ),
        ("device_bad:read", "device_bad cannot be imported: ValueError: no luck"),
        ("device", "no installed package has an entry point 'device' in the group gateway.formats"),
    ],
)
def test_functions_that_cannot_be(install: Install, function: str, why: str) -> None:
    """The operator is told why; a route that meets it is out of service, and refuses nothing."""
    install("device_four")
    install("device_bad", "raise ValueError('no luck')")
    with pytest.raises(ValueError) as caught:
        load_function(function)
    assert str(caught.value).startswith(why)
    with pytest.raises(RouteError, match=r"^its function: "):
        read(function, b"x")


def test_names() -> None:
    """A name is a place or an entry point's; whether there is one is another matter."""
    for good in ("a:b", "a.b:c.d", "thermometer", "my-device.v2"):
        assert name_fault(good) is None
    for bad in ("", "a:", ":b", "a b", "a:b:c", "a-b:c", "../x", "os;x"):
        assert name_fault(bad) is not None


@pytest.mark.parametrize("entry", ["", ".", "absolute"])
def test_the_working_directory_is_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """What lies where the gateway runs is not imported, not even as an entry point's package."""
    (tmp_path / "evil_device.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{MODULE}")
    info = tmp_path / "evil_device-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-device\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gateway.formats]\nevil = evil_device:read\n")
    monkeypatch.chdir(tmp_path)
    path = [str(tmp_path) if entry == "absolute" else entry, *sys.path]
    monkeypatch.setattr(sys, "path", path)
    for name in ("evil_device:read", "evil"):
        with pytest.raises(ValueError):
            load_function(name)
    assert sys.path == path and not (tmp_path / "ran").exists()


def test_what_was_imported_from_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that something else imported from there is not taken either."""
    package = tmp_path / "loose_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "loose.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    modules: dict[str, Any] = dict(sys.modules)
    try:
        __import__("loose_package.loose")
        with pytest.raises(ValueError, match="is in the working directory"):
            load_function("loose_package.loose:read")
    finally:
        for name in set(sys.modules) - set(modules):
            del sys.modules[name]
