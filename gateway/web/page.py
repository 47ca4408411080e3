"""
Status page: a L{Status} and its history as one page of HTML.

Strategy: the page is whole without a script, a style sheet or a colour; nothing of it comes from
elsewhere. Warnings come first, then what comes in and what becomes of it, then the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.status.status import (
    Distribution,
    ListenerStatus,
    PoolStatus,
    RouteState,
    RouteStatus,
    SpoolState,
    SpoolStatus,
    Status,
    WorkerState,
    WorkerStatus,
)
from gateway.status.warnings import FULL, SOON
from gateway.web.chart import Layer, chart, peak
from gateway.web.markup import Column, Html, Tone, bar, escaped, figures, joined, state, table
from gateway.web.traffic import Traffic
from gateway.web.units import count, moment, rate, size, span

FATES = ("stored", "spooled", "refused", "later")
"""What becomes of messages, as the history names it."""

_LAYERS: Sequence[tuple[Tone, str, Sequence[str]]] = (
    ("good", "stored", ("stored",)),
    ("warn", "spooled", ("spooled",)),
    ("bad", "refused or to be sent again", ("refused", "later")),
)
"""Areas of the charts: tone, name, and what of the history is in it."""

_ROUTE_TONES: Mapping[RouteState, Tone] = {
    "opening": "warn",
    "in service": "good",
    "out of service": "bad",
    "paused": "warn",
    "removed": "warn",
}

_WORKER_TONES: Mapping[WorkerState, Tone] = {
    "starting": "warn",
    "ready": "good",
    "draining": "warn",
    "away": "bad",
}

_SPOOL_TONES: Mapping[SpoolState, Tone] = {
    "empty": "good",
    "keeping": "warn",
    "draining": "warn",
    "refusing": "bad",
}


def page(status: Status, traffic: Traffic, machine: str, links: Sequence[str]) -> str:
    """
    Return the page.

    @param machine: name of the machine.
    @param links: paths of the other pages.
    """
    tone, summary = _summary(status)
    name = escaped(f"Gateway on {machine}" if machine else "Gateway")
    sections = (
        ("warnings", "Warnings", _warnings(status)),
        ("traffic", "Messages", _overview(status, traffic)),
        ("listeners", "Listeners", _listeners(status, traffic)),
        ("routes", "Routes", _routes(status, traffic)),
        ("database", "Database", _database(status)),
        ("spool", "Spool", joined((_spool(status.spool, status.time), _left(status)))),
        ("streams", "Streams", _streams(status)),
        ("queries", "Queries", _queries(status)),
        ("channels", "Channels", _channels(status)),
        ("certificates", "Certificates", _certificates(status)),
        ("workers", "Workers", _workers(status, traffic)),
        ("process", "Process", _process(status)),
    )
    content = joined(
        f'<section id="{key}" aria-labelledby="of-{key}"><h2 id="of-{key}">{title}</h2>'
        f"{body}</section>\n"
        for key, title, body in sections
        if body
    )
    others = joined((f'<a href="{escaped(link)}">{escaped(link)}</a>' for link in links), " ")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<noscript><meta http-equiv="refresh" content="10"></noscript>
<title>{escaped(summary)}: {name}</title>
<link rel="icon" href="/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script>
</head>
<body>
<header>
<h1>{name}</h1>
<p id="summary">{state(tone, summary)}</p>
<p id="read">Read <time>{moment(status.time)}</time>, up {span(status.time - status.started)},
version {escaped(status.version)}</p>
<p id="lost" role="status"></p>
</header>
<main>
{content}</main>
<footer><nav aria-label="For programs">{others}</nav></footer>
</body>
</html>
"""


def _summary(status: Status) -> tuple[Tone, str]:
    if status.state == "draining":
        return "warn", "Stopping"
    if status.is_storing:
        return ("warn", "Starting") if status.state == "starting" else ("good", "Storing")
    if status.is_taking:
        return "warn", "Spooling"
    return "bad", "Not taking messages"


def _warnings(status: Status) -> Html:
    if not status.warnings:
        return Html("<p>None.</p>")
    lines = joined(
        f"<li>{state('warn', warning.code)}"
        f"{f' <b>{escaped(warning.subject)}</b>' if warning.subject else ''}"
        f" {escaped(warning.text)}</li>"
        for warning in status.warnings
    )
    return Html(f'<ul class="warnings">{lines}</ul>')


