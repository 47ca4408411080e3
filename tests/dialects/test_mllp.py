"""
MLLP: each message is acknowledged once its fate is known, in the mode that it asks for.
"""

from __future__ import annotations

from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from gateway.access.grants import AccessSection, GrantSection
from gateway.dialects.acknowledging import AcknowledgingDialect, DialectSettings
from gateway.dialects.base import Dialect
from gateway.dialects.by_content import ContentDialect
from gateway.dialects.mllp import MllpReader
from gateway.dialects.plain import PlainDialect
from gateway.formats.hl7 import Hl7Format
from gateway.model.errors import OutcomeUnknown, Unavailable
from gateway.model.outcome import Words
from gateway.model.route import Reading
from gateway.model.wording import STOPPING
from gateway.wire.hl7 import (
    ALL_OF_TWO,
    Accepted,
    acknowledgement,
    acknowledgement_word,
    read_header,
)
from gateway.wire.mllp import MllpFraming, block
from tests.in_memory import Bench


def message(control_id: int | str, text: str = "x", **fields: str) -> bytes:
    """
    A message, as a block.

    @param fields: fields of MSH beside the usual ones, as C{f15="AL"}.
    """
    values = {3: "LAB", 4: "NORTH", 5: "EHR", 6: "SOUTH", 9: "ADT^A04", 10: str(control_id)}
    values |= {11: "P", 12: "2.5.1", **{int(name[1:]): value for name, value in fields.items()}}
    header = "|".join(["MSH", "^~\\&", *(values.get(n, "") for n in range(3, max(values) + 1))])
    return block(f"{header}\rPID|||{text}\r".encode())


def bench(
    accepted: Accepted = ALL_OF_TWO,
    messages: Dialect | None = None,
    route_by: str = "",
    reject_later: bool = False,
    **settings: Any,
) -> Bench:
    """A gateway in memory with a peer of MLLP."""
    dialect_settings = DialectSettings(
        clock=Clock(),
        wall=lambda: 1_795_811_687.0,
        max_frame=1000,
        max_chunk=1 << 20,
        remember_chunks=0.0,
        formats={"messages": Reading("hl7")},
        route_by=route_by,
        hl7=accepted,
        reject_later=reject_later,
    )
    dialect = AcknowledgingDialect(
        MllpReader, messages or PlainDialect("messages"), dialect_settings
    )
    return Bench("mllp", dialect=dialect, words=Words(b"", b""), max_frame=1000, **settings)


def answers(one: Bench) -> list[str]:
    """MSA-1, MSA-2 and what ERR says of each answer so far, as PyPI's hl7 reads it."""
    framing = MllpFraming(10_000)
    found = []
    for payload in framing.receive(one.said):
        parsed = hl7.parse(payload.decode())
        words = [str(parsed.segment("MSA")(n)) for n in (1, 2)]
        if payload.count(b"\rERR|"):
            words += [str(parsed["ERR.F3.R1.C1"]), str(parsed["ERR.F4"])]
        found.append(" ".join(words))
    assert not framing.unfinished
    return found


def stored(one: Bench) -> list[str]:
    """PID-3 of what is stored, in order."""
    return [frame.decode().split("|||")[-1].strip() for _, frame in one.store.rows]


def test_answers_follow_commits() -> None:
    """Nothing is said before the commit; then AA, with the message's own control id."""
    one = bench()
    one.peer.dataReceived(message("a~1^b"))
    assert one.said == b"" and one.store.waiting_writes == 1
    one.commit_all()
    assert answers(one) == ["AA a~1^b"]
    (answer,) = MllpFraming(10_000).receive(one.said)
    head = hl7.parse(answer.decode()).segment("MSH")
    assert [str(head(n)) for n in (3, 4, 5, 6, 7, 9, 11, 12)] == [
        *("EHR", "SOUTH", "LAB", "NORTH", "20261127203447+0000", "ACK^A04^ACK", "P", "2.5.1"),
    ]
    assert one.store.rows[0][1] == message("a~1^b")[1:-2]


def test_many_in_a_read() -> None:
    """They are one write, and answered in order, each with a control id of its own."""
    one = bench()
    one.peer.dataReceived(b"\r\n".join(message(n, f"t{n}") for n in range(50)))
    one.commit_all()
    assert answers(one) == [f"AA {n}" for n in range(50)]
    assert one.store.writes == [50] and stored(one) == [f"t{n}" for n in range(50)]
    ids = [frame.split(b"|")[9] for frame in MllpFraming(10_000).receive(one.said)]
    assert len(set(ids)) == 50 and {len(each) for each in ids} == {20}


FIELDS = st.lists(st.text('aZ9 %^~\\&"ü', max_size=4), min_size=6, max_size=19)


