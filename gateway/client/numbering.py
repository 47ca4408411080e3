"""
The numbers of a stream: which message has which, and whether gateway and client agree.

A message's number is its place among all that this client was ever given, behind a base
that the gateway told when the stream was first opened. The base is kept where the messages
are, so that both survive or neither does, and so is the stream's epoch: with it and the last
number that was answered any gateway can tell whether it may go on, or another one still has
something of the stream.

A gateway that has not come so far in that epoch puts HELLO off and tells no number. So what it
tells can be gone by, except where another client has taken the stream over: then the epoch
may be a new one, which is waited for in vain if the old one is said. There the numbers decide.
"""

from __future__ import annotations

from .answers import Answer, StreamLost
from .buffer import Buffer


class Numbering:
    """
    One stream.

    @ivar settled: messages that have their final answer, from the first on.
    @ivar loose: how many of the last of them were too long. Their numbers may be used up or not:
        a line that is too long is skipped before its number is seen. It is stored nowhere, so
        that another message may have its number. Every other refusal uses its number up, and is
        durable at the gateway before it is said. (A buffer that an earlier version wrote counts
        every refusal.)
    """

    def __init__(self, stream: str, buffer: Buffer) -> None:
        self.stream = stream
        self.settled = buffer.settled
        self.loose = buffer.loose
        self._buffer = buffer
        self._fresh = True
        # Messages that a gateway may have seen: of an earlier life perhaps all.
        self._sent = buffer.given

    @property
    def seen(self) -> bytes:
        """
        What HELLO says behind the stream: the last number that was answered, and its epoch;
        nothing of a client that was never greeted.
        """
        base, epoch = self._buffer.base, self._buffer.epoch
        if base is None:
            return b""
        said = f" seen={base + self.settled - self.loose}"
        return (f"{said} epoch={epoch}" if epoch and not self._buffer.taken else said).encode()

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
        self.loose = self.loose + count if answer.code == "TOOBIG" else 0

    def greeted(self, seq: int, epoch: str) -> None:
        """
        HELLO was answered.

        @param seq: the last number that is settled.
        @param epoch: that this number is of; C{""}: a gateway of an earlier version tells none.
        @raise StreamLost: that cannot be.
        """
        buffer = self._buffer
        base, loose = buffer.base, self.loose
        if base is None:
            # Nothing was sent yet, whatever waits in the buffer.
            base, loose = seq - self.settled, 0
        elif seq > base + self.settled:
            owed = self._sent > self.settled
            renewed = bool(epoch and buffer.epoch) and epoch != buffer.epoch
            another = buffer.taken or renewed
            if owed and another:
                # Numbers that were in flight may be the other's: +DUP would mean nothing.
                raise StreamLost(
                    f"stream {self.stream}: another client took it over, and the gateway has"
                    f" settled up to {seq}: what became of this client's {base + self.settled + 1}"
                    " and those after it cannot be known; look into the table, and send what is"
                    " missing under another stream's name, with a new buffer"
                )
            if not owed and (another or self._fresh):
                # What another client stored meanwhile concerns nobody here.
                base, loose = seq - self.settled, 0
        base, self.loose = self._agreed(seq, base, loose)
        self._fresh = False
        known = (buffer.base, buffer.loose, buffer.epoch, buffer.taken)
        if known != (base, self.loose, epoch, False):
            buffer.opened(base, self.loose, epoch)

    def taken_over(self) -> None:
        """Another client has it now, and may use the numbers that are in flight here."""
        self._buffer.mark_taken()

    def resume(self, seq: int) -> None:
        """
        The gateway says where to go on.

        @param seq: the last number that is settled.
        @raise StreamLost: that cannot be.
        """
        before = self._buffer.base
        assert before is not None
        base, self.loose = self._agreed(seq, before, self.loose)
        if base != before:
            self._buffer.rebase(base, self.loose)

    def _agreed(self, seq: int, base: int, loose: int) -> tuple[int, int]:
        """
        @return: base and loose, with what the gateway says.
        @raise StreamLost: they do not fit.
        """
        last = base + self.settled
        if seq < last - loose:
            raise StreamLost(
                f"stream {self.stream}: the gateway says that it has settled up to {seq}, but"
                f" {last - loose} was answered: its database was set back, or it is a gateway of"
                " another one; find out what is missing, then go on with another stream's name"
                " and a new buffer"
            )
        if seq > base + self._sent:
            raise StreamLost(
                f"stream {self.stream}: the gateway has settled up to {seq}, but this client has"
                f" sent only up to {base + self._sent}: another client uses the stream, or this"
                " one's buffer was set back; use a stream's name for one client only"
            )
        # So many at the end were too long and have not used their numbers up.
        unused = max(0, last - seq)
        return base - unused, loose - unused
