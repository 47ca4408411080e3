"""
Networks: the addresses meant, and no others.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.system.addresses import Networks, address_of, network_fault, site_of


@given(st.ip_addresses())
def test_an_address_is_in_its_own_network_alone(address: object) -> None:
    """The network of one address has that one; none has none."""
    there = address_of(str(address))
    assert there in Networks([str(there)])
    assert there not in Networks([])
    assert there in Networks(["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize(
    ("address", "network", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("2001:db8::7", "2001:db8::/32", True),
        ("2001:db9::7", "2001:db8::/32", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("fe80::1%eth0", "fe80::/10", True),
        ("10.1.2.3", "unix", False),
        (None, "unix", True),
        (None, "0.0.0.0/0", False),
    ],
)
def test_families(address: str | None, network: str, inside: bool) -> None:
    """An IPv4 address that came through IPv6 is one of IPv4; a Unix socket has no address."""
    assert (address_of(address) in Networks([network])) is inside


@pytest.mark.parametrize("network", ["10.0.0.0/33", "10.0.0.1/8", "localhost", "", "unix:", "::g"])
def test_what_is_no_network(network: str) -> None:
    """A network that cannot be meant has a fault in words; one with host bits set too."""
    assert network_fault(network)


def test_limits_for_an_address_hold_for_its_site() -> None:
    """All addresses of one IPv6 /64 count as one, those of IPv4 each for itself."""
    one, two, other = map(address_of, ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"))
    assert site_of(one) == site_of(two) != site_of(other)
    assert site_of(address_of("10.0.0.1")) != site_of(address_of("10.0.0.2"))
    assert site_of(None) is None
