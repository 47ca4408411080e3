"""
Keys of the operator's side: C{[http]}, C{[admin]} and C{[log]}.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.config.listener import (
    TlsSection,
    absolute_endpoint,
    check_networks,
    check_tls,
    resolved_tls,
)
from gateway.config.paths import ConfigPaths
from gateway.config.reader import SectionReader
from gateway.config.units import Seconds
from gateway.system.endpoint_arguments import is_datagram
from gateway.system.endpoint_text import EndpointFault, endpoint_hint

OFF: Final = "off"
"""Instead of an endpoint: nothing listens."""

HTTP_ENDPOINT: Final = "tcp:8009:interface=127.0.0.1"
"""Where health, metrics and status are, if nothing else is said."""

Level = Literal["debug", "info", "warn", "error"]


class HttpSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[http]}: health, metrics and the status page.

    @ivar endpoint: a Twisted server endpoint string, or C{off}; C{None}: L{HTTP_ENDPOINT}, unless
        another program listens there.
    @ivar tls: C{None}: plain HTTP.
    @ivar allow: networks that may connect; none: all.
    @ivar deny: networks that may not, even if they are in C{allow}.
    """

    endpoint: str | None = None
    tls: TlsSection | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class AdminSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[admin]}: the operator's sockets.

    @ivar endpoint: endpoint string of the console, or C{off}; C{None}: C{admin.sock} in the data
        directory.
    @ivar monitor: endpoint string of a console that may only look; C{None}: there is none.
    """

    endpoint: str | None = None
    monitor: str | None = None


class LogSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[log]}: what the log has, and its form.

    @ivar format: C{text}, or C{json}: one flat object a line.
    @ivar level: lowest level of a line.
    @ivar levels: namespace, such as C{gateway.spool} -> lowest level of its lines.
    @ivar slow_commit: seconds; a commit that takes longer is a warning.
    """

    format: Literal["text", "json"] = "text"
    level: Level = "info"
    levels: dict[str, Level] = field(default_factory=dict)
    slow_commit: Seconds = 1.0


def resolved_http(
    reader: SectionReader, section: HttpSection, config_paths: ConfigPaths
) -> HttpSection:
    """
    Return the section with its paths made absolute.
    """
    return replace(
        section,
        endpoint=_absolute(section.endpoint, config_paths),
        tls=resolved_tls(reader, "http", section.tls, config_paths),
    )


def resolved_admin(section: AdminSection, config_paths: ConfigPaths) -> AdminSection:
    """
    Return the section with its paths made absolute.
    """
    return AdminSection(
        endpoint=_absolute(section.endpoint, config_paths),
        monitor=_absolute(section.monitor, config_paths),
    )


def _absolute(endpoint: str | None, config_paths: ConfigPaths) -> str | None:
    return None if endpoint is None else absolute_endpoint(endpoint, config_paths)


def check_http(reader: SectionReader, section: HttpSection, endpoint_fault: EndpointFault) -> None:
    """
    Check C{[http]} beyond the types of its keys, and note the problems.
    """
    _check_endpoint(reader, "http.endpoint", section.endpoint, HTTP_ENDPOINT, endpoint_fault)
    check_networks(reader, "http", section)
    check_tls(reader, "http", section.tls, section.endpoint or HTTP_ENDPOINT)


def check_admin(
    reader: SectionReader, section: AdminSection, endpoint_fault: EndpointFault
) -> None:
    """
    Check C{[admin]} beyond the types of its keys, and note the problems.

    A console has no password: it is a Unix socket, which only its owner or its group can open.
    """
    for key, endpoint in (("endpoint", section.endpoint), ("monitor", section.monitor)):
        where = f"admin.{key}"
        example = f"unix:{'admin' if key == 'endpoint' else 'monitor'}.sock"
        if (
            endpoint is not None
            and endpoint != OFF
            and endpoint.partition(":")[0] not in ("unix", "systemd")
        ):
            reader.note_unknown(
                where, f'{endpoint!r} is no Unix socket; try "{example}", or "off" for none'
            )
            continue
        _check_endpoint(reader, where, endpoint, example, endpoint_fault)


def _check_endpoint(
    reader: SectionReader,
    where: str,
    endpoint: str | None,
    example: str,
    endpoint_fault: EndpointFault,
) -> None:
    if endpoint is None or endpoint == OFF:
        return
    fault = "it is one for datagrams" if is_datagram(endpoint) else endpoint_fault(endpoint)
    if fault is not None:
        hint = endpoint_hint(endpoint, endpoint_fault, listening=True) or f'; try "{example}"'
        reader.note_unknown(
            where, f'{endpoint!r} is no Twisted server endpoint ({fault}){hint}, or "off"'
        )
