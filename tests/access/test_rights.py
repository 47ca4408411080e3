"""
Grants: who may do what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.grants import AccessSection, GrantSection
from gateway.access.patterns import Pattern
from gateway.access.rights import Access, all_rights
from gateway.config.access import check_access
from gateway.config.reader import SectionReader
from gateway.system.addresses import address_of

ROUTES = ["messages", "readings", "orders"]
QUERIES = ["last", "totals"]
CHANNELS = ["news"]

NEAR = ip_address("10.1.2.3")
FAR = ip_address("203.0.113.9")


def access(**grants: GrantSection) -> Access:
    return Access(AccessSection(grants=grants), ROUTES)


NAMES = st.text("ab*{}/é", max_size=12)


@given(st.text("ab*", max_size=6), st.text("ab*\n", max_size=10))
def test_patterns_match_as_a_regular_expression_would(pattern: str, name: str) -> None:
    """An asterisk is anything, all else is itself."""
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert Pattern.of(pattern).matches(name) == bool(re.fullmatch(expression, name, re.DOTALL))


@given(NAMES, NAMES, NAMES)
def test_an_identity_is_no_pattern(identity: str, stream: str, other: str) -> None:
    """What stands for the identity matches that alone, whatever characters it is made of."""
    rights = access(
        all=GrantSection(identities=("*",), streams=("{identity}", "x/{identity}/*"))
    ).rights("lines", NEAR, identity)
    assert rights is not None
    assert rights.may_open(identity)
    assert rights.may_open(f"x/{identity}/{stream}")
    assert rights.may_open(other) == (other == identity or other.startswith(f"x/{identity}/"))


def test_a_pattern_costs_no_more_than_it_is_long() -> None:
    """A name that a peer made up for it does not make a pattern of many parts slow."""
    assert not Pattern.of("a*" * 40 + "b").matches("a" * 5000)


def test_without_the_section_everything_is_allowed() -> None:
    """To everybody, and what does not exist is not denied but unknown."""
    rights = Access(None, ROUTES).rights("lines", None, None)
    assert rights == all_rights(ROUTES)
    assert rights is not None
    assert dict(rights.routes) == {name.encode(): name for name in ROUTES}
    assert rights.may_use_route("nowhere")
    assert rights.may_call("x") and rights.may_listen("x") and rights.may_open("x")


def test_with_it_what_is_not_granted_is_denied() -> None:
    """Nobody has rights by himself."""
    granted = access(a=GrantSection(networks=("10.0.0.0/8",), routes=("messages",)))
    assert granted.rights("lines", FAR, "anybody") is None
    rights = granted.rights("lines", NEAR, None)
    assert rights is not None
    assert dict(rights.routes) == {b"messages": "messages"}
    assert rights.may_use_route("messages") and not rights.may_use_route("readings")
    assert not (rights.may_call("last") or rights.may_listen("news") or rights.may_open("s"))


@pytest.mark.parametrize(
    ("grant", "listener", "address", "identity", "holds"),
    [
        (GrantSection(identities=("till-*",)), "lines", FAR, "till-3", True),
        (GrantSection(identities=("till-*",)), "lines", FAR, "shop", False),
        (GrantSection(identities=("*",)), "lines", NEAR, None, False),
        (GrantSection(networks=("10.0.0.0/8",)), "lines", NEAR, None, True),
        (GrantSection(networks=("10.0.0.0/8",)), "lines", address_of("::ffff:10.9.9.9"), "x", True),
        (GrantSection(networks=("10.0.0.0/8",)), "lines", None, "x", False),
        (GrantSection(networks=("unix",)), "lines", None, None, True),
        (GrantSection(networks=("unix",)), "lines", NEAR, None, False),
        (GrantSection(networks=("2001:db8::/32",)), "lines", ip_address("2001:db8::1"), None, True),
        (GrantSection(identities=("a",), networks=("10.0.0.0/8",)), "lines", NEAR, "a", True),
        (GrantSection(identities=("a",), networks=("10.0.0.0/8",)), "lines", FAR, "a", False),
        (GrantSection(identities=("a",), networks=("10.0.0.0/8",)), "lines", NEAR, "b", False),
        (GrantSection(identities=("*",), listeners=("tls-*",)), "tls-1", FAR, "a", True),
        (GrantSection(identities=("*",), listeners=("tls-*",)), "lines", FAR, "a", False),
        (GrantSection(), "lines", NEAR, "a", False),
    ],
)
def test_whom_a_grant_is_for(
    grant: GrantSection, listener: str, address: Any, identity: str | None, holds: bool
) -> None:
    """Identity, network and listener must all fit; those that are not named do."""
    assert (access(a=grant).rights(listener, address, identity) is not None) == holds


GRANTS = st.builds(
    GrantSection,
    identities=st.lists(st.sampled_from(["a", "b", "*"]), max_size=2).map(tuple),
    networks=st.lists(st.sampled_from(["10.0.0.0/8", "0.0.0.0/0", "unix"]), max_size=2).map(tuple),
    routes=st.lists(st.sampled_from([*ROUTES, "*", "r*"]), max_size=2).map(tuple),
    queries=st.lists(st.sampled_from([*QUERIES, "*"]), max_size=2).map(tuple),
    channels=st.lists(st.sampled_from([*CHANNELS, "n*"]), max_size=2).map(tuple),
    streams=st.lists(st.sampled_from(["{identity}", "{identity}-*", "s*"]), max_size=2).map(tuple),
)


@given(
    st.lists(GRANTS, max_size=4),
    st.sampled_from([NEAR, FAR, None]),
    st.sampled_from(["a", "b", None]),
)
def test_grants_add_up(grants: list[GrantSection], address: Any, identity: str | None) -> None:
    """All grants together allow what one of them alone allows, and nothing else."""
    alone = [access(one=grant).rights("lines", address, identity) for grant in grants]
    together = access(**{f"g{n}": grant for n, grant in enumerate(grants)}).rights(
        "lines", address, identity
    )
    assert (together is not None) == any(one is not None for one in alone)
    for one in (each for each in alone if each is not None):
        assert together is not None
        assert set(one.routes.items()) <= set(together.routes.items())
    if together is not None:
        some = [each for each in alone if each is not None]
        for route in ROUTES:
            allowed = any(route.encode() in each.routes for each in some)
            assert (route.encode() in together.routes) == allowed == together.may_use_route(route)
        for name in ("last", "totals", "news", "a", "b", "a-1", "b-1", "s", "x"):
            assert together.may_call(name) == any(each.may_call(name) for each in some)
            assert together.may_listen(name) == any(each.may_listen(name) for each in some)
            assert together.may_open(name) == any(each.may_open(name) for each in some)


def test_rights_are_shared() -> None:
    """Peers that may do the same have one object, unless streams are named after them."""
    shared = access(all=GrantSection(identities=("*",), routes=("*",)))
    assert shared.rights("lines", NEAR, "a") is shared.rights("tls", FAR, "b")
    own = access(all=GrantSection(identities=("*",), streams=("{identity}",)))
    assert own.rights("lines", NEAR, "a") is own.rights("lines", FAR, "a")
    assert own.rights("lines", NEAR, "a") is not own.rights("lines", NEAR, "b")


def test_identities_on_the_list_are_refused() -> None:
    """Whatever grants there are, and however they proved it; others are not."""
    grants = {"all": GrantSection(identities=("*",), networks=(), routes=("*",))}
    listed = Access(AccessSection(deny=("old-*", "b"), grants=grants), ROUTES)
    assert [listed.refuses(name) for name in ("old-1", "b", "older", "bb")] == [
        *(True, True, False, False)
    ]
    assert listed.rights("lines", NEAR, "b") is None
    assert listed.rights("lines", NEAR, "a") is not None


@dataclass
class _Listener:
    asks_token: bool = False
    tls: Any = None


@dataclass
class _Tls:
    client_ca: str | None = None


def problems(section: AccessSection | None, **listeners: _Listener) -> list[str]:
    reader = SectionReader("f")
    check_access(reader, section, listeners or {"lines": _Listener()}, ROUTES, QUERIES, CHANNELS)
    return reader.problems


GOOD = GrantSection(networks=("10.0.0.0/8", "unix"), routes=("messages",))


@pytest.mark.parametrize(
    ("grant", "said"),
    [
        (GrantSection(routes=("*",)), "says nobody: it needs identities, networks or both"),
        (GrantSection(networks=("10.0.0.1/8",), routes=("*",)), "10.0.0.1/8 has host bits set"),
        (GrantSection(networks=("lan",), routes=("*",)), "'lan' does not appear"),
        (GrantSection(identities=("",), routes=("*",)), "'' is empty"),
        (GrantSection(identities=("a\n",), routes=("*",)), "has a control character"),
        (GrantSection(identities=("a" * 256,), routes=("*",)), "has 256 bytes"),
        (GrantSection(identities=("a",)), "grants nothing"),
        (GrantSection(identities=("a",), routes=("mesages",)), "did you mean 'messages'?"),
        (GrantSection(identities=("a",), routes=("{identity}",)), "only streams are named"),
        (GrantSection(identities=("a",), queries=("lst",)), "no query 'lst'; did you mean 'last'?"),
        (GrantSection(identities=("a",), channels=("x",)), "no channel 'x'; there are news"),
        (GrantSection(identities=("a",), routes=("*",), listeners=("line",)), "mean 'lines'?"),
        (GrantSection(identities=("a",), routes=("*",), listeners=()), "holds nowhere"),
        (GrantSection(identities=("a",), streams=("",)), "a stream has a name"),
        (GrantSection(identities=("a",), streams=("a b",)), "which no stream has"),
        (GrantSection(identities=("a",), streams=("{peer}",)), "is {identity}"),
    ],
)
def test_problems_of_a_grant_are_named(grant: GrantSection, said: str) -> None:
    """Each with the grant and the key, and what is right with the others is not held up."""
    (problem,) = problems(AccessSection(grants={"good": GOOD, "bad": grant}))
    assert problem.startswith("f: access.grants.bad")
    assert said in problem


def test_patterns_need_not_match_anything_yet() -> None:
    """What has an asterisk may be for things to come."""
    grant = GrantSection(identities=("*",), routes=("new-*",), channels=("x*",), queries=("*",))
    assert problems(AccessSection(grants={"a": grant})) == []


def test_problems_of_the_section_are_named() -> None:
    """No grant at all, denying nobody, and a token asked for that nothing can be held against."""
    assert "so nobody may do anything" in problems(AccessSection())[0]
    (problem,) = problems(AccessSection(deny=("",), grants={"a": GOOD}))
    assert problem.startswith("f: access.deny: ''")
    asks = _Listener(asks_token=True)
    for section in (None, AccessSection(grants={"a": GOOD})):
        (problem,) = problems(section, lines=asks)
        assert problem.startswith("f: listeners.lines.auth: asks for a token")
    assert problems(AccessSection(tokens="t", grants={"a": GOOD}), lines=asks) == []
    by_certificate = _Listener(asks_token=True, tls=_Tls("ca.pem"))
    assert problems(None, lines=by_certificate) == []
    assert len(problems(None, lines=_Listener(asks_token=True, tls=_Tls()))) == 1
