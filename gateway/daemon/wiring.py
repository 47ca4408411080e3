"""
Wire the parts: options and configuration in, the service out.

The composition root; the only module that imports all the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.internet import reactor as global_reactor

from gateway.access.authenticator import Authenticator, in_threads
from gateway.admin.console import Console, Controls
from gateway.admin.operations import LocalOperations
from gateway.admin.peers import PeerList
from gateway.admin.sockets import AdminSockets
from gateway.commit.attempt import retry_delay
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.writer import Writer
from gateway.config.load import EMBEDDED, Config, Database, Limits
from gateway.daemon.configuration import Loaded
from gateway.daemon.embedded import DataDirectory, EmbeddedServer
from gateway.daemon.options import Options
from gateway.daemon.reload import Reload, ReloadParts, dead_letter_routes
from gateway.daemon.service import (
    GatewayService,
    Parts,
    end_process,
    on_signals,
    stop,
    use_monotonic_clock,
)
from gateway.daemon.systemd import Systemd
from gateway.daemon.unit_pruning import UnitPruning
from gateway.dialects.command import CommandDialect
from gateway.dialects.stream_registry import StreamRegistry
from gateway.dialects.subscriptions import Subscriptions
from gateway.listeners.build import Listeners
from gateway.logs.observer import LogObserver, begin
from gateway.peers.factory import PeerServices
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.notifications import Notifications
from gateway.postgres.connect.pool import Pool
from gateway.postgres.queries.placed import PlacedQueries
from gateway.postgres.queries.service import query_pool
from gateway.postgres.store.store import PostgresStore
from gateway.spool.file import SpoolFile
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import OwnThread, Spool
from gateway.status.source import StatusParts, StatusSource
from gateway.status.watch import Watch
from gateway.system.file_limit import raise_file_limit, room_for_peers
from gateway.system.notify_socket import NotifySocket
from gateway.system.regular_file import is_there
from gateway.tls.registry import TlsRegistry
from gateway.web.service import HttpService


def makeService(options: Options) -> IService:
    """
    Build the service and all its parts; open no socket.
    """
    reactor = cast(Any, global_reactor)
    config = options.config
    log_observer = LogObserver(config.log)
    if options.parent is not None:
        begin(log_observer, options.parent)
    data_dir = Path(options["data-dir"])
    is_embedded = config.database.dsn == EMBEDDED
    connector = Connector.of_process(config.database, reactor)
    pool = Pool(config.database, reactor, retry_delay, connector)
    store = PostgresStore(pool, config.routes, config.database)
    share = query_pool(config.database, reactor, retry_delay, connector)
    queries = PlacedQueries(
        config.queries, config.database, config.databases, share, pool, retry_delay
    )
    inflight_limit = InflightLimit(config.limits.bytes_in_flight)
    breakers = CircuitBreakers(store, reactor, retry_delay)
    spool = _spool(config, data_dir)
    streams = StreamRegistry(store, None if spool is None else spool.backlog)
    spooler = None
    if spool is not None:
        spooler = OutageSpool(
            spool,
            store,
            breakers,
            reactor,
            retry_delay,
            streams.missing,
            takes=config.spool.on_outage == "spool",
        )
    writer = Writer(
        store,
        reactor,
        config.database.pool_max,
        inflight_limit,
        time.time,
        breakers,
        spooler,
        dead_letter_routes(config),
        config.database.answer_timeout,
    )
    own = config.channels.dsn is not None
    notifications = Notifications(
        config.database,
        reactor,
        retry_delay,
        Connector.of_process(config.database, reactor) if own else connector,
    )
    channels = Subscriptions(config.channels.allow, notifications, reactor)
    authenticator = Authenticator(options.tokens, in_threads(reactor), time.time)
    commands = CommandDialect(streams, queries, channels, authenticator)
    room = partial(_room, [config.database, *config.databases.values()])
    connections, caution = room(config.limits, len(config.listeners))
    tls = TlsRegistry(reactor)
    tls.replace_contexts(options.contexts)
    listeners = Listeners(
        config,
        reactor,
        connections=connections,
        services=PeerServices(writer, inflight_limit, reactor, time.time, channels),
        commands=commands,
        tls=tls,
        authenticator=authenticator,
    )
    source = StatusSource(
        StatusParts(
            clock=reactor,
            wall=time.time,
            routes=lambda: reload.config.routes,
            listeners=lambda: listeners,
            connection_limit=listeners.connection_limit,
            inflight_limit=inflight_limit,
            pool=pool,
            query_pool=share,
            writer=writer,
            breakers=breakers,
            streams=streams,
            queries=queries,
            channels=channels,
            tls=tls,
            spool=spool,
            spooler=spooler,
            max_spool_bytes=lambda: reload.config.spool.max_bytes,
        )
    )
    operator_warnings = [*options.operator_warnings, *caution]
    watch = Watch(source, operator_warnings, config.log.slow_commit)
    http = HttpService(config.http, watch, tls, reactor)
    controls = Controls(
        reload=lambda: reload.apply(),
        drain=lambda: service.drain(),
        shutdown=partial(stop, reactor),
    )
    peers = PeerList(lambda: listeners, streams.owners, reactor, time.time)
    operations = LocalOperations(source.parts, peers, log_observer.set_level)
    console = Console(watch, lambda: reload.config, controls, operations, peers)
    admin = AdminSockets(config.admin, data_dir, console, reactor)
    systemd = Systemd(NotifySocket.of_environment(os.environ), reactor, watch.status)
    service = GatewayService(
        Parts(
            pool=pool,
            store=store,
            writer=writer,
            queries=queries,
            listeners=listeners,
            spool=spool,
            spooler=spooler,
            notifications=notifications,
            tls=tls,
            watch=watch,
            http=http,
            admin=admin,
            systemd=systemd,
            unit_pruning=UnitPruning(store, listeners, reactor),
        ),
        clock=reactor,
        data_directory=DataDirectory(data_dir) if is_embedded else None,
        embedded=EmbeddedServer(data_dir) if is_embedded else None,
        dsn=config.database.dsn,
        channels_dsn=config.channels.dsn,
        drain_timeout=config.limits.drain_timeout,
        drain_delay=config.limits.drain_delay,
        operator_warnings=operator_warnings,
        log_observer=log_observer,
        end=partial(end_process, reactor),
    )

    def take_log(config: Config) -> None:
        log_observer.take(config.log)
        writer.slow_commits.limit = watch.slow_commit = config.log.slow_commit

    take_log(config)
    reload = Reload(
        Loaded(config, options.tokens, options.contexts),
        options.load,
        ReloadParts(
            service=service,
            listeners=listeners,
            store=store,
            writer=writer,
            breakers=breakers,
            queries=queries,
            channels=channels,
            tls=tls,
            authenticator=authenticator,
            inflight_limit=inflight_limit,
            spool=spool,
            spooler=spooler,
            watch=watch,
            http=http,
            systemd=systemd,
            take_log=take_log,
            room=room,
            warnings=options.warnings_of,
        ),
    )
    on_signals(reactor, service, reload)
    use_monotonic_clock(reactor)
    return service


def _room(databases: Sequence[Database], limits: Limits, listeners: int) -> tuple[int, list[str]]:
    """
    Return how many connections peers may have, and warnings for the operator.
    """
    own = sum(one.pool_max + one.query_connections + 1 for one in databases)
    return room_for_peers(limits.connections, raise_file_limit(), own, listeners)


def spool_path(config: Config, data_dir: Path) -> Path:
    """
    Return the path of the spool's file, which need not exist.
    """
    path = data_dir / "spool.db" if config.spool.path is None else Path(config.spool.path)
    return path.absolute()


def _spool(config: Config, data_dir: Path) -> Spool | None:
    """
    Return the spool; C{None} where messages are refused in an outage and no spool file is left from
    before.
    """
    path = spool_path(config, data_dir)
    if config.spool.on_outage == "refuse" and not is_there(path):
        return None
    return Spool(SpoolFile(path, config.spool.max_bytes), OwnThread(global_reactor))
