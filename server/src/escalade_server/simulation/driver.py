"""Drives cascades on virtual time: the counterpart of ``engine.run``, order for order.

Where the engine awaits, the driver puts an entry into the agenda; all else must be the same, and
``tests/simulation/test_two_drivers.py`` holds it to that.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, assert_never

from escalade_server.core import settlement
from escalade_server.core.agents import limited
from escalade_server.core.cascade import Cascade
from escalade_server.core.catalog import Catalog
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
    ReservationDenied,
    Reserved,
    Settled,
    SettleFailed,
    Started,
    StoreFailed,
    TimePassed,
)
from escalade_server.core.facts import Finished, Selected
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.gating import Checker
from escalade_server.core.standing import Standing
from escalade_server.core.tally import Tally
from escalade_server.core.task import Delivery, Request
from escalade_server.engine.health import Health
from escalade_server.engine.place import Place
from escalade_server.engine.ports import NOWHERE, Clock
from escalade_server.engine.resume import ResumeDesk
from escalade_server.engine.run import DRAINS_MAX, LINGER_S
from escalade_server.engine.sessions import Steps
from escalade_server.engine.waiting import WaitingRoom
from escalade_server.simulation.agenda import Agenda
from escalade_server.simulation.memory import Memory
from escalade_server.simulation.script import Now, Step, Upstream, Word
from escalade_server.simulation.store import ERROR

LINGER_US = round(LINGER_S * 1_000_000)
_CANCELLED = Failure(FailureClass.CANCELLED, "was cancelled")


class Ledger(Protocol):
    """The store, as the driver needs it: answers come by a call, None or False for an error."""

    def standing(self) -> Standing:
        """Answer shared state as it is; circuits are not kept there."""
        ...

    def reserve(
        self, order: Reserve, done: Callable[[Reserved | ReservationDenied | None], None]
    ) -> None:
        """Hold the first candidate with room."""
        ...

    def settle(self, order: Settle, done: Callable[[bool], None]) -> None:
        """Book a reservation."""
        ...

    def bench(self, order: SetBench) -> None:
        """Set something aside."""
        ...


Watch = Callable[["Play", Event, tuple[Command, ...]], None]
"""Looks at each step of each task, before its orders are obeyed."""


class _Middling:
    """No chance at all: every jitter is half of what it may be."""

    @staticmethod
    def task_id() -> str:
        """Answer no id; tasks are counted here."""
        return ""

    @staticmethod
    def jitter_ms(limit_ms: int) -> int:
        """Answer half."""
        return limit_ms // 2


class _Due:
    """A call on the agenda that may still be cancelled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def ring(self) -> None:
        """Do it, if it is still wanted."""
        if self._call is not None:
            self._call()

    def cancel(self) -> None:
        """Do it not."""
        self._call = None


class Driver:
    """Runs tasks against one catalog on an agenda."""

    def __init__(
        self,
        catalog: Catalog,
        agenda: Agenda,
        ledger: Ledger,
        upstream: Upstream,
        watch: Watch,
        *,
        checker: Checker,
    ) -> None:
        """Keep the parts."""
        self.catalog, self.agenda, self.ledger = catalog, agenda, ledger
        self.upstream, self.watch, self.checker = upstream, watch, checker
        self.health = Health(catalog.rules)
        self.drains = 0
        self.clock: Clock = agenda
        self.draining = False
        self.room = WaitingRoom(agenda, _Middling(), later=self._later)
        self.desk = ResumeDesk("simulated", agenda)
        self.memory = Memory()
        self.steps = Steps("simulated")
        self.running: dict[str, Play] = {}
        self._started = 0

    def start(self, request: Request) -> "Play":
        """Start a task, within the limits of its agent."""
        self._started += 1
        request = limited(self._recalled(request), self.catalog)
        play = Play(self, request, self._started)
        self.running[play.task_id] = play
        play.feed(Started(self.standing()))
        return play

    def _recalled(self, request: Request) -> Request:
        """Make a task the next step of its session, as ``Sessions.recalled`` does."""
        name, rules = request.task.session_id, self.catalog.rules
        if not name:
            return request
        key = self.steps.key_of(request.agent, name)
        before = self.memory.find(key, self.agenda.now_ms())
        return self.steps.step(request, key, before, rules)

    def remember(self, tally: Tally | None) -> None:
        """Keep what a task leaves of its session."""
        if tally is not None and tally.session is not None:
            self.memory.put(tally.session_key, tally.session)

    def _later(self, delay_s: float, call: Callable[[], None]) -> "_Due":
        due = _Due(call)
        self.agenda.after(round(delay_s * 1_000_000), due.ring)
        return due

    def standing(self) -> Standing:
        """Shared state, circuits and running means at this instant."""
        return replace(
            self.ledger.standing(),
            circuits=self.health.circuits(self.agenda.now_ms()),
            output_means=self.health.output_means,
        )

    def now(self) -> Now:
        """Answer the instant."""
        return Now(self.agenda.now_us, self.agenda.now_ms())


