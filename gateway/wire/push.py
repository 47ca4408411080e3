"""
Pushes: frames that peers did not request, written once for all peers of the same framing.

A thousand peers that listen to one channel get the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.wire.framing import Framing


class Pushes:
    """
    Pushes that are sent to one peer or many at once.

    @ivar payloads: C{>channel payload} or C{>!gap channel}, in order, before framing.
    """

    __slots__ = ("_framed", "payloads")

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.payloads = payloads
        self._framed: dict[bytes, bytes] = {}

    def framed(self, framing: Framing) -> bytes:
        """
        Return all of them as bytes in a peer's framing.
        """
        payload_frames = self._framed.get(framing.kind)
        if payload_frames is None:
            push = framing.push
            payload_frames = self._framed[framing.kind] = b"".join([push(p) for p in self.payloads])
        return payload_frames
