"""
Keys of a listener: endpoint, admission, dialect, framing, limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import PurePath
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from gateway.config.datagram import check_datagrams
from gateway.config.paths import ConfigPaths
from gateway.config.reader import SectionReader
from gateway.config.routing import check_content, check_name
from gateway.config.units import IN_BYTES, IN_SECONDS, Count, Seconds
from gateway.model.route import BINARY_FORMATS, Route
from gateway.system.addresses import network_fault
from gateway.system.endpoint_arguments import MAX_C_INT, escaped, is_datagram
from gateway.system.endpoint_text import EndpointFault, endpoint_hint
from gateway.wire.framing import MAX_DELIMITER, FramingName
from gateway.wire.hl7 import PROCESSING_IDS
from gateway.wire.protocols import PROTOCOLS, ProtocolName

# One message in a quarter of an hour; a lower rate would look like a hang.
MessageRate = Annotated[float, Meta(ge=0.001)]
ByteRate = Annotated[float, Meta(ge=1, extra=IN_BYTES)]
KernelBytes = Annotated[int, Meta(ge=1, le=MAX_C_INT, extra=IN_BYTES)]
"""Size of a buffer of the kernel in bytes, which takes a C int."""

# TCP_KEEPIDLE is whole seconds, at most 32767.
Keepalive = Annotated[float, Meta(ge=1, le=32767, extra=IN_SECONDS)]

AUTH_TIMEOUT: Final = 10.0
"""Seconds that a peer has to prove who it is, where the listener does not say."""

MAX_CHUNK: Final = 16 * 1024 * 1024
"""Largest unit of messages, where the listener does not say."""

REMEMBER_CHUNKS: Final = 86400.0
"""Seconds for which a chunk is known when it is sent again, where the listener does not say."""

_PROTOCOL_KEYS: Final = ("max_chunk", "remember_chunks", "shared_key_file", "users_file")

_FORWARD_KEYS: Final = ("remember_chunks", "shared_key_file", "users_file")

_MESSAGE_TYPE: Final = re.compile(r"[A-Z][A-Z0-9]{2}(?:\^[A-Z][A-Z0-9]{2})?")
_VERSION: Final = re.compile(r"2(?:\.[0-9]{1,2}){0,3}")
_PROCESSING_ID: Final = re.compile("[A-Z]")

INT8_MOST: Final = 255
"""Bytes of a frame of C{int8}, at most."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_WORDS: Final = re.compile(r"[A-Za-z0-9+=: _-]+")
"""Characters of an answer's first words."""

_ENDED_BY_BYTES: Final = ("line", "nul", "delimited")
"""Framings whose messages cannot hold every byte."""

_OWNER: Final = re.compile(r"[^:\s\0]*(:[^:\s\0]+)?")


class TlsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    TLS for a listener. Files are PEM.

    @ivar certificate: of the listener, with its chain; the key may be in it too.
    @ivar key: its private key; C{None}: in C{certificate}.
    @ivar passphrase_file: file with the passphrase of an encrypted key.
    @ivar sni: directory of C{*.pem}, each a certificate with its chain and key, for the host names
        in it; C{certificate} is for all other names.
    @ivar client_ca: authorities of the peers' certificates; C{None}: peers need none.
    @ivar crl: lists of revoked certificates, from the authorities in C{client_ca}.
    @ivar client_certificate: C{optional}: a peer may connect without a certificate.
    @ivar minimum: lowest version of TLS.
    @ivar handshake_timeout: in seconds.
    """

    certificate: str
    key: str | None = None
    passphrase_file: str | None = None
    sni: str | None = None
    client_ca: str | None = None
    crl: str | None = None
    client_certificate: Literal["required", "optional"] = "required"
    minimum: Literal["1.2", "1.3"] = "1.2"
    handshake_timeout: Seconds = 10.0


class Hl7Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Messages of HL7 v2 that a listener accepts.

    @ivar message_types: of MSH-9: C{ADT}, or C{ADT^A04} for one event; none: all.
    @ivar versions: of MSH-12; none: all of version 2.
    @ivar processing_ids: of MSH-11.
    """

    message_types: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    processing_ids: tuple[str, ...] = PROCESSING_IDS


