"""
Datagrams of a listener in memory: what becomes of each, and what is counted.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from gateway.access.grants import AccessSection, GrantSection
from gateway.access.rates import Allowance
from gateway.dialects.by_content import ContentDialect
from gateway.formats.registry import format_of
from gateway.listeners.admission import Admission
from gateway.listeners.datagrams import Address, DatagramReceiver
from gateway.model.errors import Unavailable
from gateway.model.route import Reading
from gateway.peers.factory import DatagramSettings
from gateway.system.addresses import Networks
from gateway.wire.gelf import CHUNK, CHUNK_SECONDS
from tests.in_memory import Bench, give, take

HERE: Address = ("127.0.0.1", 5000)
THERE: Address = ("192.0.2.7", 514)


class Port:
    """
    A port whose reading a test looks at.
    """

    def __init__(self, has_sources: bool = True) -> None:
        self.has_sources = has_sources
        self.receiver: DatagramReceiver | None = None
        self.reads = True
        self.drops = 0

    def update_reading(self) -> None:
        assert self.receiver is not None
        self.reads = not self.receiver.holds

    def take_drops(self) -> int:
        drops, self.drops = self.drops, 0
        return drops


class Datagrams:
    """
    A listener for datagrams, on a gateway in memory.
    """

    def __init__(
        self, settings: DatagramSettings | None = None, networks: Any = None, **options: Any
    ) -> None:
        self.bench = Bench(**{"held": False, **options})
        self.factory = self.bench.factory
        self.factory.datagrams = settings or DatagramSettings()
        self.admission = Admission(self.factory, self.bench.clock, **(networks or {}))
        self.receiver = DatagramReceiver(self.admission, self.bench.clock)
        self.port = Port()
        self.port.receiver = self.receiver
        self.receiver.opened(self.port)

    def come(self, *datagrams: bytes, addresses: Sequence[Address] | Address = HERE) -> None:
        """Datagrams of one turn, from one source or from several."""
        those = [addresses] * len(datagrams) if isinstance(addresses, tuple) else addresses
        assert those is not None
        self.receiver.receive(list(datagrams), those if self.receiver.needs_sources else [])

    @property
    def stored(self) -> list[tuple[str, bytes]]:
        return [(origin.peer, message) for origin, message in self.bench.store.rows]

    @property
    def counted(self) -> dict[str, int]:
        """Answers by their first words, as nobody hears them."""
        return {
            " ".join(str(part) for part in answer if part): count
            for answer, count in self.factory.counters.answers.items()
        }


def test_one_message_each() -> None:
    """The datagrams of a turn are stored in one write, those of each source in their order."""
    here = Datagrams()
    here.come(b"a", b"b", b"c", b"", addresses=[HERE, THERE, HERE, HERE])
    assert here.stored == [
        *[("127.0.0.1:5000", message) for message in (b"a", b"c", b"")],
        ("192.0.2.7:514", b"b"),
    ]
    assert here.counted == {"+OK": 4}
    counters = here.factory.counters
    assert (counters.messages, counters.bytes_received) == (4, 3)


def test_where_nobody_asks_for_sources() -> None:
    """Those of all sources are one submission, in the order in which they came."""
    here = Datagrams(DatagramSettings(by_source=False))
    assert not here.receiver.needs_sources
    here.come(b"a", b"b", b"c", addresses=[HERE, THERE, HERE])
    assert here.stored == [("udp", b"a"), ("udp", b"b"), ("udp", b"c")]
    assert here.bench.store.writes == [3]
    here.admission.deny = Networks(["192.0.2.0/24"])
    assert here.receiver.needs_sources
    here.come(b"d", b"e", b"f", addresses=[HERE, THERE, ("127.0.0.1", 5001)])
    assert here.stored[3:] == [("udp", b"d"), ("udp", b"f")]
    assert here.bench.store.writes == [3, 2]


def test_a_unix_socket() -> None:
    """Its senders have no addresses."""
    here = Datagrams(networks={"allow": Networks(["unix"])})
    here.port.has_sources = False
    here.receiver.opened(here.port)
    here.receiver.receive([b"a", b"b"], [])
    assert here.stored == [("unix", b"a"), ("unix", b"b")]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(b"a\n", b"a"), (b"a\r\n", b"a"), (b"a\0", b"a"), (b"a\n\0", b"a"), (b"\na ", b"\na ")],
)
def test_ends(sent: bytes, kept: bytes) -> None:
    """What ends a line or a string is no part of a message, unless the listener says so."""
    here = Datagrams()
    here.come(sent)
    assert here.stored[0][1] == kept
    here.factory.datagrams = DatagramSettings(trims=False)
    here.bench.store.rows.clear()
    here.come(sent.replace(b"\0", b"\t"))
    assert here.stored[0][1] == sent.replace(b"\0", b"\t")


def test_too_long() -> None:
    """It is refused and counted, and the others of its turn are stored."""
    here = Datagrams(max_frame=10)
    with capturedLogs() as events:
        here.come(b"a", b"x" * 11, b"x" * 10, b"")
    assert [message for _, message in here.stored] == [b"a", b"x" * 10, b""]
    assert here.counted == {"+OK": 3, "-REJ TOOBIG": 1}
    (event,) = [e for e in events if e.get("event") == "refused"]
    assert "refused: TOOBIG: longer" in str(formatEvent(event)) and "127.0.0.1:5000" in str(event)


def test_the_limit_does_not_count_the_ending() -> None:
    """A message of max_frame bytes passes with its ending; one that was cut off does not."""
    here = Datagrams(max_frame=10)
    most = here.receiver.max_datagram
    sent = [b"x" * 10 + b"\r\n\0", b"x" * 11 + b"\n", (b"x" * 10 + b"\n" * 9)[: most + 1]]
    here.come(*sent)
    assert [message for _, message in here.stored] == [b"x" * 10]
    assert here.counted == {"+OK": 1, "-REJ TOOBIG": 2}


def test_a_bomb() -> None:
    """What is too long when it is decompressed is refused, and not stored as nothing."""
    here = Datagrams(DatagramSettings(gelf=True), max_frame=10)
    here.come(zlib.compress(b"x" * 100_000), b"a")
    assert [message for _, message in here.stored] == [b"a"]
    assert here.counted == {"+OK": 1, "-REJ TOOBIG": 1}


def test_a_refusal() -> None:
    """A message that the database refuses is counted and logged, and kept where the route says."""
    here = Datagrams(dead_letters=frozenset({"messages"}))
    here.bench.store.poison.add(b"bad")
    with capturedLogs() as events:
        here.come(b"a", b"bad", b"c")
    assert [message for _, message in here.stored] == [b"a", b"c"]
    assert [message for message, _ in here.bench.store.dead_letters] == [b"bad"]
    assert here.counted["+OK"] == 2 and here.counted["-REJ CONSTRAINT"] == 1
    assert [e["event"] for e in events if e.get("log_level")] == ["refused"]
    assert here.factory.counters.lost == {}


def test_a_loss() -> None:
    """What is not stored, and would be if it came again, is lost: counted, and logged once."""
    here = Datagrams()
    here.bench.store.failures.extend([Unavailable("no route")] * 2)
    with capturedLogs() as events:
        here.come(b"a", b"b")
        here.come(b"c")
        here.come(b"d")
    assert here.factory.counters.lost == {"down": 3}
    assert here.counted == {"-TRY DOWN": 3, "+OK": 1}
    lines = [str(formatEvent(e)) for e in events if e.get("event") == "datagrams-lost"]
    assert lines == ["listener lines: 2 datagrams lost: down: the database cannot be reached"]
    with capturedLogs() as events:
        here.factory.end_log()
    lines = [str(formatEvent(e)) for e in events if e.get("event") == "datagrams-lost"]
    assert lines == ["listener lines: 1 datagram lost: down: more within 60 s"]


def test_what_the_kernel_drops() -> None:
    """It is counted with the datagrams of each turn, and each second while nothing is read."""
    here = Datagrams(held=True, cap=1000)
    here.port.drops = 3
    here.come(b"a")
    assert here.factory.counters.lost == {"kernel": 3}
    here.come(b"x" * 90, b"x" * 90, b"x" * 90)
    assert here.receiver.holds
    here.port.drops = 2
    here.bench.clock.advance(1)
    assert here.factory.counters.lost == {"kernel": 5}
    here.port.drops = 1
    here.receiver.closed()
    assert here.factory.counters.lost == {"kernel": 6}
    here.factory.end_log()


def test_half_of_the_memory() -> None:
    """Messages in flight take half of the gateway's limit; then nothing is read for a while."""
    here = Datagrams(held=True, cap=2000)
    here.come(*[b"x" * 100] * 4)
    assert here.port.reads
    here.come(b"x" * 100)
    assert here.receiver.holds and not here.port.reads
    assert not here.bench.inflight_limit.full
    here.bench.store.commit()
    assert here.port.reads
    here.receiver.closed()