def _overview(status: Status, traffic: Traffic) -> Html:
    begins = [f"listener.{listener.name}" for listener in status.listeners]

    def now(kind: str) -> Html:
        return Html(f"{rate(traffic.rate(*(f'{begin}.{kind}' for begin in begins)))} <i>/s</i>")

    layers = _layers(traffic, begins)
    most = rate(peak(layers))
    label = f"Answers in the last hour, at most {most} a second"
    # How many there were: nobody needs the colours to know.
    legend = joined(
        f'<li class="{tone}">{text}: '
        f"{count(traffic.growth(*(f'{begin}.{name}' for begin in begins for name in names)))}</li>"
        for tone, text, names in _LAYERS
    )
    memory = status.memory
    held = memory.in_flight + memory.kept
    return joined(
        (
            figures(
                (
                    ("in", now("messages")),
                    ("stored", now("stored")),
                    ("spooled", now("spooled")),
                    ("refused", now("refused")),
                    ("to be sent again", now("later")),
                    ("peers", _of(status.peers, status.most_peers, count)),
                    ("bytes held for peers", _of(held, memory.most, size)),
                )
            ),
            f"<figure>{chart(traffic.ages, layers, label, 'hour')}<figcaption><span>1 h ago</span>"
            f"<span>{escaped(label)}</span><span>now</span></figcaption></figure>"
            f'<ul class="legend">{legend}</ul>',
        )
    )


def _layers(traffic: Traffic, begins: Sequence[str]) -> list[Layer]:
    """Return what became of the messages of listeners in the last hour."""
    return [
        Layer(tone, traffic.hour(*(f"{begin}.{name}" for begin in begins for name in names)))
        for tone, _, names in _LAYERS
    ]


def _listeners(status: Status, traffic: Traffic) -> Html:
    if not status.listeners:
        return Html("")
    columns = (
        *(Column("listener"), Column("peers", True), Column("in /s", True)),
        *(Column(f"{kind} /s", True) for kind in FATES[:3]),
        *(Column("again /s", True), Column("in, total", True)),
        *(Column("answer", True), Column("ended", True), Column("last hour")),
    )
    return table("Listeners", columns, (_listener(one, traffic) for one in status.listeners))


def _listener(listener: ListenerStatus, traffic: Traffic) -> Sequence[Html]:
    begin = f"listener.{listener.name}"
    layers = _layers(traffic, [begin])
    kind = f"{listener.framing}, {listener.dialect}{', TLS' if listener.tls else ''}"
    where = listener.address or "does not listen"
    ended = _sums(
        (
            *(("turned away", listener.turned_away), ("disconnected", listener.let_go)),
            ("datagrams lost", listener.lost),
        )
    )
    return (
        Html(f"{escaped(listener.name)}<small>{escaped(where)}; {escaped(kind)}</small>"),
        _of(listener.peers, listener.most_peers, count),
        *(escaped(rate(traffic.rate(f"{begin}.{kind}"))) for kind in ("messages", *FATES)),
        escaped(count(listener.messages)),
        _mean(listener.answer_seconds),
        ended,
        chart(
            traffic.ages,
            layers,
            f"answers, at most {rate(peak(layers))} a second",
            "spark",
        ),
    )


def _routes(status: Status, traffic: Traffic) -> Html:
    if not status.routes:
        return Html("")
    columns = (
        *(Column("route"), Column("state"), Column("rows /s", True), Column("rows, total", True)),
        *(Column("commits /s", True), Column("commit", True), Column("in the spool", True)),
        *(Column("dead letters", True), Column("unknown", True), Column("last hour")),
    )
    return table("Routes", columns, (_route(one, traffic) for one in status.routes))


def _route(route: RouteStatus, traffic: Traffic) -> Sequence[Html]:
    begin = f"route.{route.name}"
    layers = [Layer("good", traffic.hour(f"{begin}.rows"))]
    reason = f"<small>{escaped(route.reason)}</small>" if route.reason else ""
    resolved = sum(route.resolved.values())
    return (
        Html(f"{escaped(route.name)}<small>{escaped(route.table or 'SQL of its own')}</small>"),
        Html(f"{state(_ROUTE_TONES[route.state], route.state)}{reason}"),
        escaped(rate(traffic.rate(f"{begin}.rows"))),
        escaped(count(route.rows)),
        escaped(rate(traffic.rate(f"{begin}.commits"))),
        _mean(route.commit_seconds),
        escaped(count(route.spooled)),
        escaped(count(route.dead_letters)),
        Html(f"{count(route.unknown)}<small>{count(resolved)} resolved</small>")
        if route.unknown
        else escaped("0"),
        chart(traffic.ages, layers, f"rows, at most {rate(peak(layers))} a second", "spark"),
    )