class Listener(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section of a listener: endpoint, dialect, framing, limits. Durations are in seconds.

    @ivar endpoint: a Twisted server endpoint string.
    @ivar delimiter: what ends a frame, for framing C{delimited}.
    @ivar route: plain dialect: the route of every frame; with C{route_by}, of those whose value
        C{routes} does not have.
    @ivar route_by: a field of each message, whose value chooses among C{routes}.
    @ivar routes: value of that field -> route.
    @ivar max_frame: largest payload in bytes, at most 64 MiB.
    @ivar max_chunk: of a protocol: largest unit of messages that are acknowledged together, in
        bytes when decompressed; C{None}: L{MAX_CHUNK}.
    @ivar remember_chunks: of forward: how long a chunk is known when it is sent again; 0: it is
        not. C{None}: L{REMEMBER_CHUNKS}.
    @ivar shared_key_file: of forward: file with the key that its peers have to know too.
    @ivar users_file: of forward: file of their names and passwords, a line C{name:password} each.
    @ivar hl7: of mllp: messages that are accepted; C{None}: as its defaults.
    @ivar try_: of mllp: C{AR}: what cannot be stored now is rejected; C{None}: the connection is
        closed without an answer.
    @ivar window: unanswered frames of a peer at which reading pauses.
    @ivar ack: sent instead of C{+OK}; C{none}: nothing is sent.
    @ivar nak: sent instead of every other answer.
    @ivar telnet: whether peers may be telnet clients that negotiate.
    @ivar refuse_http: whether a peer that begins with an HTTP request is closed, where frames end
        with a byte and peers need no certificate.
    @ivar auth: whether peers without an identity from a certificate must give a token.
    @ivar frame_timeout: limit for a frame that has begun to be complete.
    @ivar write_timeout: limit without progress for a peer that does not read its answers.
    @ivar idle_timeout: limit of silence for a peer with nothing in flight; C{None}: none.
    @ivar first_frame_timeout: limit for the first frame, or the token where one is required.
    @ivar max_connections: at a time; C{None}: as many as C{limits.connections}.
    @ivar max_connections_per_address: from one address, or one IPv6 network of 64 bits.
    @ivar messages_per_second: rate limit of one identity or one address.
    @ivar bytes_per_second: most bytes of payload a second.
    @ivar burst: seconds' worth of both that may come at once.
    @ivar allow: networks that may connect; none: all.
    @ivar deny: networks that may not, even if they are in C{allow}.
    @ivar trusted_proxies: networks of proxies that send a PROXY header; nobody else may connect.
    @ivar gelf: for datagrams: whether they may be GELF's chunks, or compressed.
    @ivar trim_end: for datagrams: whether line ends and NULs at a message's end are dropped;
        C{None}: unless the format is a binary one.
    @ivar socket_mode: permissions of a Unix socket, octal.
    @ivar socket_owner: C{user}, C{user:group} or C{:group} of a Unix socket.
    @ivar reuse_port: whether several processes may listen here (SO_REUSEPORT).
    @ivar send_buffer: of the kernel for each connection, in bytes (SO_SNDBUF).
    @ivar receive_buffer: the same for SO_RCVBUF.
    @ivar backlog: peers that may wait to be accepted; net.core.somaxconn caps it. C{None}: as
        the endpoint says, or 4096.
    @ivar no_delay: whether TCP sends answers at once (TCP_NODELAY).
    @ivar keepalive: silence after which TCP sends keepalive probes.
    @ivar user_timeout: how long sent data may stay unacknowledged; C{None}: twice C{keepalive}.
    """

    endpoint: str
    framing: FramingName = "line"
    delimiter: str | None = None
    dialect: Literal["plain", "command", "relp", "forward", "beats", "mllp"] = "plain"
    route: str | None = None
    route_by: str | None = None
    routes: dict[str, str] | None = None
    max_frame: Annotated[int, Meta(ge=1, le=64 * 1024 * 1024, extra=IN_BYTES)] = 65536
    max_chunk: Annotated[int, Meta(ge=1, le=256 * 1024 * 1024, extra=IN_BYTES)] | None = None
    remember_chunks: Annotated[float, Meta(ge=0, extra=IN_SECONDS)] | None = None
    shared_key_file: str | None = None
    users_file: str | None = None
    hl7: Hl7Section | None = None
    try_: Literal["AR"] | None = field(default=None, name="try")
    window: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    ack: str | None = None
    nak: str | None = None
    telnet: bool = False
    refuse_http: bool = True
    auth: bool = False
    tls: TlsSection | None = None
    frame_timeout: Seconds = 60.0
    write_timeout: Seconds = 60.0
    idle_timeout: Seconds | None = None
    first_frame_timeout: Seconds | None = None
    max_connections: Count | None = None
    max_connections_per_address: Count | None = None
    messages_per_second: MessageRate | None = None
    bytes_per_second: ByteRate | None = None
    burst: Seconds = 1.0
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    gelf: bool = False
    trim_end: bool | None = None
    socket_mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] | None = None
    socket_owner: str | None = None
    reuse_port: bool = False
    send_buffer: KernelBytes | None = None
    receive_buffer: KernelBytes | None = None
    backlog: Annotated[int, Meta(ge=1, le=MAX_C_INT)] | None = None
    no_delay: bool = True
    keepalive: Keepalive = 60.0
    user_timeout: Annotated[float, Meta(gt=0, le=MAX_C_INT // 1000, extra=IN_SECONDS)] | None = None

    @property
    def knows_peers(self) -> bool:
        """True where every peer must show a certificate."""
        tls = self.tls
        return tls is not None and bool(tls.client_ca) and tls.client_certificate == "required"

    @property
    def asks_token(self) -> bool:
        """True where peers without an identity from a certificate must give a token."""
        return self.auth and self.dialect not in PROTOCOLS

    @property
    def asks_proof(self) -> bool:
        """True where a peer may do nothing before it has an identity."""
        return self.auth or self.users_file is not None

    @property
    def framing_name(self) -> FramingName | ProtocolName:
        """Name of its framing, or of the protocol that has one of its own."""
        if self.dialect != "plain" and self.dialect != "command":
            return self.dialect
        return self.framing

    @property
    def is_datagram(self) -> bool:
        """Whether it takes datagrams, and no connections."""
        return is_datagram(self.endpoint)

    @property
    def kind(self) -> str:
        """First word of the endpoint string, such as C{tcp} or C{unix}."""
        return self.endpoint.partition(":")[0]


def resolved(
    reader: SectionReader, name: str, listener: Listener, config_paths: ConfigPaths
) -> Listener:
    """
    Return the listener with its paths made absolute.
    """
    listener = config_paths.resolved(
        reader, f"listeners.{name}", listener, ("shared_key_file", "users_file")
    )
    return replace(
        listener,
        endpoint=absolute_endpoint(listener.endpoint, config_paths),
        tls=resolved_tls(reader, f"listeners.{name}", listener.tls, config_paths),
    )


def resolved_tls(
    reader: SectionReader, where: str, section: TlsSection | None, config_paths: ConfigPaths
) -> TlsSection | None:
    """
    Return a C{tls} section with its paths made absolute.

    @param where: key of the section that it is in.
    """
    if section is None:
        return None
    paths = ("certificate", "key", "passphrase_file", "sni", "client_ca", "crl")
    return config_paths.resolved(reader, f"{where}.tls", section, paths)


def absolute_endpoint(endpoint: str, config_paths: ConfigPaths) -> str:
    """
    Return an endpoint string with an absolute path, if it is that of a Unix socket.
    """
    kind, colon, rest = endpoint.partition(":")
    if kind not in ("unix", "unixgram") or not colon or rest.startswith(("/", "address=/")):
        return endpoint
    prefix = "address=" if rest.startswith("address=") else ""
    if not rest.removeprefix(prefix).partition(":")[0]:
        return endpoint  # names no file; its folder is none
    path = PurePath(escaped(str(config_paths.folder))) / rest.removeprefix("address=")
    return f"{kind}:{prefix}{path}"


def check_listener(
    reader: SectionReader,
    name: str,
    listener: Listener,
    route_names: list[str],
    routes: Mapping[str, Route],
    endpoint_fault: EndpointFault,
) -> None:
    """
    Check one listener beyond the types of its keys, and note the problems.

    @param route_names: of all routes, those with problems too.
    @param routes: routes whose format is known.
    """
    where = f"listeners.{name}"
    fault = endpoint_fault(listener.endpoint)
    if fault is not None:
        hint = endpoint_hint(listener.endpoint, endpoint_fault, listening=True)
        hint = hint or '; try "tcp:8000:interface=127.0.0.1" or "unix:gateway.sock"'
        reader.note_unknown(
            f"{where}.endpoint",
            f"{listener.endpoint!r} is no Twisted server endpoint ({fault}){hint}",
        )
    _check_admission(reader, where, listener)
    if not reader.is_sure(f"{where}.dialect"):
        return
    if listener.dialect in PROTOCOLS:
        _check_protocol(reader, where, listener, routes)
    else:
        for key in _PROTOCOL_KEYS:
            if getattr(listener, key) is not None:
                reader.note(f"{where}.{key}", "is for a dialect that has chunks; leave it out")
    if listener.dialect == "mllp":
        _check_hl7(reader, where, listener.hl7)
    else:
        for key, value in (("hl7", listener.hl7), ("try", listener.try_)):
            if value is not None:
                reader.note(f"{where}.{key}", 'is for dialect = "mllp"; leave it out')
    if listener.dialect == "command":
        for key in ("route", "route_by", "routes", "ack", "nak"):
            if getattr(listener, key) is not None:
                reader.note(f"{where}.{key}", 'is for dialect = "plain"; leave it out')
        return
    by_content = (
        listener.route_by is not None
        or listener.routes is not None
        or not reader.is_sure(f"{where}.route_by", f"{where}.routes")
    )
    if listener.route is not None:
        check_name(reader, f"{where}.route", listener.route, route_names)
    elif not by_content:
        reader.note(f"{where}.route", f"is missing: a {listener.dialect} listener needs one")
    if by_content:
        check_content(reader, where, listener.route_by, listener.routes, route_names, routes)
    _check_binary(reader, where, listener, routes)


def _check_binary(
    reader: SectionReader, where: str, listener: Listener, routes: Mapping[str, Route]
) -> None:
    """
    Note a framing that would cut messages of a route's format in two.
    """
    if listener.is_datagram:
        return
    names = [listener.route, *(listener.routes or {}).values()]
    formats = {routes[name].reading.format for name in names if name is not None and name in routes}
    for format_ in sorted(formats & BINARY_FORMATS):
        if listener.framing_name in _ENDED_BY_BYTES and reader.is_sure(f"{where}.framing"):
            reader.note(
                f"{where}.framing",
                f"{listener.framing_name} ends a message at a byte that {format_} may hold;"
                ' use "netstring", "octet-counted" or "int32"',
            )


def _check_protocol(
    reader: SectionReader, where: str, listener: Listener, routes: Mapping[str, Route]
) -> None:
    """
    Check a listener of a protocol with an acknowledgement of its own.
    """
    name = listener.dialect
    for key in ("ack", "nak"):
        if getattr(listener, key) is not None:
            reader.note(f"{where}.{key}", f"is what {name} brings itself; leave it out")
    for key in _FORWARD_KEYS:
        if name != "forward" and getattr(listener, key) is not None:
            reader.note(f"{where}.{key}", 'is for dialect = "forward"; leave it out')
    if listener.auth and not listener.knows_peers and listener.users_file is None:
        names = ", or names (users_file)" if name == "forward" else ""
        reader.note(
            f"{where}.auth",
            f"is not for {name}, whose peers cannot give a token; have them show certificates"
            f" (tls.client_ca){names}",
        )
    if name == "forward":
        _check_forward(reader, where, listener)
    if not PROTOCOLS[name].needs_dead_letter:
        return
    if listener.route is None and listener.route_by is not None:
        reader.note(
            f"{where}.route",
            f"is missing: {name} cannot refuse a message that has none of the values in routes",
        )
    for route in dict.fromkeys([listener.route, *(listener.routes or {}).values()]):
        if route is not None and route in routes and not routes[route].dead_letter:
            reader.note(
                f"routes.{route}.dead_letter",
                f"has to be true: {where} cannot refuse a message, and it must be kept somewhere",
            )


def _check_forward(reader: SectionReader, where: str, listener: Listener) -> None:
    """
    Check what only a listener of the forward protocol needs.
    """
    if listener.users_file is not None and listener.shared_key_file is None:
        reader.note(
            f"{where}.users_file",
            "needs shared_key_file too: a sender tells its name only together with a shared key",
        )
    if find_spec("msgpack") is None:
        reader.note(
            f"{where}.dialect",
            "forward needs msgpack, which is not installed: pip install 'txgateway[forward]'",
        )


def _check_hl7(reader: SectionReader, where: str, section: Hl7Section | None) -> None:
    """
    Check which messages of HL7 a listener accepts.
    """
    if section is None:
        return
    for name in section.message_types:
        if _MESSAGE_TYPE.fullmatch(name) is None:
            reader.note(f"{where}.hl7.message_types", f'{name!r} is neither "ADT" nor "ADT^A04"')
    for name in section.versions:
        if _VERSION.fullmatch(name) is None:
            reader.note(f"{where}.hl7.versions", f'{name!r} is no version of HL7 v2, as "2.5.1"')
    for name in section.processing_ids:
        if _PROCESSING_ID.fullmatch(name) is None:
            reader.note(f"{where}.hl7.processing_ids", f'{name!r} is none; HL7 has "P", "T", "D"')
    if not section.processing_ids and reader.is_sure(f"{where}.hl7.processing_ids"):
        reader.note(f"{where}.hl7.processing_ids", "has none, so no message would be taken")


def _check_admission(reader: SectionReader, where: str, listener: Listener) -> None:
    """
    Check networks, TLS, the socket's owner and the keys that depend on the endpoint.
    """
    check_networks(reader, where, listener)
    if not listener.is_datagram:
        check_framing(reader, where, listener)
    if listener.telnet and listener.framing_name != "line":
        reader.note(f"{where}.telnet", 'is for framing = "line"; leave it out')
    check_tls(reader, where, listener.tls, listener.endpoint)
    owner = listener.socket_owner
    if owner is not None and (not owner or _OWNER.fullmatch(owner) is None):
        reader.note(f"{where}.socket_owner", f'{owner!r} is not "user", "user:group" or ":group"')
    if not reader.is_sure(f"{where}.endpoint"):
        return
    check_datagrams(reader, where, listener, datagrams=listener.is_datagram)
    if listener.trusted_proxies and listener.kind in ("haproxy", "ssl", "tls"):
        reader.note(
            f"{where}.trusted_proxies",
            f"is for a tcp: or unix: endpoint; {listener.kind}: reads what comes first itself",
        )
    if listener.reuse_port and listener.kind in ("unix", "unixgram"):
        reader.note(f"{where}.reuse_port", "is for TCP; leave it out")
    if listener.kind not in ("unix", "unixgram"):
        for key in ("socket_mode", "socket_owner"):
            if getattr(listener, key) is not None:
                reader.note(f"{where}.{key}", "is for a unix: endpoint; leave it out")


def check_framing(reader: SectionReader, where: str, listener: Listener) -> None:
    """
    Check the keys that depend on the framing, and note the problems.
    """
    if not reader.is_sure(f"{where}.framing"):
        return
    if listener.framing == "int8":
        if listener.dialect != "plain":
            reader.note(f"{where}.framing", 'int8 is for dialect = "plain"; use int16 or int32')
            return
        for key in ("ack", "nak"):
            word = getattr(listener, key)
            if word is None and not (key == "nak" and listener.ack == "none"):
                reader.note(
                    f"{where}.{key}", "is missing: framing int8 has no room for the usual answers"
                )
            elif word is not None and len(word.encode()) > INT8_MOST:
                reader.note(f"{where}.{key}", f"has over {INT8_MOST} bytes, which int8 cannot say")
    delimiter = listener.delimiter
    if listener.framing != "delimited":
        if delimiter is not None:
            reader.note(f"{where}.delimiter", 'is for framing = "delimited"; leave it out')
        return
    if delimiter is None:
        if reader.is_sure(f"{where}.delimiter"):
            reader.note(f"{where}.delimiter", 'is missing: framing = "delimited" needs one')
        return
    if not 1 <= len(delimiter.encode()) <= MAX_DELIMITER:
        reader.note(f"{where}.delimiter", f"has 1 to {MAX_DELIMITER} bytes in UTF-8")
    elif listener.dialect != "plain" and _CONTROL.search(delimiter) is None:
        reader.note(
            f"{where}.delimiter",
            f"{delimiter!r} may be in an answer; for commands it needs a control character, as in"
            ' "\\r\\n"',
        )
    elif "\x05" in delimiter and listener.dialect != "plain":
        reader.note(f"{where}.delimiter", "has the byte 5, which the clients' first PING has")
    elif _WORDS.fullmatch(delimiter) and (
        listener.ack is None or (listener.nak is None and listener.ack != "none")
    ):
        reader.note(
            f"{where}.delimiter",
            f"{delimiter!r} may be in the words of an answer: set ack and nak, or another one",
        )
    elif any(delimiter in word for word in (listener.ack or "", listener.nak or "")):
        reader.note(f"{where}.delimiter", f"{delimiter!r} is in ack or nak; an answer ends with it")


def check_networks(reader: SectionReader, where: str, section: Struct) -> None:
    """
    Check the keys of a section that are networks, and note the problems.
    """
    for key in ("allow", "deny", "trusted_proxies"):
        for network in getattr(section, key, ()):
            fault = network_fault(network)
            if fault is not None:
                reader.note(
                    f"{where}.{key}",
                    f'{fault}; networks are "10.0.0.0/8", "2001:db8::/32" or "unix"',
                )


def check_tls(reader: SectionReader, where: str, tls: TlsSection | None, endpoint: str) -> None:
    """
    Check the C{tls} section of a listener beyond the types of its keys, and note the problems.
    """
    if tls is None:
        return
    if tls.crl and not tls.client_ca and reader.is_sure(f"{where}.tls.client_ca"):
        reader.note(f"{where}.tls.crl", "is for the certificates of peers; it needs client_ca")
    kind = endpoint.partition(":")[0]
    if kind in ("ssl", "tls") and reader.is_sure(f"{where}.endpoint"):
        reader.note(f"{where}.tls", f"is for a tcp: endpoint; {kind}: brings a certificate itself")
