"""
Dialect of a plain listener that requires a token as the first frame.

The first frame is the token, and is answered as a message is. The frames behind wait for that
answer, and are then read by the listener's own dialect, at no cost.
"""

from __future__ import annotations

from gateway.access.authenticator import Authenticator, Proof
from gateway.access.rights import NOTHING
from gateway.dialects.base import Dialect, FrameReader, Peer, Work, turned_away
from gateway.model import wording
from gateway.model.outcome import STORED, Outcome
from gateway.wire.framing import OVERSIZE


class TokenFirst:
    """
    Dialect that reads a token before another dialect.
    """

    takes_commands = False
    acknowledges = False

    def __init__(self, dialect: Dialect, authenticator: Authenticator) -> None:
        """
        @param dialect: of peers that have proved their identity.
        """
        self.routes = dialect.routes
        self.dialect = dialect
        self.authenticator = authenticator

    def reader(self, peer: Peer) -> FrameReader:
        return _First(self, peer) if peer.rights is NOTHING else self.dialect.reader(peer)


class _First:
    """
    Reader of the frame that holds the token.
    """

    kept_bytes = 0
    route = None

    def __init__(self, offer: TokenFirst, peer: Peer) -> None:
        self._offer = offer
        self._peer = peer

    def rights_changed(self, peer: Peer) -> FrameReader:
        return self._offer.reader(peer)

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def release(self) -> None:
        """Do nothing: no state of a peer is kept."""

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        first_frame = frames[0]
        if first_frame is OVERSIZE:
            return [Work("", gaps=[(0, self._peer.log_close(wording.WRONG_TOKEN))], closes=True)]
        authenticator = self._offer.authenticator
        return [
            Work(
                "",
                request=lambda answered: authenticator.verify(
                    first_frame,
                    self._peer.peer_info.site,
                    lambda proof: answered(self._proved(proof)),
                ),
                rest=frames[1:],
            )
        ]

    def _proved(self, proof: Proof) -> Outcome:
        if isinstance(proof, Outcome):
            return self._peer.log_close(proof)
        return self._peer.set_identity(self._peer.peer_info.proved(proof)) or STORED
