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
| RESERVING | ReservationDenied            | advance                                         |
| RESERVING | StoreFailed                  | ENDED                                           |
| CALLING   | ChunkArrived                 | CALLING; SETTLING on finish with usage          |
| CALLING   | StreamEnded                  | SETTLING with a finish reason, else as failed   |
| CALLING   | AttemptFailed, time limit    | advance, or ENDED (terminal, cut under FAIL)    |
| PAUSED    | TimePassed                   | advance                                         |
| SETTLING  | Settled / SettleFailed       | ENDED                                           |
| any       | CallerLeft, deadline         | ENDED; open reservations are still settled      |
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import assert_never

from escalade_server.core import change, commands, ending, events, facts, policy, settlement, walk
from escalade_server.core.assess import first_look
from escalade_server.core.attempt import Live
from escalade_server.core.catalog import Catalog, OnTargetExhausted
from escalade_server.core.diary import Diary
from escalade_server.core.ending import NoWay
from escalade_server.core.experience import Experience
from escalade_server.core.facts import ErrorReason
from escalade_server.core.failure import TABLE, Charge, Failure, FailureClass
from escalade_server.core.settlement import Booking
from escalade_server.core.standing import Standing, Verdict, VerdictClass
from escalade_server.core.task import Delivery, FinishReason, OnInterruption, Request
from escalade_server.core.trace import AttemptStatus

DRAIN_MS = 60_000
"""How long a cancelled call that bills to its end is read on, for its real usage (R25)."""
QUALITY_ESCALATIONS_MAX = 2
"""Failed gates that a task may escalate on (R21)."""
_CUT_SHORT = Failure(FailureClass.PROTOCOL, "broke off without a finish reason")
_AN_ANSWER = {
    FailureClass.CONTENT: FinishReason.CONTENT_FILTER,
    FailureClass.REFUSAL: FinishReason.REFUSAL,
}
"""Failures that are answers: never laundered through another vendor (DESIGN 6, guarantee 6)."""


class _State(Enum):
    NEW = auto()
    RESERVING = auto()
    CALLING = auto()
    PAUSED = auto()
    SETTLING = auto()
    ENDED = auto()


