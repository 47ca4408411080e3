"""
IP addresses, and the networks that a configuration names.

Pure: addresses come in as the reactor gives them.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address

UNIX: Final = "unix"
"""Entry for Unix sockets in a list of networks."""

SITE: Final = 64
"""
Bits of an IPv6 address that tell one customer from another (RFC 6177 section 2): whoever has
one address has all that begin alike.
"""


def network_fault(text: str) -> str | None:
    """Say what is wrong with a network as configured; C{None}: nothing."""
    if text == UNIX:
        return None
    try:
        ip_network(text)
    except ValueError as error:
        return str(error)
    return None


def address_of(host: str | None) -> Address | None:
    """
    Parse an address as the reactor gives it; return C{None} for a Unix socket.

    An IPv4 address that came through an IPv6 socket becomes one of IPv4.

    @param host: an address, maybe with an IPv6 scope; C{None} for a Unix socket.
    """
    if host is None:
        return None
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def site_of(address: Address | None) -> Address | IPv6Network | None:
    """Return the unit that limits count: an IPv4 address, or the /64 network of an IPv6 address."""
    if isinstance(address, IPv6Address):
        return IPv6Network((int(address) >> (128 - SITE) << (128 - SITE), SITE))
    return address


class Networks:
    """
    Set of networks, maybe with Unix sockets.
    """

    __slots__ = ("_four", "_six", "_unix")

    def __init__(self, networks: Iterable[str]) -> None:
        """
        @param networks: in CIDR notation (RFC 4632), or C{unix}.
        @raise ValueError: see L{network_fault}.
        """
        named = list(networks)
        self._unix = UNIX in named
        networks_named = [ip_network(text) for text in named if text != UNIX]
        self._four = [network for network in networks_named if isinstance(network, IPv4Network)]
        self._six = [network for network in networks_named if isinstance(network, IPv6Network)]

    def __bool__(self) -> bool:
        return bool(self._unix or self._four or self._six)

    def __contains__(self, address: Address | None) -> bool:
        """Say whether an address is in one of the networks; C{None} stands for a Unix socket."""
        if address is None:
            return self._unix
        if isinstance(address, IPv4Address):
            return any(address in network for network in self._four)
        return any(address in network for network in self._six)
