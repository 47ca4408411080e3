"""
Hosts that a request may name.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.system.addresses import address_of
from gateway.web.hosts import OwnHosts, host_of

HOSTS = OwnHosts(["Box.example.org"])


@pytest.mark.parametrize(
    "header",
    [
        *("localhost", "localhost:8009", "LOCALHOST.", "app.localhost:8009", "127.0.0.1:8009"),
        *("127.0.0.2", "[::1]:8009", "[::1]", "box", "box.example.org:1", "BOX.example.org."),
        *("127.0.0.1:", "[::ffff:127.0.0.1]:8009"),
    ],
)
def test_ours(header: str) -> None:
    """What came by the loopback interface may name it, or this machine."""
    assert HOSTS.is_ours(header, address_of("127.0.0.1"))


@pytest.mark.parametrize(
    "header",
    [
        *("evil.example", "evil.example:8009", "localhost.evil.example", "notlocalhost", "", ":1"),
        *("192.0.2.1", "0.0.0.0:8009", "[::1", "[::1]x", "127.0.0.1:x", "127.0.0.1:1:2", "[]"),
        *("box.example.org.evil.example", "127.0.0.1.evil.example", "user@localhost", "loc alhost"),
    ],
)
def test_not_ours(header: str) -> None:
    """Any other name, as a page has that has its own name resolve to 127.0.0.1, is refused."""
    assert not HOSTS.is_ours(header, address_of("127.0.0.1"))
    assert not HOSTS.is_ours(header, address_of("::1"))


def test_from_a_network() -> None:
    """Whoever reached another address of the machine, or a Unix socket, may do so by any name."""
    for local in (address_of("192.0.2.1"), address_of("2001:db8::1"), None):
        assert HOSTS.is_ours("gateway.example.org", local)


@given(st.text(max_size=30))
def test_any_header(header: str) -> None:
    """No header does more than be refused."""
    HOSTS.is_ours(header, address_of("127.0.0.1"))
    assert host_of(header) != ""
