"""
Warn of what a configuration exposes to others on this machine or on the network to the database,
of refused messages that are neither answered nor kept, and of routes that can only refuse.

It may be intended, so the gateway starts all the same, with one warning each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from gateway.columns.kind import excerpt
from gateway.config.listener import Listener
from gateway.config.load import EMBEDDED, Config, dsn_key_of
from gateway.config.secrets import OPEN
from gateway.formats.registry import format_of
from gateway.model.outcome import Words
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.dsn import dsn_fault, has_password
from gateway.postgres.connect.dsn_audit import Mode, dsn_warnings
from gateway.wire.protocols import PROTOCOLS

ON_THE_COMMAND_LINE = (
    "--database: a password on the command line is seen by others until the gateway has hidden it;"
    " put the connection string into a file that database.dsn_file names"
)


def operator_warnings(
    config: Config,
    outside: Environment,
    mode: Mode,
    file: PurePath | None = None,
    credentials: PurePath | None = None,
) -> list[str]:
    """
    Return the warnings, one line each.

    @param file: the configuration file.
    @param credentials: systemd's folder of credentials, whose modes are not checked: systemd guards
        it, and they show an ACL's mask.
    """
    warnings = []
    for key, path in _secret_files(config, file):
        permissions = mode(path)
        guarded = credentials is not None and PurePath(path).is_relative_to(credentials)
        if permissions is not None and permissions & OPEN and not guarded:
            warnings.append(
                f"{key}: group or others may read or change what is secret: chmod 600 {path}"
            )
    warnings += _lost_message_warnings(config)
    warnings += _misfit_warnings(config)
    places = {config.database.dsn_key: config.database.dsn}
    places |= {dsn_key_of(name, place): place.dsn for name, place in config.databases.items()}
    if config.channels.dsn is not None:
        places[config.channels.dsn_key] = config.channels.dsn
    for key, dsn in places.items():
        if dsn != EMBEDDED and dsn_fault(dsn, outside, replica=True) is None:
            warnings += [f"{key}: {line}" for line in dsn_warnings(dsn, outside, mode)]
    return warnings


def _lost_message_warnings(config: Config) -> Iterator[str]:
    """
    Warn of listeners that neither answer nor keep a refused message, or whose senders drop it.
    """
    if config.relay is not None:
        return  # the centre keeps what is refused, or not
    for name, listener in config.listeners.items():
        silent = listener.is_datagram or Words.configured(listener.ack, listener.nak).silent
        if listener.dialect == "relp":
            key, loss = "dialect", "rsyslog drops what is refused, so that it is nowhere"
        elif listener.dialect == "plain" and silent:
            key = "endpoint" if listener.is_datagram else "ack"
            loss = "what is refused is told to nobody and kept nowhere"
        else:
            continue
        if lost := sorted(r for r in _routes_of(listener) if not config.routes[r].dead_letter):
            yield (
                f"listeners.{name}.{key}: {loss}, but for a line a minute in the log; set"
                f" dead_letter = true for {', '.join(lost)}"
            )


def _misfit_warnings(config: Config) -> Iterator[str]:
    """
    Warn of routes whose format is not what the senders of a listener's protocol write.
    """
    for name, listener in config.listeners.items():
        protocol = PROTOCOLS.get(listener.dialect)
        if protocol is None or not protocol.sample:
            continue
        for route in sorted(_routes_of(listener)):
            reading = config.routes[route].reading
            # What a pattern, a function or a number of columns takes is not known from one message;
            # a forward listener hands its records on in the form that the route reads.
            if reading.format in ("regex", "python", "csv") or (
                listener.dialect == "forward" and reading.format == "msgpack"
            ):
                continue
            faults = format_of(reading, ()).parse_frames([protocol.sample]).faults
            if faults and reading.format != "gelf":
                yield (
                    f"routes.{route}.format: {reading.format} refuses what senders of"
                    f" {listener.dialect} write, as {excerpt(protocol.sample.decode())}"
                    f" (listeners.{name}): {faults[0][1].text}"
                )


def _routes_of(listener: Listener) -> set[str]:
    return {*(listener.routes or {}).values(), *([listener.route] if listener.route else [])}


def _secret_files(config: Config, file: PurePath | None) -> Iterator[tuple[str, str]]:
    """
    Yield the key and path of each file with a secret, except the token file, which is not read at
    all if others can.
    """
    dsns = [
        (section.dsn_key, section.dsn, section.dsn_file)
        for section in (config.database, config.channels)
    ]
    for name, place in config.databases.items():
        dsns.append((dsn_key_of(name, place), place.dsn, place.dsn_file))
    if config.relay is not None:
        for key in ("token_file", "key"):
            if (path := getattr(config.relay, key)) is not None:
                yield f"relay.{key}", path
    for key, dsn, dsn_file in dsns:
        if dsn_file is not None:
            yield key, dsn_file
        elif file is not None and dsn is not None and has_password(dsn):
            yield f"{key} holds a password", str(file)
    for name, listener in config.listeners.items():
        for key in ("shared_key_file", "users_file"):
            if (path := getattr(listener, key)) is not None:
                yield f"listeners.{name}.{key}", path
    sections = {f"listeners.{name}.tls": one.tls for name, one in config.listeners.items()}
    for where, tls in {**sections, "http.tls": config.http.tls}.items():
        if tls is not None and tls.passphrase_file is not None:
            yield f"{where}.passphrase_file", tls.passphrase_file
        elif tls is not None:
            yield (f"{where}.key", tls.key) if tls.key else (where, tls.certificate)
