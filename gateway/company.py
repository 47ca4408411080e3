"""
What the lanes of a writer share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from gateway.attempt import Attempt
from gateway.batch import Chunk
from gateway.errors import StoreError
from gateway.gate import Gates
from gateway.reply import Code, goodbye
from gateway.store import Detour, Store

BUG: Final = goodbye(Code.INTERNAL, "the gateway failed; whether this was stored is not known")


class Company(Protocol):
    """
    What the lanes of a writer share.

    @ivar detour: the spool; C{None} where messages are refused while the database is away.
    @ivar dead_letters: routes whose refused messages are kept.
    @ivar new_id: makes up UUIDs of lanes.
    @ivar unknown: how often a connection was lost with a batch in flight.
    @ivar resolved: how often the fence showed that such a batch had been committed.
    """

    clock: IReactorTime
    store: Store
    gates: Gates
    detour: Detour | None
    dead_letters: frozenset[str]
    new_id: Callable[[], str]
    unknown: int
    resolved: int

    def attempt(self) -> Attempt:
        """Begin a commit."""

    def troubled(self, route: str, error: StoreError) -> None:
        """A route's batches cannot be stored just now."""

    def well(self, route: str) -> None:
        """A batch of this route was stored."""

    def send_on(self, chunks: Sequence[Chunk]) -> None:
        """All that some peers have under way waits behind others' trouble: to other lanes."""

    def bug(self, failure: Failure) -> None:
        """What nobody foresaw."""
