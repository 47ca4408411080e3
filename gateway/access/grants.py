"""
Configuration of grants, section C{[access]}, and the check of identities.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

MAX_IDENTITY: Final = 255
"""Longest identity, in bytes."""


class GrantSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Grant: what some peers may do. Names may hold C{*} for anything.

    @ivar identities: identities that get the rights, proved by a certificate or a token.
    @ivar networks: networks that get the rights, in CIDR notation; C{unix} for Unix sockets. Where
        both are set, a peer must match both.
    @ivar listeners: names of the listeners at which the rights are granted.
    @ivar streams: C{{identity}} stands for the peer's identity.
    """

    identities: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ("*",)
    routes: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()


class AccessSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[access]}: grants, and the file of tokens.

    @ivar tokens: the file that C{gateway token} keeps.
    @ivar deny: identities that are refused, whatever proves them.
    """

    tokens: str | None = None
    deny: tuple[str, ...] = ()
    grants: dict[str, GrantSection] = field(default_factory=dict)


def identity_fault(identity: str) -> str | None:
    """
    Say why a text cannot be an identity; C{None} where it can.
    """
    size = len(identity.encode("utf-8", "surrogatepass"))
    if not identity:
        return "is empty"
    if size > MAX_IDENTITY:
        return f"has {size} bytes; an identity has at most {MAX_IDENTITY}"
    if not identity.isprintable():
        return "has a control character"
    return None
