"""
Access rights of a peer, by its identity, its address and its listener.

Without C{[access]} everybody may do everything. With it, what some grant gives is allowed
and all else is denied; the rights of several grants add up. The hot path pays nothing for it:
the routes a peer may use are a mapping of their own, and peers of the same grants share it.

Pure: addresses and identities come in, values come out. Identities are proved elsewhere
(by certificates, or L{gateway.access.tokens}).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from gateway.access.grants import AccessSection, GrantSection
from gateway.access.patterns import IDENTITY, Pattern
from gateway.system.addresses import Address, Networks

MAX_CACHED_RIGHTS: Final = 4096
"""Rights that are kept for peers to come: so many identities with streams of their own."""


@dataclass(frozen=True, slots=True)
class Rights:
    """
    Rights of a peer.

    @ivar routes: routes that it may PUT to: name on the wire -> name.
    """

    routes: Mapping[bytes, str]
    route_names: tuple[Pattern, ...] = ()
    queries: tuple[Pattern, ...] = ()
    channels: tuple[Pattern, ...] = ()
    streams: tuple[Pattern, ...] = ()

    def may_use_route(self, name: str) -> bool:
        """Say whether a route's name is granted; the route need not exist."""
        return any(pattern.matches(name) for pattern in self.route_names)

    def may_call(self, query: str) -> bool:
        """Say whether a query's name is granted; the query need not exist."""
        return any(pattern.matches(query) for pattern in self.queries)

    def may_listen(self, channel: str) -> bool:
        """Say whether a channel's name is granted; the channel need not exist."""
        return any(pattern.matches(channel) for pattern in self.channels)

    def may_open(self, stream: str) -> bool:
        """Say whether its messages may have numbers of this stream."""
        return any(pattern.matches(stream) for pattern in self.streams)


NOTHING: Final = Rights(MappingProxyType({}))
"""Rights of a peer that has not proved its identity yet: none."""


def all_rights(routes: Collection[str]) -> Rights:
    """
    Return the rights to everything.
    """
    anything = (Pattern.of("*"),)
    return Rights(_on_the_wire(routes), anything, anything, anything, anything)


class _Grant:
    """
    A grant with its patterns compiled.

    @ivar personal: whether its rights depend on the identity.
    """

    __slots__ = ("_identities", "_listeners", "_networks", "personal", "section")

    def __init__(self, section: GrantSection) -> None:
        self.section = section
        self.personal = any(IDENTITY in stream for stream in section.streams)
        self._identities = tuple(map(Pattern.of, section.identities))
        self._listeners = tuple(map(Pattern.of, section.listeners))
        self._networks = Networks(section.networks)

    def applies_to(self, listener: str, address: Address | None, identity: str | None) -> bool:
        """
        Say whether it is for a peer.
        """
        if not any(pattern.matches(listener) for pattern in self._listeners):
            return False
        if self.section.identities and (
            identity is None or not any(p.matches(identity) for p in self._identities)
        ):
            return False
        if not self._networks:
            # A grant without identities and networks is for nobody; the configuration refuses it.
            return bool(self.section.identities)
        return address in self._networks


class Access:
    """
    All grants, ready to be applied; made anew where the configuration changes.
    """

    def __init__(self, section: AccessSection | None, routes: Collection[str]) -> None:
        """
        @param section: C{None}: everybody may do everything.
        @param routes: all there are.
        """
        self._routes = tuple(routes)
        self._everything = all_rights(routes) if section is None else None
        self._deny = () if section is None else tuple(map(Pattern.of, section.deny))
        self._grants = () if section is None else tuple(map(_Grant, section.grants.values()))
        self._rights = lru_cache(MAX_CACHED_RIGHTS)(self._added_up)

    @property
    def is_limited(self) -> bool:
        """Whether a peer may do only what is granted to it."""
        return self._everything is None

    def rights(self, listener: str, address: Address | None, identity: str | None) -> Rights | None:
        """
        Return a peer's rights; the same object for all peers with the same rights.

        @param listener: name of the listener.
        @param address: C{None}: the peer came through a Unix socket.
        @param identity: C{None}: it has proved none.
        @return: C{None}: no rights at all.
        """
        if self._everything is not None:
            return self._everything
        if identity is not None and self.refuses(identity):
            return None
        holding = tuple(
            grant for grant in self._grants if grant.applies_to(listener, address, identity)
        )
        if not holding:
            return None
        own = any(grant.personal for grant in holding)
        return self._rights(holding, identity if own else None)

    def refuses(self, identity: str) -> bool:
        """
        Say whether an identity is on the list of those that are denied, whatever proves it.
        """
        return any(pattern.matches(identity) for pattern in self._deny)

    def _added_up(self, grants: tuple[_Grant, ...], identity: str | None) -> Rights:
        names = _patterns(word for grant in grants for word in grant.section.routes)
        personal = (
            Pattern.personal(word, identity) for grant in grants for word in grant.section.streams
        )
        return Rights(
            _on_the_wire(
                route for route in self._routes if any(name.matches(route) for name in names)
            ),
            names,
            _patterns(word for grant in grants for word in grant.section.queries),
            _patterns(word for grant in grants for word in grant.section.channels),
            tuple(dict.fromkeys(pattern for pattern in personal if pattern is not None)),
        )


def _patterns(words: Iterable[str]) -> tuple[Pattern, ...]:
    return tuple(Pattern.of(word) for word in dict.fromkeys(words))


def _on_the_wire(routes: Iterable[str]) -> Mapping[bytes, str]:
    return MappingProxyType({route.encode(): route for route in routes})