def test_the_limit_of_all() -> None:
    """While the gateway holds too much for its peers, datagrams are not read either."""
    here = Datagrams()
    take(here.bench.inflight_limit, 1_000_001)
    assert not here.port.reads
    give(here.bench.inflight_limit, 1_000_001)
    assert here.port.reads
    here.receiver.closed()
    take(here.bench.inflight_limit, 1_000_001)
    assert not here.receiver.holds


def test_networks() -> None:
    """Datagrams of who is not allowed are refused; a reload changes that at once."""
    here = Datagrams(networks={"deny": Networks(["192.0.2.0/24"])})
    here.come(b"a", b"b", b"c", addresses=[HERE, THERE, THERE])
    assert here.stored == [("127.0.0.1:5000", b"a")]
    assert here.counted == {"+OK": 1, "-REJ DENIED": 2}
    here.admission.deny = Networks([])
    here.admission.allow = Networks(["192.0.2.0/24"])
    here.come(b"d", b"e", addresses=[HERE, THERE])
    assert here.stored[1:] == [("192.0.2.7:514", b"e")]


def test_grants() -> None:
    """Who may use the route is said by addresses: a datagram proves no identity."""
    grant = GrantSection(networks=("192.0.2.0/24",), routes=("messages",))
    other = GrantSection(networks=("127.0.0.0/8",), routes=("other",))
    access = AccessSection(grants={"devices": grant, "others": other})
    here = Datagrams(access=access)
    addresses: list[Address] = [HERE, THERE, ("198.51.100.1", 1)]
    here.come(b"a", b"b", b"c", addresses=addresses)
    assert here.stored == [("192.0.2.7:514", b"b")]
    assert here.counted == {"+OK": 1, "-REJ DENIED": 2}


