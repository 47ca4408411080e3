"""
C{gateway check}: check the configuration against the live database.

It creates nothing, and reports for whatever is missing whether the gateway would create it at its
start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.commands.shards import Shapes, shape_of, shard_problems
from gateway.config.load import Config, Database, NamedDatabase, dsn_key_of
from gateway.formats.registry import format_of
from gateway.model.errors import RouteError, RowError, SchemaNewer, StoreError
from gateway.model.outcome import Word
from gateway.model.query import Query
from gateway.model.route import HOME, Route, table_identifier
from gateway.postgres.connect.connection import Connection, Rows, RunQuery
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.dsn import dsn_fault
from gateway.postgres.queries.catalog import examine_query
from gateway.postgres.schema.findings import Findings
from gateway.postgres.schema.migrations import refuse_newer, up_to_date
from gateway.postgres.schema.placement import examine_placement
from gateway.postgres.store.catalog import examine
from gateway.postgres.store.databases import routes_in
from gateway.postgres.store.trial import try_messages
from gateway.sql.literals import Values

PROBLEMS: Final = 1
"""Exit status where something is wrong with the configuration, or the database disagrees."""

NOT_ASKED: Final = 3
"""
Exit status where nothing is known to be wrong, and the database could not be asked. (2 is
wrong usage.)
"""

_SERVER = "SELECT current_setting('server_version'), current_database(), current_user::text"
_SESSION = "SELECT current_database()::text, pg_backend_pid()"
_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
# By number: to look a name up in a schema that is not granted is an error. One by one:
# of several privileges at once PostgreSQL says whether any is held.
_MAY_USE = """
    SELECT coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE')
                             AND has_table_privilege(c.oid, needed.privilege)), true)
      FROM (VALUES ('migration', 'SELECT'), ('lane', 'SELECT'), ('lane', 'INSERT'),
                   ('lane', 'UPDATE'), ('lane', 'DELETE'), ('dead_letter', 'INSERT'),
                   ('stream', 'SELECT'), ('stream', 'INSERT'), ('stream', 'UPDATE'),
                   ('refusal', 'SELECT'), ('refusal', 'INSERT'), ('refusal', 'UPDATE'),
                   ('refusal', 'DELETE'), ('digest', 'SELECT'), ('digest', 'INSERT'),
                   ('digest', 'UPDATE'), ('digest', 'DELETE'))
           AS needed(name, privilege)
      JOIN pg_catalog.pg_class c ON c.relname = needed.name
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'gateway'
"""
_MAY_CALL = """
    SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE'))
           AND has_language_privilege('plpgsql', 'USAGE')
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname = 'gateway'
"""
_GRANT = (
    "the schema gateway is there, but not granted: run GRANT USAGE ON SCHEMA"
    " gateway TO ...; GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.lane TO ...;"
    " GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.dead_letter TO ...;"
    " GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.stream TO ...;"
    " GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.refusal TO ...;"
    " GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.digest TO ...;"
    " GRANT SELECT ON gateway.migration TO ...;"
    " GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gateway TO ...;"
    " GRANT USAGE ON LANGUAGE plpgsql TO ..."
)


@dataclass(slots=True)
class CheckReport:
    """
    Report of a check.

    @ivar notes: lines about what is in order.
    @ivar problems: C{key: fault and remedy}, one line each.
    @ivar unasked: C{key: reason} why a database could not be checked, or not completely.
    """

    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Exit status of the process."""
        if self.problems:
            return PROBLEMS
        return NOT_ASKED if self.unasked else 0


@dataclass(frozen=True, slots=True)
class CheckedDatabase:
    """
    Database with what the configuration has there.

    @ivar where: C{database} or C{databases.NAME}, for the lines of a report.
    @ivar dsn_key: key that gives C{dsn}.
    @ivar has_channels: whether it is where peers listen to channels.
    """

    where: str
    settings: Database
    dsn: str
    dsn_key: str
    routes: Sequence[Route]
    queries: Sequence[Query]
    has_channels: bool


def databases_of(config: Config, dsn: str) -> list[CheckedDatabase]:
    """
    Return the databases of a configuration, C{[database]} first.

    @param dsn: connection string of C{[database]}.
    """
    home = config.database
    replicas = [name for name, one in config.databases.items() if one.is_replica]
    queries = config.queries.values()
    # What a standby answers, its primary must be able to answer too.
    home_queries = [q for q in queries if q.database is None or q.database in replicas]
    routes = list(routes_in(config.routes, HOME).values())
    found = [CheckedDatabase("database", home, dsn, home.dsn_key, routes, home_queries, True)]
    for name, one in config.databases.items():
        theirs = [query for query in queries if query.database == name]
        where = f"databases.{name}"
        routes = list(routes_in(config.routes, name).values())
        found.append(
            CheckedDatabase(where, one, one.dsn, dsn_key_of(name, one), routes, theirs, False)
        )
    return found


