"""
RELP: however TCP cuts the stream, the same frames come out, and little is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.errors import FramingError
from gateway.wire.relp import Command, Oversized, RelpFraming, agreed, following, refused, stored
from tests.fuzzing.streams import cuts
from tests.fuzzing.taking import take

_HEADER = 60
"""Bytes of a header at most, and of what may follow it."""


def relp(data: bytes) -> None:
    most, how, stream = data[:1], data[1:2], data[2:]
    max_frame = 1 + (most[0] if most else 99)
    whole = _frames([stream], max_frame)
    for cut in cuts(stream, how):
        frames = _frames(cut, max_frame)
        assert whole == frames, (whole, frames)
    number = 1
    for kind, frame in whole[0]:
        assert len(frame) <= max_frame + _HEADER
        if kind is Oversized:
            assert len(frame) == max_frame
        if kind is Command:
            own, command, rest = Command(frame).split_up()
            assert own in (0, number) and command.isalpha()
            if command == b"open":
                answer = agreed(rest)
                assert isinstance(answer, str) or answer in (0, 1)
            said = refused(own, repr(rest))
        else:
            own, said = number, stored(number, 1)
        number = following(number) if own else number
        # What is answered is a frame, too.
        _, _, size_and_data = Command(said[:-1]).split_up()
        size, _, text = size_and_data.partition(b" ")
        assert int(size) == len(text) and text[:4] in (b"200 ", b"500 ") and b"\n" not in text


def _frames(stream: Sequence[bytes], max_frame: int) -> tuple[list[tuple[type, bytes]], str]:
    """
    @return: the frames with their classes, and how they ended.
    """
    parser = RelpFraming(max_frame)
    frames: list[bytes] = []
    end = ""
    for piece in stream:
        try:
            # However many are wanted at a time.
            most = len(piece) % 4 + 1
            take(parser, piece, most, frames)
        except FramingError as error:
            frames += error.frames
            end = "broken"
            break
        assert parser.pending <= max_frame + _HEADER, parser.pending
        assert parser.pending == 0 or parser.unfinished
    else:
        end = "unfinished" if parser.unfinished else "whole"
    found = [(type(frame), bytes(frame)) for frame in frames]
    assert {kind for kind, _ in found} <= {bytes, Command, Oversized}
    return found, end
