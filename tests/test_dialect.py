"""
Dialects: what frames ask for.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.dialect import CommandDialect, PlainDialect, Work
from gateway.framing import OVERSIZE

COMMANDS = CommandDialect(["messages", "other"])


def answers(work: Work) -> list[str]:
    return [bytes(outcome).decode() for _, outcome in work.gaps]


def test_plain_frames_are_messages() -> None:
    """Every frame goes to the route, but for those that were too long."""
    (work,) = PlainDialect("r").read([b"a", OVERSIZE, b""], True)
    assert (work.route, work.messages, [at for at, _ in work.gaps]) == ("r", [b"a", b""], [1])


def test_puts_in_a_row_are_one_piece() -> None:
    """What goes to one route is submitted once, whatever stands between."""
    first, second = COMMANDS.read(
        [b"PUT messages a", b"PING x", b"@1 PUT messages  b ", b"PUT other c"], False
    )
    assert (first.route, first.messages, first.tags) == (
        *("messages", [b"a", b" b "]),
        [b"", b"", b"@1"],
    )
    assert answers(first) == ["+OK x"]
    assert (second.route, second.messages, second.tags) == ("other", [b"c"], [b""])


def test_refusals_name_what_is_wrong() -> None:
    """Bad commands are answered each with its own reason and cost nothing else."""
    (work,) = COMMANDS.read(
        [b"NOPE", b"PUT nowhere x", b"PUT messages", b"@ PING", b"CALL q", b"PING \xff", b""], False
    )
    assert answers(work) == [
        "-REJ FORMAT :unknown verb NOPE; try HELP",
        "-REJ ROUTE :no route nowhere",
        "-REJ FORMAT :PUT takes a route, a space and a payload",
        "-REJ FORMAT :a tag is @ and 1 to 63 bytes",
        "-REJ QUERY :CALL is not offered by this gateway; try HELP",
        "-REJ DATA :PING takes text in UTF-8",
        "-REJ FORMAT :unknown verb ; try HELP",
    ]


def test_nothing_follows_quit() -> None:
    """QUIT is the last that is answered."""
    (work,) = COMMANDS.read([b"quit", b"PUT messages never"], False)
    assert work.closes and not work.messages and answers(work) == ["+OK"]


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=20))
def test_every_frame_is_answered(frames: list[bytes]) -> None:
    """Whatever is sent, there is one answer for each frame, up to QUIT."""
    works = COMMANDS.read(frames, False)
    count = sum(work.count for work in works)
    assert count == len(frames) or works[-1].closes
    assert all(work.tags is not None and len(work.tags) == work.count for work in works)
