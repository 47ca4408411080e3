"""
Read sections of a configuration file: TOML tables -> structs, all problems collected.

The structs are msgspec's, so that a key exists in one place, with its type and its default. Each
key is converted on its own; a wrong one is noted with the file, the key and what is expected, and
the rest of the section is still checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

from gateway.config.units import UNIT, Quantity
from gateway.model.text import closest, meant, printable

Section = TypeVar("Section", bound=Struct)


SHORTEST_HIDDEN: Final = 4
"""Characters of a value that is hidden: shorter ones are parts of any word, and no secrets."""


def is_table(value: object) -> bool:
    return isinstance(value, Mapping)


class SectionReader:
    """
    Reader of sections that collects problems while it converts.

    A key that cannot be read is reported once, since problems that follow from it are noise: later
    notes about the same key are dropped, and a check that depends on other keys asks L{is_sure}
    about them first.
    """

    def __init__(self, path: str) -> None:
        self.problems: list[str] = []
        self._path = path
        self._unread: set[str] = set()
        self._hidden: dict[str, str] = {}

    def hide(self, value: str, name: str) -> None:
        """
        Show C{name} where a problem would show a value of the environment, which may be a secret.
        """
        if len(value) >= SHORTEST_HIDDEN:
            self._hidden[value] = name
            # As problems quote it.
            self._hidden[repr(value)[1:-1]] = name

    def note(self, key: str, text: str) -> None:
        """
        Note a problem.

        @param key: if its value is unknown (see L{is_sure}), the note is dropped.
        """
        # The longest first: one may be a part of another.
        for value, name in sorted(self._hidden.items(), key=lambda item: -len(item[0])):
            text = text.replace(value, name)
        problem = f"{self._path}: {printable(key)}: {printable(text)}"
        if key not in self._unread and problem not in self.problems:
            self.problems.append(problem)

    def note_unknown(self, key: str, text: str) -> None:
        """
        Note a problem that leaves a key's value unknown.
        """
        self.note(key, text)
        self._unread.add(key)

    def is_sure(self, *keys: str) -> bool:
        """
        Say whether the values of these keys, or their absence, are known.
        """
        return self._unread.isdisjoint(keys)

    def is_sure_within(self, where: str) -> bool:
        """
        Say whether the values of all keys in a section, and in the sections in it, are known.
        """
        inside = f"{where}."
        return where not in self._unread and not any(k.startswith(inside) for k in self._unread)

    def check_keys(self, where: str, table: Mapping[str, Any], keys: Any) -> None:
        """
        Note every key that is not one of C{keys}.
        """
        prefix = f"{where}." if where else ""
        for key in table:
            if key not in keys:
                self.note(f"{prefix}{key}", f"unknown key{meant(key, keys)}")
                if (near := closest(key, keys)) and near not in table:
                    # One typing error: that the right key is missing is no second problem.
                    self._unread.add(f"{prefix}{near}")

    def section(self, where: str, table: Any, kind: type[Section]) -> Section | None:
        """
        Convert a table to a struct; C{None} where it is no table. A key with a problem gets its
        default, or an empty string if it has none, so that the rest can be checked.
        """
        if not is_table(table):
            self.note_unknown(where, f"must be a table: [{where}]")
            return None
        fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
        self.check_keys(where, table, fields)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key in fields:
                inner = _inner(fields[key].type)
                if inner is not None:
                    nested = self._nested(f"{where}.{key}", value, inner)
                    if nested is not None:
                        values[fields[key].name] = nested
                    continue
                try:
                    values[fields[key].name] = _converted(value, fields[key].type)
                except ValueError as error:
                    self.note_unknown(f"{where}.{key}", str(error))
        for key, info in fields.items():
            if info.required and info.name not in values:
                self.note_unknown(f"{where}.{key}", "is missing")
                values[info.name] = ""
        return kind(**values)

    def _nested(
        self, where: str, value: Any, inner: tuple[type[Struct], bool]
    ) -> Struct | dict[str, Struct] | None:
        """
        Convert a section in a section.
        """
        kind, named = inner
        return self.sections(where, value, kind) if named else self.section(where, value, kind)

    def sections(self, where: str, tables: Any, kind: type[Section]) -> dict[str, Section]:
        """
        Convert a table of named sections; those that are no tables are left out.
        """
        if not is_table(tables):
            self.note_unknown(where, f"must be tables: [{where}.NAME]")
            return {}
        sections_read = {}
        for name, table in tables.items():
            if not name.isprintable():
                # The log and the answers of commands show it.
                self.note(f"{where}.{name}", "a name has no control characters")
            section = self.section(f"{where}.{name}", table, kind)
            if section is not None:
                sections_read[name] = section
        return sections_read


def _inner(wanted: Any) -> tuple[type[Struct], bool] | None:
    """
    Return the struct in a key's type, and whether the key holds any number of them by name; else
    C{None}.
    """
    for choice in (wanted, *get_args(wanted)):
        if isinstance(choice, type) and issubclass(choice, Struct):
            return choice, get_origin(wanted) is dict
    return None


def unit_of(wanted: Any) -> Quantity | None:
    """
    Return the unit kind of a key's values.

    @param wanted: the key's type.
    @return: C{None} where the values have no unit.
    """
    for choice in (wanted, *get_args(wanted)):
        for meta in getattr(choice, "__metadata__", ()):
            if isinstance(meta, msgspec.Meta) and meta.extra and UNIT in meta.extra:
                unit: Quantity = meta.extra[UNIT]
                return unit
    return None


def _converted(value: Any, wanted: Any) -> Any:
    """
    Convert a value to the type of its key.

    @raise ValueError: it does not fit; the text continues a line that begins with the key.
    """
    unit = unit_of(wanted)
    if unit is not None and isinstance(value, str):
        value = unit.from_text(value)
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise ValueError(_plain_error(str(error), value, wanted)) from None


_TYPE_NAMES: Final = {
    "`str`": "a string",
    "`int`": "a whole number",
    "`float`": "a number",
    "`bool`": "true or false",
    "`object`": "a table",
    "`array`": "a list",
}


def _plain_error(text: str, value: object, wanted: Any) -> str:
    """
    Rewrite an error of msgspec in the words of TOML.
    """
    choices = [
        choice
        for part in (wanted, *get_args(wanted))
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]
    if choices and isinstance(value, str):
        return f"{value!r} is not one of {', '.join(choices)}{meant(value, choices)}"
    text = text.replace(" | null`", "`")
    for name, words in _TYPE_NAMES.items():
        text = text.replace(name, words)
    return text[:1].lower() + text[1:]
