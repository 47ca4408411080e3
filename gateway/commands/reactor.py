"""
Run a command's coroutine on the reactor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import click
from twisted.internet.defer import Deferred
from twisted.internet.task import react


def run(work: Callable[[Any], Awaitable[int]]) -> None:
    """
    Run a coroutine on the reactor, and exit with its result, or with the status of a click
    exception.
    """

    def main(reactor: Any) -> Deferred[None]:
        async def coroutine() -> None:
            try:
                status = await work(reactor)
            except click.ClickException as error:
                error.show()
                status = error.exit_code
            if status:
                raise SystemExit(status)

        return Deferred.fromCoroutine(coroutine())

    react(main)
