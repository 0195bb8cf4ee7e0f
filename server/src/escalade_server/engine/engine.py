"""The shell's door: starts tasks, knows which still run, and drains them.

One ``Run`` drives one cascade. Nothing here decides anything (style, rule 1).
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from escalade_server.core.agents import limited
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import SetBench
from escalade_server.core.ending import unstarted
from escalade_server.core.events import OutcomeReported
from escalade_server.core.facts import Outcome
from escalade_server.core.gating import may_check_schema, unusable_schema
from escalade_server.core.plan import Plan, plan
from escalade_server.core.standing import Standing
from escalade_server.core.task import Request
from escalade_server.engine import place
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.health import Health
from escalade_server.engine.late import Booked, correct
from escalade_server.engine.mistakes import LoopMistakes
from escalade_server.engine.occupancy import Occupancy
from escalade_server.engine.ports import (
    NOWHERE,
    AnswerChecker,
    Caller,
    Classifier,
    Clock,
    Entropy,
    Mistakes,
    Observer,
    Origin,
    Providers,
    RawEvidence,
    Spend,
    Store,
    StoreError,
)
from escalade_server.engine.repeats import Over, Repeats
from escalade_server.engine.resume import ResumeDesk
from escalade_server.engine.run import Run
from escalade_server.engine.sessions import Sessions
from escalade_server.engine.waiting import Waiter, WaitingRoom


class Engine:
    """Runs tasks against the catalog in force. Built by ``bootstrap``; owned by one event loop."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        store: Store,
        providers: Providers,
        clock: Clock,
        entropy: Entropy,
        observer: Observer,
        classifier: Classifier,
        checker: AnswerChecker,
        mistakes: Mistakes | None = None,
        resume_secret: str = "",
        sessions: Sessions | None = None,
        free: Callable[[str, str], None] = lambda _agent, _request_id: None,
    ) -> None:
        """Keep the parts; nothing starts before the first task.

        ``mistakes`` takes mistakes of ours; by default the event loop's exception handler does.
        ``resume_secret`` signs resume tokens; without one they hold for this process only.
        ``free`` tells other processes that a request id may run again (R27). Without ``sessions``
        every task stands for itself.
        """
        self.catalog, self.store, self.providers = catalog, store, providers
        self.clock, self.entropy, self.observer = clock, entropy, observer
        self.health = Health(catalog.rules)
        self.repeats = Repeats(clock, free)
        self.occupancy = Occupancy()
        self.room = WaitingRoom(clock, entropy)
        self.desk = ResumeDesk(resume_secret or SystemEntropy.secret(), clock)
        self.sessions = sessions
        self.drains = 0
        self.ledger_wrong, self.free_goes_on = "", False
        """Why nothing can be booked now, if so; and whether free models go on all the same (S8)."""
        self.draining = False
        self.classifier, self.checker = classifier, checker
        self.mistakes = mistakes or LoopMistakes(entropy)
        self.deciding: Callable[[], Callable[[], None]] = lambda: _nothing
        """Is told that a task begins, and what it answers that the task has its first order."""
        self._runs: dict[str, Run] = {}
        self._heeded: set[asyncio.Future[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def adopt(self, catalog: Catalog, providers: Providers) -> None:
        """Put another strategy in force, at once; running tasks end on their own.

        Their reservations meet the limits of the new one all the same (G13).
        """
        self.catalog, self.providers = catalog, providers
        self.health.rules = catalog.rules
        self.room.look_again()

    def resumed(self, request: Request, origin: Origin, token: str) -> tuple[Request, Origin]:
        """Take up the place that a token keeps (P8).

        Raises:
            ResumeTokenError: it is not of this request.
        """
        kept = self.desk.read(token, request)
        request = replace(request, waiting_since_ms=kept.since_ms)
        return request, replace(origin, told=kept.told)

    async def turn(self, request: Request, origin: Origin) -> None:
        """Before it starts, let a task that was resumed take its turn among those who wait."""
        await place.turn(self, request, origin)

    async def recalled(self, request: Request) -> Request:
        """Answer a request with what is known of its session, if it names one (R29)."""
        if not request.task.session_id or self.sessions is None:
            return request
        return await self.sessions.recalled(request, self.catalog.rules)

    def start(self, request: Request, caller: Caller, origin: Origin = NOWHERE) -> Run | Over:
        """Start a task; everything it has to say goes to ``caller``.

        Every task comes through here, so none escapes the limits of its agent, or runs twice.
        """
        request, task_id = limited(request, self.catalog), self.entropy.task_id()
        told = self._refused(request) or self.repeats.begin(request)
        if told is not None:
            caller.end(told)
            self.observer.ended(task_id, request, told)
            return Over(task_id)
        run = Run(self, request, caller, task_id, origin)
        self._runs[run.task_id] = run
        self._idle.clear()
        decided = self.deciding()
        run.begin()
        decided()
        return run

    def _refused(self, request: Request) -> Outcome | None:
        """Refuse a schema that its answer must obey and that cannot be checked against (R21)."""
        if not may_check_schema(request, self.catalog.rules.quality):
            return None
        what = self.checker.refusal(request)
        return unstarted(request, unusable_schema(what), self.clock.now_ms()) if what else None

    def plan(self, request: Request) -> Plan:
        """Work out where a task would go, and reserve nothing (R31)."""
        request = limited(request, self.catalog)
        return plan(self.catalog, request, self.standing(), self.clock.now_ms())

    async def report(
        self,
        reservation_id: str,
        outcome: OutcomeReported,
        agent: str,
        evidence: RawEvidence | None = None,
    ) -> Booked:
        """Take a report from outside a stream: a running task goes on by it, else books change.

        ``evidence`` is what the failure of the outcome is to be read from.

        Raises:
            ReservationUnknownError: the caller has no such reservation to report on.
            OutcomeConflictError: another report of the attempt was booked before.
            StoreError: the books cannot be reached; try again.
        """
        run = self._runs.get(reservation_id.partition(".")[0])
        told = run.open_for(agent, reservation_id) if run is not None else None
        if run is not None and told is not None:
            known = outcome._replace(attempt=told.attempt)
            if evidence is not None:
                now_ms = self.clock.now_ms()
                failure = self.classifier.classify(told.model, evidence, now_ms)
                known = known._replace(failure=failure)
            run.report(known)  # its settlement is ordered before the look at the books
        return await correct(self, reservation_id, outcome, agent, evidence)

    def heed(self, order: SetBench) -> None:
        """Set aside, in the background, what a good answer says is used up (P14).

        A cooldown that is not kept is no fault: the provider will refuse, and be believed.
        """
        work = asyncio.ensure_future(self.store.bench(order, self.clock.now_ms()))
        self._heeded.add(work)
        work.add_done_callback(self._forget_heeded)

    def _forget_heeded(self, work: "asyncio.Future[None]") -> None:
        self._heeded.discard(work)
        error = None if work.cancelled() else work.exception()
        if isinstance(error, Exception) and not isinstance(error, StoreError):
            self.mistakes(error)

    @property
    def running(self) -> int:
        """Number of tasks whose books are not closed yet."""
        return len(self._runs)

    @property
    def unsettled(self) -> int:
        """Number of those whose callers have their ending."""
        return sum([run.has_ended for run in self._runs.values()])

    def forget(self, run: Run) -> None:
        """Take a run that is closed off the list."""
        self._runs.pop(run.task_id, None)
        if not self._runs:
            self._idle.set()

    def standing(self) -> Standing:
        """Shared state, circuits and running means at this instant."""
        now_ms = self.clock.now_ms()
        return replace(
            self.store.standing(now_ms),
            circuits=self.health.circuits(now_ms),
            output_means=self.health.output_means,
            busy=self.occupancy.calls,
        )

    def spends(self) -> tuple[Spend, ...]:
        """Every counter's use at this instant, for status."""
        return self.store.spends(self.clock.now_ms())

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        """Who waits for capacity, in the order in which they would go."""
        return tuple(self.room)

    def hand_over(self) -> None:
        """Let nobody wait here any more: they come back, and keep their places (P4)."""
        self.draining = True
        for run in list(self._runs.values()):
            run.hand_over()
        self.room.close()

    async def drain(self) -> None:
        """Wait until every task has ended and is settled (P4)."""
        await self._idle.wait()


def _nothing() -> None:
    """Nobody measures."""
