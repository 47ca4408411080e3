"""
The composition root: options and configuration in, the service out.

The only module that knows every other. An option beats the file, the file beats
the default.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, cast

from twisted.application.service import IService
from twisted.internet import reactor as global_reactor
from twisted.python import usage

from gateway.attempt import backoff
from gateway.cautions import ON_THE_COMMAND_LINE
from gateway.channels import Channels
from gateway.config import EMBEDDED, Config
from gateway.conversation import CommandDialect
from gateway.embedded import DataDirectory, EmbeddedServer
from gateway.errors import ConfigError
from gateway.files import raise_file_limit, room_for_peers
from gateway.gate import Gates
from gateway.listener_sections import Listener
from gateway.listeners import Listeners
from gateway.loading import cautions_of, load
from gateway.pid_file import prepare_files
from gateway.plain_files import is_there
from gateway.postgres.notifications import Notifications
from gateway.postgres.opening import Opener
from gateway.postgres.pool import Pool
from gateway.postgres.queries import PostgresQueries, query_pool
from gateway.postgres.store import PostgresStore
from gateway.pressure import Pressure
from gateway.reload import Reload
from gateway.sections import one_line
from gateway.service import GatewayService, end_process, on_signals, use_monotonic_clock
from gateway.spool.detour import SpoolDetour
from gateway.spool.file import SpoolFile
from gateway.spool.queue import OwnThread, Spool
from gateway.streams import Streams
from gateway.title import hide
from gateway.tls.contexts import Contexts
from gateway.tls.doors import TlsDoors
from gateway.tokens import Token
from gateway.verifier import Verifier, in_threads
from gateway.writer import Writer

DATA_DIR = "gateway-data"


class Options(usage.Options):
    """
    Options of C{twistd gateway}.

    @ivar config: what they and the file say together; after C{postOptions}.
    @ivar cautions: what the operator should know of it, one line each.
    @ivar tokens: those of the file that it names, as last read; C{None} where it names none.
    @ivar contexts: for the listeners with TLS, from their files as last read.
    """

    synopsis = "[options]"
    longdesc = (
        "Stores messages from sockets in PostgreSQL and answers each one: +OK means committed. "
        "Without options: an embedded PostgreSQL in ./gateway-data, lines on 127.0.0.1:8000, "
        "netstrings on :8001, commands on :8002. With --line, --netstring or --command the "
        "listeners are those named, and no others."
    )

    optParameters = [
        ["config", "c", None, "Configuration file (TOML)."],
        ["database", None, None, "libpq URI or conninfo, or 'embedded'."],
        ["data-dir", None, DATA_DIR, "Directory of the embedded server and the spool."],
    ]

    compData = usage.Completions(optActions={"config": usage.CompleteFiles("*.toml")})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._endpoints: list[tuple[str, str, str]] = []
        self.config = Config()
        self.tokens: Mapping[str, Token] | None = None
        self.cautions: list[str] = []
        self.contexts: Mapping[str, Contexts] = {}

    def opt_line(self, endpoint: str) -> None:
        """Listen here for lines, for route 'messages' or the only one. May repeat."""
        self._endpoints.append(("lines", "line", endpoint))

    def opt_netstring(self, endpoint: str) -> None:
        """Listen here for netstrings, for the same route. May repeat."""
        self._endpoints.append(("netstrings", "netstring", endpoint))

    def opt_version(self) -> NoReturn:
        """Show the gateway's version and Twisted's, and end."""
        text = f"gateway, version {version('txgateway')}; Twisted {version('twisted')}"
        sys.stdout.write(f"{text}\n")
        raise SystemExit(0)

    def opt_command(self, endpoint: str) -> None:
        """Listen here for commands in lines. May repeat."""
        self._endpoints.append(("commands", "line", endpoint))

    def postOptions(self) -> None:
        database: str | None = self["database"]
        hidden = database is not None and hide(database)
        try:
            self.config = self.read()
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        try:
            notes = [] if self.parent is None else prepare_files(self.parent)
        except ConfigError as error:
            # How options are used is of no help here.
            raise SystemExit(f"gateway: {one_line(str(error))}") from None
        # A reload reads it again, wherever the daemon has gone to.
        for path in ("config", "data-dir"):
            if self[path] is not None:
                self[path] = str(Path(self[path]).absolute())
        self.cautions = [*notes, *([ON_THE_COMMAND_LINE] if hidden else [])]
        self.cautions += cautions_of(self.config, self["config"], database is not None)

    def read(self) -> Config:
        """
        What they and the file say together.

        @raise ConfigError: with every problem.
        """
        found = load(self["config"], self["database"], self._listeners if self._endpoints else None)
        self.contexts, self.tokens = found.contexts, found.tokens
        return found.config

    def _listeners(self, config: Config) -> dict[str, Listener]:
        route = "messages" if "messages" in config.routes else next(iter(config.routes), None)
        listeners: dict[str, Listener] = {}
        for kind, framing, endpoint in self._endpoints:
            number = sum(name.startswith(kind) for name in listeners)
            dialect = "command" if kind == "commands" else "plain"
            listeners[f"{kind}-{number + 1}" if number else kind] = Listener(
                endpoint=endpoint,
                framing=cast(Any, framing),
                dialect=cast(Any, dialect),
                route=route if dialect == "plain" else None,
            )
        return listeners


def makeService(options: Options) -> IService:
    """
    Wire everything; touch no socket.
    """
    reactor = cast(Any, global_reactor)
    config = options.config
    data_dir = Path(options["data-dir"])
    is_embedded = config.database.dsn == EMBEDDED
    opener = Opener.of_process(config.database, reactor)
    pool = Pool(config.database, reactor, backoff, opener)
    store = PostgresStore(pool, config.routes, config.database)
    share = query_pool(config.database, reactor, backoff, opener)
    queries = PostgresQueries(config.queries, share, config.database)
    pressure = Pressure(config.limits.bytes_in_flight)
    gates = Gates(store, reactor, backoff)
    spool = _spool(config, data_dir)
    streams = Streams(store, None if spool is None else spool.backlog)
    detour = None
    if spool is not None:
        detour = SpoolDetour(
            spool,
            store,
            gates,
            reactor,
            backoff,
            streams.missing,
            takes=config.spool.on_outage == "spool",
        )
    writer = Writer(
        store,
        reactor,
        config.database.pool_max,
        pressure,
        time.time,
        gates,
        detour,
        frozenset(route.name for route in config.routes.values() if route.dead_letter),
        config.database.answer_timeout,
    )
    own = config.channels.dsn is not None
    notifications = Notifications(
        config.database,
        reactor,
        backoff,
        Opener.of_process(config.database, reactor) if own else opener,
    )
    channels = Channels(config.channels.allow, notifications, reactor)
    verifier = Verifier(options.tokens, in_threads(reactor), time.time)
    commands = CommandDialect(streams, queries, channels, verifier)
    connections, caution = room_for_peers(
        config.limits.connections,
        raise_file_limit(),
        config.database.pool_max + config.database.query_connections + 1,
        len(config.listeners),
    )
    tls = TlsDoors(reactor)
    tls.take(options.contexts)
    listeners = Listeners(
        config,
        reactor,
        connections=connections,
        writer=writer,
        pressure=pressure,
        channels=channels,
        commands=commands,
        tls=tls,
        verifier=verifier,
        wall=time.time,
    )
    service = GatewayService(
        clock=reactor,
        data_directory=DataDirectory(data_dir) if is_embedded else None,
        embedded=EmbeddedServer(data_dir) if is_embedded else None,
        dsn=config.database.dsn,
        pool=pool,
        store=store,
        writer=writer,
        listeners=list(listeners),
        drain_timeout=config.limits.drain_timeout,
        spool=spool,
        detour=detour,
        queries=queries,
        notifications=notifications,
        channels_dsn=config.channels.dsn,
        cautions=[*options.cautions, *caution],
        tls=tls,
        end=partial(end_process, reactor),
    )
    parts = [
        lambda _: tls.take(options.contexts),
        lambda _: verifier.take(options.tokens),
        listeners.reload,
    ]
    reload = Reload(config, options.read, parts)
    on_signals(reactor, service, reload)
    use_monotonic_clock(reactor)
    return service


def spool_path(config: Config, data_dir: Path) -> Path:
    """
    Where the spool's file is, or would be.
    """
    path = data_dir / "spool.db" if config.spool.path is None else Path(config.spool.path)
    return path.absolute()


def _spool(config: Config, data_dir: Path) -> Spool | None:
    """
    @return: C{None} where messages are refused, and none wait from a time when they were not.
    """
    path = spool_path(config, data_dir)
    if config.spool.on_outage == "refuse" and not is_there(path):
        return None
    return Spool(SpoolFile(path, config.spool.max_bytes), OwnThread(global_reactor))
