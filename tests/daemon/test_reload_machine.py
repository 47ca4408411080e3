"""
Any sequence of reloads: what is offered is what a fresh start of the same configuration offers.
"""

from __future__ import annotations

import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.daemon.reloading import InMemory, Peer

ROUTES = ("one", "two", "three")
LISTENERS = ("first", "second", "third")
BASE: dict[str, Any] = {
    "routes": {"one": ("a", "text")},
    "queries": {},
    "channels": [],
    "limits": {},
    "listeners": {"first": {"endpoint": '"unix:{0}/p0"', "route": '"one"'}},
}

route = st.tuples(st.sampled_from("ab"), st.sampled_from(["text", "json"]))
listener = st.fixed_dictionaries(
    {
        "endpoint": st.sampled_from([f'"unix:{{0}}/p{number}"' for number in range(4)]),
        "kind": st.sampled_from(["plain", "command", "content"]),
        "route": st.sampled_from(ROUTES),
    },
    optional={
        "window": st.integers(1, 5),
        "max_frame": st.integers(50, 60),
        "framing": st.sampled_from(['"line"', '"netstring"']),
        "ack": st.sampled_from(['"none"', '"yes"']),
        "backlog": st.integers(1, 3),
        "deny": st.sampled_from(['["10.0.0.0/8"]', "[]"]),
        "max_connections": st.integers(50, 60),
        "messages_per_second": st.integers(100_000, 100_003),
        "idle_timeout": st.integers(1000, 1003),
        "keepalive": st.integers(20, 23),
        "socket_mode": st.sampled_from(['"0600"', '"0660"']),
    },
)
configuration = st.fixed_dictionaries(
    {
        "routes": st.dictionaries(st.sampled_from(ROUTES), route, min_size=1),
        "queries": st.dictionaries(st.sampled_from("pq"), st.integers(1, 3)),
        "channels": st.lists(st.sampled_from("cde"), unique=True),
        "limits": st.fixed_dictionaries(
            {},
            optional={
                "connections": st.integers(100, 103),
                "bytes_in_flight": st.integers(1000, 1003),
            },
        ),
        "listeners": st.dictionaries(st.sampled_from(LISTENERS), listener, min_size=1),
    }
)


def text_of(configuration: dict[str, Any]) -> str:
    """The configuration as a file; it may have faults."""
    lines = [f"[channels]\nallow = {configuration['channels']}\n[limits]"]
    lines += [f"{key} = {value}" for key, value in configuration["limits"].items()]
    for name, (table, form) in configuration["routes"].items():
        lines.append(f'[routes.{name}]\ntable = "{table}"\nformat = "{form}"')
        if form == "json":
            lines.append(f'[routes.{name}.columns]\nk = "k"')
    for name, number in configuration["queries"].items():
        lines.append(f"[queries.{name}]\nsql = 'select {number} as n'")
    for name, keys in configuration["listeners"].items():
        kind = keys.get("kind", "plain")
        lines.append(f"[listeners.{name}]")
        skipped = {"kind", "route", *(["ack"] if kind == "command" else [])}
        lines += [f"{key} = {value}" for key, value in keys.items() if key not in skipped]
        target = str(keys["route"]).strip('"')
        if kind == "command":
            lines.append('dialect = "command"')
        elif kind == "plain":
            lines.append(f'route = "{target}"')
        else:
            lines.append(f'route_by = "k"\n[listeners.{name}.routes]\nx = "{target}"')
    return "\n".join(lines)


class Reloads(RuleBasedStateMachine):
    """
    A gateway in memory that is reloaded again and again, with peers that have messages in flight.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="reloads")
        self.folder = self._folder.name
        self.text = text_of(BASE)
        self.gateway = InMemory(self.text, self.folder)
        self.gateway.listen()
        # A peer, the name of its listener, and how many messages it sent.
        self.peers: list[tuple[Peer, str, list[int]]] = []

    def teardown(self) -> None:
        self.gateway.commit()
        self.gateway.close()
        self._folder.cleanup()

    def _reload(self, text: str) -> None:
        before = self.gateway.offered()
        there = {name for name in LISTENERS if f"[listeners.{name}]" in text}
        outcome = self.gateway.apply(text)
        assert outcome.lines
        if outcome.taken:
            self.text = text
            assert self.gateway.again() == (True, ["nothing changed"])
            assert self.gateway.offered() == InMemory(text, self.folder).offered()
            for peer, listener, _ in self.peers:
                if listener not in there:
                    self.gateway.commit()
                    assert b"-BYE DRAIN" in peer.said or peer.protocol.answers.ended
        else:
            assert self.gateway.offered() == before

    @rule(configuration=configuration)
    def take(self, configuration: dict[str, Any]) -> None:
        """Another configuration altogether."""
        self._reload(text_of(configuration))

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """The same again, of which one line is another or missing."""
        lines = self.text.splitlines()
        place = data.draw(st.integers(0, len(lines) - 1))
        if data.draw(st.booleans()):
            self._reload("\n".join(lines[:place] + lines[place + 1 :]))
        else:
            self._reload(
                self.text.replace("/p1", "/p9").replace("/p0", "/p1").replace("/p9", "/p0")
            )

    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        """A peer connects."""
        name = data.draw(
            st.sampled_from([service.factory.listener for service in self.gateway.listeners])
        )
        self.peers.append((self.gateway.connect(name), name, [0]))

    @rule(data=st.data(), count=st.integers(1, 4))
    def send(self, data: st.DataObject, count: int) -> None:
        """A peer that is connected sends messages of one JSON object or a command each."""
        if self.peers:
            peer, _, sent = data.draw(st.sampled_from(self.peers))
            frame = b'{"k":"x"}'
            framing = peer.protocol._framing
            if peer.protocol.transport and not peer.protocol.answers.ended:
                if peer.protocol.dialect.takes_commands:
                    frame = b"PING x"
                sent[0] += count
                peer.send(framing.frame(frame) * count)

    @rule()
    def commit(self) -> None:
        """What is in flight is committed."""
        self.gateway.commit()

    @invariant()
    def all_ports_are_open(self) -> None:
        """Each configured port takes connections, and there are no others."""
        paths = {Path(service.address) for service in self.gateway.listeners}
        assert {*Path(self.folder).iterdir()} == paths
        assert len(paths) == len([*self.gateway.listeners])
        for path in paths:
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                with suppress(BlockingIOError):  # nobody accepts here, so the queue fills up
                    client.connect(str(path))

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        """No peer has more answers than it sent frames, and one more where it had to go."""
        for peer, _, (sent,) in self.peers:
            bare = peer.said.replace(b"3:yes,", b"yes\n")
            answers = bare.count(b"+OK") + bare.count(b"yes") + bare.count(b"-REJ")
            assert answers <= sent


Reloads.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_reloads = Reloads.TestCase
