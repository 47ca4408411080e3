"""
Carrier: one numbered stream at the centre, over any number of links.

A carrier never gives a number to another message once it has sent it and does not know what became
of it: it is sent again under the same number, and C{+DUP}, or the C{-REJ} it got, is its fate. So a
message is stored once, however often the line breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from twisted.internet.defer import DeferredLock

from gateway.client.answers import Answer
from gateway.model.errors import GatewayError, Unavailable
from gateway.model.stream import KEPT_REFUSALS
from gateway.relay.conversation import Runs
from gateway.relay.link import Link, LinkError, Segment, Sent, behind
from gateway.relay.names import UNUSABLE

TOO_LONG: Final = Answer(
    "-REJ",
    "TOOBIG",
    {},
    "longer than the centre takes",
    b"-REJ TOOBIG :longer than the centre takes",
)
"""Fate of a message over the centre's C{max_frame}."""


class Links(Protocol):
    """
    Port to the centre.

    @ivar generation: counts changes of the endpoint.
    """

    generation: int

    async def link(self) -> Link:
        """
        Open a link.

        @raise Unavailable: the centre cannot be reached.
        """


class Behind(GatewayError):
    """
    The centre has not come as far in a stream as it must have, or has it in another epoch.

    @ivar mark: the number that it has come to, where it says so.
    @ivar renewed: whether that is in another epoch.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.mark = answer.seq or 0
        self.renewed = answer.taken


class Carrier:
    """
    One stream at the centre.

    @ivar name: the centre's name of it.
    @ivar epoch: its epoch; C{None}: not known yet.
    @ivar settled: the last number that was answered, or that HELLO told.
    @ivar used_at: when it was used last, in seconds of the clock.
    @ivar busy: how many calls use it now.
    @ivar claim: word of the claim that its messages are written under, for a peer's stream.
    @ivar turn: held by the one who opens it or sends on it, for a peer's stream: messages that are
        sent behind a HELLO, before its answer, get into an epoch that they may not be of.
    """

    def __init__(self, name: str, links: Links, epoch: str | None = None, settled: int = 0) -> None:
        self.name = name
        self.epoch = epoch
        self.settled = settled
        self.used_at = 0.0
        self.busy = 0
        self.claim: str | None = None
        self.turn = DeferredLock()
        self._links = links
        self._link: Link | None = None

    @property
    def is_open(self) -> bool:
        """Whether its stream is open on a link to the endpoint in use."""
        link = self._link
        if link is None or not link.is_open:
            return False
        # One to a former endpoint ends as soon as nothing is under way on it.
        return link.generation == self._links.generation

    def close(self) -> None:
        """Close its link."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    async def greet(self, seen: int | None, epoch: str | None) -> int:
        """
        Say HELLO, on its link or a new one.

        @param seen: a number that the centre must have come to; C{None}: a new epoch begins.
        @return: the number that it has come to.
        @raise Behind: it has not, or not in this epoch.
        @raise Unavailable: it cannot be asked, or does not say.
        """
        if not self.is_open:
            self.close()
            self._link = await self._links.link()
        link = self._link
        assert link is not None
        payload = f"HELLO {self.name}"
        if seen is not None:
            payload += f" seen={seen} epoch={epoch}" if epoch else f" seen={seen}"
        try:
            answer = await link.ask(payload.encode())
        except LinkError as error:
            raise Unavailable(f"the centre: {error}") from None
        if answer.kept and answer.seq is not None and answer.epoch:
            self.epoch, self.settled = answer.epoch, answer.seq
            return answer.seq
        self.close()
        if answer.code == "GAP":
            raise Behind(answer)
        raise Unavailable(f"the centre does not open stream {self.name}: {answer}")

    async def refusals(self, first: int, last: int) -> list[tuple[int, Answer]]:
        """
        Ask which of some settled numbers were refused, and why.

        A message for no route is answered with what its number got before.

        @return: (number, -REJ), ascending; those that the centre remembers.
        @raise Unavailable: it does not answer.
        """
        first = max(first, last - KEPT_REFUSALS + 1, 1)
        if last < first:
            return []
        assert self._link is not None
        sent = await self._link.put([Segment(UNUSABLE, first, [b""] * (last - first + 1))])
        if sent.settled <= last - first:
            raise Unavailable("the centre does not say what it refused")
        found, number = [], first
        for count, answer in sent.runs:
            if answer.word == "-REJ":
                found += [(number + place, answer) for place in range(count)]
            number += count
        return found

    async def send(self, segments: Sequence[Segment]) -> Sent:
        """
        Send messages whose numbers follow one another; its stream is open.

        @return: the fates of the first ones, and why the others have none.
        """
        runs: Runs = []
        settled = 0
        left = list(segments)
        while True:
            link = self._link
            if link is None:
                return Sent(runs, settled)
            sent = await link.put(left)
            runs += sent.runs
            settled += sent.settled
            left = behind(left, sent.settled)
            if left or sent.settled:
                last = (
                    left[0].first - 1
                    if left
                    else segments[-1].first + len(segments[-1].messages) - 1
                )
                self.settled = max(self.settled, last)
            farewell = sent.farewell
            if not left or farewell is None or farewell.code != "FORMAT":
                return Sent(runs, settled, sent.put_off, farewell)
            # All before the frame at fault is answered, so it is the first one without an answer;
            # and its number is not used up, which a message for no route does in its place.
            try:
                await self.greet(left[0].first - 1, self.epoch)
            except (Behind, Unavailable):
                return Sent(runs, settled)
            assert self._link is not None
            instead = await self._link.put([Segment(UNUSABLE, left[0].first, [b""])])
            if not instead.settled:
                return Sent(runs, settled)
            runs.append((1, TOO_LONG))
            settled += 1
            self.settled = max(self.settled, left[0].first)
            left = behind(left, 1)
            if not left:
                return Sent(runs, settled)
