"""
Options that both clients hand on to their session.
"""

from __future__ import annotations

from typing import TypedDict


class ClientOptions(TypedDict, total=False):
    """
    Keyword arguments of the clients.

    @ivar dialect: C{command}, or C{plain} for a listener that takes bare messages.
    @ivar framing: C{line}, C{nul}, C{netstring} or C{octet-counted}, as the listener has it.
    @ivar stream: the name of a numbered stream: each message is stored exactly once and in
        order, whatever connections do. Only one client at a time can have it.
    @ivar window: messages without an answer at a time; 1000.
    @ivar resend: without a stream, whether what was unanswered when the connection was lost
        is sent again (at least once), as it is by default, or fails with L{Unknown}.
    @ivar takeover: C{stop} where another client takes the stream over, or C{retry}.
    @ivar asked_route: ask on each connection, before any message, whether this route may be
        used; end with L{Refused} where it may not. In a stream each refusal uses a number up.
    @ivar token: says who this client is, first on each connection; see C{gateway token}.
    """

    dialect: str
    framing: str
    stream: str | None
    window: int
    resend: bool
    takeover: str
    token: str | None
    asked_route: str | None