def test_rates() -> None:
    """What is over the rate of an address is lost; others are not touched by it."""
    here = Datagrams(allowance=Allowance(messages=3))
    here.come(*[b"x"] * 5, b"y", addresses=[("127.0.0.1", 5000 + n) for n in range(5)] + [THERE])
    assert [message for _, message in here.stored] == [b"x", b"x", b"x", b"y"]
    assert here.factory.counters.lost == {"rate": 2}
    assert here.counted == {"+OK": 4, "-TRY RATE": 2}
    here.bench.clock.advance(1)
    here.come(b"z")
    assert here.stored[-1][1] == b"z"


def test_a_field_chooses_the_route() -> None:
    """As for connections; a message without a route is refused."""
    form = format_of(Reading("json"), ["kind"])
    dialect = ContentDialect(form, "kind", {"a": "messages"})
    here = Datagrams(dialect=dialect)
    here.come(b'{"kind":"a"}', b'{"kind":"b"}', b"x")
    assert [message for _, message in here.stored] == [b'{"kind":"a"}']
    assert here.counted == {"+OK": 1, "-REJ ROUTE": 1, "-REJ FORMAT": 1}


def test_gelf() -> None:
    """Chunks become messages, compressed ones what they were; what is missing is lost in time."""
    here = Datagrams(DatagramSettings(gelf=True, by_source=False))
    here.come(CHUNK + b"12345678\1\2lo", zlib.compress(b"hi\n"), b"plain", CHUNK + b"x")
    assert [message for _, message in here.stored] == [b"hi", b"plain"]
    assert here.counted == {"+OK": 2, "-REJ FORMAT": 1}
    assert here.bench.inflight_limit.kept > 0
    here.come(CHUNK + b"12345678\0\2hel", CHUNK + b"12345679\0\2x")
    assert here.stored[-1] == ("udp", b"hello")
    here.bench.clock.pump([1.0] * int(CHUNK_SECONDS + 1))
    assert here.factory.counters.lost == {"incomplete": 1}
    assert here.bench.inflight_limit.kept == 0
    here.factory.end_log()
    left = here.bench.clock.getDelayedCalls()
    assert [call for call in left if "TimeoutSweep" not in str(call)] == []


def test_gelf_gives_its_memory_back() -> None:
    """Where the gateway holds too much, unfinished messages go; the listener stays."""
    here = Datagrams(DatagramSettings(gelf=True), cap=3000, max_frame=2000)
    here.come(CHUNK + b"12345678\0\2" + b"x" * 1900)
    assert here.factory.counters.lost == {"incomplete": 1}
    here.come(b"a")
    assert here.stored == [("127.0.0.1:5000", b"a")]
    here.receiver.closed()


def test_sources_are_not_kept() -> None:
    """Of a source nothing is left when its messages are settled."""
    here = Datagrams(held=True)
    here.come(*[b"x"] * 50, addresses=[("127.0.0.1", port) for port in range(50)])
    while here.bench.store.waiting_writes:
        here.bench.store.commit()
    assert len(here.stored) == 50
    assert here.receiver._sources == {}