async def check_database(
    config: Config, dsn: str, reactor: Any, imports: bool = False
) -> CheckReport:
    """
    Connect as the gateway does, and check everything that it uses.

    @param dsn: connection string of C{[database]}.
    @param imports: whether functions of routes may be imported, to try samples.
    """
    report = CheckReport()
    shapes: Shapes = {}
    for one in databases_of(config, dsn):
        await _check_one(config, one, reactor, imports, report, shapes)
    for route in config.routes.values():
        report.problems += shard_problems(route, shapes)
    return report


async def _check_one(
    config: Config,
    one: CheckedDatabase,
    reactor: Any,
    imports: bool,
    report: CheckReport,
    shapes: Shapes,
) -> None:
    settings = one.settings
    timeout = settings.statement_timeout
    connector = Connector.of_process(settings, reactor)
    fault = dsn_fault(one.dsn, connector.outside, replica=connector.replica)
    if fault is not None:
        report.problems.append(f"{one.dsn_key}: {fault}")
        return
    connection: Connection | None = None

    async def query(sql: str, values: Values) -> Rows:
        assert connection is not None
        return await connection.query(sql, values, timeout)

    try:
        connection = await connector.begin(one.dsn).connect()
        version, name, user = (await query(_SERVER, None))[0]
        where = f" on {connection.server}" if connection.server else ""
        report.notes.append(
            f"{one.where}: connected to {name} as {user}{where}, PostgreSQL {version}"
        )
        if isinstance(settings, NamedDatabase) and settings.is_replica:
            report.notes.append(f"{one.where}: {await _standing(query)}")
        if one.routes or one.has_channels:
            complete = await _check_schema(query, one.where, report)
        for route in one.routes:
            sound = await _check_route(query, route, complete, report)
            if route.table:
                shapes[route.name] = await shape_of(query, route.table)
            if sound and _tries_samples(route, imports, report):
                await _check_samples(connection, one, route, reactor.seconds(), report)
        for configured in one.queries:
            await _check_query(connection, configured, one, report)
        if one.has_channels:
            await _check_channels(config, connector, connection, report)
    except StoreError as error:
        report.unasked.append(f"{one.dsn_key}: {error}")
        report.problems += [
            problem
            for problem in sample_problems(one.routes, imports)
            if problem not in report.problems
        ]
    finally:
        if connection is not None:
            connection.discard()


async def _standing(query: RunQuery) -> str:
    """Return a note on a server that is to be a standby."""
    ((is_standby,),) = await query("SELECT pg_is_in_recovery()", None)
    return "a standby" if is_standby else "no standby now, so that it counts as never behind"


async def _check_query(
    connection: Connection, query: Query, one: CheckedDatabase, report: CheckReport
) -> None:
    judgement = await examine_query(connection, query, one.settings.statement_timeout)
    where = f"queries.{query.name}"
    at = "" if one.has_channels else f" (in {one.where})"
    problems = [f"{where}.{key}: {text}" for key, text in judgement.problems]
    report.problems += [f"{line}{at}" for line in problems if line not in report.problems]
    if judgement.sound is not None:
        report.notes.append(f"{where}: {judgement.sound.note}{at}")


async def _check_route(query: RunQuery, route: Route, complete: bool, report: CheckReport) -> bool:
    """
    Check a route against its table, and prepare its statements.

    @param complete: whether the gateway's schema is there, which every statement needs.
    @return: whether nothing is wrong with it.
    """
    known = len(report.problems)
    where = f"routes.{route.name}"
    try:
        findings = await examine(query, route)
    except (RouteError, RowError) as error:
        report.problems.append(f"{where}.sql: {error}")
        return False
    _report(where, route, findings, report)
    if findings.insert is None:
        return len(report.problems) == known
    for statement in findings.insert.statements:
        if complete and statement.prepared:
            try:
                types = ", ".join(statement.types)
                await query(f"PREPARE gateway_check ({types}) AS {statement.prepared}", None)
            except (RouteError, RowError) as error:
                report.problems.append(f"{where}.table: {error}")
                return False
            await query("DEALLOCATE gateway_check", None)
    target = table_identifier(route.table) if route.table else "its sql"
    report.notes.append(f"{where}: {target} takes {', '.join(route.columns)}")
    if route.table and findings.relation is not None:
        placement = await examine_placement(query, route, findings.relation.oid)
        report.notes += [f"{where}: {remark}" for remark in placement.remarks]
    return True


def _tries_samples(route: Route, imports: bool, report: CheckReport) -> bool:
    """
    Say whether the samples of a route are to be tried.
    """
    if route.reading.format == "python" and not imports:
        left = ", and its samples were not tried" if route.samples else ""
        report.notes.append(
            f"routes.{route.name}: {route.reading.function} was not imported{left}; --import does"
        )
        return False
    return bool(route.samples)


