"""
Dialect of routing by content: every frame is a message, and one of its fields chooses the route.

Strategy: the messages of a read are read by their format in one go, for that one field,
and each value that occurs among them is looked up once. The messages of a route are one piece of
work, or one group of it where routes come by turns (L{gateway.dialects.by_route}). Nothing is
reordered: a peer's messages are stored in the order it sent them, whatever their routes, or all at
once, where nobody sees an order.

Values compare as text: of JSON a string's characters, or a number, C{true} or C{false} as
it is written. Objects and arrays are no text, so no route takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from gateway.columns.kind import excerpt
from gateway.columns.structured import scalar
from gateway.dialects.base import FrameReader, Peer, RightsHolder, Work, turned_away
from gateway.dialects.by_route import Way, works_by_route
from gateway.formats.fields import Cells, Format, Tokens
from gateway.model import wording
from gateway.model.outcome import Outcome
from gateway.wire.framing import OVERSIZE

_NONE: Mapping[str, Outcome] = {}

_BETWEEN = "\x1f"
"""Stands between JSON's values, which hold no control characters other than whitespace."""


class ContentDialect:
    """
    Dialect where every frame is a message, and the value of a field chooses its route.
    """

    kept_bytes = 0
    route = None
    takes_commands = False
    acknowledges = False

    def __init__(
        self, form: Format, field: str, routes: Mapping[str, str], fallback: str | None = None
    ) -> None:
        """
        @param form: reads C{field}, if nothing else, as the routes read their messages.
        @param routes: value of the field -> route.
        @param fallback: the route of messages that have no such field, have a value that is not in
            C{routes}, or are not of the format; C{None}: all these are refused.
        """
        self._format = form
        self._field = field
        self._routes = dict(routes)
        self._fallback = fallback
        self.routes = tuple(dict.fromkeys([*routes.values(), *([fallback] if fallback else [])]))
        self._missing: Way = fallback or wording.no_route_field(field)

    def reader(self, peer: RightsHolder) -> FrameReader:
        denied = [name for name in self.routes if name.encode() not in peer.rights.routes]
        return _RestrictedReader(self, denied) if denied else self

    def rights_changed(self, peer: Peer) -> FrameReader:
        return self.reader(peer)

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def release(self) -> None:
        """Do nothing: no state of a peer is kept."""

    def read(
        self, frames: list[bytes], oversize: bool, denied: Mapping[str, Outcome] = _NONE
    ) -> list[Work]:
        """
        Turn frames into work.

        @param denied: routes that the peer may not use -> the answer to their messages.
        """
        messages = [f for f in frames if f is not OVERSIZE] if oversize else frames
        ways = self._ways(messages) if messages else []
        if len(messages) < len(frames):
            known = iter(ways)
            ways = [wording.TOO_LONG if frame is OVERSIZE else next(known) for frame in frames]
        if denied:
            ways = [denied.get(way, way) if isinstance(way, str) else way for way in ways]
        first = ways[0]
        if isinstance(first, str) and ways.count(first) == len(ways):
            return [Work(first, frames)]
        return works_by_route(frames, ways)

    def _ways(self, messages: Sequence[bytes]) -> list[Way]:
        """Return the route or the answer of each message."""
        fields = self._format.parse_frames(messages)
        cells = fields.cells[self._field]
        way = self._way_of_token if isinstance(cells, Tokens) else self._way_of
        texts = _comparable(cells)
        known = {text: way(text) for text in set(texts)}
        ways = [known[text] for text in texts]
        for row, fault in fields.faults:
            ways[row] = self._fallback or fault
        return ways

    def _way_of(self, text: str | None) -> Way:
        if text is None:
            return self._missing
        return self._routes.get(text) or self._unknown(text)

    def _way_of_token(self, token: str | None) -> Way:
        """Return the route or the answer for a value, given as a JSON token."""
        if token is None or token == "null":
            return self._missing
        if token.startswith(("{", "[")):
            return self._unknown(token)
        try:
            return self._way_of(scalar(token))
        except msgspec.DecodeError:
            return self._unknown(token)  # not UTF-8

    def _unknown(self, value: str) -> Way:
        return self._fallback or wording.no_route_value(self._field, excerpt(value))


class _RestrictedReader:
    """
    Reader for a peer that may not use all of the routes.
    """

    kept_bytes = 0
    route = None

    def __init__(self, dialect: ContentDialect, denied: Sequence[str]) -> None:
        self._dialect = dialect
        self._denied = {route: wording.not_granted(f"route {route}") for route in denied}

    def rights_changed(self, peer: Peer) -> FrameReader:
        return self._dialect.reader(peer)

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def release(self) -> None:
        """Do nothing: no state of a peer is kept."""

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        return self._dialect.read(frames, oversize, self._denied)


def _comparable(cells: Cells) -> Sequence[str | None]:
    """Return values to compare; JSON's as they are written."""
    if not isinstance(cells, Tokens):
        return cells.values
    # What is not UTF-8 becomes an escape that JSON does not have, and so equals nothing.
    joined = _BETWEEN.encode().join(cells.values).decode(errors="backslashreplace")
    return joined.split(_BETWEEN)
