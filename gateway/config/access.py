"""
Check of C{[access]}: who may do what.

Without the section every admitted peer may do everything; with it, only what a grant allows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from gateway.access.grants import AccessSection, GrantSection, identity_fault
from gateway.access.patterns import IDENTITY
from gateway.config.reader import SectionReader
from gateway.model.text import meant
from gateway.system.addresses import network_fault


class AskingListener(Protocol):
    """
    Listener, reduced to what the check of C{[access]} needs.
    """

    @property
    def asks_token(self) -> bool:
        """True where a peer without an identity must give a token."""

    @property
    def tls(self) -> Any:
        """TLS section of the listener; C{None} without TLS."""


def check_access(
    reader: SectionReader,
    section: AccessSection | None,
    listeners: Mapping[str, AskingListener],
    routes: Collection[str],
    queries: Collection[str],
    channels: Collection[str],
) -> None:
    """
    Check C{[access]} beyond the types of its keys, and note the problems.

    @param section: C{None} where the file has none.
    @param listeners: all of them, as C{routes} and C{queries} are.
    @param channels: names in C{channels.allow}.
    """
    no_tokens = section is None or section.tokens is None
    if no_tokens and reader.is_sure("access", "access.tokens"):
        for name, listener in listeners.items():
            tls = f"listeners.{name}.tls"
            if not reader.is_sure(tls, f"{tls}.client_ca"):
                continue
            if listener.asks_token and getattr(listener.tls, "client_ca", None) is None:
                reader.note(
                    f"listeners.{name}.auth",
                    "asks for a token, and there is no [access] tokens: name the file that"
                    " 'gateway token add' writes",
                )
    if section is None:
        return
    if not section.grants:
        reader.note(
            "access.grants",
            "there is none, so nobody may do anything; add [access.grants.NAME], or leave"
            " [access] out to allow everything",
        )
    for identity in section.deny:
        _check_identity(reader, "access.deny", identity)
    known = {"listeners": listeners, "routes": routes, "queries": queries, "channels": channels}
    for name, grant in section.grants.items():
        where = f"access.grants.{name}"
        _check_whom(reader, where, grant)
        for key, there in known.items():
            # Where a section could not be read its names are not known.
            if reader.is_sure(key, "channels.allow" if key == "channels" else key):
                for word in getattr(grant, key):
                    _check_name(reader, where, key, word, there)
        for stream in grant.streams:
            _check_stream(reader, f"{where}.streams", stream)
        granted = ("routes", "queries", "channels", "streams")
        if not any(getattr(grant, key) or not reader.is_sure(f"{where}.{key}") for key in granted):
            reader.note(where, "grants nothing: it has no routes, queries, channels or streams")


def _check_identity(reader: SectionReader, where: str, identity: str) -> None:
    fault = identity_fault(identity)
    if fault is not None:
        reader.note(where, f"{identity!r} {fault}; nobody can be called that")


def _check_whom(reader: SectionReader, where: str, grant: GrantSection) -> None:
    whom = (f"{where}.identities", f"{where}.networks")
    if not grant.identities and not grant.networks and reader.is_sure(*whom):
        reader.note(
            where,
            "says nobody: it needs identities, networks or both; for everybody"
            ' networks = ["0.0.0.0/0", "::/0", "unix"]',
        )
    if not grant.listeners:
        reader.note(f"{where}.listeners", "names none, so it holds nowhere; leave it out for all")
    for identity in grant.identities:
        _check_identity(reader, f"{where}.identities", identity)
    for network in grant.networks:
        fault = network_fault(network)
        if fault is not None:
            reader.note(
                f"{where}.networks",
                f'{fault}; networks are "10.0.0.0/8", "2001:db8::/32" or "unix"',
            )


def _check_name(
    reader: SectionReader, where: str, key: str, word: str, known: Collection[str]
) -> None:
    if "*" in word or word in known:
        return
    if IDENTITY in word:
        reader.note(f"{where}.{key}", f"{word!r}: only streams are named by identities")
        return
    what = {"queries": "query"}.get(key, key[:-1])
    hint = meant(word, known) or f"; there are {', '.join(known) or 'none'}"
    reader.note(f"{where}.{key}", f"there is no {what} {word!r}{hint}")


def _check_stream(reader: SectionReader, where: str, word: str) -> None:
    text = word.replace(IDENTITY, "")
    if not word:
        reader.note(where, "a stream has a name; remove ''")
    elif not text.isprintable() or " " in text:
        reader.note(where, f"{word!r} has a space or control character, which no stream has")
    elif "{" in text or "}" in text:
        reader.note(where, f"{word!r}: what stands for the peer's identity is {IDENTITY}")
