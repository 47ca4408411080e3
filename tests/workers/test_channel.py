"""
The channel between the processes, and what the parent hands a worker.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor

from gateway.access.connection_limit import ConnectionLimit
from gateway.access.rates import Allowance, Bucket
from gateway.config.listener import Listener, TlsSection
from gateway.config.load import default_config
from gateway.model.errors import GatewayError
from gateway.system.addresses import address_of
from gateway.tls.contexts import Contexts
from gateway.workers.channel import Channel, ChannelError
from gateway.workers.dispatch import Seats
from gateway.workers.messages import (
    Answer,
    Ask,
    Ended,
    FrameReader,
    Message,
    Passed,
    Push,
    Taken,
    frame_of,
)
from gateway.workers.start import Configuration, Start, config_of_worker, contents_of, pack, unpack
from tests.issuer import Issuer
from tests.support import until

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ask, st.integers(0, 9), st.text(), st.binary(), st.integers(0, 3)),
    st.builds(Answer, st.integers(0, 9), st.binary(), st.none() | st.text()),
    st.builds(Push, st.text(), st.binary()),
    st.builds(Passed, st.integers(0, 2**40), st.text(), st.integers(0, 99), st.text()),
    st.builds(Taken, st.integers(0, 2**40)),
    st.builds(Ended, st.lists(st.integers(0, 2**40))),
)


@given(st.lists(MESSAGES, max_size=8), st.integers(1, 50))
def test_messages_survive_any_cuts(messages: list[Message], step: int) -> None:
    """However the bytes come, the same messages come out."""
    reader = FrameReader()
    data = b"".join(map(frame_of, messages))
    found = []
    for start in range(0, len(data), step):
        found += list(reader.receive(data[start : start + step]))
    assert found == messages


class Pair:
    """
    Both ends of a channel.
    """

    def __init__(self) -> None:
        one, other = socket.socketpair()
        self.gone: list[str] = []
        self.one = Channel(reactor, one, lambda: self.gone.append("one"))
        self.other = Channel(reactor, other, lambda: self.gone.append("other"))
        self.one.start()
        self.other.start()

    def close(self) -> None:
        self.one.close()
        self.other.close()


@pytest_twisted.ensureDeferred
async def test_questions_and_descriptors() -> None:
    """Answers come back, faults too; a large question keeps its descriptors and its order."""
    pair = Pair()
    pushed: list[bytes] = []

    async def size(payload: bytes, descriptors: Sequence[int]) -> bytes:
        contents = [os.read(one, 10) for one in descriptors]
        for one in descriptors:
            os.close(one)
        return b"%d %s" % (len(payload), b",".join(contents))

    async def refuse(payload: bytes, descriptors: Sequence[int]) -> bytes:
        raise GatewayError("not today")

    pair.other.serve("size", size)
    pair.other.serve("refuse", refuse)
    pair.other.on_push("note", pushed.append)
    ends = []
    answers = []
    for number in range(20):
        read, write = os.pipe()
        os.write(write, b"%d" % number)
        os.close(write)
        pair.one.push("note", b"%d" % number)
        answers.append(pair.one.ask("size", b"x" * 300_000, [read]))
        os.close(read)
        ends.append(b"300000 %d" % number)
    assert [await answer for answer in answers] == ends
    assert pushed == [b"%d" % number for number in range(20)]
    for name, text in (("refuse", "not today"), ("nothing", "'nothing' is not known here")):
        try:
            await pair.one.ask(name)
            raise AssertionError(name)
        except ChannelError as error:
            assert str(error) == text
    pair.close()


@pytest_twisted.ensureDeferred
async def test_the_end_of_the_other_side() -> None:
    """What it sent before is read; who waits for an answer is told, and who asks later too."""
    pair = Pair()
    pushed: list[bytes] = []
    pair.one.on_push("last", pushed.append)
    asked = pair.one.ask("never answered")
    pair.other.push("last", b"words")
    pair.other.close()
    await until(lambda: "one" in pair.gone, "it is noticed")
    assert pushed == [b"words"]
    for answer in (asked, pair.one.ask("too late")):
        try:
            await answer
            raise AssertionError("answered")
        except ChannelError:
            pass
    pair.close()


def test_a_configuration_travels(tmp_path: Path) -> None:
    """A worker gets its share, and certificates without their files."""
    issuer = Issuer(tmp_path)
    issued = issuer.issue("localhost")
    section = TlsSection(certificate=str(issued.file), client_ca=str(issuer.file))
    contexts = {"lines": Contexts(section, "lines", lambda: 0.0)}
    config = config_of_worker(default_config(), 2, 3, "dbname=x", tmp_path / "spool.db")
    start = Start(2, 3, Configuration(config, None, contents_of(contexts), {}), tmp_path)
    issued.file.unlink()
    found = unpack(pack(start))
    assert found.configuration.config == config
    assert config.database.pool_max == 3 and config.spool.path == str(tmp_path / "spool-2.db")
    assert found.configuration.contexts()["lines"].files.default.certificate == issued.certificate


def test_seats_are_counted_by_site() -> None:
    """One address has its limit; who is kept out by its network is not counted."""
    around = ConnectionLimit(3)
    listener = Listener(endpoint="tcp:0", max_connections_per_address=2, deny=("10.0.0.0/8",))
    seats = Seats("lines", around, listener)
    near, far = address_of("192.0.2.1"), address_of("192.0.2.2")
    taken = [seats.seat(near), seats.seat(near)]
    assert [seat.refusal for seat in taken] == ["", ""]
    assert seats.seat(near).refusal == "connections from this address"
    assert not seats.seat(address_of("10.1.1.1")).is_counted
    assert seats.seat(far).is_counted
    assert seats.seat(address_of("192.0.2.3")).refusal == "connections"
    seats.leave(taken[0])
    assert seats.seat(near).is_counted
    assert around.count == 3


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 2), st.booleans()), max_size=60),
    st.integers(1, 20),
)
def test_what_is_lent_is_never_more_than_the_rate(
    steps: list[tuple[int, float, bool]], rate: int
) -> None:
    """However it is asked for and given back, a burst and the rate are all there is."""
    bucket, now, lent = Bucket(Allowance(messages=rate), 0.0), 0.0, 0.0
    for wanted, later, returns in steps:
        now += later
        lease = bucket.lend(wanted, 0.0, now)
        assert lease.messages <= wanted
        if lease.messages < min(1, wanted):
            assert lease.wait > 0
        if returns:
            bucket.take_back(lease.messages, 0.0)
        else:
            lent += lease.messages
    assert lent <= rate + rate * now + 0.001
