"""
Faults: messages that can never be stored, while their neighbours can.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import PeerError
from gateway.moves import Standing
from gateway.reply import Outcome

Faults = list[tuple[int, Outcome]]
"""Messages that cannot be stored: (position, why), ascending."""


class BatchesRefused(PeerError):
    """
    As L{FramesRefused}, of several batches.

    @ivar faults: of each batch.
    """

    def __init__(self, faults: list[Faults]) -> None:
        super().__init__(f"{sum(map(len, faults))} frames refused")
        self.faults = faults


class FramesRefused(PeerError):
    """
    Some frames can never be stored; the others can.

    @ivar faults: which ones and why.
    @ivar by_type: whether the types of the table's columns had a part in it.
    """

    def __init__(self, faults: Faults, by_type: bool = False) -> None:
        super().__init__(f"{len(faults)} frames refused")
        self.faults = faults
        self.by_type = by_type


class StreamsElsewhere(PeerError):
    """
    Streams with messages in the batch are not just before them; nothing is stored.

    @ivar standings: where they are, by name.
    """

    def __init__(self, standings: Mapping[str, Standing]) -> None:
        super().__init__(f"{len(standings)} streams are elsewhere")
        self.standings = standings
