"""
Put values of the environment into the strings of a configuration: C{${NAME}}, C{${NAME:-default}}.

Strategy: after TOML is parsed and before types are judged, so that a value can neither end a string
nor begin a table, and is then judged like one that was written there. Only what has the form of a
reference is one: regular expressions and SQL keep their dollars.

Pure: the environment is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.config.reader import SectionReader

_REFERENCE: Final = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}", re.ASCII)

_FORM: Final = "is a variable's name, or NAME:-DEFAULT; for a dollar and a brace write $${"

_UNREADABLE: Final = re.compile(r"(?<!\$)\$\{([^}]*)(\}?)")
"""What begins as a reference and is none."""


class Variables:
    """
    Replaces references to variables in tables.
    """

    def __init__(self, environment: Mapping[str, str], reader: SectionReader) -> None:
        """
        @param reader: is told of problems, and of the values that it must not show.
        """
        self._environment = environment
        self._reader = reader

    def replaced(self, where: str, value: Any) -> Any:
        """
        Return a value of the file with all references in it replaced. Keys are left as they are.

        @param where: its key, with those of its tables.
        """
        if isinstance(value, str):
            return self._text(where, value)
        if isinstance(value, Mapping):
            prefix = f"{where}." if where else ""
            return {key: self.replaced(f"{prefix}{key}", each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.replaced(where, each) for each in value]
        return value

    def _text(self, where: str, text: str) -> str:
        if "${" not in text:
            return text
        # Judged as it is written: values of variables may hold anything.
        for odd in _UNREADABLE.finditer(text):
            if not _REFERENCE.match(odd[0]):
                self._reader.note_unknown(
                    where, f"'${{' without a name: between the braces {_FORM}"
                )
                return ""

        def value_of(found: re.Match[str]) -> str:
            escaped, name, has_default, default = found.groups()
            if escaped:
                return found[0][1:]
            value = self._environment.get(name)
            if has_default and not value:
                return str(default)
            if value is None:
                self._reader.note_unknown(
                    where,
                    f"${{{name}}}: the environment has no {name}; set it, or write"
                    f" ${{{name}:-DEFAULT}}",
                )
                return ""
            self._reader.hide(value, f"${{{name}}}")
            return value

        return _REFERENCE.sub(value_of, text)
