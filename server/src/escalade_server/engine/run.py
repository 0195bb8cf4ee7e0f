"""Drives one cascade: does what it orders, and feeds back what comes of it.

Rules of the file:
1. ``feed`` is the only way in, and it never blocks: a command starts work, its end is an event.
2. A run outlives its caller: it ends when the cascade is closed, that is, all is settled (P4).
"""

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, TypeVar, assert_never

from escalade_server.core.cascade import Cascade
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import (
    Announce,
    CallModel,
    CancelCall,
    Command,
    Deliver,
    End,
    ReportHealth,
    Reserve,
    SetBench,
    Settle,
)
from escalade_server.core.events import (
    AttemptFailed,
    CallerLeft,
    Event,
    ReservationDenied,
    Reserved,
    Settled,
    SettleFailed,
    Started,
    StoreFailed,
    StreamEnded,
    TimePassed,
)
from escalade_server.core.facts import Finished, Outcome
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.standing import Standing
from escalade_server.core.task import Request
from escalade_server.engine.health import Health
from escalade_server.engine.ports import (
    Caller,
    Clock,
    Observer,
    ProviderFailure,
    Providers,
    Store,
    StoreError,
)

T = TypeVar("T")
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
    health: Health
    drains: int

    def standing(self) -> Standing:
        """Shared state and circuits at this instant."""
        ...

    def forget(self, run: "Run") -> None:
        """Take a run that is closed off the list."""
        ...


class Run:
    """One task on its way."""

    def __init__(self, shell: Shell, request: Request, caller: Caller, task_id: str) -> None:
        """Prepare a run; ``begin`` starts it."""
        self._shell, self._request, self._caller = shell, request, caller
        self._cascade = Cascade(shell.catalog, request, task_id)
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._works: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._draining = False
        self._forgotten = False

    def begin(self) -> None:
        """Start the task."""
        self.feed(Started(self._shell.standing()))

    def leave(self) -> None:
        """Tell that the caller is gone, for whatever cause; the books are still closed (P3)."""
        self.feed(CallerLeft())

    def feed(self, event: Event) -> None:
        """Give one event to the cascade and do what it orders."""
        now_ms = self._shell.clock.now_ms()
        for command in self._cascade.handle(event, now_ms=now_ms):
            self._obey(command, now_ms)
        wake_ms = self._cascade.wake_at_ms
        while wake_ms is not None and wake_ms <= now_ms:
            for command in self._cascade.handle(TimePassed(self._shell.standing()), now_ms=now_ms):
                self._obey(command, now_ms)
            wake_ms = self._cascade.wake_at_ms
        if self._cascade.closed:
            self._close()
        elif wake_ms is not None and (self._timer is None or wake_ms < self._timer_ms):
            self._arm(wake_ms, now_ms)

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
                shell.health.called(candidate.model.provider, now_ms)
                self._calls[attempt] = self._loop.create_task(self._call(command))
            case CancelCall(attempt, drain):
                self._cancel(attempt, drain=drain)
            case Announce(fact):
                self._caller.announce(fact)
                shell.observer.fact(self._request, fact, now_ms)
            case Settle():
                self._settle(command, now_ms)
            case SetBench():
                self._keep(shell.store.bench(command, now_ms))
            case ReportHealth(provider, ok):
                shell.health.report(provider, ok=ok, now_ms=now_ms)
            case End(outcome):
                self._end(outcome)
            case _:
                assert_never(command)

    def _reserve(self, order: Reserve, now_ms: int) -> None:
        def done(future: "asyncio.Future[Reserved | ReservationDenied]") -> None:
            error = _error(future)
            if error is None:
                answer = future.result()
                if isinstance(answer, ReservationDenied):  # the store knows no circuits
                    answer = replace(answer, standing=self._shell.standing())
                self.feed(answer)
            else:
                self.feed(StoreFailed(order.attempt, _in_words(error)))

        work = self._shell.store.reserve(order, now_ms)
        asyncio.ensure_future(work).add_done_callback(done)

    def _settle(self, order: Settle, now_ms: int) -> None:
        def done(future: "asyncio.Future[None]") -> None:
            error = _error(future)
            if error is None:
                self.feed(Settled(order.attempt, self._shell.standing()))
            else:
                self.feed(SettleFailed(order.attempt, _in_words(error)))

        asyncio.ensure_future(self._shell.store.settle(order, now_ms)).add_done_callback(done)

    def _keep(self, work: Awaitable[None]) -> None:
        """Hold on to background work until it is done; a cooldown that is not kept is no fault."""
        future = asyncio.ensure_future(work)
        self._works.add(future)

        def done(future: "asyncio.Future[None]") -> None:
            self._works.discard(future)
            if not isinstance(_error(future), StoreError | asyncio.CancelledError | None):
                future.result()

        future.add_done_callback(done)

    async def _call(self, order: CallModel) -> None:
        """Read one provider's answer; whatever happens, its end becomes one event."""
        attempt = order.attempt
        end: Event = StreamEnded(attempt)
        try:
            chunks = self._shell.providers.of(order.candidate.model).call(order, self._request)
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
        if isinstance(outcome, Finished) and outcome.report.answered is not None:
            used = outcome.report.attempts[-1].usage.output_tokens
            self._shell.health.answered(outcome.report.answered.key, used)
        self._caller.end(outcome)
        self._shell.observer.ended(self._request, outcome)

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


def _error(future: "asyncio.Future[T]") -> BaseException | None:
    """Say what a future failed with; a cancelled one has failed, too."""
    return asyncio.CancelledError() if future.cancelled() else future.exception()


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, StoreError) else type(error).__name__
