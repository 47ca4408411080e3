"""
Section C{[relay]}: another gateway, the centre, in place of a database.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field

from gateway.config.listener import Listener
from gateway.config.paths import ConfigPaths
from gateway.config.reader import SectionReader
from gateway.wire.protocols import PROTOCOLS

MAX_EDGE: Final = 63
"""Longest name of an edge, in bytes."""

ABSENT: Final = {
    "database": "is in place of it: an edge has no database",
    "databases": "is in place of them: an edge has no database",
    "channels": "has no channels: peers listen at the centre",
    "queries": "has no queries: peers call them at the centre",
}
"""Section that cannot stand beside C{[relay]} -> why."""

ROUTE_KEYS: Final = (
    *("format", "fields", "delimiter", "pattern", "charset", "function", "timezone", "samples"),
)
"""Keys that a route of an edge may have: its messages are read where C{route_by} asks for that."""

_TLS_KEYS: Final = ("ca", "certificate", "key")

_ENDPOINT: Final = re.compile(r"(tcp|tls):(?=[^:])|unix:(?=.)", re.ASCII)


class RelaySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[relay]}.

    @ivar endpoints: client endpoints of the centre's listener of commands; the first that works is
        used.
    @ivar stream: name of this edge, with which its streams begin at the centre.
    @ivar token_file: file with the token that proves it to the centre.
    @ivar certificate: PEM file of its certificate, in place of a token.
    @ivar key: PEM file of the certificate's key, where that is not in it.
    @ivar ca: PEM file of the authorities that the centre's certificate is of; C{None}: those of
        the system.
    @ivar framing: framing of the centre's listener, one that carries any bytes.
    """

    endpoints: list[str] = field(default_factory=list)
    stream: str = ""
    token_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    ca: str | None = None
    framing: Literal["netstring", "octet-counted", "int32"] = "netstring"


def relay_of(
    data: Mapping[str, Any], reader: SectionReader, config_paths: ConfigPaths
) -> RelaySection | None:
    """
    Parse the section; C{None} where there is none. Problems are noted in C{reader}.

    @param data: all tables of the file.
    """
    if "relay" not in data:
        return None
    for section, reason in ABSENT.items():
        if section in data:
            reader.note_unknown(section, f"cannot stand beside [relay], which {reason}")
    relay = reader.section("relay", data["relay"], RelaySection)
    if relay is None:
        return RelaySection()
    relay = config_paths.resolved(reader, "relay", relay, ["token_file", *_TLS_KEYS])
    if reader.is_sure("relay.endpoints"):
        if not relay.endpoints:
            reader.note("relay.endpoints", 'is missing; try ["tls:central.example.org:8443"]')
        for number, endpoint in enumerate(relay.endpoints):
            if (fault := _endpoint_fault(endpoint)) is not None:
                reader.note(f"relay.endpoints[{number}]", f"{endpoint!r} {fault}")
        if len(set(relay.endpoints)) < len(relay.endpoints):
            reader.note("relay.endpoints", "names one twice")
    if reader.is_sure("relay.stream"):
        if not relay.stream:
            reader.note("relay.stream", 'is missing; give this edge a name, as in "edge-7"')
        elif (fault := edge_fault(relay.stream)) is not None:
            reader.note("relay.stream", f"{relay.stream!r} {fault}")
    if not reader.is_sure(*(f"relay.{key}" for key in ("token_file", *_TLS_KEYS))):
        return relay
    if relay.token_file is not None and relay.certificate is not None:
        reader.note("relay.certificate", "says who this is, and so does token_file; take one")
    if relay.key is not None and relay.certificate is None:
        reader.note("relay.key", "is for certificate, which is missing")
    if not any(endpoint.startswith("tls:") for endpoint in relay.endpoints):
        for key in _TLS_KEYS:
            if getattr(relay, key) is not None:
                reader.note(f"relay.{key}", 'is for an endpoint as "tls:HOST:PORT"; there is none')
    return relay


def edge_fault(name: str) -> str | None:
    """Return why an edge cannot have this name; C{None}: it can."""
    size = len(name.encode("utf-8", "replace"))
    if not name.isprintable() or any(map(str.isspace, name)) or not 0 < size <= MAX_EDGE:
        return f"must have 1 to {MAX_EDGE} bytes, no spaces and no control characters"
    if "/" in name:
        return "must not hold a slash, which stands before the names of peers' streams"
    return None


def _endpoint_fault(endpoint: str) -> str | None:
    match = _ENDPOINT.match(endpoint)
    if match is None:
        return "must be tls:HOST:PORT, tcp:HOST:PORT or unix:PATH"
    if match[1] is not None and re.search(r":[0-9]+(:|$)", endpoint) is None:
        return "names no port"
    if match[1] == "tls" and re.search(r":(trustRoots|certificate|privateKey)=", endpoint):
        return "has keys of its own; write ca, certificate and key into [relay]"
    return None


def check_edge(
    reader: SectionReader,
    data: Mapping[str, Any],
    listeners: Mapping[str, Listener],
    route_names: Collection[str],
) -> None:
    """
    Note what an edge cannot have in its routes and listeners.

    @param data: all tables of the file.
    """
    routes = data.get("routes", {})
    for name in route_names:
        section = routes.get(name) if isinstance(routes, Mapping) else None
        for key in section if isinstance(section, Mapping) else ():
            if key not in ROUTE_KEYS:
                reader.note(
                    f"routes.{name}.{key}",
                    "is for the centre, which stores the messages; leave it out",
                )
    process = data.get("process")
    if isinstance(process, Mapping) and process.get("workers", 1) != 1:
        reader.note("process.workers", "is for a gateway with a database; an edge is one process")
    for name, listener in listeners.items():
        if listener.dialect in PROTOCOLS:
            reader.note(
                f"listeners.{name}.dialect",
                f"{listener.dialect} acknowledges messages that are stored together, and an edge"
                " hands them over one by one; have these senders connect to the centre",
            )
