"""
Spooler through an outage: new batches into the spool, and out of it in order.

While the spool holds anything, new batches go behind it, so that a peer's messages
are stored in the order it sent them. When the database is back two things happen
at once: the spool is stored, and new batches are put behind it, half
as fast as it is stored, so that the spool surely ends. When little is left, new
batches wait for that rest, and then go to the store directly again.

A route that cannot be stored while others can (its table is gone, or locked) is
parked: its records stay, those behind them pass, save those of streams that wait for
one of them (L{gateway.spool.drain}).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.commit.attempt import RETRY_FOR, TransientFailures
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.places import Places
from gateway.logs.last_reason import LastReason
from gateway.model.batch import MAX_BATCH_ROWS, Batch, Fence
from gateway.model.errors import (
    OutcomeUnknown,
    RouteError,
    SpoolError,
    SpoolGone,
    StoreError,
    TransientError,
)
from gateway.model.store import Store
from gateway.spool.drain import Drain
from gateway.spool.queue import Spool
from gateway.spool.record import RecordGroup

SHARE: Final = 2
"""Number of messages stored from the spool for each message that is put into it."""

TAIL_SECONDS: Final = 0.5
"""Seconds that the rest of the spool may take at which new messages wait for its end."""

_SMALL_PARCEL: Final = 1000
"""Messages of a parcel that pays for a commit of its own."""

_LANES: Final = 1000
"""Fences that are used before the first ones are forgotten."""

_LOOK: Final = 0.5
"""Seconds between looks at what could not be stored."""


class OutageSpool:
    """
    Spooler that puts batches into the spool and stores them when that is possible.
    """

    _log = Logger()

    def __init__(
        self,
        spool: Spool,
        store: Store,
        breakers: CircuitBreakers,
        clock: IReactorTime,
        backoff: Callable[[int], float],
        missing: Callable[[str, str], None],
        takes: bool = True,
        answer_timeout: float = 5.0,
        places: Places | None = None,
        is_away: Callable[[str], bool] = lambda route: False,
    ) -> None:
        """
        @param backoff: failed attempts -> seconds to wait.
        @param missing: called with a stream and its epoch of which a message is missing that the
            spool has not got.
        @param takes: whether new batches may be put; else the present ones are stored, no more.
        @param answer_timeout: seconds without a parcel stored after which new batches wait for the
            end of the spool no longer.
        @param places: which route is in which database, where there are several.
        @param is_away: says of a route whether its database is known to be out of reach.
        """
        self._places, self._is_away = places, is_away
        self._spool = spool
        self._store = store
        self._breakers = breakers
        self._pauses = breakers.pauses
        self._clock = clock
        self._backoff = backoff
        self._takes = takes
        self._answer_timeout = answer_timeout
        self._drain = Drain(spool, store, clock, backoff, missing)
        self._parked: dict[str, float] = {}
        self._passed: set[str] = set()
        self.may_lead = True
        self._taking = 0
        self._coming: Counter[str] = Counter()
        self._storing: frozenset[str] = frozenset()
        self._flowing = False
        self._logged_reason = ""
        self._waited = False
        self._logged_bug = LastReason()
        self._refusing = LastReason()
        self._credit = 0
        self._rate = 0.0
        self._rest_rows = 1
        self._measured = 0.0
        self._failures = 0
        # Up to this place parcels are stored one by one, as storing them together failed.
        self._apart = 0
        self._trouble_since: float | None = None
        # Routes that fail now -> their failures.
        self._failing: dict[str, TransientFailures] = {}
        self._waiting: list[Deferred[None]] = []
        self._sleeping: Deferred[None] | None = None
        self._running: Deferred[None] | None = None
        self._stopping = False
        self._pauses.on_change(self._pauses_changed)

    # Start and stop.

    def start(self) -> None:
        """Begin to store what is in the spool."""
        if self._spool.messages:
            self._logged_reason = "left from before"
            self._log.info(
                "spool: {count} messages in {path} are stored first",
                event="spool-found",
                count=self._spool.messages,
                path=self._spool.path,
            )
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._bug)

    def begin_stop(self) -> None:
        """Begin nothing more; later failures are not logged as outages, since the gateway stops."""
        self._stopping = True
        self._release()

    async def stop(self) -> None:
        """Stop storing; the rest stays for the next start."""
        self.begin_stop()
        if self._running is not None:
            self._running.cancel()
            await self._running
        if self._spool.messages:
            self._log.info(
                "spool: {count} messages stay in {path} for the next start",
                event="spool-left",
                count=self._spool.messages,
                path=self._spool.path,
            )

    # For the operator.

    @property
    def takes(self) -> bool:
        """Whether messages are put into the spool while the database is away."""
        return self._takes

    @property
    def is_draining(self) -> bool:
        """Whether messages are stored from it now."""
        return self._flowing and bool(self._spool.messages)

    @property
    def keeping(self) -> str:
        """Why messages were put into the spool last; C{""} once all are stored."""
        return self._logged_reason

    @property
    def refusing(self) -> str:
        """Why the last batch was not put into it; C{""} where it was."""
        return self._refusing.text

    @property
    def storing(self) -> frozenset[str]:
        """Routes whose messages are being stored from it now."""
        return self._storing

    def reconfigure(self, routes: Collection[str], takes: bool) -> None:
        """
        Apply a new configuration.

        @param routes: those whose definitions changed; their messages are tried again at once.
        @param takes: whether new batches may be put.
        """
        self._takes = takes
        for route in routes:
            self._parked.pop(route, None)
            self._failing.pop(route, None)
        self._release()
        self._wake()

    # Called by lanes.

    def leads(self, batch: Batch) -> bool:
        spool = self._spool
        if not (self._taking or spool.messages or spool.backlog or self._pauses.on):
            self.may_lead = False  # until something is taken or found
            return False
        return self._leads_all(batch.route) or bool(self._behind(batch))

    def waiting_streams(self, batch: Batch) -> Collection[str]:
        return () if self._leads_all(batch.route) else self._behind(batch)

    def _leads_all(self, route: str) -> bool:
        rows = self._spool.rows
        if self._pauses.on and self._takes and self._pauses.holds(route):
            return True
        if not rows and not self._taking:
            return False
        if route in rows or self._places is None:
            return route in rows or self._backlog > 0
        coming = [name for name, count in self._coming.items() if count]
        return not all(map(self._is_passed, self._places.beside(route, [*rows, *coming])))

    def _behind(self, batch: Batch) -> Collection[str]:
        backlog = self._spool.backlog
        return [name for name in batch.streams if name in backlog] if backlog else ()

    async def keep(self, batch: Batch, fence: Fence | None, reason: str) -> bool:
        route = batch.route
        if fence is None and not self._is_passed(route) and self.leads(batch):
            await self._turn(batch.count)
            if not self.leads(batch):
                return False
        if not self._takes:
            raise SpoolError("the database cannot be reached")
        self._taking += batch.count
        self.may_lead = True
        self._coming[route] += batch.count
        try:
            await self._spool.put(batch, fence, self._aside(batch, fence))
        except SpoolError as error:
            self._say_full(error)
            raise
        finally:
            self._taking -= batch.count
            self._coming[route] -= batch.count
            self.may_lead = True  # a batch of refusals alone is not counted on its way
        self._refusing.forget()
        self._say_away(reason)
        self._wake()
        return True

    def _aside(self, batch: Batch, fence: Fence | None) -> str | None:
        """Return the stream that all of a batch waits for; C{None}: there is none."""
        if fence is not None or not self._spool.aside or len(batch.streams) != 1:
            return None
        (name,) = batch.streams
        return name if name in self._spool.aside and batch.parted({name})[1] is None else None

    @property
    def _backlog(self) -> int:
        """Number of messages that can be stored when the database is there."""
        rows, coming = self._spool.rows, self._coming
        return sum(n for route, n in [*rows.items(), *coming.items()] if not self._is_passed(route))

    def _is_passed(self, route: str) -> bool:
        """Say whether a route's records stay while others are stored."""
        return route in self._parked or self._is_stopped(route)

    def _is_stopped(self, route: str) -> bool:
        return self._pauses.holds(route) or self._is_away(route)

    async def _turn(self, rows: int) -> None:
        """Wait until so many messages may be put into the spool while it is stored."""
        while self._flowing and (
            not self._takes or self._credit <= 0 or 0 < self._backlog <= self._rest_rows
        ):
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            stall = self._clock.callLater(self._answer_timeout, self._stall)
            await turn
            if stall.active():
                stall.cancel()
        if self._flowing:
            self._credit -= SHARE * rows

    def _stall(self) -> None:
        """Have new batches put, since the store hangs: those who wait have waited long enough."""
        self._flowing = False
        self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            turn.callback(None)

    # From the spool to the store.

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._pass()
            except CancelledError:
                raise
            except SpoolError as error:
                self._say_full(error)  # it could not even be read
                await self._pause()
            except Exception:  # noqa: BLE001 - a bug must not leave the spool as it is for ever
                self._bug(Failure())
                await self._pause()

    async def _pass(self) -> None:
        """Store all records that can be stored, from the first to the last."""
        self.may_lead = True
        self._passed.clear()
        self._drain.begin_pass()
        parcel = await self._spool.next(0, self._closed(), self._drain.waiting_streams())
        if parcel is None:
            await self._rest()
        while parcel is not None and not self._stopping:
            if (end := await self._together(parcel)) is not None:
                parcel = await self._spool.next(end, self._closed(), self._drain.waiting_streams())
                continue
            # The next one is read while this one is stored.
            behind = self._spool.next(parcel.end, self._closed(), self._drain.waiting_streams())
            coming = Deferred.fromCoroutine(behind)
            try:
                stored = await self._attempt(parcel)
            except BaseException:
                coming.addErrback(lambda failure: None)
                raise
            following = await coming
            parcel = following if stored else None
            if len(self._drain.lanes) > _LANES:
                with suppress(StoreError):
                    await self._close_lanes()

    async def _together(self, first: RecordGroup) -> int | None:
        """
        Store a small parcel with those behind it by one commit.

        Where messages of several routes alternate, each parcel is of a few messages only.

        @return: the last place of what is stored; C{None} where they are to be stored one by one.
        """
        place = first.places[0]
        if first.batch.count > _SMALL_PARCEL or place <= self._apart:
            return None
        left_out = self._drain.waiting_streams()
        parcels = await self._spool.several(place - 1, self._closed(), left_out)
        routes = frozenset(parcel.batch.route for parcel in parcels)
        if len(parcels) < 2 or any(map(self._pauses.holds, routes)):
            return None
        self._storing = routes
        end = self._apart = max(parcel.end for parcel in parcels)
        try:
            if not await self._drain.store_together(parcels):
                return None
        except StoreError:
            return None  # the first of them will meet the same error
        finally:
            self._storing = frozenset()
        self._apart = 0
        self._went_well(parcels)
        return end

    def _closed(self) -> set[str]:
        """
        Return the routes that are not tried in this pass.

        A route that was passed once stays out: the records on a lane are stored in order.
        """
        now = self._clock.seconds()
        self._passed |= {
            route
            for route, until in self._parked.items()
            if until > now or route in self._breakers.answers
        }.union(
            route for route in self._spool.rows if self._pauses.holds(route) or self._is_away(route)
        )
        return self._passed

    async def _attempt(self, parcel: RecordGroup) -> bool:
        route = parcel.batch.route
        if self._pauses.holds(route):
            # It was read before the pause.
            if route not in self._spool.rows:
                self._parked[route] = self._clock.seconds() + _LOOK
            return False
        self._storing = frozenset({route})
        trouble = self._failing.get(route)
        self._drain.blame = trouble is not None and trouble.lasts(self._clock.seconds())
        try:
            await self._drain.store_parcel(parcel)
        except (RouteError, TransientError) as error:
            # An error of one route, as far as is known: others need not wait for it.
            failures = self._failing.setdefault(route, TransientFailures())
            failures.count_failure(self._clock.seconds())
            if isinstance(error, RouteError):
                self._breakers.trip(route, error)
            else:
                self._say_away(str(error))
            self._park(route)
        except SpoolError as error:
            self._say_full(error)
            await self._pause()
        except StoreError as error:
            now = self._clock.seconds()
            if self._trouble_since is None:
                self._trouble_since = now
            self._say_away(str(error))
            if isinstance(error, OutcomeUnknown) and now - self._trouble_since > RETRY_FOR:
                self._park(route)
            elif self._places is not None:
                for other in self._places.beside(route, self._spool.rows):
                    self._park(other)
            else:
                await self._pause()
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001 - a bug in one route must not keep the others
            self._bug(Failure())
            self._park(route)
        else:
            self._went_well([parcel])
            return True
        finally:
            self._storing = frozenset()
        return False

    def _went_well(self, parcels: Sequence[RecordGroup]) -> None:
        """Note that parcels are stored."""
        self._failures = 0
        self._logged_bug.forget()
        self._trouble_since = None
        for route in {parcel.batch.route for parcel in parcels}:
            self._failing.pop(route, None)
            self._parked.pop(route, None)
            self._breakers.stored(route)
        count = sum(parcel.batch.count for parcel in parcels)
        self._measure(count)
        if not self._flowing:
            self._flowing = True
            self._credit = 0
            self._say_back()
        self._credit = min(self._credit + count, SHARE * MAX_BATCH_ROWS)
        self._release()

    def _measure(self, rows: int) -> None:
        """Update the rate at which the spool is stored."""
        now = self._clock.seconds()
        took = now - self._measured
        self._measured = now
        if self._flowing and took > 0:
            # Average of about the last ten parcels; they are of very different sizes.
            self._rate += 0.1 * (rows / took - self._rate)
            self._rest_rows = max(1, min(2 * MAX_BATCH_ROWS, int(self._rate * TAIL_SECONDS)))

    def _park(self, route: str) -> None:
        self._trouble_since = None
        self._failures += 1
        self._parked[route] = self._clock.seconds() + self._backoff(self._failures)
        self._release()

    async def _pause(self) -> None:
        self._flowing = False
        self._release()
        self._failures += 1
        await deferLater(self._clock, self._backoff(self._failures))

    async def _rest(self) -> None:
        """Wait until there may be something to store."""
        self._flowing = False
        self._release()
        if not self._backlog and not any(map(self._is_away, self._spool.rows)):
            self._say_done()
        if not self._spool.messages:
            self._parked.clear()
            await self._clear()
            if self._spool.messages or self._stopping:
                return
        elif not self._parked.keys() <= self._spool.rows.keys():
            for route in self._parked.keys() - self._spool.rows.keys():
                del self._parked[route]
        self._sleeping = Deferred()
        if self._spool.messages:
            # What the parked routes and held streams wait for may be there by then.
            self._clock.callLater(_LOOK, self._wake)
        await self._sleeping

    async def _clear(self) -> None:
        """Remove lanes and free disk space, since the spool is empty."""
        self._drain.held.clear()
        try:
            if not self._taking:
                # First: the removal of lanes may run late, when these would be used again.
                self._spool.new_session()
            await self._close_lanes()
            await self._spool.shrink()
        except (StoreError, SpoolError):
            pass  # tried again when the spool is empty the next time

    async def _close_lanes(self) -> None:
        """
        Remove the fences of stored records, where nothing more is stored behind them.

        The statement that removes them may be executed later than its reply is waited for. Fences
        that were in the spool at the start stay: a stalled server may still execute an earlier try
        behind them.
        """
        spool, used = self._spool, self._drain.lanes
        used -= spool.inherited
        lanes = [lane for lane in used if not spool.shares(lane)]
        if lanes:
            await self._store.close_lanes(lanes)
            used.difference_update(lanes)

    def _pauses_changed(self) -> None:
        self.may_lead = True
        if self._spool.messages and not self._pauses.on and not self._logged_reason:
            self._logged_reason = "left from a pause"
        self._release()
        self._wake()

    def _wake(self) -> None:
        sleeping, self._sleeping = self._sleeping, None
        if sleeping is not None:
            sleeping.callback(None)

    # The log.

    def _say_back(self) -> None:
        if self._logged_reason and self._spool.messages:
            self._log.info(
                "spool: the database takes messages again; {count} are stored from {path}",
                event="spool-draining",
                count=self._spool.messages,
                path=self._spool.path,
            )

    def _say_done(self) -> None:
        """Log that all that could be stored is."""
        left = self._spool.messages
        if not self._logged_reason and (left or not self._waited):
            return
        self._logged_reason = ""
        self._waited = left > 0
        drain = self._drain
        self._log.info(
            "spool: {_state} {stored} messages are stored{_known}{_dead_letters};"
            " answers are +OK again",
            event="spool-drained",
            left=left,
            _state=f"{left} messages wait in {self._spool.path}," if left else "empty, its",
            stored=drain.stored,
            known=drain.known,
            dead_letters=drain.dead_letters,
            _known=f", {drain.known} were stored by another way" if drain.known else "",
            _dead_letters=f", {drain.dead_letters} refused and kept as dead letters"
            if drain.dead_letters
            else "",
        )
        if not left:
            drain.reset_log()

    def _say_away(self, reason: str) -> None:
        if reason and not self._logged_reason and not self._stopping:
            self._logged_reason = reason
            self._log.warn(
                "spool: messages are kept in {path} and answered +QUE: {reason}",
                event="spool-keeping",
                path=self._spool.path,
                reason=reason,
            )

    def _say_full(self, error: SpoolError) -> None:
        text = str(error)
        if isinstance(error, SpoolGone):
            text = (
                f"{error} ({self._spool.path}: {error.reason}); make its folder again, for the"
                " gateway's user alone, and the spool is made again with what it held"
            )
        if self._refusing.note(text):
            self._log.error(
                "spool: peers are told to try later: {reason} ({count} messages, {size} bytes)",
                event="spool-refusing",
                reason=text,
                count=self._spool.messages,
                size=self._spool.size,
            )

    def _bug(self, failure: Failure) -> None:
        # The same one comes again with each attempt.
        if not failure.check(CancelledError) and self._logged_bug.note(repr(failure.value)):
            self._log.failure(
                "spool: storing it failed, trying again", event="spool-failed", failure=failure
            )
