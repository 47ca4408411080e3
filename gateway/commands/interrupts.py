"""
Ctrl-C and SIGTERM for commands that have something to finish.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred


async def on_interrupt(reactor: Any, stop: Callable[[int], None]) -> Callable[[], None]:
    """
    Have a function called instead of the reactor's end, each time.

    @param stop: gets the exit status that belongs to the signal: 130 for Ctrl-C, 143 for
        SIGTERM.
    @return: puts things back as they were.
    """
    # The reactor installs its own when it starts to run.
    running: Deferred[None] = Deferred()
    reactor.callWhenRunning(running.callback, None)
    await running

    def called(number: int, frame: object) -> None:
        reactor.callFromThread(stop, 128 + number)

    before = {number: signal.signal(number, called) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    return restore