async def _check_samples(
    connection: Connection, one: CheckedDatabase, route: Route, now: float, report: CheckReport
) -> None:
    """
    Store each sample of a route, and roll back; one that is refused is a problem.
    """
    where = f"routes.{route.name}"
    timeout = one.settings.statement_timeout
    if any(problem.startswith(f"{one.where}: ") for problem in report.problems):
        return  # without the gateway's schema each would be refused
    try:
        trials = await try_messages(connection, route, route.samples, now, timeout)
    except (RouteError, RowError) as error:
        report.problems.append(f"{where}.samples: {error}")
        return
    refused = [
        f"{where}.samples[{number}]: is refused: {bytes(trial.outcome).decode()}"
        for number, trial in enumerate(trials)
        if trial.outcome.word not in (Word.OK, Word.DUP)
    ]
    report.problems += refused
    taken = len(trials) - len(refused)
    samples = "1 sample" if taken == 1 else f"{taken} samples"
    if taken:
        report.notes.append(f"{where}: PostgreSQL takes {samples}")


def sample_problems(routes: Iterable[Route], imports: bool) -> list[str]:
    """
    Return the problems of samples that no database is needed for: those that are not of their
    route's format.

    @param imports: whether functions of routes may be imported.
    """
    problems = []
    for route in routes:
        if route.samples and (imports or route.reading.format != "python"):
            form = format_of(route.reading, route.fields, route.timezone)
            problems += [
                f"routes.{route.name}.samples[{row}]: is refused: {bytes(outcome).decode()}"
                for row, outcome in form.parse_frames(route.samples).faults
            ]
    return problems


def _report(where: str, route: Route, findings: Findings, report: CheckReport) -> None:
    if not findings.exists and route.create_columns is not None:
        report.notes.append(f"{where}: the table is missing; the gateway will create it")
        findings.problems.clear()
    for problem in findings.problems:
        hint = "" if findings.exists else "; create it, or set create = true"
        report.problems.append(f"{where}.{problem.key}: {problem.text}{hint}")


async def _check_channels(
    config: Config, connector: Connector, connection: Connection, report: CheckReport
) -> None:
    """
    Check where LISTEN is run.

    @param connection: connection for C{database.dsn}, used for LISTEN if the configuration names no
        other.
    """
    channels = config.channels
    timeout = config.database.statement_timeout
    if not channels.allow:
        return
    report.notes.append(f"channels: peers may listen to {', '.join(channels.allow)}")
    (database, process), *_ = await connection.query(_SESSION, None, timeout)
    if channels.dsn is None:
        if process != connection.get_backend_pid():
            report.notes.append(
                "channels: there is a pooler on the way to the database; where it shares sessions"
                " (pool_mode = transaction), channels.dsn must lead around it"
            )
        return
    fault = dsn_fault(channels.dsn, connector.outside)
    if fault is not None:
        report.problems.append(f"{channels.dsn_key}: {fault}")
        return
    try:
        direct = await connector.begin(channels.dsn).connect()
    except StoreError as error:
        report.unasked.append(f"{channels.dsn_key}: {error}")
        return
    try:
        (other, process), *_ = await direct.query(_SESSION, None, timeout)
        if other != database:
            report.problems.append(
                f"channels.dsn: leads to database {other!r}, and database.dsn to {database!r};"
                " a NOTIFY is heard in its own database only"
            )
        elif process != direct.get_backend_pid():
            report.problems.append(
                f"{channels.dsn_key}: leads to a pooler; it must lead to the server"
            )
    except StoreError as error:
        report.unasked.append(f"{channels.dsn_key}: {error}")
    finally:
        direct.discard()


async def _check_schema(query: RunQuery, where: str, report: CheckReport) -> bool:
    """
    Check the gateway's schema; return whether it exists and may be used.

    @param where: the database's name in the report.
    """
    if not (await query(_MAY_USE, None))[0][0]:
        report.problems.append(f"{where}: {_GRANT}")
        return False
    try:
        await refuse_newer(query)
    except SchemaNewer as error:
        report.problems.append(f"{where}: {error}")
        return False
    if await up_to_date(query):
        if (await query(_MAY_CALL, None))[0][0]:
            return True
        report.problems.append(f"{where}: {_GRANT}")
    elif (await query(_MAY_CREATE, None))[0][0]:
        report.notes.append(f"{where}: the gateway will create or update its schema gateway")
    else:
        report.problems.append(
            f"{where}: the schema gateway is missing or old and CREATE is not granted: run GRANT"
            " CREATE ON DATABASE ... TO ..., or have gateway/postgres/schema/*.sql run"
        )
    return False
