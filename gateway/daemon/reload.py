"""
Reload: apply a new configuration to the running gateway, all of it or nothing.

Everything is read, checked and prepared first: the files, the routes and queries against the
database, the ports. Only then is anything taken over, all in one turn of the reactor; messages in
flight keep the definitions that they were read under. What cannot be taken over is named, at each
reload until the next start. A database that does not answer keeps no reload waiting for long: what
could not be checked is opened when it is back, as at a start.

A file without C{[access]}, where there was one, may be empty or cut off and would open everything:
it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from gateway.access.authenticator import Authenticator
from gateway.access.tokens import Token
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.placed_writer import PlacedWriter
from gateway.commit.writer import Writer
from gateway.config.changes import Changes, changes_of, moved_places
from gateway.config.load import Config, Limits
from gateway.daemon.configuration import Loaded
from gateway.daemon.service import GatewayService
from gateway.daemon.storing import dead_letter_routes
from gateway.daemon.systemd import Systemd
from gateway.dialects.subscriptions import Subscriptions
from gateway.listeners.build import Listeners, NewListeners
from gateway.listeners.replacement import PortReplacement
from gateway.model.errors import ConfigError, StoreError
from gateway.model.route import by_database
from gateway.postgres.queries.placed import PlacedQueries
from gateway.postgres.store.databases import Databases
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import Spool
from gateway.status.watch import Watch
from gateway.tls.contexts import Contexts
from gateway.tls.registry import TlsRegistry
from gateway.web.service import HttpService

GONE: Final = (
    "[access] is gone from the file: a reload does not take away what guards a running gateway;"
    " start it again if that is meant"
)
STOPS: Final = "the gateway stops"

_log: Final = Logger()

STAYS: Final = "the configuration from before stays in force"


class ReloadOutcome(NamedTuple):
    """
    Outcome of a reload.

    @ivar taken: whether the new configuration is in force.
    @ivar lines: what changed and what has to wait for the next start, or every problem.
    """

    taken: bool
    lines: Sequence[str]


class Prepared(NamedTuple):
    """
    New configuration that is checked, and what is ready for it.

    @ivar notes: lines for the operator.
    """

    loaded: Loaded
    changes: Changes
    new: NewListeners
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class ReloadParts:
    """
    Parts of the gateway to which a new configuration is applied.

    @ivar spool: C{None} where there is none; with it C{spooler}.
    @ivar room: returns how many connections the limits of a configuration leave for peers, with
        warnings for the operator.
    @ivar systemd: is told of a reload.
    @ivar take_log: applies what a configuration says of the log.
    @ivar warnings: returns the warnings about a configuration.
    """

    service: GatewayService
    listeners: Listeners
    store: Databases
    writer: Writer | PlacedWriter
    breakers: CircuitBreakers
    queries: PlacedQueries
    channels: Subscriptions
    tls: TlsRegistry
    authenticator: Authenticator
    inflight_limit: InflightLimit
    spool: Spool | None
    spooler: OutageSpool | None
    watch: Watch
    http: HttpService
    systemd: Systemd
    take_log: Callable[[Config], None]
    room: Callable[[Limits, int], tuple[int, list[str]]]
    warnings: Callable[[Config], list[str]]


class Reload:
    """
    Reload of the configuration.

    @ivar config: the configuration in force.
    """

    _log = Logger()

    def __init__(self, loaded: Loaded, read: Callable[[], Loaded], parts: ReloadParts) -> None:
        """
        @param loaded: what the gateway was started with.
        @param read: reads the configuration; raises L{ConfigError}.
        """
        self.config = loaded.config
        self._started = loaded.config
        self._tokens = loaded.tokens or {}
        self._contexts = loaded.contexts
        self._read = read
        self._parts = parts
        self._turn = DeferredLock()

    def __call__(self) -> None:
        """Reload, for SIGHUP."""
        Deferred.fromCoroutine(self.apply()).addErrback(
            lambda failure: self._log.failure(
                "the reload failed", event="reload-failed", failure=failure
            )
        )

    async def apply(self) -> ReloadOutcome:
        """
        Read the configuration again and apply it; one reload at a time.

        @return: the outcome, which is logged as well.
        """
        await self._turn.acquire()
        try:
            return await self._parts.systemd.reloading(self._apply)
        finally:
            self._turn.release()

    async def _apply(self) -> ReloadOutcome:
        try:
            prepared = await self._prepare(self._read)
        except ConfigError as error:
            return refuse(error.problems)
        return self.take(prepared)

    async def prepare(self, loaded: Loaded) -> Prepared:
        """
        Check a configuration and prepare everything for it; to be followed by L{take} or L{undo}.

        @raise ConfigError: with every problem; nothing is changed.
        """
        return await self._prepare(lambda: loaded)

    async def _prepare(self, read: Callable[[], Loaded]) -> Prepared:
        ports: PortReplacement | None = None
        try:
            loaded = read()
            if self.config.access is not None and loaded.config.access is None:
                raise ConfigError([GONE])
            changes = changes_of(
                self.config,
                loaded.config,
                self._started,
                has_spool=self._parts.spool is not None,
            )
            if places := moved_places(self.config, self._started, loaded.config):
                raise ConfigError(places)
            problems, notes = await self._check(loaded.config, changes)
            new = self._parts.listeners.prepare(loaded.config)
            ports = new.ports
            problems += await ports.open(may_close=not problems)
            if self._parts.service.is_stopping:
                problems = [STOPS]
            if problems:
                raise ConfigError(problems)
        except ConfigError as error:
            raise ConfigError([*error.problems, *await self._undo(ports)]) from None
        except Exception:  # noqa: BLE001 - whatever is in a file, it must not end the gateway
            self._log.failure(
                "not reloaded: the configuration could not be prepared", event="reload-unread"
            )
            faults = await self._undo(ports)
            raise ConfigError(["a fault of the gateway, which its log has", *faults]) from None
        return Prepared(loaded, changes, new, notes)

    async def undo(self, prepared: Prepared) -> None:
        """
        Give up what was prepared.
        """
        await self._undo(prepared.new.ports)

    def take(self, prepared: Prepared, announces: bool = True) -> ReloadOutcome:
        """
        Take over what was prepared.

        @param announces: whether what changed is logged; a worker's parent does.
        """
        loaded, changes, new, notes = prepared
        lines = [
            *changes.lines,
            *file_changes(self._tokens, self._contexts, loaded),
        ]
        try:
            notes = [*notes, *self._take(loaded, changes, new, announces)]
        except Exception:  # noqa: BLE001 - a bug in one part must not go unsaid
            # Part of it may be in force, so a later reload must not drop its [access].
            self.config = loaded.config
            self._log.failure("the reload broke off", event="reload-broken-off")
            broken = (
                "the reload broke off; what was taken over until then is in force: start the"
                " gateway again"
            )
            self._log.error("{_broken}", event="reload-incomplete", _broken=broken)
            return ReloadOutcome(False, [broken])
        if announces:
            log_reload(lines, [*notes, *changes.waiting])
        return ReloadOutcome(True, [*lines, *notes, *changes.waiting] or ["nothing changed"])

    async def _undo(self, ports: PortReplacement | None) -> list[str]:
        """
        Undo what was prepared; return a line for each port that could not be opened again.
        """
        if ports is None:
            return []
        return await ports.undo(reopens=not self._parts.service.is_stopping)

    async def _check(self, config: Config, changes: Changes) -> tuple[list[str], list[str]]:
        """
        Check new routes and queries against the database, as far as it can be asked.

        @return: problems, and notes for the operator.
        """
        routes = [config.routes[name] for name in changes.routes]
        queries = [config.queries[name] for name in changes.queries]
        problems: list[str] = []
        try:
            if routes:
                problems = await self._parts.store.check_routes(routes)
            faults = await self._parts.queries.check(queries) if queries else []
        except StoreError as error:
            names = ", ".join([*changes.routes, *changes.queries])
            return problems, [f"{names}: not checked, and opened when that is possible: {error}"]
        if any(route.create_columns is not None for route in routes):
            # They may read a table that is still to be created.
            return problems, faults
        return [*problems, *faults], []

    def _take(
        self, loaded: Loaded, changes: Changes, new: NewListeners, announces: bool
    ) -> list[str]:
        """
        Take everything over; return notes for the operator.
        """
        parts, config = self._parts, loaded.config
        notes = []
        parts.tls.replace_contexts(loaded.contexts)
        parts.authenticator.replace_tokens(loaded.tokens)
        connections, remarks = parts.room(config.limits, len(config.listeners))
        parts.listeners.connection_limit.most = connections
        remarks = [*parts.warnings(config), *remarks]
        notes += [f"warning: {remark}" for remark in remarks if remark not in parts.watch.remarks]
        parts.watch.remarks = remarks
        parts.take_log(config)
        parts.http.reload(config)
        parts.service.replace_limits(config.limits)
        if changes.routes or changes.removed_routes:
            notes += self._take_routes(config, changes)
        elif parts.spooler is not None:
            parts.spooler.reconfigure((), config.spool.on_outage == "spool")
        if parts.spool is not None:
            parts.spool.replace_limit(config.spool.max_bytes)
        parts.queries.replace(config.queries, changes.queries)
        parts.channels.replace_allowed(config.channels.allow)
        parts.listeners.take(new, announces)
        if config.limits.bytes_in_flight != parts.inflight_limit.limit:
            parts.inflight_limit.replace_limit(config.limits.bytes_in_flight)
        self.config, self._contexts = config, loaded.contexts
        self._tokens = loaded.tokens or {}
        return notes

    def _take_routes(self, config: Config, changes: Changes) -> list[str]:
        parts = self._parts
        changed = _inner_names([*changes.routes, *changes.removed_routes], self.config, config)
        until = parts.writer.generation
        oldest = parts.writer.begin_generation(changed, dead_letter_routes(config))
        parts.store.replace_routes(config.routes, changed, until, oldest)
        parts.breakers.forget(changed)
        if parts.spooler is not None:
            parts.spooler.reconfigure(changed, config.spool.on_outage == "spool")
        parts.service.open_routes()
        rows = {} if parts.spool is None else parts.spool.rows
        return [
            f"route {name}: {rows[name]} of its messages wait in the spool; they are stored by its"
            " definition from before until the gateway stops, and after that need the route again"
            for name in changes.removed_routes
            if rows.get(name)
        ]


def refuse(problems: Sequence[str]) -> ReloadOutcome:
    """
    Log that a reload is refused, and why.
    """
    for problem in problems:
        _log.error("not reloaded: {problem}", event="reload-problem", problem=problem)
    _log.error("{_stays}", event="reload-refused", _stays=STAYS)
    return ReloadOutcome(False, list(problems))


def log_reload(lines: Sequence[str], remarks: Sequence[str]) -> None:
    """
    Log what a reload changed.

    @param remarks: lines for the operator.
    """
    for line in lines:
        _log.info("reload: {change}", event="reload-change", change=line)
    for line in remarks:
        _log.warn("reload: {remark}", event="reload-remark", remark=line)
    _log.info("configuration reloaded; connections live on", event="reloaded")


def file_changes(
    tokens: Mapping[str, Token], contexts: Mapping[str, Contexts], loaded: Loaded
) -> list[str]:
    """
    Return a line for what changed in the files of tokens and certificates.

    @param tokens: in force.
    @param contexts: likewise.
    @param loaded: the new configuration.
    """
    lines = []
    new = loaded.tokens or {}
    if new != tokens:
        lines.append(f"access.tokens: {_token_changes(tokens, new)}")
    for name, renewed in loaded.contexts.items():
        before = contexts.get(name)
        if before is not None and _is_renewed(before, renewed):
            lines.append(f"listener {name}: certificates read again, for new connections")
    return lines


def _token_changes(before: Mapping[str, Token], after: Mapping[str, Token]) -> str:
    counts = {
        "added": len(after.keys() - before.keys()),
        "changed": sum(before[key] != after[key] for key in after.keys() & before.keys()),
        "removed": len(before.keys() - after.keys()),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _is_renewed(before: Contexts, after: Contexts) -> bool:
    return before.section == after.section and before.stamp != after.stamp


def _inner_names(names: Sequence[str], before: Config, after: Config) -> list[str]:
    """Return the names of routes, with those of the inner ones of sharded routes."""
    inner = dict.fromkeys(names)
    for routes in (before.routes, after.routes):
        inner |= dict.fromkeys(by_database({n: routes[n] for n in names if n in routes}))
    return [*inner]
