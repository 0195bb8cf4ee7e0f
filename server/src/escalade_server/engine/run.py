"""Drives one cascade: does what it orders, and feeds back what comes of it.

Rules of the file:
1. ``feed`` is the only way in, and it never blocks: a command starts work, its end is an event.
2. A run outlives its caller: it ends when the cascade is closed, that is, all is settled (P4).
3. A mistake of ours ends the task too: calls are cancelled, and what is reserved is booked in full.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, assert_never

from escalade_server.core import ending, settlement
from escalade_server.core.cascade import Cascade
from escalade_server.core.catalog import Billing, Catalog
from escalade_server.core.commands import (
    Announce,
    CallModel,
    CancelCall,
    Candidate,
    Command,
    Deliver,
    End,
    Queue,
    ReportHealth,
    Reserve,
    SetBench,
    Settle,
)
from escalade_server.core.events import (
    AttemptFailed,
    CallerLeft,
    Event,
    LeaseExtended,
    OutcomeReported,
    Repeated,
    ReportsEnded,
    ReservationDenied,
    Reserved,
    Settled,
    SettleFailed,
    Started,
    StoreFailed,
    StreamEnded,
    TimePassed,
)
from escalade_server.core.facts import (
    Alert,
    Fact,
    Failed,
    Finished,
    Outcome,
    Selected,
    Waiting,
)
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.standing import Standing
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, Delivery, Request
from escalade_server.engine.health import Health
from escalade_server.engine.occupancy import Occupancy
from escalade_server.engine.place import CLOSED, Place
from escalade_server.engine.ports import (
    NOWHERE,
    AnswerChecker,
    Caller,
    Clock,
    Mistakes,
    Observer,
    Origin,
    ProviderFailure,
    Providers,
    Store,
    StoreError,
)
from escalade_server.engine.reload import under
from escalade_server.engine.repeats import Repeats
from escalade_server.engine.resume import ResumeDesk
from escalade_server.engine.sessions import Sessions
from escalade_server.engine.waiting import WaitingRoom
from escalade_server.engine.works import error_of, in_words

LINGER_S = 1.0
"""How long a connection may still take to end after its answer is whole; then it is dropped."""
DRAINS_MAX = 64
"""Calls read on at once after their callers left; more are dropped and booked in full (R25)."""


class Shell(Protocol):
    """What a run needs of its engine."""

    catalog: Catalog
    clock: Clock
    store: Store
    providers: Providers
    observer: Observer
    mistakes: Mistakes
    checker: AnswerChecker
    health: Health
    repeats: Repeats
    sessions: Sessions | None
    occupancy: Occupancy
    drains: int
    room: WaitingRoom
    desk: ResumeDesk
    draining: bool

    def standing(self) -> Standing:
        """Shared state and circuits at this instant."""
        ...

    def forget(self, run: "Run") -> None:
        """Take a run that is closed off the list."""
        ...


class Run:
    """One task on its way."""

    def __init__(
        self, shell: Shell, request: Request, caller: Caller, task_id: str,
        origin: Origin = NOWHERE,
    ) -> None:  # fmt: skip
        """Prepare a run; ``begin`` starts it."""
        self._shell, self._request, self._caller = shell, request, caller
        self.task_id = task_id
        self._catalog, self._providers = shell.catalog, shell.providers
        """Of the strategy that it began with, whatever is in force later."""
        self._cascade = Cascade(self._catalog, request, task_id, shell.checker)
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._works: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._draining = False
        self._forgotten = False
        self._ended = False
        self._mistaken = False
        self._asking = False
        """A reservation is on its way."""
        self._unclaimed = bool(request.content)
        """The store has not been asked for the caller's request id yet (R27)."""
        self._granted: dict[int, tuple[str, Candidate]] = {}
        """Reservations that are not settled yet, by attempt."""
        self._selected: Selected | None = None
        """What the caller was told to call itself and has not reported on (R32)."""
        self._place = Place(shell, request, origin, self.feed)

    @property
    def has_ended(self) -> bool:
        """Its caller has the ending."""
        return self._ended

    def begin(self) -> None:
        """Start the task."""
        self.feed(Started(self._shell.standing()))

    def leave(self) -> None:
        """Tell that the caller is gone, for whatever cause; the books are still closed (P3)."""
        self.feed(CallerLeft())

    def report(self, outcome: OutcomeReported) -> None:
        """Take the caller's word on an attempt that it called itself (R32)."""
        self.feed(outcome)

    def extend(self, attempt: int) -> None:
        """Extend the lease of that attempt."""
        self.feed(LeaseExtended(attempt))

    def end_reports(self) -> None:
        """Tell that the caller will not report any more, but still listens (R31)."""
        self.feed(ReportsEnded())

    def open_for(self, agent: str, reservation_id: str) -> Selected | None:
        """Answer the attempt with this reservation, if its caller is that agent and may report."""
        told = self._selected
        if told is None or told.reservation_id != reservation_id or self._request.agent != agent:
            return None
        return told

    def feed(self, event: Event) -> None:
        """Give one event to the cascade and do what it orders. Never raises."""
        if self._mistaken:
            return
        try:
            self._feed(event)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends one task, with its books
            self._make_amends(error)

    def _feed(self, event: Event) -> None:
        now_ms = self._shell.clock.now_ms()
        for command in self._cascade.handle(event, now_ms=now_ms):
            self._obey(command, now_ms)
        wake_ms = self._cascade.wake_at_ms
        while wake_ms is not None and wake_ms <= now_ms:
            for command in self._cascade.handle(TimePassed(self._shell.standing()), now_ms=now_ms):
                self._obey(command, now_ms)
            wake_ms = self._cascade.wake_at_ms
        if self._cascade.closed and not self._asking:
            self._close()
        elif wake_ms is not None and not (self._timer and now_ms < self._timer_ms <= wake_ms):
            self._arm(wake_ms, now_ms)  # none, later, or passed: a clock leapt

    def _arm(self, wake_ms: int, now_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = wake_ms
        self._timer = self._loop.call_later((wake_ms - now_ms) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        """Wake the cascade; or set the timer anew, because a chunk has moved the instant."""
        self._timer = None
        now_ms, wake_ms = self._shell.clock.now_ms(), self._cascade.wake_at_ms
        if wake_ms is None:
            return
        if wake_ms > now_ms:
            self._arm(wake_ms, now_ms)
        else:
            self.feed(TimePassed(self._shell.standing()))

    def _obey(self, command: Command, now_ms: int) -> None:
        shell = self._shell
        match command:
            case Deliver(attempt, deltas):
                self._caller.deliver(attempt, deltas)
            case Reserve():
                self._reserve(command, now_ms)
            case CallModel(attempt, candidate):
                shell.health.called(candidate.model, now_ms)
                self._calls[attempt] = self._loop.create_task(self._call(command))
            case CancelCall(attempt, drain):
                self._cancel(attempt, drain=drain)
            case Announce(fact):
                if type(fact) is Alert and not shell.health.is_news(fact, now_ms):
                    return
                if isinstance(fact, Selected) and self._request.delivery is Delivery.ROUTE:
                    self._selected = fact
                    shell.health.called(fact.model, now_ms)
                self._announce(fact, now_ms)
            case Settle():
                self._settle(command, now_ms)
            case SetBench():
                self._keep(shell.store.bench(command, now_ms))
            case ReportHealth(provider, ok):
                if ok and shell.room and provider in shell.health.circuits(now_ms):
                    shell.room.given_back()
                shell.health.report(provider, ok=ok, now_ms=now_ms)
            case Queue(waiting):
                self._queue(waiting, now_ms)
            case End(Failed() as failed, tally) if self._unclaimed:
                self._look_back(failed, tally, now_ms)
            case End(outcome, tally):
                if tally is not None:
                    self._remember(tally, now_ms)
                    self._keep(shell.store.tally(tally, now_ms))
                self._end(outcome)
            case _:
                assert_never(command)

    def _announce(self, fact: Fact, now_ms: int) -> None:
        if isinstance(fact, Waiting):
            fact = self._place.tell(fact)
        self._caller.announce(fact)
        self._shell.observer.fact(self.task_id, self._request, fact, now_ms)

    def _queue(self, waiting: Waiting, now_ms: int) -> None:
        """Stand in line; before the first time, ask if the request id was answered (R27)."""

        def then(before: Repeated | None) -> None:
            if before is not None:
                self.feed(before)
            elif not self._ended:
                self._stand(waiting)

        if self._unclaimed:
            self._ask_back(then, now_ms)
        else:
            self._stand(waiting)

    def _stand(self, waiting: Waiting) -> None:
        refusal = self._place.take(waiting)
        if refusal is not None:
            self._loop.call_soon(self.feed, refusal)
        elif not waiting.repeated:
            self._announce(waiting, self._shell.clock.now_ms())

    def hand_over(self) -> None:
        """Have it wait elsewhere, if it waits: this server shuts down (P4)."""
        self.feed(CLOSED)

    def _reserve(self, order: Reserve, now_ms: int) -> None:
        def done(future: "asyncio.Future[Reserved | ReservationDenied | Repeated]") -> None:
            error = error_of(future)
            self._asking = False
            if error is None:
                answer = future.result()
                if isinstance(answer, ReservationDenied):  # the store knows no circuits
                    answer = replace(answer, standing=self._shell.standing())
                elif isinstance(answer, Reserved):
                    answer = self._in_time(order, answer)
                if self._mistaken:  # granted too late: nothing was sent
                    self._book_the_rest(sent=False)
                self.feed(answer)
            else:
                if self._mistaken:  # the cascade, which would let go, is not asked any more
                    release = settlement.release(order.reservation_id, order.attempt)
                    self._keep(self._shell.store.settle(release, self._shell.clock.now_ms()))
                self.feed(StoreFailed(order.attempt, in_words(error)))

        self._asking, self._unclaimed = True, False
        if self._shell.catalog is not self._catalog:
            order = under(self._shell.catalog, order)
        work = self._shell.store.reserve(order, now_ms)
        asyncio.ensure_future(work).add_done_callback(done)

    def _in_time(self, order: Reserve, answer: Reserved) -> Reserved | ReservationDenied:
        """Give back what was granted when its circuit had opened: the cascade looks again (R35)."""
        shell, candidate = self._shell, _taken(order, answer)
        now_ms = shell.clock.now_ms()
        model = candidate.model
        if shell.health.is_shut(model, now_ms) or shell.occupancy.is_full(model):
            release = settlement.release(order.reservation_id, order.attempt)
            self._keep(shell.store.settle(release, now_ms))
            return ReservationDenied(order.attempt, (), shell.standing())
        self._granted[order.attempt] = order.reservation_id, candidate
        shell.occupancy.take(candidate.model)
        return answer

    def _look_back(self, failed: Failed, tally: Tally | None, now_ms: int) -> None:
        """Before a task ends that had nothing to reserve: was its request id answered before?

        An answer that stands says more than that there is no room for another now (R27).
        """

        def then(before: Repeated | None) -> None:
            end = End(failed, tally)
            if before is not None:
                end = End(ending.instead(failed, before, self._catalog))
            if not self._ended:  # by a mistake, meanwhile
                self._obey(end, self._shell.clock.now_ms())

        self._ask_back(then, now_ms)

    def _ask_back(self, then: Callable[[Repeated | None], None], now_ms: int) -> None:
        """Ask the store whether the request id was used before, and reserve nothing."""
        asked = self._request
        claim = Reserve(
            f"{self.task_id}.0", 0, (), asked.agent, request_id=asked.id, content=asked.content
        )

        def done(future: "asyncio.Future[Reserved | ReservationDenied | Repeated]") -> None:
            self._asking = False
            answer = None if error_of(future) else future.result()
            try:
                then(answer if isinstance(answer, Repeated) else None)
            except Exception as error:  # noqa: BLE001 - as in feed
                self._make_amends(error)
            self._close_amended()
            if self._cascade.closed:
                self._close()

        self._asking, self._unclaimed = True, False
        work = self._shell.store.reserve(claim, now_ms)
        asyncio.ensure_future(work).add_done_callback(done)

    def _settle(self, order: Settle, now_ms: int) -> None:
        if self._selected is not None and self._selected.attempt == order.attempt:
            self._selected = None
        if order.tally is not None:
            self._remember(order.tally, now_ms)
        _, candidate = self._granted.pop(order.attempt, ("", None))
        gives_back = candidate is not None and settlement.gives_back(order, candidate)
        if candidate is not None:
            self._shell.occupancy.give(candidate.model)

        def done(future: "asyncio.Future[None]") -> None:
            error = error_of(future)
            if gives_back and error is None:
                self._shell.room.given_back()
            if error is None:
                self.feed(Settled(order.attempt, self._shell.standing()))
            else:
                self.feed(SettleFailed(order.attempt, in_words(error)))

        asyncio.ensure_future(self._shell.store.settle(order, now_ms)).add_done_callback(done)

    def _remember(self, tally: Tally, now_ms: int) -> None:
        """Keep what it leaves of its session, before its books: the next step finds it (R29)."""
        sessions = self._shell.sessions
        if tally.session is not None and sessions is not None:
            self._keep(sessions.keep(tally, tally.session, now_ms))

    def _keep(self, work: Awaitable[None]) -> None:
        """Hold on to background work until it is done; a cooldown that is not kept is no fault."""
        future = asyncio.ensure_future(work)
        self._works.add(future)

        def done(future: "asyncio.Future[None]") -> None:
            self._works.discard(future)
            self._close_amended()
            if not isinstance(error_of(future), StoreError | asyncio.CancelledError | None):
                future.result()

        future.add_done_callback(done)

    async def _call(self, order: CallModel) -> None:
        """Read one provider's answer; whatever happens, its end becomes one event."""
        attempt = order.attempt
        end: Event = StreamEnded(attempt)
        try:
            chunks = self._providers.of(order.candidate.model).call(order, self._request)
            async with aclosing(chunks) as stream:
                async for chunk in stream:
                    self.feed(chunk)
                    await self._caller.writable()
        except ProviderFailure as failed:
            end = AttemptFailed(attempt, failed.failure)
        except asyncio.CancelledError:
            # Our own order: the cascade has moved on, unless the engine dropped a drain.
            end = AttemptFailed(attempt, Failure(FailureClass.CANCELLED, "was cancelled"))
        except Exception as error:  # noqa: BLE001 - a bug in a codec must not lose a settlement
            detail = f"broke our decoder ({type(error).__name__})"
            end = AttemptFailed(attempt, Failure(FailureClass.UNKNOWN, detail))
        self._calls.pop(attempt, None)
        self.feed(end)

    def _cancel(self, attempt: int, *, drain: bool) -> None:
        task = self._calls.get(attempt)
        if drain and self._shell.drains < DRAINS_MAX:
            self._shell.drains += 1
            self._draining = True
            return
        if task is not None:
            task.cancel()
        if drain:  # too many are: it is booked at once, in full
            failure = Failure(FailureClass.CANCELLED, "was not read to its end")
            self._loop.call_soon(self.feed, AttemptFailed(attempt, failure))

    def _end(self, outcome: Outcome) -> None:
        good = isinstance(outcome, Finished) and outcome.unmet is None
        if good and outcome.report.answered is not None:
            used = outcome.report.attempts[-1].usage.output_tokens
            self._shell.health.answered(outcome.report.answered.key, used)
        self._ended = True
        self._place.leave()
        self._shell.repeats.end(self._request, outcome, self._catalog.rules)
        self._caller.end(outcome)
        self._shell.observer.ended(self.task_id, self._request, outcome)

    def _make_amends(self, error: Exception) -> None:
        """After a mistake of ours: tell it, cancel every call, and book what is reserved (P5)."""
        self._mistaken, shell = True, self._shell
        mistake_id = shell.mistakes(error)
        for call in self._calls.values():
            call.cancel()
        if not self._ended:
            now_ms = shell.clock.now_ms()
            try:
                self._end(ending.mistaken(self._request, mistake_id, now_ms))
            except Exception as worse:  # noqa: BLE001 - the caller's side is what is broken
                shell.mistakes(worse)
        self._book_the_rest(sent=True)

    def _book_the_rest(self, *, sent: bool) -> None:
        """Settle, without the cascade, what is granted; then the run is closed."""
        for attempt, (id_, candidate) in self._granted.items():
            self._shell.occupancy.give(candidate.model)
            order = settlement.release(id_, attempt)
            if sent:
                nanos, tokens = candidate.nanos, candidate.tokens
                charged = nanos if candidate.model.billing is Billing.METERED else 0
                order = Settle(id_, attempt, 1, tokens, nanos, charged, Basis.RESERVED)
            self._keep(self._shell.store.settle(order, self._shell.clock.now_ms()))
        self._granted.clear()
        self._close_amended()

    def _close_amended(self) -> None:
        if self._mistaken and not (self._works or self._asking):
            self._close()

    def _close(self) -> None:
        if self._forgotten:
            return
        self._forgotten = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._draining:
            self._shell.drains -= 1
        for task in self._calls.values():
            self._loop.call_later(LINGER_S, task.cancel)
        self._shell.forget(self)


def _taken(order: Reserve, answer: Reserved) -> Candidate:
    return next(c for c in order.candidates if c.model.position == answer.position)