@given(st.lists(FIELDS, min_size=1, max_size=4), st.sampled_from(["|^~\\&", "|^~\\&#", "#*+!?"]))
def test_what_is_worked_out_once(headers: list[list[str]], separators: str) -> None:
    """Whatever headers a peer mixes, each message is answered as it would be alone."""
    bar = separators[0]
    one = bench(held=False)
    frames = []
    for number, fields in enumerate(headers * 2):
        # The usual fields, and those that often are of any form.
        texts = [*fields[:4], f"2026112720344{number}", *fields[4:6], f"id%{number}&", "P", "2.5"]
        texts[6], rest = texts[6] or "ADT", fields[6:]
        frames.append(bar.join([f"MSH{separators}", *texts, *rest]).encode() + b"\rPID|1\r")
    one.peer.dataReceived(b"".join(map(block, frames)))
    expected = []
    for frame in frames:
        header = read_header(frame)
        if word := acknowledgement_word(header, "A"):
            expected.append(acknowledgement(header, word, b"20261127203447+0000", b"own"))
    found = []
    for answer in MllpFraming(10_000).receive(one.said):
        parts = answer.split(bar.encode())
        assert len(parts[9]) == 20
        found.append(bar.encode().join([*parts[:9], b"own", *parts[10:]]))
    assert found == expected


def test_what_is_worked_out_is_bounded() -> None:
    """However many headers a peer makes up, few are remembered; new settings hold for all."""
    one = bench(held=False, window=1000)
    one.peer.dataReceived(b"".join(message(n, f3=f"S{n}") for n in range(100)))
    reader = one.peer._reader
    assert isinstance(reader, MllpReader) and len(reader._prepared) <= 32
    assert len(answers(one)) == 100
    again = bench(Accepted(versions=("2.3",)), held=False)
    assert isinstance(again.peer.dialect, AcknowledgingDialect)
    one.peer.replace_dialect(again.peer.dialect)
    one.peer.dataReceived(message(1, f3="S99"))
    assert answers(one)[-1] == "AR 1 203 E"


@pytest.mark.parametrize(
    ("accept", "application", "good", "bad"),
    [
        ("", "", "AA", "AE"),
        ("AL", "NE", "CA", "CE"),
        ("ER", "NE", "", "CE"),
        ("SU", "NE", "CA", ""),
        ("NE", "NE", "", ""),
        ("NE", "AL", "AA", "AE"),
    ],
)
def test_modes(accept: str, application: str, good: str, bad: str) -> None:
    """Each message says how it is acknowledged; it is stored or refused all the same."""
    one = bench(held=False)
    one.store.poison = {b"bad"}
    for number, text in enumerate(["a", "bad", "b"]):
        one.peer.dataReceived(message(number, text, f15=accept, f16=application))
    expected = [*([f"{good} 0"] * bool(good)), *([f"{bad} 1 207 E"] * bool(bad))]
    assert answers(one) == [*expected, *([f"{good} 2"] * bool(good))]
    assert stored(one) == ["a", "b"] and not one.transport.disconnecting


def test_refused_alone() -> None:
    """One message never costs its neighbours anything: those behind it are stored too."""
    one = bench(held=False)
    one.store.poison = {b"bad"}
    texts = ["a", "bad", "b", "bad", "bad", "c"]
    one.peer.dataReceived(b"".join(message(n, text) for n, text in enumerate(texts)))
    assert answers(one) == [
        *("AA 0", "AE 1 207 E", "AA 2", "AE 3 207 E", "AE 4 207 E", "AA 5"),
    ]
    assert stored(one) == ["a", "b", "c"] and not one.transport.disconnecting
    assert b"|E|CONSTRAINT||sqlstate=23514|violates a check constraint\r" in one.said


def test_refused_and_kept() -> None:
    """A refused message is refused also where it is kept as a dead letter: its sender hears."""
    one = bench(held=False, dead_letters=frozenset({"messages"}))
    one.store.poison = {b"bad"}
    one.peer.dataReceived(message(1, "a") + message(2, "bad") + message(3, "b"))
    assert answers(one) == ["AA 1", "AE 2 207 E", "AA 3"]
    assert stored(one) == ["a", "b"] and len(one.store.dead_letters) == 1


@pytest.mark.parametrize(
    ("accepted", "fields", "said"),
    [
        (Accepted(), {"f12": "3.0"}, "AR 2 203 E"),
        (Accepted(), {"f11": "X"}, "AR 2 202 E"),
        (Accepted(("ADT^A04",)), {"f9": "ADT^A05"}, "AR 2 201 E"),
        (Accepted(("ADT",)), {"f9": "ORU^R01"}, "AR 2 200 E"),
        (Accepted(("ADT",)), {"f9": "ORU^R01", "f15": "AL"}, "CR 2 200 E"),
    ],
)
def test_unsupported(accepted: Accepted, fields: dict[str, str], said: str) -> None:
    """A type, a version or a processing id that is not taken is rejected, and only that."""
    one = bench(accepted, held=False)
    one.peer.dataReceived(message(1, "a") + message(2, "b", **fields) + message(3, "c"))
    assert answers(one) == ["AA 1", said, "AA 3"] and stored(one) == ["a", "c"]