def _database(status: Status) -> Html:
    columns = (
        *(Column("pool"), Column("state"), Column("in use", True), Column("idle", True)),
        *(Column("opening", True), Column("most", True), Column("waiting", True)),
        *(Column("opened", True), Column("lost", True)),
    )
    busy = [lane for lane in status.lanes if lane.seconds]
    lanes = figures(
        (
            ("lanes that commit", escaped(f"{len(busy)} of {len(status.lanes)}")),
            ("messages in lanes", escaped(count(sum(lane.waiting for lane in status.lanes)))),
            (
                "longest commit under way",
                escaped(span(max(lane.seconds for lane in busy)) if busy else "none"),
            ),
        )
    )
    return joined((table("Pools", columns, map(_pool, status.pools)), lanes))


def _pool(pool: PoolStatus) -> Sequence[Html]:
    tone: Tone = "good" if not pool.trouble else "warn" if pool.is_reached else "bad"
    trouble = f"<small>{escaped(pool.trouble)}</small>" if pool.trouble else ""
    word = "reached" if pool.is_reached else "not reached"
    if not pool.trouble and not pool.opened:
        tone, word = "off", "not used yet"
    return (
        Html(f"{escaped(pool.full_name)}<small>{escaped(pool.server)}</small>"),
        Html(f"{state(tone, word)}{trouble}"),
        *(
            escaped(count(figure))
            for figure in (pool.in_use, pool.idle, pool.opening, pool.most, pool.waiting)
        ),
        escaped(count(pool.opened)),
        escaped(count(pool.lost)),
    )


def _spool(spool: SpoolStatus | None, now: float) -> Html:
    if spool is None:
        return Html("<p>There is none: in an outage messages are to be sent again.</p>")
    reason = f"<small>{escaped(spool.reason)}</small>" if spool.reason else ""
    oldest = "none" if spool.oldest is None else f"{span(max(0.0, now - spool.oldest))} old"
    return figures(
        (
            ("state", Html(f"{state(_SPOOL_TONES[spool.state], spool.state)}{reason}")),
            ("messages", escaped(count(spool.messages))),
            ("on disk", _of(spool.size, spool.most_size, size)),
            ("oldest message", escaped(oldest)),
            ("put in", escaped(count(spool.kept))),
            ("stored from it", escaped(count(spool.drained))),
            ("refused", escaped(count(spool.refused))),
            ("damaged", escaped(count(spool.damaged))),
        )
    )


def _left(status: Status) -> Html:
    """Return a line for each spool of a worker that is no more."""
    return joined(
        f"<p>{state(_SPOOL_TONES[left.state], left.state)} {count(left.messages)} messages of a"
        f" worker that is no more, in {escaped(left.path)}</p>"
        for left in status.left_spools
    )


def _streams(status: Status) -> Html:
    streams = status.streams
    return figures(
        (
            ("open", escaped(count(streams.open))),
            ("messages that wait for earlier ones", escaped(count(streams.waiting))),
            ("opened", escaped(count(streams.claims))),
            ("taken over", escaped(count(streams.taken_over))),
            ("gaps", escaped(count(streams.gaps))),
        )
    )


def _queries(status: Status) -> Html:
    if not status.queries:
        return Html("")
    columns = (Column("query"), Column("calls", True), Column("answers"), Column("time", True))
    return table(
        "Queries",
        columns,
        (
            (
                escaped(query.name),
                escaped(count(sum(query.answers.values()))),
                _by_kind(query.answers),
                _mean(query.seconds),
            )
            for query in status.queries
        ),
    )


def _channels(status: Status) -> Html:
    if not status.channels:
        return Html("")
    columns = (
        *(Column("channel"), Column("subscribers", True), Column("notifications", True)),
        *(Column("pushes", True), Column("gaps", True)),
    )
    return table(
        "Channels",
        columns,
        (
            (
                escaped(channel.name),
                *(
                    escaped(count(figure))
                    for figure in (
                        *(channel.subscribers, channel.notifications),
                        *(channel.pushes, channel.gaps),
                    )
                ),
            )
            for channel in status.channels
        ),
    )