class Play:
    """One task on its way."""

    def __init__(self, driver: Driver, request: Request, number: int) -> None:
        """Prepare a task; its first event starts it."""
        self.driver, self.request, self.number = driver, request, number
        self.task_id = f"{number:032x}"
        self.cascade = Cascade(driver.catalog, request, self.task_id, driver.checker)
        self._place = Place(driver, request, NOWHERE, self.feed)
        self._granted: dict[int, Candidate] = {}
        self._calls: set[int] = set()
        self._timer_ms: int | None = None
        self._timers = 0
        self._draining = False
        self._closed_us: int | None = None

    def leave(self) -> None:
        """Tell that the caller is gone."""
        self.feed(CallerLeft())

    def feed(self, event: Event) -> None:
        """Give one event to the cascade and do what it orders."""
        now_ms = self.driver.agenda.now_ms()
        self._step(event, now_ms)
        wake_ms = self.cascade.wake_at_ms
        while wake_ms is not None and wake_ms <= now_ms:
            self._step(TimePassed(self.driver.standing()), now_ms)
            wake_ms = self.cascade.wake_at_ms
        if self.cascade.closed:
            self._close()
        elif wake_ms is not None and (self._timer_ms is None or wake_ms < self._timer_ms):
            self._arm(wake_ms, now_ms)

    def _step(self, event: Event, now_ms: int) -> None:
        commands = self.cascade.handle(event, now_ms=now_ms)
        self.driver.watch(self, event, commands)
        for command in commands:
            self._obey(command, now_ms)

    def _arm(self, wake_ms: int, now_ms: int) -> None:
        """Set the one timer; an older one finds another in its place, and does nothing."""
        self._timer_ms = wake_ms
        self._timers = number = self._timers + 1

        def ring() -> None:
            if self._timers == number and self._closed_us is None:
                self._timer_ms = None
                self._on_timer()

        self.driver.agenda.after((wake_ms - now_ms) * 1_000, ring)

    def _on_timer(self) -> None:
        now_ms, wake_ms = self.driver.agenda.now_ms(), self.cascade.wake_at_ms
        if wake_ms is None:
            return
        if wake_ms > now_ms:
            self._arm(wake_ms, now_ms)
        else:
            self.feed(TimePassed(self.driver.standing()))

    def _obey(self, command: Command, now_ms: int) -> None:
        driver = self.driver
        match command:
            case Deliver():
                pass
            case Announce(fact):
                if isinstance(fact, Selected) and self.request.delivery is Delivery.ROUTE:
                    driver.health.called(fact.model, now_ms)
                    self._hear(driver.upstream.reports(fact, self.request, driver.now()), 0)
            case Reserve():
                self._reserve(command)
            case CallModel(attempt, candidate):
                driver.health.called(candidate.model, now_ms)
                self._calls.add(attempt)
                steps = driver.upstream.answer(command, self.request, driver.now())
                self._read(attempt, steps, 0)
            case CancelCall(attempt, drain):
                self._cancel(attempt, drain=drain)
            case Settle():
                driver.remember(command.tally)
                self._settle(command)
            case SetBench():
                driver.ledger.bench(command)
            case Queue(waiting):
                refusal = self._place.take(waiting)
                if refusal is not None:
                    why = refusal
                    driver.agenda.after(0, lambda: self.feed(why))
            case ReportHealth(provider, ok):
                if ok and driver.room and provider in driver.health.circuits(now_ms):
                    driver.room.given_back()
                driver.health.report(provider, ok=ok, now_ms=now_ms)
            case End(outcome, tally):
                driver.remember(tally)
                self._place.leave()
                good = isinstance(outcome, Finished) and outcome.unmet is None
                if good and outcome.report.answered is not None:
                    used = outcome.report.attempts[-1].usage.output_tokens
                    driver.health.answered(outcome.report.answered.key, used)
            case _:
                assert_never(command)

    def _reserve(self, order: Reserve) -> None:
        def done(answer: Reserved | ReservationDenied | None) -> None:
            if answer is None:
                self.feed(StoreFailed(order.attempt, ERROR))
            elif isinstance(answer, ReservationDenied):
                self.feed(replace(answer, standing=self.driver.standing()))
            else:
                self.feed(self._in_time(order, answer))

        self.driver.ledger.reserve(order, done)

    def _in_time(self, order: Reserve, answer: Reserved) -> Reserved | ReservationDenied:
        """Give back what was granted when its circuit had opened (R35)."""
        driver = self.driver
        taken = next(c for c in order.candidates if c.model.position == answer.position)
        if not driver.health.is_shut(taken.model, driver.agenda.now_ms()):
            self._granted[order.attempt] = taken
            return answer
        release = settlement.release(order.reservation_id, order.attempt)
        driver.ledger.settle(release, lambda _: None)
        return ReservationDenied(order.attempt, (), driver.standing())

    def _settle(self, order: Settle) -> None:
        candidate = self._granted.pop(order.attempt, None)
        gives_back = candidate is not None and settlement.gives_back(order, candidate)

        def done(durable: bool) -> None:  # noqa: FBT001 - the one thing that it answers
            if durable and gives_back:
                self.driver.room.given_back()
            if durable:
                self.feed(Settled(order.attempt, self.driver.standing()))
            else:
                self.feed(SettleFailed(order.attempt, ERROR))

        self.driver.ledger.settle(order, done)

    def _read(self, attempt: int, steps: Sequence[Step], at: int) -> None:
        """Read a call's answer step by step, until its end or until it is cancelled."""
        if at == len(steps):
            return  # silence: only a limit of time ends it
        agenda = self.driver.agenda

        def arrive() -> None:
            lingers = self._closed_us is None or agenda.now_us <= self._closed_us + LINGER_US
            if attempt in self._calls and lingers:
                self.feed(steps[at].news)
                self._read(attempt, steps, at + 1)

        agenda.after(steps[at].delay_us, arrive)

    def _hear(self, words: Sequence[Word], at: int) -> None:
        """Hear a caller that calls a model itself."""
        if at < len(words):

            def arrive() -> None:
                self.feed(words[at].report)
                self._hear(words, at + 1)

            self.driver.agenda.after(words[at].delay_us, arrive)

    def _cancel(self, attempt: int, *, drain: bool) -> None:
        if drain and self.driver.drains < DRAINS_MAX:
            self.driver.drains += 1
            self._draining = True
            return
        agenda = self.driver.agenda
        if attempt in self._calls:
            self._calls.discard(attempt)
            agenda.after(0, lambda: self.feed(AttemptFailed(attempt, _CANCELLED)))
        if drain:
            failure = Failure(FailureClass.CANCELLED, "was not read to its end")
            agenda.after(0, lambda: self.feed(AttemptFailed(attempt, failure)))

    def _close(self) -> None:
        if self._closed_us is not None:
            return
        self._closed_us = self.driver.agenda.now_us
        if self._draining:
            self.driver.drains -= 1
        del self.driver.running[self.task_id]
