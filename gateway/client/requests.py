"""
Commands that are no messages: PING, CALL, LISTEN, HELLO.

They have a queue of their own, so that none waits for messages that a gateway without its database
cannot take. LISTEN is sent again on each connection.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from .answers import Garbled
from .parcel import Question
from .wire import check_word

Params = Mapping[str, Any] | Sequence[Any] | None
"""A query's parameters by name, or in their order."""


def call(query: str, params: Params) -> bytes:
    """
    Return the command that calls a query; values that JSON does not have become text.
    """
    check_word("query", query)
    payload = b"CALL " + query.encode()
    if params is None:
        return payload
    return payload + b" " + json.dumps(params, default=str).encode()


def decoded(rows: Sequence[bytes], exact: bool) -> list[dict[str, Any]]:
    """
    Decode the rows of an answer.

    @param exact: whether numbers with a decimal point become C{decimal.Decimal}.
    @raise Garbled: one of them is no JSON object, or Python cannot parse it.
    """
    values = []
    for number, row in enumerate(rows, 1):
        try:
            value = json.loads(row, parse_float=Decimal if exact else None)
        except RecursionError:
            raise Garbled(f"row {number} is nested too deep: {row[:40]!r}") from None
        except (ValueError, ArithmeticError) as error:
            # Of integers too, of which Python reads 4,300 digits.
            raise Garbled(f"row {number} cannot be read: {error}: {row[:40]!r}") from None
        if not isinstance(value, dict):
            raise Garbled(f"row {number} is no JSON object: {row[:40]!r}")
        values.append(value)
    return values


class Requests:
    """
    Queue of commands.

    @ivar refused_for_now: whether any was answered -TRY and waits to be sent again.
    """

    def __init__(self) -> None:
        self._waiting: deque[Question] = deque()
        self._again: list[Question] = []
        self._channels: set[str] = set()

    @property
    def refused_for_now(self) -> bool:
        return bool(self._again)

    def add(self, question: Question) -> None:
        self._waiting.append(question)

    def put_first(self, question: Question) -> None:
        """Add a command in front of all others."""
        self._waiting.appendleft(question)

    def listen(self, channel: str) -> Question:
        check_word("channel", channel)
        self._channels.add(channel)
        question = Question(b"LISTEN " + channel.encode(), channel)
        self.add(question)
        return question

    def unlisten(self, channel: str) -> Question:
        check_word("channel", channel)
        self._channels.discard(channel)
        question = Question(b"UNLISTEN " + channel.encode())
        self.add(question)
        return question

    def remove_channel(self, channel: str) -> None:
        """Remove a channel that the gateway refuses."""
        self._channels.discard(channel)

    def queue_listens(self) -> None:
        """Queue LISTEN for all channels, on a new connection."""
        waiting_channels = {question.channel for question in self._waiting}
        for channel in sorted(self._channels - waiting_channels, reverse=True):
            self.put_first(Question(b"LISTEN " + channel.encode(), channel, own=True))

    def keep_for_later(self, question: Question) -> None:
        """Keep a command that was answered -TRY."""
        self._again.append(question)

    def due(self) -> None:
        """Queue again what was answered -TRY."""
        self._waiting.extendleft(reversed(self._again))
        self._again = []

    def lost(self, unanswered: Iterable[Question]) -> None:
        """
        Queue unanswered commands again after a lost connection, without dropped ones and the
        session's own.
        """
        questions = [*unanswered, *self._again, *self._waiting]
        self._again = []
        self._waiting = deque(q for q in questions if not q.own and not q.dropped)
        for question in self._waiting:
            question.rows = []
            question.answer = None

    def take_commands(self, only_own: bool) -> list[Question]:
        """
        Remove and return the commands to send now.

        @param only_own: whether only the session's own, such as HELLO, may be sent.
        """
        commands = []
        while self._waiting and (self._waiting[0].own or not only_own):
            question = self._waiting.popleft()
            if not question.dropped:
                commands.append(question)
        return commands
