"""
The keys of C{[access]}: who may do what.

Without the section everybody who gets in may do everything; with it, only what a grant
allows.
"""

from __future__ import annotations

from msgspec import Struct, field


class GrantSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What some peers may do. Names may hold C{*} for anything.

    @ivar identities: who proved to be one of these, by a certificate or a token.
    @ivar networks: who comes from one of these, in CIDR notation; C{unix} for Unix sockets.
        With both, both must be so.
    @ivar listeners: where the grant holds.
    @ivar streams: C{{identity}} stands for who the peer proved to be.
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
    Who may do what.

    @ivar tokens: the file that C{gateway token} keeps.
    @ivar deny: identities that are refused, whatever proves them.
    """

    tokens: str | None = None
    deny: tuple[str, ...] = ()
    grants: dict[str, GrantSection] = field(default_factory=dict)
