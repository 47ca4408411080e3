"""
Dialects: what frames ask for.
"""

from __future__ import annotations

from gateway.dialects.plain import PlainDialect
from gateway.wire.framing import OVERSIZE


def test_plain_frames_are_messages() -> None:
    """Every frame goes to the route, but for those that were too long."""
    (work,) = PlainDialect("r").read([b"a", OVERSIZE, b""], True)
    assert (work.route, work.messages, [at for at, _ in work.gaps]) == ("r", [b"a", b""], [1])
