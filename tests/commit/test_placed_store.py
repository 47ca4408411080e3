"""
Store over several databases: streams that are over all of them.
"""

from __future__ import annotations

from copy import deepcopy

from twisted.internet.defer import Deferred

from gateway.commit.memory_store import MemoryStore
from gateway.commit.placed_store import PlacedStore
from gateway.commit.places import Places
from gateway.dialects.stream_registry import StreamRegistry
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.outcome import Outcome
from gateway.model.route import HOME, Route
from gateway.model.store import Seen
from gateway.model.stream import Stream

ROUTES = {"one": Route("one", "t", {}), "two": Route("two", "t", {}, database="b")}


class Peer:
    """A connection that is never closed."""

    def close_with(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)


def opened(registry: StreamRegistry, peer: Peer, seen: Seen | None) -> Stream | Outcome:
    """Open a stream, and return the answer to HELLO."""
    found: list[Stream | Outcome] = []
    opening = Deferred.fromCoroutine(registry.open_stream("s", peer, seen))
    opening.addCallback(found.append)
    (answer,) = found
    return answer


def test_a_database_that_was_set_back_is_named() -> None:
    """
    A peer whose stream has come as far as it knows, but of which one database has lost some, is
    told which one, and not that another peer has its stream.
    """
    stores = {name: MemoryStore(database=name) for name in (HOME, "b")}
    store = PlacedStore(stores, Places(ROUTES, dict.fromkeys(stores, 1)), lambda name: False)
    registry, peer = StreamRegistry(store, spread=True), Peer()
    stream = opened(registry, peer, None)
    assert isinstance(stream, Stream)
    before = deepcopy(stores["b"].streams)
    origin = Origin("p", "lines")
    # Of its own, so that nothing counts as in flight.
    same = Stream("s", stream.epoch, stream.claim, marks=stream.marks)
    for number, route in enumerate(("two", "two", "one"), 1):
        chunk = Chunk(
            *(route, [b"m"], origin, 0.0, lambda chunk, runs: None, None),
            *(same, number),
        )
        written = store.write(Batch.of([chunk]), Fence(f"lane-{route}", number))
        Deferred.fromCoroutine(written)
    registry.close_stream(stream)
    again = opened(registry, peer, Seen(3, stream.epoch))
    assert isinstance(again, Stream)
    assert again.last == 3
    registry.close_stream(again)
    stores["b"].streams = before
    answer = opened(registry, peer, Seen(3, stream.epoch))
    assert bytes(answer) == (  # type: ignore[arg-type]
        b"-TRY GAP retry=1 :some of what was answered is gone: a database was set back to an older"
        b" state (database b was at #2 and is at #0)"
    )
    # Whoever takes that as final begins a new epoch, in which nothing is missing.
    new = opened(registry, peer, None)
    assert isinstance(new, Stream)
    registry.close_stream(new)
    assert isinstance(opened(registry, peer, Seen(3, new.epoch)), Stream)
