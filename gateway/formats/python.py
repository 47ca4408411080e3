"""
Functions of the user's: bytes of a message in, a mapping of its fields out.

For what a device says that nobody else does. The function runs where the messages are read, in the
reactor's thread, once or more often for each message, and holds up everything else meanwhile.
An exception refuses its message alone.

Only what is installed is imported: while a function is looked up, the working directory is no
part of the path on which Python finds modules, as whoever can write there must not run code.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from gateway.formats.fields import Fields
from gateway.formats.objects import ObjectReader
from gateway.model.errors import RouteError

GROUP: Final = "gateway.formats"
"""Entry point group of functions that packages offer."""

MessageFunction = Callable[[bytes], Mapping[str, object]]

_DOTTED: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PLACE: Final = re.compile(rf"{_DOTTED}:{_DOTTED}")
_ENTRY: Final = re.compile(r"[\w.-]+")


def name_fault(function: str) -> str | None:
    """
    Say why a name is that of no function, without a look at what is installed.
    """
    if _PLACE.fullmatch(function) or _ENTRY.fullmatch(function):
        return None
    return f"{function!r} is neither package.module:name nor the name of an entry point"


def load_function(name: str) -> MessageFunction:
    """
    Import a function.

    @param name: C{package.module:name}, or an entry point of L{GROUP}.
    @raise ValueError: there is none, or it cannot be imported.
    """
    with _installed_only():
        place = name if ":" in name else _entry_point(name)
        module, _, path = place.partition(":")
        try:
            found: Any = import_module(module)
        except Exception as error:  # noqa: BLE001 - the module is the user's and may raise anything
            raise ValueError(f"{module} cannot be imported: {_words(error, always=True)}") from None
        origin = getattr(found, "__file__", None)
        if origin is not None and _is_here(Path(origin).parent, module, found):
            raise ValueError(f"{module} is in the working directory; install its package")
        for part in path.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise ValueError(f"{module} has no {path!r}") from None
    if not callable(found):
        raise ValueError(f"{place} is no function")
    if inspect.iscoroutinefunction(found):
        raise ValueError(f"{place} is a coroutine function; it must return the mapping itself")
    function: MessageFunction = found
    return function


class PythonFormat:
    """
    Reader of messages by a function of the user's.
    """

    def __init__(self, fields: Sequence[str], function: str) -> None:
        """
        @param fields: names or dotted paths.
        @param function: name of the function, which is imported when the first message is there.
        """
        self._reader = ObjectReader(fields)
        self._name = function
        self._function: MessageFunction | None = None

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        """
        Read the fields of one or more frames.

        @raise RouteError: the function cannot be imported.
        """
        function = self._function
        if function is None:
            try:
                function = self._function = load_function(self._name)
            except ValueError as error:
                raise RouteError(f"its function: {error}") from None
        faults: dict[int, str] = {}
        rows: list[Any] = []
        for number, frame in enumerate(frames):
            try:
                row = function(frame)
                rows.append(row if type(row) is dict else _checked(row))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises
                rows.append(None)
                faults[number] = _words(error)
        return self._reader.read(rows, faults)


def _checked(row: object) -> Mapping[str, object]:
    if isinstance(row, Mapping):
        return dict(row)
    raise TypeError(f"the function returned {type(row).__name__}, not a mapping")


def _words(error: BaseException, always: bool = False) -> str:
    """
    Return the text of an exception; with the name of its class, where that says what the text does
    not.
    """
    text = str(error)
    if type(error) is ValueError and text and not always:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _entry_point(name: str) -> str:
    found = sorted({point.value for point in entry_points(group=GROUP, name=name)})
    if not found:
        known = ", ".join(sorted({point.name for point in entry_points(group=GROUP)}))
        raise ValueError(
            f"no installed package has an entry point {name!r} in the group {GROUP};"
            f" there {'are ' + known if known else 'is none'}"
        )
    if len(found) > 1:
        raise ValueError(f"the entry point {name!r} has several functions: {', '.join(found)}")
    # What an entry point may have behind its object are extras.
    return found[0].partition("[")[0].strip()


@contextmanager
def _installed_only() -> Iterator[None]:
    """
    Leave the working directory out of the path on which modules are found.
    """
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if not _is_working_directory(entry)]
    try:
        yield
    finally:
        sys.path[:] = before


def _is_working_directory(folder: str | Path) -> bool:
    try:
        return Path(folder).samefile(os.curdir)
    except OSError:
        return False


def _is_here(folder: Path, name: str, module: object) -> bool:
    """
    Say whether a module that was imported before was found in the working directory.

    @param folder: of its file.
    """
    for _ in range(name.count(".") + hasattr(module, "__path__")):
        folder = folder.parent
    return _is_working_directory(folder)
