"""
The header of the PROXY protocol, versions 1 and 2: bytes in, a source address out.

Strategy: sans I/O. A reader is fed what the transport received until the header is
complete, and gives the source it names and the bytes that follow it. Bytes that
cannot become a header any more are refused at once, so that the gateway does not wait for
a peer that sends none.

A header is believed without a check of its sender: only bytes of a trusted proxy may be fed.

@see: U{https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt}, whose sections
    the comments name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NoReturn

from gateway.model.errors import HeaderError

MOST_V1: Final = 107
"""Bytes of the longest line, its CRLF included (section 2.1)."""

MOST_V2: Final = 4096
"""
Bytes of the longest binary header that is taken, its first 16 included. The length
field could announce 65551; senders should stay within 536 (section 2), and nginx takes
4096 as well (NGX_PROXY_PROTOCOL_MAX_HEADER).
"""

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16

_PROTOCOLS: Final = (b"TCP4 ", b"TCP6 ", b"UNKNOWN ", b"UNKNOWN\r\n")
_PORT_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,4}")

_LOCAL: Final = 0x20
_PROXY: Final = 0x21

# Bytes of the addresses and ports by family, in the high four bits (section 2.2).
_LENGTHS: Final = {0x00: 0, 0x10: 12, 0x20: 36, 0x30: 216}


@dataclass(frozen=True, slots=True)
class ProxiedAddress:
    """
    Address from which a connection came to the proxy.
    """

    address: IPv4Address | IPv6Address
    port: int


@dataclass(frozen=True, slots=True)
class Header:
    """
    Content of a header.

    @ivar source: C{None} where the proxy speaks for itself (LOCAL), does not know
        (UNKNOWN, UNSPEC), or passes on what is no TCP: then the connection's own
        address is the one that counts.
    @ivar rest: bytes that follow the header.
    """

    source: ProxiedAddress | None
    rest: bytes


class HeaderReader:
    """
    Reader of one connection's header.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = b""

    @property
    def begun(self) -> bool:
        """Whether any byte was received."""
        return bool(self._kept)

    def receive(self, data: bytes) -> Header | None:
        """
        Take the bytes that the transport received, until a header is complete.

        @return: C{None} while it is not.
        @raise HeaderError: this is no header, and will not become one.
        """
        kept = self._kept = self._kept + data
        if kept[: len(_V1)] == _V1[: len(kept)]:
            return self._line(kept)
        if kept[: len(_V2)] == _V2[: len(kept)]:
            return self._binary(kept)
        _refuse_header("these are not its first bytes")

    def _line(self, kept: bytes) -> Header | None:
        line = kept[len(_V1) : MOST_V1]
        if not any(line.startswith(name[: len(line)]) for name in _PROTOCOLS):
            _refuse_header("no protocol it knows")
        end = kept.find(b"\r\n", 0, MOST_V1)
        if line.startswith(b"UNKNOWN"):
            # The rest of the line has no meaning (section 2.1).
            if end >= 0:
                return Header(None, kept[end + 2 :])
        else:
            # CRLF alone ends the line, and nothing else may hold either of them. The last
            # byte may be a CR whose LF is still to come.
            line = kept[:end] if end >= 0 else kept[:MOST_V1].removesuffix(b"\r")
            if b"\r" in line or b"\n" in line:
                _refuse_header("CR or LF inside the line")
            if end >= 0:
                return Header(_source_of(line), kept[end + 2 :])
        if len(kept) >= MOST_V1:
            _refuse_header(f"no end of the line within {MOST_V1} bytes")
        return None

    def _binary(self, kept: bytes) -> Header | None:
        # Each byte is judged as soon as it is there, its command before its family. What was
        # wrong is told without the peer's numbers: the log has one line for each reason.
        command = kept[12] if len(kept) > 12 else _PROXY
        if command not in (_LOCAL, _PROXY):
            _refuse_header("no version and command it knows")
        family = kept[13] if len(kept) > 13 else 0
        if command == _PROXY and (family & 0xF0 not in _LENGTHS or family & 0x0F > 2):
            _refuse_header("no family and protocol it knows")
        if len(kept) < _FIXED:
            return None
        length = int.from_bytes(kept[14:_FIXED], "big")
        if _FIXED + length > MOST_V2:
            _refuse_header(f"over the limit of {MOST_V2} bytes")
        is_addressed = command == _PROXY and family & 0x0F != 0
        if is_addressed and length < _LENGTHS[family & 0xF0]:
            _refuse_header("too few bytes for its addresses")
        if len(kept) < _FIXED + length:
            return None
        block, rest = kept[_FIXED : _FIXED + length], kept[_FIXED + length :]
        # What comes after the addresses (TLVs, a checksum among them) says nothing that is
        # used here; section 2.2 lets a receiver skip it.
        source: ProxiedAddress | None = None
        if command == _PROXY and family == 0x11:
            source = ProxiedAddress(IPv4Address(block[:4]), int.from_bytes(block[8:10], "big"))
        elif command == _PROXY and family == 0x21:
            source = ProxiedAddress(IPv6Address(block[:16]), int.from_bytes(block[32:34], "big"))
        return Header(source, rest)


def _source_of(line: bytes) -> ProxiedAddress:
    """
    Read the source address of a line of TCP4 or TCP6, given without its end.
    """
    fields = line.split(b" ")
    if len(fields) != 6:
        _refuse_header("not two addresses and two ports")
    _, protocol, *addresses, source_port, own_port = fields
    kind: type[IPv4Address] | type[IPv6Address]
    kind = IPv4Address if protocol == b"TCP4" else IPv6Address
    try:
        source, _ = [kind(address.decode("ascii")) for address in addresses]
    except ValueError:
        _refuse_header(f"no address of {protocol.decode()}")
    # A zone is for people; inet_pton(3) knows none.
    if b"%" in addresses[0] + addresses[1]:
        _refuse_header(f"no address of {protocol.decode()}")
    for port in (source_port, own_port):
        if not _PORT_NUMBER.fullmatch(port) or int(port) > 65535:
            _refuse_header("no port")
    return ProxiedAddress(source, int(source_port))


def _refuse_header(reason: str) -> NoReturn:
    raise HeaderError(f"no PROXY header: {reason}")
