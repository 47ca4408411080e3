"""
Log of admissions: identity, proof and address of each peer that is let in.

One line for an identity, its proof and its address; while it comes again and again, one line a
minute that counts. So a token that is used somewhere else has a line of its own at once.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.logs.repeat_log import RepeatLog


class _AdmissionKind(NamedTuple):
    """Identity, proof, and the address as limits take it."""

    identity: str
    proof: str
    site: Hashable


class AdmissionLog:
    """
    Log of one listener's admissions.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, listener: str) -> None:
        self._listener = listener
        self._repeat_log: RepeatLog[_AdmissionKind] = RepeatLog(clock, self._say)

    def note(self, identity: str, proof: str, site: Hashable, peer: str) -> None:
        """
        Note that a connection was let in.

        @param proof: a token's ID or a certificate's number, never a secret.
        @param peer: its address.
        """
        self._repeat_log.note(_AdmissionKind(identity, proof, site), 1, f"from {peer}")

    def end(self) -> None:
        """
        Log the counts that are not logged yet, and stop.
        """
        self._repeat_log.end()

    def _say(self, kind: _AdmissionKind, count: int, text: str) -> None:
        self._log.info(
            "listener {listener}: {count} {_connections} let in as {identity} by {proof}"
            " ({remark})",
            event="admitted",
            listener=self._listener,
            count=count,
            _connections="connection" if count == 1 else "connections",
            identity=kind.identity,
            proof=kind.proof,
            remark=text,
        )
