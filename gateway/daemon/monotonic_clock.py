"""
Clock of the reactor's timers.
"""

from __future__ import annotations

import time
from typing import Any


def use_monotonic_clock(reactor: Any) -> None:
    """
    Make the reactor's timers independent of the time of day.

    Twisted's follow C{time.time()}: a clock that is set back by an hour would make every timer an
    hour late, one set forward would expire every timeout at once.
    """
    if reactor.seconds is time.monotonic:
        return
    ahead = time.monotonic() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        call.delay(ahead)
    reactor.seconds = time.monotonic