def _certificates(status: Status) -> Html:
    if not status.certificates:
        return Html("")

    def left(expires: float) -> Html:
        seconds = expires - status.time
        if seconds <= 0:
            return state("bad", "expired")
        return state("warn" if seconds < SOON else "good", span(seconds))

    columns = (Column("listener"), Column("what"), Column("expires"), Column("left"))
    return table(
        "Certificates",
        columns,
        (
            (
                escaped(one.listener),
                Html(f"{escaped(one.kind)}<small>{escaped(one.subject)}</small>"),
                escaped(moment(one.expires)),
                left(one.expires),
            )
            for one in sorted(status.certificates, key=lambda one: one.expires)
        ),
    )


def _workers(status: Status, traffic: Traffic) -> Html:
    if not status.workers:
        return Html("")
    columns = (
        *(Column("worker"), Column("state"), Column("peers", True), Column("in /s", True)),
        *(Column("in, total", True), Column("rows, total", True), Column("in the spool", True)),
        *(Column("processor time", True), Column("memory", True), Column("lag", True)),
        *(Column("restarts", True), Column("last hour")),
    )
    return table("Workers", columns, (_worker(one, status, traffic) for one in status.workers))


def _worker(worker: WorkerStatus, status: Status, traffic: Traffic) -> Sequence[Html]:
    name = f"worker.{worker.number}.messages"
    layers = [Layer("good", traffic.hour(name))]
    process = worker.process
    where = "no process"
    if worker.pid is not None and worker.started is not None:
        where = f"process {worker.pid}, up {span(max(0.0, status.time - worker.started))}"
    ended = f"<small>{escaped(worker.last_end)}</small>" if worker.last_end else ""
    none = escaped("none")
    return (
        Html(f"{escaped(worker.number)}<small>{escaped(where)}</small>"),
        state(_WORKER_TONES[worker.state], worker.state),
        escaped(count(worker.peers)),
        escaped(rate(traffic.rate(name))),
        escaped(count(worker.messages)),
        escaped(count(worker.rows)),
        escaped(count(0 if worker.spool is None else worker.spool.messages)),
        none if process is None else escaped(span(process.cpu_seconds)),
        none if process is None else escaped(size(process.resident)),
        none if process is None else escaped(span(process.reactor_lag)),
        Html(f"{count(worker.restarts)}{ended}"),
        chart(traffic.ages, layers, f"messages, at most {rate(peak(layers))} a second", "spark"),
    )


def _process(status: Status) -> Html:
    process = status.process
    return figures(
        (
            ("pid", escaped(process.pid)),
            ("since", escaped(moment(status.started))),
            ("processor time", escaped(span(process.cpu_seconds))),
            ("memory", escaped(size(process.resident))),
            ("open files", _of(process.open_files, process.most_files, count)),
            ("longest lag of the last minute", escaped(span(process.reactor_lag))),
        )
    )


def _of(value: int, most: int | None, shown: Callable[[float], str]) -> Html:
    """
    Return a value and its limit.

    @param most: C{None}: it has none.
    """
    if not most:
        return escaped(shown(value))
    tone: Tone = "good" if value <= FULL * most else "warn" if value < most else "bad"
    limit = f"of {shown(most)}"
    return Html(f"{escaped(shown(value))} <i>{escaped(limit)}</i>{bar(value / most, tone)}")


def _mean(distribution: Distribution) -> Html:
    """Return the mean of what was measured since the start."""
    number = sum(distribution.counts)
    return escaped(span(distribution.total / number)) if number else escaped("none")


def _by_kind(counted: Mapping[str, int]) -> Html:
    lines = (f"{escaped(kind)} {count(number)}" for kind, number in sorted(counted.items()))
    return joined(lines, ", ") or escaped("none")


def _sums(parts: Sequence[tuple[str, Mapping[str, int]]]) -> Html:
    """Return how many there are of all kinds, and of each."""
    total = sum(sum(counted.values()) for _, counted in parts)
    if not total:
        return escaped("0")
    lines = joined(
        (f"{what}: {_by_kind(counted)}" for what, counted in parts if any(counted.values())),
        "; ",
    )
    return Html(f"{count(total)}<small>{lines}</small>")
