"""One task's state machine. Events and a time go in, commands come out; nothing else happens.

Rules of the file:
1. Every change of ``_state`` lives here. No other module knows the states.
2. At most one attempt is in flight; news of any other attempt only settles it.
3. Every reservation that was granted is settled exactly once, whatever happens to the task.
4. A task has one ending (``End``), and nothing is announced or delivered after it. A good ending
   waits until the settlement is durable (DESIGN 6, guarantee 4).
5. Text of two attempts is never spliced: what a broken attempt delivered is retracted first.

| state     | event                        | next                                            |
|-----------|------------------------------|-------------------------------------------------|
| NEW       | Started                      | advance                                         |
| (advance) | walk: Choice / Pause / end   | RESERVING / PAUSED / ENDED                      |
| RESERVING | Reserved                     | CALLING                                         |
| RESERVING | ReservationDenied, Repeated  | advance; ENDED, as its request id was before    |
| RESERVING | StoreFailed                  | ENDED; released, in case it was held            |
| CALLING   | ChunkArrived                 | CALLING; SETTLING on finish with usage          |
| CALLING   | StreamEnded                  | SETTLING with a finish reason, else as failed   |
| CALLING   | AttemptFailed, time limit    | advance, or ENDED (terminal, cut under FAIL)    |
| CALLING   | OutcomeReported              | as StreamEnded or AttemptFailed                 |
| CALLING   | LeaseExtended / ReportsEnded | CALLING / SETTLING                              |
| PAUSED    | TimePassed                   | advance                                         |
| SETTLING  | Settled / SettleFailed       | ENDED                                           |
| any       | CallerLeft, deadline         | ENDED, but from SETTLING; all is still settled  |
"""

from enum import Enum
from typing import assert_never

from escalade_server.core import change, commands, ending, events, facts, policy, settlement, walk
from escalade_server.core.assess import first_look
from escalade_server.core.attempt import Ending, Live, Over
from escalade_server.core.calling import Calling
from escalade_server.core.catalog import Catalog
from escalade_server.core.diary import Diary
from escalade_server.core.ending import NoWay
from escalade_server.core.experience import Experience, shared
from escalade_server.core.facts import ErrorReason
from escalade_server.core.failure import TABLE, Failure
from escalade_server.core.oddities import alerts
from escalade_server.core.settlement import Booking
from escalade_server.core.standing import Standing, VerdictClass
from escalade_server.core.task import OnInterruption, Request
from escalade_server.core.trace import AttemptStatus, Skip

_State = Enum("_State", "NEW RESERVING CALLING PAUSED SETTLING ENDED")
_NEW, _RESERVING, _CALLING, _PAUSED, _SETTLING, _ENDED = _State  # faster than the enums
_WHOLE, _REJECTED, _BROKEN = Ending.WHOLE, Ending.REJECTED, Ending.BROKEN