class Cascade:
    """The whole interface is ``handle`` and ``wake_at_ms``; ``closed`` says that all is booked."""

    def __init__(self, catalog: Catalog, request: Request, task_id: str) -> None:
        """Begin a task; ``task_id`` makes its reservation ids unique."""
        self._request, self._task_id = request, task_id
        self._catalog, self._rules = catalog, catalog.rules
        self._look = look = first_look(request, catalog)
        may_downgrade = request.constraints.may_downgrade
        if may_downgrade is None:
            may_downgrade = self._rules.on_target_exhausted is OnTargetExhausted.DOWNGRADE
        self._seen = Experience()
        self._walk = walk.Walk(
            catalog, look.need, look.units, look.origin, may_downgrade, self._seen
        )
        self._diary = Diary(look.assessment, [catalog.layers[0].name])
        self._state = _State.NEW
        self._out: list[commands.Command] = []
        self._now = 0
        self._serial = 0
        self._choice: walk.Choice | None = None
        """What is being reserved, until the store has answered."""
        self._live: Live | None = None
        self._final: Live | None = None
        self._draining: Live | None = None
        self._resume_ms = 0
        self._waiting_told: set[VerdictClass] = set()
        self._cut: Failure | None = None
        self._rejections = 0

    @property
    def closed(self) -> bool:
        """True when the task has ended and nothing of it is left to settle."""
        still_open = self._diary.unsettled or self._draining or self._choice
        return self._state is _State.ENDED and not still_open

    @property
    def wake_at_ms(self) -> int | None:
        """When ``TimePassed`` is wanted at the latest; None for never."""
        if self._state is _State.ENDED:
            return self._draining.drain_until_ms if self._draining else None
        if self._state is _State.PAUSED:
            return min(self._request.deadline_ms, self._resume_ms)
        if self._live is not None:
            return min(self._request.deadline_ms, self._live.patience_ms(self._rules))
        return None if self._state is _State.SETTLING else self._request.deadline_ms

    def handle(self, event: events.Event, *, now_ms: int) -> tuple[commands.Command, ...]:
        """Take one event and answer what is to be done. Late news is ignored."""
        self._now, self._out = now_ms, []
        match event:
            case events.ChunkArrived():
                self._on_chunk(event)
            case events.StreamEnded(attempt):
                self._on_failure(attempt, _CUT_SHORT)
            case events.Started(standing):
                self._on_start(standing)
            case events.Reserved():
                self._on_reserved(event)
            case events.ReservationDenied():
                self._on_denied(event)
            case events.StoreFailed(detail=detail):
                self._choice = None
                self._fail(ErrorReason.LEDGER_UNAVAILABLE, f"the ledger took no entry: {detail}")
            case events.AttemptFailed(attempt, failure):
                self._on_failure(attempt, failure)
            case events.Settled(attempt, standing):
                self._on_settled(attempt, standing)
            case events.SettleFailed(attempt, detail):
                self._on_settle_failed(attempt, detail)
            case events.CallerLeft():
                self._give_up(ErrorReason.CANCELLED, "the caller left")
            case events.TimePassed(standing):
                self._on_time(standing)
            case _:
                assert_never(event)
        return tuple(self._out)

    # --- which model next ----------------------------------------------------------------------

    def _on_start(self, standing: Standing) -> None:
        self._diary.started_ms = self._now
        self._out.append(commands.Announce(facts.Assessed(self._look.assessment)))
        if self._now >= self._request.deadline_ms:
            self._fail(ErrorReason.DEADLINE_REACHED, "the deadline had passed at the start")
        else:
            self._advance(standing)

    def _advance(self, standing: Standing, denied: Mapping[int, Verdict] | None = None) -> None:
        """Ask the walk where to go, and go: reserve, pause or end."""
        tried = len(self._diary.attempts)
        if tried >= self._rules.attempts_max:
            self._no_way("")
            return
        step = self._walk.step(standing, self._now, denied)
        match step:
            case walk.Choice():
                self._choice, self._state = step, _State.RESERVING
                self._serial += 1
                reservation_id = f"{self._task_id}.{self._serial}"
                self._out.append(commands.Reserve(reservation_id, tried + 1, step.candidates))
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
        self._state, self._resume_ms = _State.PAUSED, pause.until_ms
        if pause.reason not in self._waiting_told:
            self._waiting_told.add(pause.reason)
            self._out.append(commands.Announce(facts.Waiting(pause.reason, pause.earliest_ms, pause.rule)))

    def _go_on(self) -> None:
        """Look for the next model as soon as the engine hands in a fresh standing."""
        self._state, self._resume_ms = _State.PAUSED, self._now

    def _on_denied(self, event: events.ReservationDenied) -> None:
        choice, self._choice = self._choice, None
        if choice is not None and self._state is _State.RESERVING:
            refused = policy.refused(choice.candidates, event.denials)
            self._advance(event.standing, refused)

    def _on_reserved(self, event: events.Reserved) -> None:
        choice, self._choice = self._choice, None
        if choice is None:
            return
        candidate = next(c for c in choice.candidates if c.model.position == event.position)
        live = Live.begin(
            event.attempt, candidate, f"{self._task_id}.{self._serial}", self._now, self._request,
            self._rules, others=choice.others_remain,
        )  # fmt: skip
        if self._state is not _State.RESERVING:  # the caller left meanwhile: nothing was sent
            self._book(live, settlement.NOT_SENT, AttemptStatus.NOT_SENT)
            return
        refused = policy.refused(choice.candidates, event.denials)
        late = (walk.skip(c.model, refused[c.model.position])
                for c in choice.candidates if c.model.position in refused)  # fmt: skip
        skips = (*choice.skips, *late)
        self._diary.skip(skips)
        for fact in change.facts(self._diary, self._look, choice.layer, candidate.model, skips):
            self._out.append(commands.Announce(fact))
        selected = facts.Selected(
            live.number, live.model, live.reservation_id, live.total_by_ms,
            self._look.need.input_bound, candidate.output_tokens_max, skips,
        )  # fmt: skip
        self._out += (commands.Announce(selected), commands.CallModel(live.number, candidate))
        self._live, self._state = live, _State.CALLING

    # --- the attempt in flight -----------------------------------------------------------------

    def _on_chunk(self, chunk: events.ChunkArrived) -> None:
        live = self._live
        if live is None or live.number != chunk.attempt:
            if self._draining is not None and self._draining.number == chunk.attempt:
                self._draining.take(chunk, self._now)
            return
        deltas = live.take(chunk, self._now)
        if deltas and self._request.delivery is Delivery.STREAM:
            live.delivered = True
            self._out.append(commands.Deliver(live.number, deltas))
        if live.finish is not None and live.usage is not None:
            self._complete(live)

    def _on_failure(self, attempt: int, failure: Failure) -> None:
        """Any end of the stream: with its finish reason the answer is whole (guarantee 6)."""
        live = self._live
        if live is not None and live.number == attempt:
            if live.finish is None:
                self._broken(live, failure)
            else:
                self._complete(live)
        elif self._draining is not None and self._draining.number == attempt:
            self._drained(self._draining)

    def _complete(self, live: Live) -> None:
        """The provider finished: book it, and accept the answer unless it is empty."""
        booking = settlement.answered(live, self._look.need)
        self._out.append(commands.ReportHealth(live.model.provider, ok=True))
        self._live = None
        if live.is_empty:
            self._reject(live, booking)
            return
        self._book(live, booking, AttemptStatus.OK)
        self._final, self._state = live, _State.SETTLING

    def _reject(self, live: Live, booking: Booking) -> None:
        """An answer that fails its gate is charged, and its whole layer is out (R21)."""
        failure = Failure(FailureClass.PROTOCOL, "gave an empty answer")
        self._retract(live, failure)
        self._book(live, booking, AttemptStatus.REJECTED, failure)
        self._seen.reject(live.model.layer_index)
        self._rejections += 1
        if self._rejections > QUALITY_ESCALATIONS_MAX:
            self._fail(ErrorReason.QUALITY_NOT_MET, "every answer was empty")
        else:
            self._go_on()

    def _broken(self, live: Live, failure: Failure) -> None:
        """An attempt broke: book it, set aside what must be, then go on or end."""
        self._live = None
        answer = None if live.delivered else _AN_ANSWER.get(failure.cls)
        if answer is not None:
            live.finish = events.Finish(answer, failure.code)
            self._book(live, settlement.broken(live, self._look.need, Charge.USAGE, sent=True),
                       AttemptStatus.OK)  # fmt: skip
            self._final, self._state = live, _State.SETTLING
            return
        row = TABLE[failure.cls]
        booking = settlement.broken(live, self._look.need, row.charge, sent=failure.sent)
        status = AttemptStatus.RETRACTED if live.delivered else AttemptStatus.FAILED
        self._book(live, booking, status, failure)
        self._out += self._seen.learn(
            live, failure, self._rules, self._look.need.input_estimate, self._now
        )
        if live.delivered:
            self._cut = failure
            if self._request.on_interruption is OnInterruption.FAIL:
                self._fail(ErrorReason.INTERRUPTED, f"{live.model.id} {failure.detail}")
                return
            self._retract(live, failure)
        if row.terminal:
            self._fail(ErrorReason.REQUEST_REJECTED, f"{live.model.id}: {failure.detail}")
        else:
            self._go_on()

    def _retract(self, live: Live, failure: Failure) -> None:
        if live.delivered:
            self._out.append(commands.Announce(facts.Retracted(live.number, failure.cls, failure.detail)))

    # --- time, settlement and the ending -------------------------------------------------------

    def _on_time(self, standing: Standing) -> None:
        draining = self._draining
        if draining is not None and self._now >= draining.drain_until_ms:
            self._out.append(commands.CancelCall(draining.number))
            self._drained(draining)
        if self._state in (_State.ENDED, _State.SETTLING):
            return
        if self._now >= self._request.deadline_ms:
            self._give_up(ErrorReason.DEADLINE_REACHED, "the deadline came before an answer")
        elif self._state is _State.PAUSED and self._now >= self._resume_ms:
            self._advance(standing)
        elif self._live is not None:
            live, failure = self._live, self._live.overdue(self._rules, self._now)
            if failure is not None:
                self._out.append(commands.CancelCall(live.number))
                self._broken(live, failure)
            elif live.finish is not None and self._now >= live.patience_ms(self._rules):
                self._complete(live)

    def _give_up(self, reason: ErrorReason, detail: str) -> None:
        """End from outside: the call is cancelled, or read on where it bills anyway (R25)."""
        if self._state is _State.ENDED:
            return
        live, self._live = self._live, None
        if live is not None:
            failure = Failure(FailureClass.CANCELLED, detail)
            if live.model.bills_after_cancel:
                live.drain_until_ms = self._now + DRAIN_MS
                self._draining = live
                self._out.append(commands.CancelCall(live.number, drain=True))
            else:
                self._out.append(commands.CancelCall(live.number))
                booking = settlement.broken(live, self._look.need, Charge.UNCERTAIN, sent=True)
                self._book(live, booking, AttemptStatus.CANCELLED, failure)
        self._fail(reason, detail)

    def _drained(self, live: Live) -> None:
        """A call that was read on after its caller left has ended: now its usage is known."""
        self._draining = None
        known = live.finish is not None or live.usage is not None
        booking = settlement.answered(live, self._look.need) if known else settlement.unread(live)
        self._book(live, booking, AttemptStatus.CANCELLED)

    def _book(
        self, live: Live, booking: Booking, status: AttemptStatus, failure: Failure | None = None
    ) -> None:
        """Settle an attempt; its list value counts for the task's spend limit (R15)."""
        self._out.append(self._diary.book(live, booking, status, self._now, failure))
        if live.model.is_paid:
            self._seen.spent_nanos += booking.nanos

    def _on_settled(self, attempt: int, standing: Standing) -> None:
        self._diary.unsettled.discard(attempt)
        final = self._final
        if self._state is _State.SETTLING and final is not None and final.number == attempt:
            self._state = _State.ENDED
            self._out.append(commands.End(ending.finished(
                self._request, self._catalog, self._diary, final, standing, self._now
            )))  # fmt: skip

    def _on_settle_failed(self, attempt: int, detail: str) -> None:
        self._diary.unsettled.discard(attempt)
        if self._state is _State.SETTLING:
            self._fail(ErrorReason.LEDGER_UNAVAILABLE, f"the cost is not booked yet: {detail}")

    def _no_way(self, untriggered: str) -> None:
        """The walk found nothing: after a cut that is the cut's error (R23)."""
        why = ending.no_way(self._diary, untriggered, self._now)
        if self._cut is not None:
            detail = f"{self._cut.detail}, and no other model could start over: {why.detail}"
            why = NoWay(ErrorReason.INTERRUPTED, detail, why.retry_at_ms, why.metadata)
        self._end_without(why)

    def _fail(self, reason: ErrorReason, detail: str) -> None:
        self._end_without(NoWay(reason, detail))

    def _end_without(self, why: NoWay) -> None:
        if self._state is not _State.ENDED:
            self._state = _State.ENDED
            self._out.append(commands.End(ending.failed(
                self._request, self._catalog, self._diary, why, self._now
            )))  # fmt: skip
