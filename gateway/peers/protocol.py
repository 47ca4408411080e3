"""
Protocol of one peer's connection: bytes in, frames to the writer, answers out in order.

Strategy: the bytes of one read become one list of frames, one submission with a chunk for each
route in it, and one write of all its answers, in their order (L{gateway.peers.output}).

Reading pauses while the peer has C{window} unanswered frames, while it does not read its answers,
and while the whole gateway is at its limit. Bytes read beyond the window stay as they came, uncut,
so the window is a strict one. Bytes that are kept for the peer and wait for it count into that
limit (L{gateway.commit.inflight_limit}).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Final

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.access.peer_info import PeerInfo
from gateway.access.rights import NOTHING, Rights
from gateway.dialects.acknowledging import AcknowledgingDialect, AcknowledgingReader
from gateway.dialects.base import Dialect, Request, Work
from gateway.metrics.counters import kind_of
from gateway.model import wording
from gateway.model.errors import ForeignError, FramingError
from gateway.model.grouping import Group, GroupedRead
from gateway.model.outcome import STORED, Code, Fate, Outcome, Run, Word, goodbye
from gateway.model.unit import OnUnitSettled
from gateway.peers.closing import Closing
from gateway.peers.context import ListenerContext
from gateway.peers.output import AnswerQueue, Output, Slot
from gateway.peers.phase import CLOSING, ENDED, Pause, Phase
from gateway.peers.throttle import Throttle
from gateway.peers.timeouts import EXCUSED, FINISHED, HEARD, Limit, PeerActivity
from gateway.system.socket_options import carrier_of, unread
from gateway.system.transport import Transport, writes_to
from gateway.wire.probe import probe_framing
from gateway.wire.push import Pushes

_FREE: Final = 4096
"""Bytes that are not counted: what a connection costs anyway."""

_FRAME: Final = 64
"""Bytes of a frame that is held, beside what it says."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class PeerProtocol(Protocol):
    """
    Protocol of a connected peer.

    @ivar id: its number for the operator; no other peer of the process has it.
    @ivar since: when it connected, in seconds of the clock.
    @ivar frames: frames that came in.
    @ivar received: bytes that came in.
    """

    transport: Transport

    # On the class, so that an idle connection pays for none of it.
    _phase = Phase.OPEN
    _paused: Pause | None = None
    _seen = _held_size = 0
    _pressed = _oversize = _advancing = _given_up = False
    _large = False
    _kept = _charged = 0
    _bye: Outcome | None = None
    _request: Request | None = None
    _asking: Slot | None = None
    _closing: Closing | None = None
    _throttle: Throttle | None = None
    _greeted = True
    # The first bytes, as long as they may be a client's that looks for commands.
    _beginning: bytes | None = b""
    rights = NOTHING
    id = frames = received = 0
    since = 0.0

    # Set by connectionMade.
    _output: Output

    def __init__(self, context: ListenerContext[PeerProtocol], peer_info: PeerInfo) -> None:
        self._context = context
        self._framing = context.make_framing(lambda answer: self._output.write(answer))
        self.answers = AnswerQueue(
            self._framing, context.words, context.counters, context.clock.seconds
        )
        self._held: deque[bytes] = deque()
        self.dialect = context.dialect
        if self.dialect.acknowledges:
            self._beginning = None
        self._reader = self.dialect.reader(self)
        if (bye := self.set_identity(peer_info)) is not None:
            self._bye = bye

    def connectionMade(self) -> None:
        context = self._context
        context.joined(self)
        context.inflight_limit.add_reader(self)
        transport = self.transport
        carrier = carrier_of(transport)
        output = self._output = Output(transport, carrier, writes_to(transport, carrier))
        if carrier is not None:
            context.socket_options.apply(carrier)
        # As a pull producer we hear whenever the transport has written all it had.
        transport.registerProducer(self, not output.direct)
        if context.timeouts.first < inf:
            self._greeted = False
        if isinstance(self._reader, AcknowledgingReader) and self._bye is None:
            output.write(self._reader.greeting)
        if context.inflight_limit.full:
            self.hold_reading(True)
        elif self._bye is not None:
            self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._phase = Phase.LOST
        self._look_for_nul()
        self.answers.drop_slots()
        self._held.clear()
        self._reader.release()
        self._context.left(self)
        self._context.inflight_limit.remove_reader(self)
        if self._closing is not None:
            self._closing.cancel()
        if self._throttle is not None:
            self._throttle.cancel()

    def dataReceived(self, data: bytes) -> None:
        if self._phase in CLOSING or self._bye is not None:
            return
        if self._beginning is not None and not (data := self._seek(data)):
            return
        self._context.counters.bytes_received += len(data)
        self.received += len(data)
        waits = self._held or self._asking is not None
        waits = waits or (self._throttle is not None and self._throttle.holds)
        # Answers that come at once are written only when all of these frames are begun.
        self._advancing = True
        # A reload may have made the window smaller than what is unanswered.
        room = 0 if waits else max(0, self._context.window - self.answers.unanswered)
        self._take_in(data, room)
        self._advancing = False
        self._advance()

    def _take_in(self, data: bytes, most: int) -> None:
        """
        Split bytes into as many frames as there is room for; those behind are kept uncut.

        @param data: new bytes, maybe none.
        """
        bye: Outcome | None = None
        framing, throttle = self._framing, self._throttle
        if throttle is not None:
            most = min(most, throttle.portion)
        uncharged = framing.pending if framing.more else 0
        try:
            frames = framing.receive(data, most)
        except FramingError as error:
            frames = error.frames
            bye = goodbye(Code.FORMAT, str(error))
            if isinstance(error, ForeignError) or self.dialect.acknowledges:  # it hears no reason
                self.log_close(bye)
        if frames:
            if not self.dialect.acknowledges:  # else frames only hold messages
                self._context.counters.messages += len(frames)
                self.frames += len(frames)
            self._seen |= FINISHED
            self._oversize = framing.oversize
            if self._oversize:
                self._look_for_nul()
            payload = 0 if throttle is None else sum(map(len, frames))
            self._begin_all(frames)
        else:
            payload = 0
            self._seen |= HEARD
        if (framing.pending > _FREE) is not self._large:
            self._large = not self._large
        if throttle is not None:
            uncharged -= framing.pending if framing.more else 0
            throttle.charge(len(data) + uncharged - payload)
        if bye is not None:
            self._bye = bye

    def _seek(self, data: bytes) -> bytes:
        """
        Check the first bytes for a client's probe; a client that seeks another listener is told.

        @return: the bytes to read; none as long as they may become a probe.
        """
        assert self._beginning is not None
        data = self._beginning + data
        framing = probe_framing(data)
        if framing is None:
            self._beginning = data
            self._seen |= HEARD
            return b""
        self._beginning = None
        bye = self._context.wrong_listener_answer(framing) if framing else None
        if bye is None:
            return data
        # A client does not know a device's words.
        self.answers.say_protocol_words()
        self._bye = self.log_close(bye)
        self._advance()
        return b""

    def readConnectionLost(self) -> None:
        """Note that the peer closed its end; what it sent is still answered."""
        if self._phase is Phase.OPEN:
            self._phase = Phase.ENDED
        elif self._phase is Phase.CLOSING:
            self._phase = Phase.CLOSING_ENDED
        self._advance()

    def writeConnectionLost(self) -> None:
        """Note that the transport has written all it had, and closed our own end."""
        self._output.note_written()

    # Backpressure: several reasons to pause, one place that does it.

    def pauseProducing(self) -> None:
        """Called by the transport: the peer does not read its answers."""
        self._output.blocked = True
        self._update_reading()

    def resumeProducing(self) -> None:
        """Called by the transport: all output is written."""
        self._output.note_written()
        self._advance()

    def stopProducing(self) -> None:
        """Called by the transport: the connection is gone."""

    def hold_reading(self, held: bool) -> None:
        """Pause or resume, as the limit of the whole gateway wants it."""
        self._pressed = held
        self._advance()

    @property
    def paused(self) -> Pause | None:
        """Reason why the peer is not read now; C{None}: it is."""
        closes = self._bye is not None or self._phase in CLOSING
        return Pause.CLOSING if closes else self._paused

    def _reason_to_pause(self) -> Pause | None:
        """Return why reading has to pause; timeouts stand still then, but for L{Pause.RATE}."""
        if self._output.blocked:
            return Pause.OUTPUT
        if self._pressed:
            return Pause.MEMORY
        if self.answers.unanswered >= self._context.window or self._held:
            return Pause.WINDOW
        throttle = self._throttle
        slowed = throttle is not None and throttle.holds
        if self._framing.more and not slowed:
            return Pause.WINDOW
        if self._bye is not None:
            return Pause.CLOSING
        return Pause.RATE if slowed else None

    def _update_reading(self) -> None:
        if self._phase is not Phase.OPEN:
            # After the end of the stream a reader would only find the same end again.
            return
        before = self._paused
        reason = self._paused = self._reason_to_pause()
        if reason is None:
            if before is not None:
                self.transport.resumeProducing()
            return
        if reason is not Pause.RATE:
            self._seen |= EXCUSED
        if before is None:
            self.transport.pauseProducing()

    # From frames to slots.

    def _begin_all(self, frames: list[bytes]) -> None:
        throttle = self._throttle
        if throttle is not None:
            over = throttle.limit_frames(frames, self._held)
            if over:
                self._begin(self._reader.turn_away(over, throttle.refusal()))
            if not frames:
                return
            self._charged = len(frames)
        route = self._reader.route
        if route is not None and not self._oversize:
            self.source.submit(route, frames, self.answers.expect(route, len(frames)))
            return
        for work in self._reader.read(frames, self._oversize):
            self._begin(work)

    def _begin(self, work: Work) -> None:
        slot = self.answers.add_slot(work)
        if work.gaps:
            self._note(work.route, [(1, outcome) for _, outcome in work.gaps])
        if work.closes:
            self._stop_reading()
        if work.messages:
            self.source.submit(
                *(work.route, work.messages, slot), *(work.stream, work.first, work.refusal)
            )
        elif work.groups:
            self.source.submit_groups(work.groups, slot, work.stream, work.first)
        elif work.request is not None:
            self._request = work.request
            self._asking = slot
            self._held.extendleft(reversed(work.rest))
            self._held_size += sum(map(len, work.rest)) + _FRAME * len(work.rest)
            if self._throttle is not None:
                self._throttle.give_back(work.rest)

    def settled(self, token: object, runs: Sequence[Run]) -> None:
        """Set the fates of a slot's messages, and write what is due."""
        slot = token
        if isinstance(token, GroupedRead):
            slot = token.token
            for route, of_route in token.by_route:
                self._note(route, of_route)
        assert isinstance(slot, Slot)
        slot.runs = runs
        if slot is token and (len(runs) > 1 or runs[0][1] is not STORED) and not slot.is_request:
            self._note(slot.route, runs)
        self._advance()

    def _note(self, route: str, runs: Sequence[Run]) -> None:
        for count, fate in runs:
            if fate.word is Word.REJ and isinstance(fate, Outcome):
                self._context.log_refused(self, route, count, fate)

    def _answered(self, slot: Slot, fate: Fate) -> None:
        """Set the answer of a request."""
        self._asking = None
        self.settled(slot, [(1, fate)])

    def _stop_reading(self) -> None:
        self._held.clear()
        self._framing.forget()
        self._bye = None
        if self._phase is Phase.OPEN:
            self._phase = Phase.CLOSING
            self.transport.pauseProducing()
        elif self._phase is Phase.ENDED:
            self._phase = Phase.CLOSING_ENDED

    # From slots to answers.

    def _advance(self) -> None:
        """Write what is due, begin what has room now, and repeat until neither is left."""
        if self._advancing or self._phase is Phase.LOST:
            return
        self._advancing = True
        answers, stride = self.answers, self._context.window
        while True:
            due = answers.take_due()
            if answers.ended and self._phase not in CLOSING:
                self._stop_reading()
            if due:
                self._output.write(due)
            asking = self._asking
            if asking is not None:
                # No request is begun for a peer that does not read its answers.
                if self._request is None or not answers.next_is(asking) or self._output.blocked:
                    break
                request, self._request = self._request, None
                request(partial(self._answered, asking))
            elif self._held or self._framing.more:
                room = self._context.window - answers.unanswered
                throttle = self._throttle
                if self._pressed or self._output.blocked or room <= 0:
                    break
                if throttle is not None and (
                    throttle.stalls or (throttle.holds and not self._held)
                ):
                    break
                if not self._held:
                    self._take_in(b"", min(room, stride))
                    continue
                popleft = self._held.popleft
                self._begin_all([popleft() for _ in range(min(room, stride, len(self._held)))])
                # A request returns the frames behind it: where many are, begin few at a time.
                stride = 2 * stride if self._asking is None else 1
            elif self._bye is not None and not self._pressed:
                self._begin(Work("", gaps=[(0, self._bye)], closes=True))
            else:
                break
        self._advancing = False
        if (
            (self._large and not self._framing.more)
            or self._reader.kept_bytes
            or self._kept
            or self._output.blocked
            or self._asking is not None
        ):
            self._count()
        held = self._held or self._framing.more
        if self._phase is not Phase.OPEN and not answers.owes_answers and not held:
            self._close()
        else:
            self._update_reading()

    def _count(self) -> None:
        """Report the bytes that are kept for the peer, beside its messages in flight."""
        output, framing = self._output, self._framing
        kept = output.waiting + self._reader.kept_bytes
        if not self._held and self._asking is None:
            self._held_size = 0
        if self._asking is not None or output.blocked:
            kept += self._held_size + framing.pending
        elif not framing.more:
            # Else these are messages beyond the window, which need nothing from the peer.
            kept += framing.pending
        if kept <= _FREE or self._given_up or self._phase is Phase.LOST:
            kept = 0
        if kept != self._kept:
            self._kept = kept
            self._context.inflight_limit.set_kept(self, kept)

    def disconnect(self) -> None:
        """Disconnect the peer: too much is kept, and of all peers the most for this one."""
        self._given_up = True
        if self._throttle is not None:
            # A peer that reconnects at once has to wait as if it had sent these bytes.
            self._throttle.charge(self._kept)
        self._kept = 0
        self._held.clear()
        self._framing.forget()
        bye = self.log_close(wording.TOO_MUCH_KEPT)
        if self._output.blocked:
            self.abort()
        elif self._phase not in CLOSING:
            self._bye = bye
            self._advance()

    def push(self, pushes: Pushes) -> bool:
        """
        Send pushes. All answers due are written in one piece, so they come between two of them.

        @return: whether the peer may get more; one that leaves too much unread is disconnected.
        """
        if self._closing or self._bye is not None or self._phase not in (Phase.OPEN, Phase.ENDED):
            return False
        if self._output.push(pushes.framed(self._framing), self._context.push_buffer):
            if self._output.blocked:
                self._count()
            return not self._given_up
        self._bye = self.log_close(wording.PUSHES_NOT_TAKEN)
        self._advance()
        return False

    # Timeouts.

    def take_activity(self) -> PeerActivity | None:
        """Return the peer's activity since the last sweep; C{None} where no timeout runs."""
        seen = self._seen
        heard, finished = bool(seen & HEARD), bool(seen & FINISHED)
        was_read = not seen & EXCUSED and self._reason_to_pause() in (None, Pause.RATE)
        if seen:
            # Set only if needed: the instance of an idle peer has no attribute of it.
            self._seen = 0
        timeouts = self._context.timeouts
        queue = None
        closing = self._closing
        if self._output.blocked or (closing is not None and closing.lingers is None):
            carrier = self._output.carrier
            queue = 0 if carrier is None else unread(carrier)
            written = not (queue or self._output.blocked)
            if written and closing is not None and self._phase in CLOSING:
                closing.linger()
                return None
        open_ = self._phase is Phase.OPEN and self._bye is None
        unfinished = open_ and (bool(self._beginning) or self._framing.unfinished)
        if unfinished and not (heard or finished):
            self._look_for_nul()
        held = self._held or self._framing.more
        idle = open_ and timeouts.idle < inf and not self.answers.owes_answers and not held
        if not self._greeted and (finished or self.peer_info.token):
            self._greeted = not self._context.awaits_proof(self.peer_info)
        silent = open_ and not self._greeted and not self.answers.owes_answers
        if queue is None and not (unfinished or idle or silent):
            return None
        return PeerActivity(heard, finished, unfinished, idle, silent, was_read, queue)

    def _look_for_nul(self) -> None:
        # Called only where a frame was too long or is incomplete: good ones cost nothing.
        if self._framing.has_nul:
            self._context.nul_found(self)

    def expire(self, limit: Limit) -> None:
        """Disconnect the peer for a timeout; one that still reads is told so, behind answers."""
        text = limit.describe(self._context.timeouts)
        if limit is Limit.WRITE:
            self.abort()
        else:
            self._bye = goodbye(Code.RATE, text)
            self._advance()
        self._context.log_close(self, limit.name.lower(), text)

    # Identity and rights.

    def set_identity(self, peer_info: PeerInfo) -> Outcome | None:
        """
        Set the identity that the peer has proved. Nothing may be in flight.

        @return: the last answer, where it has no rights here.
        """
        rights = self._context.rights(peer_info)
        self.peer_info = peer_info
        self.source = self._context.source(peer_info, self.settled)
        self.renew_throttle()
        if isinstance(rights, Outcome):
            self.entitle(NOTHING)
            return self.log_close(rights)
        self.entitle(rights)
        self._context.log_admission(peer_info)
        return None

    def disprove(self, bye: Outcome) -> None:
        """Take all rights away and disconnect the peer; calling it again is harmless."""
        self.rights = NOTHING  # for requests that are not begun yet
        if self._phase not in CLOSING and self._bye is None:
            self.close_with(self.log_close(bye))

    def entitle(self, rights: Rights) -> None:
        """Replace the peer's rights."""
        self.rights = rights
        self._reader = self._reader.rights_changed(self)

    def replace_dialect(self, dialect: Dialect) -> None:
        """Replace the dialect of frames that are not read yet by one of its kind."""
        self.dialect = dialect
        if isinstance(dialect, AcknowledgingDialect):
            self._reader = dialect.renewed(self._reader, self)
        else:
            self._reader = dialect.reader(self)

    def renew_throttle(self) -> None:
        """Replace the peer's throttle by one of the present rate limits."""
        before, throttle = self._throttle, self._context.throttle(self.peer_info, self._advance)
        if throttle is not before:
            self._throttle = throttle
        if before is not None:
            before.cancel()
            self._advance()

    # Called by its dialect.

    def submit_unit(
        self, groups: Sequence[Group], settled: OnUnitSettled, key: str | None = None
    ) -> None:
        count = sum([len(group.frames) for group in groups])
        self._context.counters.messages += count
        self.frames += count
        if self._throttle is not None:
            self._throttle.charge_messages(max(0, count - self._charged))
            self._charged = max(0, self._charged - count)
        self.source.submit_unit(groups, settled, key)

    def acknowledge(self, payload: bytes, runs: Sequence[Run], since: float) -> None:
        self.answers.count(runs, since)
        self._note(self.dialect.routes[0] if len(self.dialect.routes) == 1 else "", runs)
        if payload and self._phase is not Phase.LOST:
            self._output.write(payload)

    def log_close(self, bye: Outcome) -> Outcome:
        """Log that the peer is told to go; return the outcome given."""
        self._context.log_close(self, kind_of(bye), bye.text)
        return bye

    # The end.

    def close_with(self, outcome: Outcome) -> None:
        """Read nothing more; when everything in flight is answered, close with an outcome."""
        if self._phase not in CLOSING:
            # Held frames were read but never submitted: they get no answer, as if unread.
            self._held.clear()
            self._framing.forget()
            self._bye = outcome
            self._pressed = False
            if isinstance(self._reader, AcknowledgingReader):
                self._reader.hurry()
            self._advance()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abortConnection()

    def _close(self) -> None:
        if self._closing is None:
            self._closing = Closing(self.transport, self._context.clock)
        self._closing.advance(ended=self._phase in ENDED, blocked=self._output.blocked)
