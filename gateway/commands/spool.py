"""
C{gateway spool}: list messages in a spool, and move those that cannot be stored to dead letters.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import click
from msgspec.structs import replace

from gateway.commands.database import refuse_edge
from gateway.commands.file_options import config_option, data_dir_option, database_option
from gateway.commands.reactor import run
from gateway.commit.attempt import retry_delay
from gateway.config.load import EMBEDDED, Config
from gateway.config.process import spool_number
from gateway.daemon.configuration import read_config
from gateway.daemon.embedded import DataDirectory, EmbeddedServer
from gateway.daemon.process_title import hide
from gateway.daemon.wiring import spool_path
from gateway.model.errors import ConfigError, EmbeddedError, SpoolError, StoreError
from gateway.model.route import HOME
from gateway.model.text import printable
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.dsn import dsn_fault
from gateway.postgres.connect.pool import Pool
from gateway.postgres.schema.migrations import migrate, refuse_newer
from gateway.postgres.store.databases import Databases, routes_in
from gateway.postgres.store.store import PostgresStore
from gateway.spool.file import SpoolFile
from gateway.spool.inventory import (
    Message,
    Selection,
    WaitingSummary,
    id_of,
    messages,
    place_of,
    summed_up,
)
from gateway.spool.mover import Moved, Mover
from gateway.spool.reader import SpoolReader
from gateway.system.lock import LockFile, LockHeld
from gateway.system.regular_file import is_there

_STREAMS: Final = 3
"""Streams that one line of a list names."""


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """
    Location of a spool, and its configuration.

    @ivar is_one_of_several: whether the gateway has more: those of its workers.
    """

    config: Config
    data_dir: Path
    path: Path
    is_one_of_several: bool = False


Places = Callable[[], Sequence[SpoolPlace]]
"""Returns the spools of a gateway, in the order of their workers; at least one."""


@click.group(name="spool")
@config_option
@click.option(
    "--spool", "path", type=click.Path(path_type=Path), help="The spool's file; beats the others."
)
@database_option
@data_dir_option("the embedded server and the spool")
@click.pass_context
def spool_command(
    context: click.Context,
    config: Path | None,
    path: Path | None,
    database: str | None,
    data_dir: Path,
) -> None:
    """Messages that wait in a gateway's spool.

    list and show only read, whether the gateway runs or not. Each record has an ID, which
    list --records tells.
    """

    def places() -> Sequence[SpoolPlace]:
        try:
            if database is not None:
                hide(database)
            read = read_config(None if config is None else str(config), database)
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
        folder = data_dir.absolute()
        found = spools_of(spool_path(read, folder)) if path is None else [path.absolute()]
        return [SpoolPlace(read, folder, one, len(found) > 1) for one in found]

    context.obj = places


def spools_of(first: Path) -> list[Path]:
    """
    Return the spools that are there, in the order of their workers: also of those that are no more.

    @param first: path of worker 1's, or of the only one; it is returned where there is none.
    """
    try:
        beside = [*first.parent.iterdir()]
    except OSError:
        return [first]  # whoever reads it says why that cannot be
    numbers = {path: number for path in beside if (number := spool_number(first, path))}
    others = sorted(numbers, key=numbers.__getitem__)
    return [first, *others] if is_there(first) or not others else others


_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_route_option = click.option("--route", help="Only those of this route.")
_stream = click.option("--stream", help="Only those of this numbered stream.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@spool_command.command(name="list")
@_route_option
@_stream
@click.option("--records", is_flag=True, help="Each record by itself, with its ID.")
@_json
@click.pass_obj
def list_waiting(
    where: Places,
    route: str | None,
    stream: str | None,
    records: bool,
    as_json: bool,
) -> None:
    """List what waits, for each route, and why.

    Of what is put aside, so that others pass it, also for each stream.
    """
    places = where()
    selection = Selection(route=route, stream=stream)
    found: list[tuple[SpoolPlace, list[WaitingSummary]]] = [
        (place, _read_spool(place, lambda reader: summed_up(reader.records(), selection, records)))
        for place in places
    ]
    if not any(waiting for _, waiting in found):
        _see_that_it_may_be(places[0], selection)
    for place, waiting in found:
        if as_json:
            for one in waiting:
                click.echo(json.dumps(_of(place) | _waiting_as_json(one)))
            continue
        if waiting:
            _print_waiting(waiting)
        total = sum(one.messages for one in waiting)
        click.echo(f"{total} messages wait in {place.path}")


@spool_command.command()
@_ids
@_route_option
@_stream
@click.option("--skip", default=0, type=click.IntRange(0), help="So many of them first.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@click.option("--raw", is_flag=True, help="The messages alone, byte for byte.")
@_json
@click.pass_obj
def show(
    where: Places,
    ids: tuple[str, ...],
    route: str | None,
    stream: str | None,
    skip: int,
    limit: int,
    raw: bool,
    as_json: bool,
) -> None:
    """Show messages, in order: those of records, of a route or of a stream."""
    if raw and as_json:
        raise click.UsageError("--raw and --json are two ways to show them")
    selection = _selection(ids, route, stream)
    spools = where()
    _see_that_ids_are_of_one(spools, selection)
    matched: list[int] = []
    shown: list[tuple[SpoolPlace, Message]] = []
    left = skip
    for place in spools:

        def chosen(reader: SpoolReader) -> list[Message]:
            nonlocal left
            places: set[int] = set()
            found = _messages(reader, selection, places)
            left -= sum(1 for _ in islice(found, left))
            some = [*islice(found, limit - len(shown))]
            matched.extend(places)
            return some

        shown.extend((place, message) for message in _read_spool(place, chosen))
        if len(shown) == limit:
            break
    if len(shown) < limit:
        _see_that_there_is(spools, selection, matched)
    for number, (place, message) in enumerate(shown):
        if raw:
            sys.stdout.buffer.write(message.frame)
        elif as_json:
            click.echo(json.dumps(_of(place) | _message_as_json(message)))
        else:
            click.echo(("\n" if number else "") + _message_text(place, message))


@spool_command.command(name="move-to-dead-letters")
@_ids
@_route_option
@_stream
@click.option("--all", "everything", is_flag=True, help="All there are.")
@click.option("--reason", default="moved by its operator", show_default=True)
@click.pass_obj
def move(
    where: Places,
    ids: tuple[str, ...],
    route: str | None,
    stream: str | None,
    everything: bool,
    reason: str,
) -> None:
    """Make dead letters of messages, each once; gateway dead-letters has them then.

    The gateway must be stopped. What is shown to be stored already is only removed. Of a
    numbered stream, what stands behind messages that stay becomes dead letters in its turn,
    when the gateway has stored those.
    """
    selection = _selection(ids, route, stream, everything)
    if not reason.strip() or "\0" in reason:
        raise click.BadParameter("say why, in some words", param_hint="--reason")
    spools = where()
    _see_that_ids_are_of_one(spools, selection)
    with ExitStack() as stack:
        files = [(place, stack.enter_context(closing(_open_spool(place)))) for place in spools]
        for _, file in files:
            for remark in file.remarks:
                click.echo(f"spool: {printable(remark)}", err=True)
        matched = {place.path: _places(file, selection) for place, file in files}
        _see_that_there_is(spools, selection, [*chain.from_iterable(matched.values())])

        async def work(reactor: Any) -> int:
            for place, file in files:
                if not matched[place.path]:
                    continue
                try:
                    moved = await _move(place, file, selection, reason, reactor)
                except (StoreError, SpoolError, EmbeddedError) as error:
                    what = f"database: {error}" if isinstance(error, StoreError) else str(error)
                    click.echo(f"{what}; what is not moved yet is still in the spool", err=True)
                    return 1
                begin = f"{place.path}: " if place.is_one_of_several else ""
                click.echo(begin + _moved_text(moved))
            return 0

        run(work)


def _selection(
    ids: Sequence[str], route: str | None, stream: str | None, everything: bool = True
) -> Selection:
    if not (ids or route is not None or stream is not None or everything):
        raise click.UsageError("say which ones: their IDs, --route, --stream or --all")
    try:
        return Selection(frozenset(map(place_of, ids)), route, stream)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


# Reading.


def _read_spool(place: SpoolPlace, work: Callable[[SpoolReader], Any]) -> Any:
    _see_that_it_is_there(place)
    try:
        return work(SpoolReader(place.path))
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None


def _see_that_it_is_there(place: SpoolPlace) -> None:
    if not is_there(place.path):
        raise click.ClickException(
            f"there is no spool {place.path}; --config, --data-dir or --spool says where it is"
        )


def _messages(reader: SpoolReader, selection: Selection, places: set[int]) -> Iterator[Message]:
    """
    Yield the selected messages, and add the places of their records to C{places}.
    """
    for record, batch in reader.records():
        if batch is not None:
            part, _ = selection.split(record, batch)
            if part is not None:
                places.add(record.place)
                yield from messages(record.place, part)


def _see_that_ids_are_of_one(spools: Sequence[SpoolPlace], selection: Selection) -> None:
    """
    End the command if records are named by ID, and there are several spools that may have them.
    """
    if selection.places and len(spools) > 1:
        names = " or ".join(f"--spool {place.path}" for place in spools)
        raise click.UsageError(f"each spool has IDs of its own; say which one: {names}")


def _see_that_there_is(
    spools: Sequence[SpoolPlace], selection: Selection, places: Collection[int]
) -> None:
    """
    End the command if nothing is selected, or an ID does not exist.

    @param places: places of the records that the selection matched.
    """
    paths = " and ".join(str(place.path) for place in spools)
    for missing in sorted({*selection.places} - {*places}):
        raise click.ClickException(f"there is no such record {id_of(missing)} in {paths}")
    if not places:
        _see_that_it_may_be(spools[0], selection)
        of = "" if selection.route is None else f" of route {selection.route!r}"
        of += "" if selection.stream is None else f" of stream {selection.stream!r}"
        raise click.ClickException(f"nothing{of} waits in {paths}")


def _see_that_it_may_be(place: SpoolPlace, selection: Selection) -> None:
    """
    End the command if the selected route does not exist.
    """
    route = selection.route
    if route is not None and route not in place.config.routes:
        raise click.ClickException(
            f"there is no route {route!r} in the configuration, and nothing of one waits"
        )


# Moving.


def _places(file: SpoolFile, selection: Selection) -> Collection[int]:
    return {
        parcel.records[0].place
        for parcel in file.each()
        if selection.split(parcel.records[0], parcel.batch)[0] is not None
    }


def _open_spool(place: SpoolPlace) -> SpoolFile:
    """
    Open the spool's file, so that no gateway can use it.
    """
    _see_that_it_is_there(place)
    lock = LockFile(Path(f"{place.path}.lock"))
    file = SpoolFile(place.path, place.config.spool.max_bytes)
    try:
        lock.hold()
        lock.release()
        file.open()
    except LockHeld as held:
        raise click.ClickException(
            f"the spool {place.path} is in use: the gateway (process {held.owner}) must be"
            " stopped first"
        ) from None
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{place.path}.lock: {error.strerror}") from None
    return file


async def _move(
    place: SpoolPlace, file: SpoolFile, selection: Selection, reason: str, reactor: Any
) -> Moved:
    settings = place.config.database
    refuse_edge(place.config)
    if settings.dsn != EMBEDDED:
        connector = Connector.of_process(settings, reactor)
        fault = dsn_fault(settings.dsn, connector.outside)
        if fault is not None:
            raise click.ClickException(f"{settings.dsn_key}: {fault}")
        return await _moved(place, settings.dsn, file, selection, reason, reactor)
    server = EmbeddedServer(place.data_dir)
    if not is_there(server.data):
        raise click.ClickException(
            f"there is no embedded server in {place.data_dir}; name its directory with --data-dir,"
            " or the database with --config or --database"
        )
    # The gateway, and so its embedded server, is stopped.
    directory = DataDirectory(place.data_dir)
    directory.lock()
    started = server.start()
    try:
        return await _moved(place, server.dsn, file, selection, reason, reactor)
    finally:
        if started:
            await server.stop(reactor)
        directory.unlock()


async def _moved(
    place: SpoolPlace, dsn: str, file: SpoolFile, selection: Selection, reason: str, reactor: Any
) -> Moved:
    settings = replace(place.config.database, pool_min=1, pool_max=1)
    connector = Connector.of_process(settings, reactor)
    connection = await connector.begin(dsn).connect()
    try:
        await connection.transaction(refuse_newer, settings.statement_timeout)
        await connection.transaction(migrate, settings.statement_timeout)
    finally:
        connection.discard()
    pool = Pool(settings, reactor, retry_delay, connector)
    pool.start(dsn)
    try:
        routes = place.config.routes
        home = PostgresStore(pool, routes_in(routes, HOME), settings)
        databases = Databases(home, place.config, reactor, retry_delay)
        databases.start()
        try:
            return await Mover(file, databases.store, reason).move(selection)
        finally:
            databases.close()
    finally:
        pool.close()


def _moved_text(moved: Moved) -> str:
    parts = [f"{moved.dead_letters} messages are dead letters now"]
    if moved.known:
        parts.append(f"{moved.known} were stored or moved before, and are removed")
    if moved.waiting:
        parts.append(f"{moved.waiting} will be when what is before them in their stream is stored")
    return ", ".join(parts)


# For people, and for programs.


def _print_waiting(waiting: Sequence[WaitingSummary]) -> None:
    head = ("IDs", "route", "messages", "records", "bytes", "oldest", "numbers", "why it waits")
    rows = [head, *map(_row, waiting)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [
            cell.rjust(width) if 2 <= column <= 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _row(waiting: WaitingSummary) -> tuple[str, ...]:
    first, last = id_of(waiting.first), id_of(waiting.last)
    numbers = [
        f"{stream} {', '.join(_range(*each) for each in ranges)}"
        for (stream, _), ranges in waiting.numbers.items()
    ]
    named = "; ".join(numbers[:_STREAMS])
    if len(numbers) > _STREAMS:
        named += f"; {len(numbers) - _STREAMS} more streams"
    counts = (waiting.messages, waiting.records, waiting.size)
    return (
        first if first == last else f"{first}-{last}",
        printable(waiting.route),
        *map(str, counts),
        "-" if waiting.oldest is None else _local(waiting.oldest),
        printable(named) or "-",
        printable(waiting.reason),
    )


def _range(first: int, last: int) -> str:
    return f"#{first}" if first == last else f"#{first}-#{last}"


def _local(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _waiting_as_json(waiting: WaitingSummary) -> dict[str, object]:
    return {
        "first_id": id_of(waiting.first),
        "last_id": id_of(waiting.last),
        "route": waiting.route,
        "waits_for_stream": waiting.stream,
        "messages": waiting.messages,
        "records": waiting.records,
        "bytes": waiting.size,
        "oldest": None if waiting.oldest is None else _iso(waiting.oldest),
        "streams": [
            {"stream": stream, "epoch": epoch, "numbers": ranges}
            for (stream, epoch), ranges in waiting.numbers.items()
        ],
        "dead_letters": waiting.refused,
        "damaged": waiting.damaged,
        "reason": waiting.reason,
    }


def _of(place: SpoolPlace) -> dict[str, object]:
    """Return the file of something that waits, where there are several."""
    return {"spool": str(place.path)} if place.is_one_of_several else {}


def _about(message: Message) -> dict[str, object]:
    origin, refusal = message.origin, message.refusal
    return {
        "id": id_of(message.place),
        "route": message.route,
        "peer": origin.peer,
        "listener": origin.listener,
        "identity": origin.identity,
        "received_at": _iso(message.received_at),
        "stream": message.stream,
        "epoch": message.epoch or None,
        "number": None if message.stream is None else message.number,
        "refused": None if refusal is None else refusal.text,
    }


def _message_as_json(message: Message) -> dict[str, object]:
    try:
        return {**_about(message), "message": message.frame.decode()}
    except UnicodeDecodeError:
        return {**_about(message), "base64": base64.b64encode(message.frame).decode()}


def _message_text(place: SpoolPlace, message: Message) -> str:
    lines = [
        f"{name:<12}{'' if value is None else printable(str(value))}"
        for name, value in (_of(place) | _about(message)).items()
    ]
    text = printable(message.frame.decode("utf-8", "backslashreplace"))
    return "\n".join([*lines, f"{'message':<12}{len(message.frame)} bytes", text])
