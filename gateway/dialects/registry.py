"""
Readers of the protocols with an acknowledgement of their own, by their names in
L{gateway.wire.protocols.PROTOCOLS}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects.acknowledging import AcknowledgingReader
from gateway.dialects.beats import BeatsReader
from gateway.dialects.forward import ForwardReader
from gateway.dialects.mllp import MllpReader
from gateway.dialects.relp import RelpReader
from gateway.wire.protocols import ProtocolName

READERS: Final[Mapping[ProtocolName | str, type[AcknowledgingReader]]] = {
    "beats": BeatsReader,
    "forward": ForwardReader,
    "mllp": MllpReader,
    "relp": RelpReader,
}
"""The reader of each protocol's frames."""