class Cascade:
    """The whole interface is ``handle`` and ``wake_at_ms``; ``closed`` says that all is booked."""

    def __init__(self, catalog: Catalog, request: Request, task_id: str) -> None:
        """Begin a task; ``task_id`` makes its reservation ids unique."""
        self._request, self._rules = request, catalog.rules
        look = first_look(request, catalog)
        self._need, self._seen = look.need, Experience()
        self._walk = walk.begin(catalog, request, look, self._seen)
        self._diary = Diary(request, catalog, look, [catalog.layers[0].name])
        self._calling = Calling(request, self._rules, task_type=look.assessment.type)
        self._state: _State = _NEW
        self._out: list[commands.Command] = []
        self._now = self._resume_ms = self._serial = self._rejections = 0
        self._task_id, self._reservation_id = task_id, ""
        self._choice: walk.Choice | None = None  # what is being reserved
        self._final: Live | None = None
        self._waiting_told: set[VerdictClass] = set()
        self._cut: Failure | None = None

    @property
    def closed(self) -> bool:
        """True when the task has ended and nothing of it is left to settle."""
        ended = self._state is _ENDED
        return ended and not (self._diary.unsettled or self._calling.draining or self._choice)

    @property
    def wake_at_ms(self) -> int | None:
        """When ``TimePassed`` is wanted at the latest; None for never."""
        state, deadline_ms = self._state, self._request.deadline_ms
        if state is _CALLING:
            return min(deadline_ms, self._calling.wake_at_ms or 0)
        if state is _PAUSED:
            return min(deadline_ms, self._resume_ms)
        return self._calling.wake_at_ms if state in (_ENDED, _SETTLING) else deadline_ms

    def handle(self, event: events.Event, *, now_ms: int) -> tuple[commands.Command, ...]:
        """Take one event and answer what is to be done. Late news is ignored."""
        self._now, self._out = now_ms, []
        match event:
            case events.ChunkArrived():  # in the order of how often they come
                self._conclude(self._calling.hear(event, now_ms, self._out))
            case events.Reserved():
                self._on_reserved(event)
            case events.Started():
                self._on_start(event.standing)
            case events.Settled():
                self._on_settled(event.attempt, event.standing)
            case events.StreamEnded() | events.AttemptFailed():
                self._conclude(self._calling.hear(event, now_ms, self._out))
            case events.ReservationDenied():
                self._on_denied(event)
            case events.Repeated():
                self._choice = None
                self._end_without(ending.repeated(event))
            case events.StoreFailed(attempt, detail):  # it may hold something all the same
                self._choice = None
                self._out.append(self._diary.release(self._reservation_id, attempt))
                self._fail(ErrorReason.LEDGER_UNAVAILABLE, f"the ledger took no entry: {detail}")
            case events.SettleFailed(attempt, detail):
                self._on_settle_failed(attempt, detail)
            case events.OutcomeReported():
                self._conclude(self._calling.report(event, now_ms))
            case events.LeaseExtended(attempt):
                self._calling.extend(attempt, now_ms)
            case events.ReportsEnded():
                self._on_reports_ended()
            case events.CallerLeft():
                self._give_up(ErrorReason.CANCELLED, "the caller left")
            case events.TimePassed(standing):
                self._on_time(standing)
            case _:
                assert_never(event)
        return tuple(self._out)

    def _on_start(self, standing: Standing) -> None:
        self._diary.started_ms = self._now
        self._out.append(commands.Announce(facts.Assessed(self._diary.look.assessment)))
        if self._now >= self._request.deadline_ms:
            self._fail(ErrorReason.DEADLINE_REACHED, "the deadline had passed at the start")
        else:
            self._advance(standing)

    def _advance(self, standing: Standing, refused: tuple[Skip, ...] = ()) -> None:
        """Ask the walk where to go, and go: reserve, pause or end."""
        self._diary.go_on(self._now)
        tried = len(self._diary.attempts)
        if tried >= self._rules.attempts_max:
            self._no_way("")
            return
        step = self._walk.step(standing, self._now, refused)
        match step:
            case walk.Choice():
                self._choice, self._state = step, _RESERVING
                self._serial += 1
                id_ = self._reservation_id = f"{self._task_id}.{self._serial}"
                self._out.append(self._calling.order(id_, tried + 1, step.candidates))
            case walk.Pause():
                self._pause(step, standing)
            case walk.DeadEnd():
                self._diary.skip(step.skips)
                self._no_way(step.untriggered)

    def _pause(self, pause: walk.Pause, standing: Standing) -> None:
        if pause.until_ms >= self._request.deadline_ms:
            self._walk.hold_until_ms = self._now  # no time to wait: the walk goes on without
            self._advance(standing)
            return
        self._state, self._resume_ms = _PAUSED, pause.until_ms
        if pause.reason not in self._waiting_told:
            self._waiting_told.add(pause.reason)
            waiting = facts.Waiting(pause.reason, pause.earliest_ms, pause.rule)
            self._out.append(commands.Announce(waiting))
        self._diary.wait(self._now)

    def _go_on(self) -> None:
        """Look for the next model as soon as the engine hands in a fresh standing."""
        self._state, self._resume_ms = _PAUSED, self._now

    def _on_denied(self, event: events.ReservationDenied) -> None:
        choice, self._choice = self._choice, None
        if choice is not None and self._state is _RESERVING:
            self._advance(event.standing, policy.refused(choice.candidates, event.denials))

    def _on_reserved(self, event: events.Reserved) -> None:
        choice, self._choice = self._choice, None
        if choice is None:
            return
        [candidate] = [c for c in choice.candidates if c.model.position == event.position]
        live = self._calling.prepare(
            event.attempt, candidate, self._reservation_id, self._now, others=choice.others_remain
        )
        if self._state is not _RESERVING:  # the caller left meanwhile: nothing was sent
            self._book(live, settlement.NOT_SENT, AttemptStatus.NOT_SENT)
            return
        skips = self._walk.granted(choice, event.denials)
        self._diary.skip(skips)
        told = change.facts(self._diary, choice.layer, live, skips)
        self._out += [commands.Announce(fact) for fact in told]
        if not self._calling.routed:
            self._out.append(commands.CallModel(live.number, candidate))
        self._calling.live, self._state = live, _CALLING

    def _conclude(self, over: Over | None) -> None:
        """An attempt is over: book it, then accept it, go on, or end."""
        if over is None:
            return
        live, end, failure = over.live, over.ending, over.failure
        booking, status = settlement.of(over, self._need, routed=self._calling.routed)
        self._book(live, booking, status, failure)
        if end is _WHOLE or end is _REJECTED:
            self._out += () if self._calling.routed else alerts(live)
            self._out.append(commands.ReportHealth(live.model.provider))
        if end is _WHOLE:
            self._final, self._state = live, _SETTLING
        elif end is _REJECTED and failure is not None:
            self._on_rejected(live, failure)
        elif end is _BROKEN and failure is not None:
            self._on_broken(live, failure)

    def _on_rejected(self, live: Live, failure: Failure) -> None:
        """An answer that fails its gate is charged, and its whole layer is out (R21)."""
        self._retract(live, failure)
        self._seen.reject(live.model.layer_index)
        self._rejections += 1
        if self._rejections > self._rules.quality_escalations_max:
            self._fail(ErrorReason.QUALITY_NOT_MET, f"every answer failed: {failure.detail}")
        else:
            self._go_on()

    def _on_broken(self, live: Live, failure: Failure) -> None:
        """Set aside what must be, then go on or end."""
        estimate = self._need.input_estimate
        orders = self._seen.learn(live, failure, self._rules, estimate, self._now)
        self._out += shared(orders, live, failure, self._request)
        if live.delivered and self._request.on_interruption is OnInterruption.FAIL:
            self._fail(ErrorReason.INTERRUPTED, change.broke(live.model, failure.detail))
            return
        self._cut = failure if live.delivered else self._cut
        self._retract(live, failure)
        if TABLE[failure.cls].terminal:
            self._fail(ErrorReason.REQUEST_REJECTED, change.broke(live.model, failure.detail))
        else:
            self._go_on()

    def _retract(self, live: Live, failure: Failure) -> None:
        if live.delivered:
            retracted = facts.Retracted(live.number, failure.cls, failure.detail)
            self._out.append(commands.Announce(retracted))

    def _book(
        self, live: Live, booking: Booking, status: AttemptStatus, failure: Failure | None = None
    ) -> None:
        """Settle an attempt; its list value counts for the task's spend limit (R15)."""
        self._out.append(self._diary.book(live, booking, status, self._now, failure))
        if live.model.is_paid:
            self._seen.spent_nanos += booking.nanos

    def _on_time(self, standing: Standing) -> None:
        if self._now >= self._request.deadline_ms and self._state not in (_ENDED, _SETTLING):
            self._give_up(ErrorReason.DEADLINE_REACHED, "the deadline came before an answer")
        elif self._state is _PAUSED and self._now >= self._resume_ms:
            self._advance(standing)
        else:
            self._conclude(self._calling.overdue(self._now, self._out))
            if self._calling.routed and self._state is _CALLING:
                self._fail(ErrorReason.DEADLINE_REACHED, "the lease ended without a report")

    def _on_reports_ended(self) -> None:
        """The caller will not report: a good ending, with the attempt booked at its reserve."""
        over = self._calling.drop(self._now, self._out)
        if over is not None:
            self._conclude(over)
            self._final, self._state = over.live, _SETTLING
        else:
            self._give_up(ErrorReason.CANCELLED, "the caller ended its reports")

    def _give_up(self, reason: ErrorReason, detail: str) -> None:
        """End from outside; an answer that is whole is kept for its request id (R27)."""
        if self._state not in (_ENDED, _SETTLING):
            self._conclude(self._calling.drop(self._now, self._out))
            self._fail(reason, detail)

    def _on_settled(self, attempt: int, standing: Standing) -> None:
        self._diary.unsettled.discard(attempt)
        final = self._final
        if self._state is _SETTLING and final is not None and final.number == attempt:
            self._state = _ENDED
            outcome = ending.finished(self._diary, final, standing, self._now)
            self._out.append(self._diary.end(outcome))

    def _on_settle_failed(self, attempt: int, detail: str) -> None:
        self._diary.unsettled.discard(attempt)
        if self._state is _SETTLING:
            self._fail(ErrorReason.LEDGER_UNAVAILABLE, f"the cost is not booked yet: {detail}")

    def _no_way(self, untriggered: str) -> None:
        self._end_without(ending.no_way(self._diary, untriggered, self._cut, self._now))

    def _fail(self, reason: ErrorReason, detail: str) -> None:
        self._end_without(NoWay(reason, detail))

    def _end_without(self, why: NoWay) -> None:
        if self._state is not _ENDED:
            self._state = _ENDED
            self._out.append(self._diary.end(ending.failed(self._diary, why, self._now)))
