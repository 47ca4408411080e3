"""
Numbers of a stream: which message has which, and whether gateway and client agree.

A message's number is its place among all messages ever given to this client, plus a base that the
gateway sent when the stream was first opened. The base is kept where the messages are, so that both
survive or neither does, and so is the stream's epoch: from it and the last answered number any
gateway can tell whether it may go on, or another gateway still holds messages of the stream.

A gateway that has not yet come to that number in that epoch answers HELLO with -TRY and sends no
number. So a number it sends can be trusted, except where another client has taken the stream over:
then the epoch may be a new one, for which a HELLO with the old epoch would wait in vain. There the
numbers alone decide.
"""

from __future__ import annotations

from .answers import Answer, StreamLost
from .buffer import Buffer


class Numbering:
    """
    Numbering of one stream.

    @ivar settled: number of messages with a final answer, from the first on.
    @ivar loose: how many of the last of them were too long. Their numbers may be used up or not: a
        line that is too long is skipped before its number is read. It is stored nowhere, so another
        message may get its number. Every other refusal uses up its number, and is durable at the
        gateway before it is sent. (A buffer written by an earlier version counts every refusal.)
    """

    def __init__(self, stream: str, buffer: Buffer) -> None:
        self.stream = stream
        self.settled = buffer.settled
        self.loose = buffer.loose
        self._buffer = buffer
        self._fresh = True
        # Messages that a gateway may have seen: maybe all of an earlier process.
        self._sent = buffer.given

    @property
    def seen(self) -> bytes:
        """
        Arguments of HELLO behind the stream: the last answered number, and its epoch; empty for a
        client whose HELLO was never answered.
        """
        base, epoch = self._buffer.base, self._buffer.epoch
        if base is None:
            return b""
        seen_text = f" seen={base + self.settled - self.loose}"
        return (
            f"{seen_text} epoch={epoch}" if epoch and not self._buffer.taken else seen_text
        ).encode()

    def sending(self, ordinal: int, count: int) -> int:
        """
        Note messages that are about to be sent, and return the number of the first one.
        """
        assert self._buffer.base is not None
        self._sent = max(self._sent, ordinal + count)
        return self._buffer.base + ordinal + 1

    def note_answer(self, count: int, answer: Answer) -> None:
        """Note the final answer to the next messages."""
        self.settled += count
        self.loose = self.loose + count if answer.code == "TOOBIG" else 0

    def greeted(self, seq: int, epoch: str) -> None:
        """
        Take the answer to HELLO.

        @param seq: last settled number.
        @param epoch: its epoch; C{""} from a gateway of an earlier version.
        @raise StreamLost: the numbers do not agree.
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
                # The other client may have used numbers that were in flight here, so +DUP would
                # prove nothing.
                raise StreamLost(
                    f"stream {self.stream}: another client took it over, and the gateway has"
                    f" settled up to {seq}: what became of this client's {base + self.settled + 1}"
                    " and those after it cannot be known; look into the table, and send what is"
                    " missing under another stream's name, with a new buffer"
                )
            if not owed and (another or self._fresh):
                # Nothing of ours is in flight, so the other client's messages do not matter.
                base, loose = seq - self.settled, 0
        base, self.loose = self._agreed(seq, base, loose)
        self._fresh = False
        known = (buffer.base, buffer.loose, buffer.epoch, buffer.taken)
        if known != (base, self.loose, epoch, False):
            buffer.save_opening(base, self.loose, epoch)

    def taken_over(self) -> None:
        """Note that another client owns the stream, and may use the numbers in flight here."""
        self._buffer.mark_taken()

    def resume(self, seq: int) -> None:
        """
        Take the number at which to go on.

        @param seq: last settled number.
        @raise StreamLost: the numbers do not agree.
        """
        before = self._buffer.base
        assert before is not None
        base, self.loose = self._agreed(seq, before, self.loose)
        if base != before:
            self._buffer.rebase(base, self.loose)

    def _agreed(self, seq: int, base: int, loose: int) -> tuple[int, int]:
        """
        Match the gateway's last number with ours.

        @return: new base and loose.
        @raise StreamLost: the numbers do not agree.
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
        # Messages at the end that were too long and have not used up their numbers.
        unused = max(0, last - seq)
        return base - unused, loose - unused
