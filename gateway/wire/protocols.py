"""
Table of the protocols with an acknowledgement of their own; one is entered here, and its reader in
L{gateway.dialects.registry}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.wire.forward import ForwardFraming
from gateway.wire.framing import Framing
from gateway.wire.lumberjack import LumberjackFraming
from gateway.wire.mllp import MllpFraming
from gateway.wire.relp import SERVER_CLOSE, RelpFraming

ProtocolName = Literal["relp", "forward", "beats", "mllp"]


@dataclass(frozen=True, slots=True)
class WireProtocol:
    """
    Protocol with an acknowledgement of its own.

    @ivar framing: makes the framing of a peer from the listener's C{max_frame} and C{max_chunk}.
    @ivar farewell: bytes that a peer gets when its connection is closed; maybe none.
    @ivar needs_dead_letter: whether a refused message can only be acknowledged, so that its route
        has to keep it.
    @ivar sample: a message as its senders write them; empty where they write what they like.
    """

    framing: Callable[[int, int], Framing]
    farewell: bytes = b""
    needs_dead_letter: bool = False
    sample: bytes = b""


_JSON: Final = b'{"@timestamp":"2026-01-01T00:00:00.000Z","message":"text"}'
_HL7: Final = b"MSH|^~\\&|a|b|c|d|20260101||ADT^A01|1|P|2.5\r"


PROTOCOLS: Final[Mapping[ProtocolName | str, WireProtocol]] = {
    "beats": WireProtocol(LumberjackFraming, needs_dead_letter=True, sample=_JSON),
    "forward": WireProtocol(ForwardFraming, needs_dead_letter=True, sample=_JSON),
    "mllp": WireProtocol(MllpFraming, sample=_HL7),
    "relp": WireProtocol(RelpFraming, SERVER_CLOSE),
}
"""Every such protocol there is, by the name that a listener's C{dialect} has."""
