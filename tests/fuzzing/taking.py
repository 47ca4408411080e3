"""
Take bytes from a framing as a connection does.
"""

from __future__ import annotations

from gateway.wire.framing import OVERSIZE, Framing


def take(framing: Framing, piece: bytes, most: int, frames: list[bytes]) -> None:
    """
    Take a piece: first nothing, as while what is before waits, and then so many frames at a time.

    @param frames: gets them, also those before a fault.
    """
    wanted = 0 if len(piece) % 2 else most
    while True:
        some = framing.receive(piece, wanted)
        # One that is too long is said when that is known.
        assert len([frame for frame in some if frame is not OVERSIZE]) <= wanted, (some, wanted)
        frames += some
        if not framing.more:
            return
        piece, wanted = b"", most
