"""
The numbers of a stream: which message has which, and whether gateway and client agree.

A message's number is its place among all that this client was ever given, behind a base
that the gateway told when the stream was first opened. The base is kept where the messages
are, so that both survive or neither does.
"""

from __future__ import annotations

from .answers import Answer, StreamLost
from .buffer import Buffer


class Numbering:
    """
    One stream.

    @ivar settled: messages that have their final answer, from the first on.
    @ivar loose: how many of the last of them were refused. Their numbers may be used up or not:
        a line that is too long is skipped before its number is seen, and a refusal that the
        database never saw is forgotten with the gateway that gave it. What is refused is
        stored nowhere, so that another message may have its number.
    """

    def __init__(self, stream: str, buffer: Buffer) -> None:
        self.stream = stream
        self.settled = buffer.settled
        self.loose = buffer.loose
        self._buffer = buffer
        self._fresh = True
        # Messages that a gateway may have seen: of an earlier life perhaps all.
        self._sent = buffer.given

    def sending(self, ordinal: int, count: int) -> int:
        """
        So many messages are about to be sent.

        @return: the number of the first one.
        """
        assert self._buffer.base is not None
        self._sent = max(self._sent, ordinal + count)
        return self._buffer.base + ordinal + 1

    def settle(self, count: int, answer: Answer) -> None:
        """The next messages have their answer."""
        self.settled += count
        self.loose = self.loose + count if answer.word == "-REJ" else 0

    def greeted(self, seq: int) -> None:
        """
        HELLO was answered.

        @param seq: the last number that is settled.
        @raise StreamLost: that cannot be.
        """
        base, taken = self._buffer.base, self._buffer.taken
        owed = self._sent > self.settled
        if base is None:
            self._buffer.rebase(seq - self.settled)
        elif seq > base + self.settled and (taken or self._fresh):
            if not owed:
                # What another client stored meanwhile concerns nobody here.
                self._buffer.rebase(seq - self.settled)
            elif taken:
                # Numbers that were in flight may be the other's: +DUP would mean nothing.
                raise StreamLost(
                    f"stream {self.stream}: another client took it over, and the gateway has"
                    f" settled up to {seq}: what became of this client's {base + self.settled + 1}"
                    " and those after it cannot be known; look into the table, and send what is"
                    " missing under another stream's name, with a new buffer"
                )
        self._fresh = False
        if taken:
            self._buffer.mark_taken(False)
        self.resume(seq)

    def taken_over(self) -> None:
        """Another client has it now, and may use the numbers that are in flight here."""
        self._buffer.mark_taken(True)

    def resume(self, seq: int) -> None:
        """
        The gateway says where to go on.

        @param seq: the last number that is settled.
        @raise StreamLost: that cannot be.
        """
        base = self._buffer.base
        assert base is not None
        last = base + self.settled
        if seq < last - self.loose:
            raise StreamLost(
                f"stream {self.stream}: the gateway has settled up to {seq}, but had answered"
                f" {last} before: its database was set back, or it is another gateway; find out"
                " what is missing, then go on with another stream's name and a new buffer"
            )
        if seq > base + self._sent:
            raise StreamLost(
                f"stream {self.stream}: the gateway has settled up to {seq}, but this client has"
                f" sent only up to {base + self._sent}: another client uses the stream, or this"
                " one's buffer was set back; use a stream's name for one client only"
            )
        if seq < last:
            # Those refused before them may yet be forgotten as well.
            self.loose -= last - seq
            self._buffer.rebase(base - (last - seq), self.loose)
