"""
One page of the status for a terminal of 80 columns. Pure.

C{SHOW STATUS}, C{gateway status} and C{gateway top} show the same page.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Final

from gateway.admin.table import Column, Kind, Row, Table, bytes_text, lines_of, seconds_text
from gateway.admin.views import WORDS, Growth, answers_of, mean
from gateway.model.text import printable
from gateway.status.status import Status

WIDTH: Final = 80
"""Columns of a line, at most."""

_NAME: Final = 14
"""Characters of a name that are shown."""

_SOON: Final = 30 * 86400.0
"""Seconds before their expiry from which certificates are on the page."""


def page(status: Status, growth: Growth) -> list[str]:
    """
    Return the page, warnings first.
    """
    parts = (
        *(_wrapped(_head(status)), _listeners(status, growth), _routes(status, growth)),
        *(_workers(status, growth), _wrapped(_rest(status))),
    )
    lines: list[str] = []
    for part in parts:
        lines += ["", *part] if lines and part else part
    return lines


def _wrapped(lines: Iterator[str]) -> list[str]:
    indent = " " * 4
    return [part for line in lines for part in wrap(line, WIDTH, subsequent_indent=indent)]


def state_text(status: Status) -> str:
    """Return one line: what becomes of what peers send."""
    does = "spooling" if status.is_taking else "taking nothing"
    if status.is_storing:
        does = "storing"
    return f"gateway {status.version}, process {status.process.pid}: {status.state}, {does}"


def _head(status: Status) -> Iterator[str]:
    running = seconds_text(status.time - status.started)
    yield f"{state_text(status)}; for {running}"
    for reason in status.reasons:
        yield f"  {printable(reason)}"
    for warning in status.warnings:
        subject = f" {warning.subject}" if warning.subject else ""
        yield f"! {printable(f'{warning.code}{subject}: {warning.text}')}"


def _listeners(status: Status, growth: Growth) -> list[str]:
    columns = (
        *(Column("listener"), Column("peers", Kind.COUNT), Column("msg/s", Kind.COUNT)),
        *(Column(word, Kind.COUNT) for word in WORDS),
        Column("answer", Kind.SECONDS),
    )
    rows: list[Row] = []
    for one in status.listeners:
        begin = f"listener.{one.name}"
        rows.append(
            (
                *(_short(one.name), count_text(one.peers)),
                count_text(growth(f"{begin}.messages")),
                *(count_text(answers_of(one, word)) for word in WORDS),
                mean(one.answer_seconds),
            )
        )
    return lines_of(Table(columns, rows)) if rows else []


def _routes(status: Status, growth: Growth) -> list[str]:
    columns = (
        *(Column("route"), Column("state"), Column("row/s", Kind.COUNT)),
        *(Column("rows", Kind.COUNT), Column("commit", Kind.SECONDS)),
        *(Column("dead", Kind.COUNT), Column("waiting", Kind.COUNT)),
    )
    rows: list[Row] = [
        (
            *(_short(one.name), one.state, count_text(growth(f"route.{one.name}.rows"))),
            *(count_text(one.rows), mean(one.commit_seconds)),
            *(count_text(one.dead_letters), count_text(one.spooled + one.held)),
        )
        for one in status.routes
    ]
    return lines_of(Table(columns, rows)) if rows else []


def _workers(status: Status, growth: Growth) -> list[str]:
    columns = (
        *(Column("worker", Kind.ID), Column("state"), Column("pid", Kind.ID)),
        *(Column("running", Kind.SECONDS), Column("restarts", Kind.COUNT)),
        *(Column("peers", Kind.COUNT), Column("msg/s", Kind.COUNT)),
        *(Column("spool", Kind.COUNT), Column("lag", Kind.SECONDS)),
    )
    rows: list[Row] = [
        (
            *(one.number, one.state, one.pid),
            None if one.started is None else status.time - one.started,
            *(count_text(one.restarts), count_text(one.peers)),
            count_text(growth(f"worker.{one.number}.messages")),
            count_text(0 if one.spool is None else one.spool.messages),
            None if one.process is None else one.process.reactor_lag,
        )
        for one in status.workers
    ]
    return lines_of(Table(columns, rows)) if rows else []


def _rest(status: Status) -> Iterator[str]:
    for pool in status.pools:
        trouble = f"; {pool.trouble}" if pool.trouble else ""
        yield (
            f"pool {pool.full_name:<9} {pool.in_use} in use, {pool.idle} idle, {pool.most} at most,"
            f" {pool.waiting} waiting, {pool.lost} lost{printable(trouble)}"
        )
    busy = [lane for lane in status.lanes if lane.waiting]
    longest = max((lane.seconds for lane in busy), default=0.0)
    waiting = sum(lane.waiting for lane in busy)
    yield (
        f"lanes          {len(busy)} of {len(status.lanes)} busy, {waiting:,} messages,"
        f" the longest commit {seconds_text(longest)}"
    )
    spool = status.spool
    if spool is not None:
        oldest = ""
        if spool.oldest is not None:
            oldest = f", oldest {seconds_text(status.time - spool.oldest)}"
        yield (
            f"spool          {spool.state}, {spool.messages:,} messages{oldest};"
            f" {bytes_text(spool.size)} of {bytes_text(spool.most_size)}"
        )
    for old in status.left_spools:
        yield f"spool left     {old.state}, {old.messages:,} messages in {printable(old.path)}"
    streams = status.streams
    if streams.claims:
        yield f"streams        {streams.open} open, {streams.waiting} waiting, {streams.gaps} gaps"
    if status.queries:
        calls = sum(sum(query.answers.values()) for query in status.queries)
        yield f"queries        {len(status.queries)}, {calls:,} calls"
    for channel in status.channels:
        yield (
            f"channel {_short(channel.name):<6} {channel.subscribers} subscribers,"
            f" {channel.notifications:,} notifications"
        )
    for one in status.certificates:
        left = one.expires - status.time
        if left < _SOON:
            yield f"{one.kind} {printable(one.subject)}: {seconds_text(left)} left"
    memory, process = status.memory, status.process
    yield (
        f"memory         {bytes_text(process.resident)} resident;"
        f" {bytes_text(memory.in_flight)} of {bytes_text(memory.most)} in flight"
    )
    yield (
        f"process        {process.cpu_seconds:,.1f} s of processor time,"
        f" {process.open_files:,} of {process.most_files:,} files,"
        f" lag {seconds_text(process.reactor_lag)}"
    )
    yield f"peers          {status.peers:,} of {status.most_peers:,}"


def count_text(count: float) -> str:
    """Return a count in six characters, such as C{1.23M}."""
    if count < 10_000:
        return f"{count:,.0f}"
    for unit in "kMG":
        count /= 1000
        if count < 999.5 or unit == "G":
            break
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f}{unit}"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
