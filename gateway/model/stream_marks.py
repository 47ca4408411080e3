"""
Where the database found streams that a batch could not move.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.model import wording
from gateway.model.batch import DIGEST, StreamMark, digests_of
from gateway.model.outcome import Outcome


class Standing(NamedTuple):
    """
    Position of a stream that did not move, as the database has it.

    @ivar claimed: whether it is still claimed by whoever wanted to move it.
    @ivar current: whether it is in the epoch of the messages.
    @ivar mark: the number up to which everything is settled.
    @ivar first: the number of the first message in C{digests}.
    @ivar digests: of settled messages in a row, as far as they are remembered and were in
        the batch.
    """

    claimed: bool
    current: bool
    mark: int
    first: int = 1
    digests: bytes = b""

    def holds(self, number: int, frame: bytes) -> bool:
        """
        Whether a number is known to be this very message's.
        """
        at = (number - self.first) * DIGEST
        return at >= 0 and self.digests[at : at + DIGEST] == digests_of([frame])

    def outcome(self, move: StreamMark) -> Outcome:
        """
        What is told to the peer whose messages did not move it.
        """
        if not self.claimed:
            return wording.STREAM_TAKEN
        behind = not self.current or self.mark < move.first - 1
        return wording.STREAM_BEHIND if behind else wording.STREAM_MOVED
