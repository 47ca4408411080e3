"""
Wire the parts: options and configuration in, the service out.

The composition root; the only module that imports all the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

from twisted.application.service import IService
from twisted.internet import reactor as global_reactor

from gateway.access.authenticator import Authenticator, in_threads
from gateway.admin.console import Console, Controls
from gateway.admin.operations import LocalOperations
from gateway.admin.peers import PeerList
from gateway.admin.sockets import AdminSockets
from gateway.admin.workers import ids_of
from gateway.commit.attempt import retry_delay
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.config.load import EMBEDDED, Config, Database, Limits
from gateway.config.process import spool_number, sum_of_shares
from gateway.daemon.backend import backend_of
from gateway.daemon.configuration import Loaded
from gateway.daemon.embedded import DataDirectory, EmbeddedServer
from gateway.daemon.monotonic_clock import use_monotonic_clock
from gateway.daemon.operator_side import OperatorSide, WorkersAsSeen
from gateway.daemon.options import Options
from gateway.daemon.parent import Parent, ParentParts, ParentService, embedded_parts
from gateway.daemon.parent import status_line as parent_status_line
from gateway.daemon.reload import Reload, ReloadParts
from gateway.daemon.service import (
    GatewayService,
    Parts,
    end_process,
    on_signals,
    stop,
)
from gateway.daemon.shared_reload import SharedReload, SharedReloadParts
from gateway.daemon.storing import build_writer
from gateway.daemon.systemd import Systemd, status_line
from gateway.daemon.unit_pruning import UnitPruning
from gateway.dialects.command import CommandDialect
from gateway.dialects.stream_registry import StreamRegistry
from gateway.dialects.subscriptions import Subscriptions
from gateway.listeners.build import Listeners
from gateway.listeners.hosting import Hosting
from gateway.logs.observer import LogObserver, begin
from gateway.model.route import by_database
from gateway.peers.factory import PeerServices
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.notifications import Notifications
from gateway.postgres.queries.placed import PlacedQueries
from gateway.postgres.queries.service import query_pool
from gateway.postgres.store.databases import Databases
from gateway.spool.file import SpoolFile
from gateway.spool.leftover import LeftoverParts, Leftovers
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import OwnThread, Spool
from gateway.status.source import StatusParts, StatusSource
from gateway.status.watch import Watch
from gateway.system.file_limit import raise_file_limit, room_for_peers, room_in_process
from gateway.system.notify_socket import NotifySocket
from gateway.system.regular_file import is_there
from gateway.tls.registry import TlsRegistry
from gateway.web.service import HttpService
from gateway.workers.dispatch import Dispatch, Room
from gateway.workers.lending import Lender
from gateway.workers.listeners import ParentListeners


@dataclass(frozen=True, slots=True)
class Setting:
    """
    Process that a gateway runs in.

    @ivar loaded: configuration that it starts with.
    @ivar data_dir: an absolute path.
    @ivar read: reads the configuration again.
    @ivar warnings: of the operator, at the start.
    @ivar warnings_of: returns the warnings about a configuration.
    @ivar end: ends the process with a status.
    @ivar announces: whether addresses and the database are logged.
    @ivar hosting: where listeners have their ports and limits from; C{None}: this process.
    @ivar leftovers: paths of spools of workers that are no more.
    @ivar watches_files: whether files of certificates are looked at.
    @ivar worker: number of the worker that it is; 0: it does it all.
    @ivar accepted: connections that all workers have had until now.
    """

    loaded: Loaded
    data_dir: Path
    log_observer: LogObserver
    read: Callable[[], Loaded]
    warnings: Sequence[str]
    warnings_of: Callable[[Config], list[str]]
    room: Callable[[Sequence[Database], Limits, int], tuple[int, list[str]]]
    end: Callable[[int], None]
    notify_socket: NotifySocket | None = None
    announces: bool = True
    hosting: Hosting | None = None
    leftovers: Sequence[Path] = ()
    watches_files: bool = True
    worker: int = 0
    accepted: int = 0


class Gateway(NamedTuple):
    """
    A whole gateway, wired.
    """

    service: GatewayService
    reload: Reload
    watch: Watch
    tls: TlsRegistry
    operations: LocalOperations
    peers: PeerList


def build(reactor: Any, setting: Setting) -> Gateway:
    """
    Build the parts of a gateway; open no socket.
    """
    loaded = setting.loaded
    config, log_observer, data_dir = loaded.config, setting.log_observer, setting.data_dir
    is_embedded = config.database.dsn == EMBEDDED and config.relay is None
    connector = Connector.of_process(config.database, reactor)
    spool = _spool(config, data_dir)
    backend = backend_of(config, data_dir, connector, reactor, spools=spool is not None)
    pool = backend.pool
    databases = Databases(backend.store, config, reactor, retry_delay)
    store = databases.store
    share = query_pool(config.database, reactor, retry_delay, connector)
    queries = PlacedQueries(
        config.queries,
        config.database,
        config.databases,
        share,
        backend.primary(share),
        retry_delay,
    )
    inflight_limit = InflightLimit(config.limits.bytes_in_flight)
    breakers = CircuitBreakers(store, reactor, retry_delay)
    streams = StreamRegistry(
        store, None if spool is None else spool.backlog, spread=databases.places is not None
    )
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
            answer_timeout=config.database.answer_timeout,
            places=databases.places,
            is_away=databases.is_route_away,
        )
    leftovers = Leftovers(
        setting.leftovers,
        config.spool.max_bytes,
        LeftoverParts(store, breakers, reactor, retry_delay, streams.missing),
    )
    writer = build_writer(config, reactor, databases, inflight_limit, breakers, spooler)
    own = config.channels.dsn is not None
    notifications = Notifications(
        config.database,
        reactor,
        retry_delay,
        Connector.of_process(config.database, reactor) if own else connector,
    )
    channels = Subscriptions(config.channels.allow, notifications, reactor)
    authenticator = Authenticator(loaded.tokens, in_threads(reactor), time.time)
    commands = CommandDialect(
        *(streams, queries, channels, authenticator, backend.max_stream, backend.relay_path)
    )
    room = partial(setting.room, backend.databases(config))
    connections, caution = room(config.limits, len(config.listeners))
    tls = TlsRegistry(reactor, watches=setting.watches_files)
    tls.replace_contexts(loaded.contexts)
    listeners = Listeners(
        config,
        reactor,
        connections=connections,
        services=PeerServices(
            *(writer, inflight_limit, reactor, time.time, channels),
            ids_of(setting.worker, setting.accepted) if setting.worker else count(1),
        ),
        commands=commands,
        tls=tls,
        authenticator=authenticator,
        hosting=setting.hosting,
    )
    source = StatusSource(
        StatusParts(
            clock=reactor,
            wall=time.time,
            routes=lambda: by_database(reload.config.routes),
            listeners=lambda: listeners,
            connection_limit=listeners.connection_limit,
            inflight_limit=inflight_limit,
            pool=pool,
            query_pool=share,
            writer=writer,
            databases=databases,
            breakers=breakers,
            streams=streams,
            queries=queries,
            channels=channels,
            tls=tls,
            spool=spool,
            spooler=spooler,
            leftovers=leftovers,
            max_spool_bytes=lambda: reload.config.spool.max_bytes,
        )
    )
    operator_warnings = [*setting.warnings, *caution]
    watch = Watch(source, operator_warnings, config.log.slow_commit)
    http = HttpService(config.http, watch, tls, reactor)
    controls = Controls(
        reload=lambda: reload.apply(),
        drain=lambda: service.drain(),
        shutdown=partial(stop, reactor),
    )
    peers = PeerList(lambda: listeners, streams.owners, reactor, time.time, setting.worker)
    operations = LocalOperations(source.parts, peers, log_observer.set_level)
    console = Console(watch, lambda: reload.config, controls, operations, peers)
    admin = AdminSockets(config.admin, data_dir, console, reactor)
    systemd = Systemd(setting.notify_socket, reactor, lambda: status_line(watch.status()))
    service = GatewayService(
        Parts(
            pool=pool,
            store=databases,
            writer=writer,
            queries=queries,
            listeners=listeners,
            spool=spool,
            spooler=spooler,
            leftovers=leftovers,
            notifications=notifications,
            tls=tls,
            watch=watch,
            http=http,
            admin=admin,
            systemd=systemd,
            unit_pruning=UnitPruning(databases, listeners, reactor),
        ),
        clock=reactor,
        data_directory=DataDirectory(data_dir) if is_embedded or config.relay else None,
        embedded=EmbeddedServer(data_dir) if is_embedded else None,
        dsn=config.database.dsn,
        channels_dsn=config.channels.dsn,
        drain_timeout=config.limits.drain_timeout,
        drain_delay=config.limits.drain_delay,
        operator_warnings=operator_warnings,
        log_observer=log_observer,
        end=setting.end,
        announces=setting.announces,
    )

    def take_log(config: Config) -> None:
        log_observer.take(config.log)
        writer.slow_commits.limit = watch.slow_commit = config.log.slow_commit

    take_log(config)
    reload = Reload(
        loaded,
        setting.read,
        ReloadParts(
            service=service,
            listeners=listeners,
            store=databases,
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
            warnings=setting.warnings_of,
        ),
    )
    return Gateway(service, reload, watch, tls, operations, peers)


def makeService(options: Options) -> IService:
    """
    Build the service and all its parts; open no socket.
    """
    reactor = cast(Any, global_reactor)
    log_observer = LogObserver(options.config.log)
    if options.parent is not None:
        begin(log_observer, options.parent)
    use_monotonic_clock(reactor)
    workers = options.config.process.count(len(os.sched_getaffinity(0)))
    if workers > 1:
        return _parent(reactor, options, log_observer, workers)
    gateway = build(
        reactor,
        Setting(
            Loaded(options.config, options.tokens, options.contexts),
            Path(options["data-dir"]),
            log_observer,
            read=options.load,
            warnings=options.operator_warnings,
            warnings_of=options.warnings_of,
            room=room,
            end=partial(end_process, reactor),
            notify_socket=NotifySocket.of_environment(os.environ),
            leftovers=leftover_spools(options.config, Path(options["data-dir"]), 1),
        ),
    )
    on_signals(reactor, gateway.service, gateway.reload)
    return gateway.service


def _parent(
    reactor: Any, options: Options, log_observer: LogObserver, workers: int
) -> ParentService:
    """
    Build the service of the parent of several workers.
    """
    config, data_dir = options.config, Path(options["data-dir"])
    loaded = Loaded(config, options.tokens, options.contexts)
    parent = Parent(loaded, workers, data_dir, spool_path(config, data_dir))
    room, caution = _room_of_workers(config, workers)
    dispatch = Dispatch(room, reactor.seconds)
    listeners = ParentListeners(reactor, config, dispatch)
    tls = TlsRegistry(reactor)
    tls.replace_contexts(loaded.contexts)
    log_observer.take(config.log)
    systemd = Systemd(
        NotifySocket.of_environment(os.environ),
        reactor,
        lambda: parent_status_line(parent, listeners, dispatch),
    )
    directory, embedded = embedded_parts(config, data_dir)
    left = leftover_spools(config, data_dir, workers)
    parent.leftovers = {number: left[number - 1 :: workers] for number in range(1, workers + 1)}
    remarks = [*options.operator_warnings, *caution]
    operator = OperatorSide(
        lambda: parent.loaded.config,
        data_dir,
        reactor,
        tls,
        WorkersAsSeen(lambda: service.processes, reactor),
        dispatch,
        Controls(
            reload=lambda: reload.apply(),
            drain=lambda: service.drain(),
            shutdown=partial(stop, reactor),
        ),
        log_observer.set_level,
        remarks,
    )
    service = ParentService(
        ParentParts(
            parent=parent,
            lender=Lender(reactor, config),
            dispatch=dispatch,
            listeners=listeners,
            tls=tls,
            systemd=systemd,
            operator=operator,
            log_observer=log_observer,
            data_directory=directory,
            embedded=embedded,
        ),
        reactor,
        remarks,
        partial(end_process, reactor),
        retry_delay,
        [] if options.parent is None else reactor_arguments(options.parent),
    )
    reload = SharedReload(
        options.load,
        SharedReloadParts(
            service=service,
            room=lambda config: _room_of_workers(config, workers),
            warnings=options.warnings_of,
        ),
        remarks,
    )
    tls.on_change(reload.renew_certificates)
    on_signals(reactor, service, reload)
    return service


def reactor_arguments(twistd: Mapping[str, Any]) -> list[str]:
    """Return the name of the reactor that was chosen, if any, for the workers' command line."""
    name = twistd.get("reactor")
    return [name] if isinstance(name, str) and name != "default" else []


