"""
Places: where the paths of a configuration file lead.

Relative ones start at the file's own folder. C{credential:NAME} is a file that systemd
hands to the service (C{LoadCredential=}, C{LoadCredentialEncrypted=}), so that a secret
need not lie where the service's user could read it at any time.

Pure: what C{$CREDENTIALS_DIRECTORY} says comes in.

@see: systemd.exec(5), "Credentials"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import ConfigError
from gateway.sections import Reader

CREDENTIAL: Final = "credential:"

Section = TypeVar("Section", bound=Struct)


@dataclass(frozen=True, slots=True)
class Places:
    """
    @ivar folder: of the configuration file.
    @ivar credentials: where systemd has put the service's; C{None}: nowhere.
    """

    folder: PurePath
    credentials: PurePath | None = None

    def path(self, value: str) -> str:
        """
        @param value: as in the file: a path or C{credential:NAME}.
        @raise ConfigError: with one line, where it leads nowhere.
        """
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
        self, reader: Reader, where: str, section: Section, keys: Sequence[str]
    ) -> Section:
        """
        The section with the paths under these keys as they can be opened; those that are
        C{None} stay so, those that lead nowhere are noted.
        """
        for key in keys:
            value = getattr(section, key)
            if value is not None:
                try:
                    section = replace(section, **{key: self.path(value)})
                except ConfigError as error:
                    reader.note(f"{where}.{key}", str(error))
        return section
