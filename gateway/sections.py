"""
Sections of a configuration file: TOML tables -> structs, all problems collected.

The structs are msgspec's, so that a key exists in one place, with its type and its
default. Each key is converted on its own; a wrong one is noted with the file, the
key and what was meant, and the rest is still looked at.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

Section = TypeVar("Section", bound=Struct)


def is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def meant(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(text: str) -> str:
    """
    Text from a file as it may be shown: with the escapes of Python for control characters, so
    that it can neither begin a line nor change a terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Reader:
    """
    Collects problems while it converts.
    """

    def __init__(self, path: str) -> None:
        self.problems: list[str] = []
        self._path = path

    def note(self, key: str, text: str) -> None:
        self.problems.append(f"{self._path}: {one_line(key)}: {one_line(text)}")

    def known(self, where: str, table: Mapping[str, Any], keys: Any) -> None:
        """
        Note every key that is not one of C{keys}.
        """
        for key in table:
            if key not in keys:
                self.note(f"{where}.{key}" if where else key, f"unknown key{meant(key, keys)}")

    def section(self, where: str, table: Any, kind: type[Section]) -> Section | None:
        """
        @return: the section, C{None} where a problem was noted.
        """
        if not is_table(table):
            self.note(where, f"must be a table: [{where}]")
            return None
        before = len(self.problems)
        fields = {f.name: f for f in msgspec.structs.fields(kind)}
        self.known(where, table, fields)
        for key, value in table.items():
            if key in fields:
                inner = _inner(fields[key].type)
                if inner is not None:
                    self._nested(f"{where}.{key}", value, inner)
                    continue
                try:
                    msgspec.convert(value, fields[key].type)
                except msgspec.ValidationError as error:
                    self.note(f"{where}.{key}", _plain(str(error), value, fields[key].type))
        for key, info in fields.items():
            if info.required and key not in table:
                self.note(f"{where}.{key}", "is missing")
        if len(self.problems) > before:
            return None
        return msgspec.convert(table, kind)

    def _nested(self, where: str, value: Any, inner: tuple[type[Struct], bool]) -> None:
        """
        Note the problems of a section in a section.
        """
        kind, named = inner
        if named:
            self.sections(where, value, kind)
        else:
            self.section(where, value, kind)

    def sections(self, where: str, tables: Any, kind: type[Section]) -> dict[str, Section]:
        """
        Named sections, those that have no problem.
        """
        if not is_table(tables):
            self.note(where, f"must be tables: [{where}.NAME]")
            return {}
        found = {}
        for name, table in tables.items():
            if not name.isprintable():
                # The log and the answers of commands show it.
                self.note(f"{where}.{name}", "a name has no control characters")
                continue
            section = self.section(f"{where}.{name}", table, kind)
            if section is not None:
                found[name] = section
        return found


def _inner(wanted: Any) -> tuple[type[Struct], bool] | None:
    """
    @return: of which section the key's type is, and whether of any number with names.
    """
    for choice in (wanted, *get_args(wanted)):
        if isinstance(choice, type) and issubclass(choice, Struct):
            return choice, get_origin(wanted) is dict
    return None


_TYPES: Final = {
    "`str`": "a string",
    "`int`": "a whole number",
    "`float`": "a number",
    "`bool`": "true or false",
    "`object`": "a table",
    "`array`": "a list",
}


def _plain(text: str, value: object, wanted: Any) -> str:
    """
    msgspec's words in those of TOML.
    """
    if get_origin(wanted) is Literal and isinstance(value, str):
        choices = get_args(wanted)
        return f"{value!r} is not one of {', '.join(choices)}{meant(value, choices)}"
    text = text.replace(" | null`", "`")
    for name, words in _TYPES.items():
        text = text.replace(name, words)
    return text[:1].lower() + text[1:]