def _room_of_workers(config: Config, workers: int) -> tuple[Room, list[str]]:
    """
    Return how many connections peers may have, and warnings for the operator.
    """
    files = raise_file_limit()
    own = sum(
        sum_of_shares(one.pool_max, workers) + sum_of_shares(one.query_connections, workers)
        for one in (config.database, *config.databases.values())
    )
    own = own // workers + 2 + len(config.databases)
    listeners = len(config.listeners)
    most, caution = room_for_peers(config.limits.connections, files, own, listeners, workers)
    return Room(most, room_in_process(files, own, listeners)), caution


def room(databases: Sequence[Database], limits: Limits, listeners: int) -> tuple[int, list[str]]:
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


def leftover_spools(config: Config, data_dir: Path, workers: int) -> list[Path]:
    """
    Return the paths of spools of workers that are no more.

    @param workers: that there are now.
    """
    first = spool_path(config, data_dir)
    try:
        numbers = {path: spool_number(first, path) or 0 for path in first.parent.iterdir()}
    except OSError:
        return []  # what is wrong with the folder is told when the spool is opened
    return sorted(path for path, number in numbers.items() if number > workers)


def _spool(config: Config, data_dir: Path) -> Spool | None:
    """
    Return the spool; C{None} where messages are refused in an outage and no spool file is left from
    before.
    """
    path = spool_path(config, data_dir)
    if config.spool.on_outage == "refuse" and not is_there(path):
        return None
    return Spool(SpoolFile(path, config.spool.max_bytes), OwnThread(global_reactor))
