"""
Keys of C{[channels]}: the channels that peers may LISTEN to, and the size of a peer's push buffer.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta, Struct

from gateway.config.reader import SectionReader
from gateway.config.units import IN_BYTES

MAX_NAME: Final = 63
"""Longest name of a channel, in bytes; PostgreSQL refuses longer ones (C{NAMEDATALEN})."""

_SPACES: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


class ChannelsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[channels]}: LISTEN/NOTIFY for peers.

    @ivar allow: channels that peers may listen to, each exactly as PostgreSQL has it.
    @ivar push_buffer: bytes of pushes that may wait for one peer. A notification has up to 8000.
    @ivar dsn: connection string for LISTEN, if not C{database.dsn}: a pooler that shares sessions
        has no LISTEN.
    @ivar dsn_file: file that holds it instead; C{credential:NAME} for a systemd credential.
    """

    allow: tuple[str, ...] = ()
    push_buffer: Annotated[int, Meta(ge=16384, extra=IN_BYTES)] = 262144
    dsn: str | None = None
    dsn_file: str | None = None

    @property
    def dsn_key(self) -> str:
        """Name of the key that gives the connection string for LISTEN."""
        return "channels.dsn" if self.dsn_file is None else "channels.dsn_file"


def check_channels(reader: SectionReader, section: ChannelsSection) -> None:
    """
    Check the names of the channels and the connection string, and note the problems.
    """
    where = "channels.allow"
    for number, name in enumerate(section.allow):
        size = len(name.encode("utf-8", "surrogatepass"))
        if not name:
            reader.note(where, "a channel has a name; remove ''")
        elif size > MAX_NAME:
            reader.note(where, f"{name!r} has {size} bytes; PostgreSQL takes at most {MAX_NAME}")
        elif _SPACES.search(name):
            reader.note(
                where,
                f"{name!r} has a space or control character, which LISTEN and a push cannot say",
            )
        elif name.startswith("!"):
            reader.note(where, f"{name!r}: a push whose channel begins with ! is the gateway's own")
        elif name in section.allow[:number]:
            reader.note(where, f"{name!r} is there twice; remove one")
    if section.dsn is not None and section.dsn_file is not None:
        reader.note_unknown("channels.dsn_file", "channels.dsn is there too; leave one of them out")
    if section.dsn == "embedded":
        reader.note_unknown("channels.dsn", "names a server; without it database.dsn is used")
