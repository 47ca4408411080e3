"""
Running a coroutine on the reactor, for commands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react


def run(work: Callable[[Any], Awaitable[int]]) -> None:
    """
    Run a coroutine on the reactor and exit with its result.
    """

    def main(reactor: Any) -> Deferred[None]:
        async def coroutine() -> None:
            status = await work(reactor)
            if status:
                raise SystemExit(status)

        return Deferred.fromCoroutine(coroutine())

    react(main)