def test_no_hl7() -> None:
    """What begins with MSH is answered; what does not is named, and its sender disconnected."""
    one = bench(held=False)
    bad = block(b"MSHX") + block(message(2)[1:-2] + message(3)[1:-2])
    one.peer.dataReceived(message(1) + bad + message(4))
    assert answers(one) == ["AA 1", "AE  102 E", "AE 2 102 E", "AA 4"]
    assert not one.transport.disconnecting and len(stored(one)) == 2
    one.peer.dataReceived(message(5) + block(b"hello") + message(6))
    assert answers(one)[4:] == ["AA 5"] and one.transport.disconnecting
    assert len(stored(one)) == 3


def test_no_block() -> None:
    """What is between the blocks ends the connection; what came before is answered first."""
    one = bench()
    one.peer.dataReceived(message(1) + b"MSH|^~\\&|")
    assert not one.transport.disconnecting
    one.commit_all()
    assert answers(one) == ["AA 1"] and one.transport.disconnecting


def test_not_now() -> None:
    """What cannot be stored now has no answer: the connection ends, nothing behind is stored."""
    one = bench(held=False)
    one.store.failures.append(Unavailable("no connection"))
    one.peer.dataReceived(message(1) + message(2))
    one.wait(1)
    assert one.said == b"" and one.transport.disconnecting and not one.store.rows
    # It is counted, and logged with its reason, though its sender hears nothing.
    assert one.factory.counters.answers == {("-TRY", "DOWN"): 2}
    one = bench(held=False)
    one.store.poison = {b"bad"}
    one.peer.dataReceived(message(1, "a"))
    one.store.closed = {"messages"}
    one.peer.dataReceived(message(2, "b") + message(3, "bad"))
    one.wait(1)
    assert answers(one) == ["AA 1"] and one.transport.disconnecting and stored(one) == ["a"]


def test_rejected_for_now() -> None:
    """With try = "AR" it is rejected, and the connection stays; later ones are stored."""
    one = bench(held=False, reject_later=True)
    one.store.failures.append(Unavailable("no connection"))
    one.peer.dataReceived(message(1) + message(2, f15="AL"))
    one.wait(1)
    assert answers(one) == ["AR 1 207 E", "CR 2 207 E"] and not one.transport.disconnecting
    assert b"|E|DOWN|||" in one.said
    one.peer.dataReceived(message(3))
    assert answers(one)[2:] == ["AA 3"]


def test_what_may_be_stored_is_not_rejected() -> None:
    """Where it is not known whether a message is stored, nothing is said, also with AR."""
    one = bench(held=False, reject_later=True)
    one.store.failures.extend(OutcomeUnknown("lost") for _ in range(1000))
    one.peer.dataReceived(message(1))
    one.wait(90)
    assert one.said == b"" and one.transport.disconnecting


def by_type(fallback: str | None = None) -> ContentDialect:
    return ContentDialect(Hl7Format(["MSH-9.1"]), "MSH-9.1", {"ADT": "messages"}, fallback)


def test_routes_by_a_field() -> None:
    """A type that no route takes is one that is not supported here; another field is an error."""
    one = bench(messages=by_type(), route_by="MSH-9.1", held=False)
    one.peer.dataReceived(message(1) + message(2, f9="ORU^R01") + message(3))
    assert answers(one) == ["AA 1", "AR 2 200 E", "AA 3"] and len(stored(one)) == 2
    one = bench(messages=by_type(), route_by="PID-3", held=False)
    one.peer.dataReceived(message(2, f9="ORU^R01"))
    assert answers(one) == ["AE 2 207 E"]


def test_not_granted() -> None:
    """Who may not use the route is refused each message, and told why."""
    grants = {"all": GrantSection(routes=("other",), networks=("127.0.0.0/8",))}
    one = bench(held=False, access=AccessSection(grants=grants), known=("messages", "other"))
    one.peer.dataReceived(message(1) + message(2))
    assert answers(one) == ["AE 1 207 E", "AE 2 207 E"] and not one.store.rows
    assert b"|E|DENIED|||route messages is not granted\r" in one.said


def test_a_stop_waits_for_what_is_being_stored() -> None:
    """It is answered before the connection closes; what came behind is neither."""
    one = bench()
    one.peer.dataReceived(message(1))
    one.peer.dataReceived(message(2))
    one.factory.close_all(STOPPING)
    assert not one.transport.disconnecting
    one.commit_all()
    assert answers(one) == ["AA 1"] and one.transport.disconnecting
    assert len(one.store.rows) == 1
