"""
Position of a stream whose mark a batch could not move.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.model import wording
from gateway.model.batch import StreamMark
from gateway.model.outcome import Outcome
from gateway.model.stream import DIGEST, digests_of


class StreamPosition(NamedTuple):
    """
    Position of a stream that did not move, as the database has it.

    @ivar claimed: whether the claim of the batch is still the stream's.
    @ivar current: whether it is in the epoch of the messages.
    @ivar mark: the number up to which everything is settled.
    @ivar first: the number of the first message in C{digests}.
    @ivar digests: digests of consecutive settled messages, as far as they are remembered and were
        in the batch.
    """

    claimed: bool
    current: bool
    mark: int
    first: int = 1
    digests: bytes = b""

    def has_message(self, number: int, frame: bytes) -> bool:
        """
        Say whether the message stored under a number is known to be this one.
        """
        at = (number - self.first) * DIGEST
        return at >= 0 and self.digests[at : at + DIGEST] == digests_of([frame])

    def outcome(self, move: StreamMark) -> Outcome:
        """
        Return the answer to the peer whose messages could not be stored.
        """
        if not self.claimed:
            return wording.STREAM_TAKEN
        behind = not self.current or self.mark < move.first - 1
        return wording.STREAM_BEHIND if behind else wording.STREAM_MOVED
