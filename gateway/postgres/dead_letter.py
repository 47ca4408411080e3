"""
Dead letters: messages that were refused and are kept in C{gateway.dead_letter}.

They are written behind a fence like any batch, so that a lost reply doubles none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.batch import Batch, Fence
from gateway.reply import Outcome

BURY: Final = """
    INSERT INTO gateway.dead_letter
           (route, peer, listener, identity, received_at, sqlstate, error, frame)
    SELECT %(route)s, l.peer, l.listener, l.identity, to_timestamp(l.received_at),
           nullif(l.sqlstate, ''), l.error, l.frame
      FROM gateway.advance(%(lane)s::uuid, %(first)s::bigint, %(last)s::bigint) AS fence,
           unnest(%(peer)s::text[], %(listener)s::text[], %(identity)s::text[],
                  %(received_at)s::float8[], %(sqlstate)s::text[], %(error)s::text[],
                  %(frame)s::bytea[])
           AS l(peer, listener, identity, received_at, sqlstate, error, frame)
"""


def bury_values(batch: Batch, outcomes: Sequence[Outcome], fence: Fence) -> Mapping[str, Any]:
    """
    Parameters of L{BURY}.

    @param outcomes: why each row of the batch was refused.
    """
    chunks = [(part.chunk, frame) for part in batch.slices for frame in part.frames]
    return {
        "route": batch.route,
        "lane": fence.lane,
        "first": fence.first,
        "last": fence.number,
        "peer": [chunk.origin.peer for chunk, _ in chunks],
        "listener": [chunk.origin.listener for chunk, _ in chunks],
        "identity": [chunk.origin.identity for chunk, _ in chunks],
        "received_at": [chunk.received_at for chunk, _ in chunks],
        "sqlstate": [outcome.sqlstate for outcome in outcomes],
        "error": [outcome.text for outcome in outcomes],
        "frame": [frame for _, frame in chunks],
    }
