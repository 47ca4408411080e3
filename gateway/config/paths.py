"""
Resolve the paths of a configuration file.

Relative paths start at the file's own folder. C{credential:NAME} is a file that systemd passes to
the service (C{LoadCredential=}, C{LoadCredentialEncrypted=}), so that the service's user need not
be able to read a secret at any time.

Pure: the value of C{$CREDENTIALS_DIRECTORY} is passed in.

@see: systemd.exec(5), "Credentials"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway.config.reader import SectionReader
from gateway.model.errors import ConfigError

CREDENTIAL: Final = "credential:"

_SECRET: Final = re.compile(
    # A URI, a conninfo, or a token: an ID and, in base64, 32 random bytes (gateway.tokens).
    r"://|password\s*=|(?<![\w-])[\w-]{8,64}\.[\w-]{43}(?![\w-])",
    re.IGNORECASE | re.ASCII,
)

_CONTROL: Final = re.compile(r"[\0-\x1f\x7f-\x9f]")

Section = TypeVar("Section", bound=Struct)


@dataclass(frozen=True, slots=True)
class ConfigPaths:
    """
    Rules by which the paths of one file are resolved.

    @ivar folder: of the configuration file.
    @ivar credentials: C{$CREDENTIALS_DIRECTORY} of systemd; C{None} where it is not set.
    """

    folder: PurePath
    credentials: PurePath | None = None

    def resolve_path(self, value: str) -> str:
        """
        Resolve one path.

        @param value: text in the file: a path or C{credential:NAME}.
        @raise ConfigError: with one line, where the path cannot be used. A value that looks like a
            secret is not shown.
        """
        if _SECRET.search(value):
            raise ConfigError(
                [
                    "names a file, and this looks like a connection string, password or token"
                    " itself (it is not shown): write it into a file of mode 0600, and name that"
                ]
            )
        if _CONTROL.search(value):
            raise ConfigError(["names a file, and this has a control character"])
        if not value.startswith(CREDENTIAL):
            return str(self.folder / value)
        name = value.removeprefix(CREDENTIAL)
        if not name or "/" in name or name in (".", ".."):
            raise ConfigError([f"{value!r}: a credential's name is that of a file, without /"])
        if self.credentials is None:
            raise ConfigError(
                [
                    f"{value!r}: $CREDENTIALS_DIRECTORY is not set: start the gateway as a service"
                    f" with LoadCredential={name}:PATH"
                ]
            )
        return str(self.credentials / name)

    def resolved(
        self, reader: SectionReader, where: str, section: Section, keys: Sequence[str]
    ) -> Section:
        """
        Return the section with the paths under C{keys} resolved; C{None} stays C{None}, and a path
        that cannot be used is noted as a problem.
        """
        for key in keys:
            value = getattr(section, key)
            if value is not None:
                try:
                    section = replace(section, **{key: self.resolve_path(value)})
                except ConfigError as error:
                    reader.note_unknown(f"{where}.{key}", str(error))
        return section
