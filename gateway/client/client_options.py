"""
Options that both clients pass to their session.
"""

from __future__ import annotations

from typing import TypedDict


class ClientOptions(TypedDict, total=False):
    """
    Keyword arguments of the clients.

    @ivar dialect: C{command}, or C{plain} for a listener that takes bare messages.
    @ivar framing: framing of the listener: a key of C{WIRES}, such as C{line} or C{int32}.
    @ivar delimiter: the end of a frame, for framing C{delimited}.
    @ivar stream: name of a numbered stream: each message is stored exactly once and in order, even
        if connections are lost. Only one client at a time can own it.
    @ivar window: most messages in flight; 1000 by default.
    @ivar resend: without a stream: whether messages in flight on a lost connection are sent again
        (at least once), the default, or fail with L{Unknown}.
    @ivar takeover: what to do when another client takes the stream over: C{stop} or C{retry}.
    @ivar asked_route: route to check on each connection before any message; L{Refused} ends the
        client where it may not be used. In a stream each refusal uses up a number.
    @ivar token: token that is sent first on each connection; see C{gateway token}.
    """

    dialect: str
    framing: str
    delimiter: bytes | str | None
    stream: str | None
    window: int
    resend: bool
    takeover: str
    token: str | None
    asked_route: str | None
