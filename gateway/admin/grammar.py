"""
Grammar of the console: lines to requests.

A line is a command, such as C{SHOW PEERS sort=bytes limit=10}; commands are in any case, a C{;} at
the end is allowed, and C{--json} as the last word asks for one JSON object a line. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from gateway.model.text import closest, printable, shortened

JSON: Final = "--json"

SUBJECTS: Final[Mapping[str, str]] = {
    "STATUS": "one page of all that follows; with --json what /status.json has",
    "STATS": "what came in and what became of it, by listener",
    "LISTENERS": "listeners, their addresses, and how many peers they have",
    "PEERS": "connected peers; see below",
    "ROUTES": "routes, their state, and what was committed",
    "POOL": "connections to the database",
    "LANES": "commits in flight, and what waits behind them",
    "SPOOL": "the spool",
    "STREAMS": "numbered streams",
    "QUERIES": "queries and their answers",
    "CHANNELS": "channels and their subscribers",
    "CERTIFICATES": "certificates, authorities and lists, and when they expire",
    "WORKERS": "worker processes, how long they run, and how the ones before them ended",
    "CONFIG": "the configuration in force, without secrets",
    "VERSION": "the gateway's version, and since when it runs",
    "HELP": "this",
}
"""What SHOW shows."""

LEVELS: Final = ("debug", "info", "warn", "error")

HELP: Final[Mapping[str, str]] = {
    **{f"SHOW {subject}": does for subject, does in SUBJECTS.items()},
    "PAUSE [ROUTE]": "commit nothing more, of one route or of all: messages go to the spool"
    " (+QUE), or their peers wait",
    "RESUME [ROUTE]": "go on with it at once",
    "RELOAD": "read the configuration again, as SIGHUP does, and say what changed",
    "RECONNECT": "replace the connections to the database; commits in flight are finished",
    "KILL ID": "disconnect a peer of SHOW PEERS, after its answers",
    "DRAIN": "accept no more connections, and end when the last peer has left",
    "SET LOG LEVEL": f"log from a level on: {', '.join(LEVELS)}",
    "SHUTDOWN": "answer what is in flight, disconnect the peers and end, as SIGTERM does",
}
"""Command -> what it does."""

PEER_FILTERS: Final[Mapping[str, str]] = {
    "listener": "only those of a listener",
    "identity": "only those with an identity",
    "address": "only those from an address or a network, or unix",
    "sort": "by a column, the largest number first; -COLUMN: the other way round",
    "limit": "no more than so many",
}
"""Option of SHOW PEERS -> what it does."""

VERBS: Final = tuple(dict.fromkeys(command.split()[0] for command in HELP))


class CommandError(Exception):
    """
    A command that cannot be carried out: one line for its operator.
    """


class Request(NamedTuple):
    """
    One command.

    @ivar verb: one of L{VERBS}.
    @ivar subject: what follows it: what to show, a route, an ID, a level; C{""}: nothing.
    @ivar options: C{name=value} behind that.
    @ivar as_json: whether the answer has one JSON object a line.
    """

    verb: str
    subject: str
    options: Mapping[str, str]
    as_json: bool

    @property
    def text(self) -> str:
        """The command, for the log."""
        words = (self.verb, "LOG" if self.verb == "SET" else "", self.subject)
        return " ".join(word for word in words if word)

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.verb != "SHOW"


def parse(line: str) -> Request:
    """
    Read a line that is not empty.

    @raise CommandError: it is no command.
    """
    words = line.strip().rstrip(";").split()
    as_json = bool(words) and words[-1].lower() == JSON
    if as_json:
        words.pop()
    if not words:
        raise CommandError("a command is missing; try SHOW HELP")
    verb, rest = words[0].upper(), words[1:]
    if verb == "HELP" and not rest:
        verb, rest = "SHOW", ["HELP"]
    if verb not in VERBS:
        raise CommandError(f"no command {_quoted(words[0])}{_hint(verb, [*VERBS, 'HELP'])}")
    if verb == "SHOW":
        return _show(rest, as_json)
    if verb == "SET":
        return Request(verb, _level(rest), {}, as_json)
    if verb == "KILL":
        if len(rest) != 1 or not (rest[0].isascii() and rest[0].isdecimal()):
            raise CommandError("KILL takes the ID of a peer, as SHOW PEERS has it")
    elif verb in ("PAUSE", "RESUME"):
        if len(rest) > 1:
            raise CommandError(f"{verb} takes one route, or nothing for all of them")
    elif rest:
        raise CommandError(f"{verb} takes nothing behind it")
    return Request(verb, rest[0] if rest else "", {}, as_json)


def candidates(words: Sequence[str]) -> list[str]:
    """
    Return what may follow some words of a command, for completion; routes and IDs are not known.
    """
    upper = [word.upper() for word in words]
    if not upper:
        return [*VERBS, "HELP"]
    if upper == ["SHOW"]:
        return list(SUBJECTS)
    if upper[:2] == ["SHOW", "PEERS"]:
        return [f"{name}=" for name in PEER_FILTERS]
    if upper == ["SET"]:
        return ["LOG"]
    return list(LEVELS) if upper == ["SET", "LOG"] else []


def _show(words: list[str], as_json: bool) -> Request:
    if not words:
        raise CommandError(f"SHOW takes one of {', '.join(SUBJECTS)}")
    subject = words[0].upper()
    if subject not in SUBJECTS:
        raise CommandError(f"nothing called {_quoted(words[0])} to show{_hint(subject, SUBJECTS)}")
    options: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        name = name.lower()
        if subject != "PEERS":
            raise CommandError(f"SHOW {subject} takes nothing behind it")
        if not equals or not value or name not in PEER_FILTERS:
            known = " ".join(f"{known}=" for known in PEER_FILTERS)
            raise CommandError(f"SHOW PEERS takes {known}, not {_quoted(word)}")
        if name in options:
            raise CommandError(f"{name}= is there twice")
        options[name] = value
    return Request("SHOW", subject, options, as_json)


def _level(words: list[str]) -> str:
    what = words[0].upper() if words else ""
    level = words[1].lower() if len(words) == 2 else ""
    if what != "LOG" or level not in LEVELS:
        raise CommandError(f"it is SET LOG and one of {', '.join(LEVELS)}")
    return level


def _hint(word: str, known: object) -> str:
    near = closest(word, known)
    return f"; did you mean {near}?" if near else "; try SHOW HELP"


def _quoted(word: str) -> str:
    return printable(shortened(word, 40))
