"""One task's state machine. Events and a time go in, commands come out; nothing else happens.

Rules of the file:
1. Every change of ``_state`` lives here. No other module knows the states.
2. At most one attempt is in flight; news of any other attempt only settles it.
3. Every reservation that was granted is settled exactly once, whatever happens to the task; if
   its answer stands in later, a second settlement says so and books nothing (R21).
4. A task has one ending (``End``), and nothing is announced or delivered after it. A good ending
   waits until the settlement is durable (DESIGN 6, guarantee 4).
5. Text of two attempts is never spliced: what a broken attempt delivered is retracted first.

| state     | event                        | next                                            |
|-----------|------------------------------|-------------------------------------------------|
| NEW       | Started                      | advance                                         |
| (advance) | walk: Choice / Pause / end   | RESERVING / PAUSED / WAITING or ENDED           |
| (advance) | dead end, a rejected answer  | SETTLING, if it may stand in                    |
| RESERVING | Reserved                     | CALLING                                         |
| RESERVING | ReservationDenied, Repeated  | advance; ENDED, as its request id was before    |
| RESERVING | StoreFailed                  | ENDED; released, in case it was held            |
| CALLING   | ChunkArrived                 | CALLING; SETTLING on finish with usage          |
| CALLING   | StreamEnded                  | SETTLING with a finish reason, else as failed   |
| CALLING   | AttemptFailed, time limit    | advance, or ENDED (terminal, cut under FAIL)    |
| CALLING   | OutcomeReported              | as StreamEnded or AttemptFailed                 |
| CALLING   | LeaseExtended / ReportsEnded | CALLING / SETTLING                              |
| PAUSED    | TimePassed                   | advance                                         |
| WAITING   | TurnCame / TimePassed        | advance anew from the start / told again        |
| WAITING   | TurnedAway, no time is left  | ENDED                                           |
| SETTLING  | Settled / SettleFailed       | ENDED                                           |
| any       | CallerLeft, deadline         | ENDED, but from SETTLING; all is still settled  |
"""

from enum import Enum
from functools import cached_property
from typing import assert_never

from escalade_server.core import change, commands, ending, events, facts, policy, settlement, walk
from escalade_server.core.aftermath import Aftermath
from escalade_server.core.assess import first_look
from escalade_server.core.attempt import Ending, Live, Over
from escalade_server.core.calling import Calling
from escalade_server.core.catalog import Catalog
from escalade_server.core.diary import Diary
from escalade_server.core.ending import NoWay
from escalade_server.core.experience import Experience
from escalade_server.core.facts import ErrorReason
from escalade_server.core.gating import Checker, gating_of
from escalade_server.core.standing import Standing
from escalade_server.core.task import Request
from escalade_server.core.trace import AttemptStatus, Skip
from escalade_server.core.waits import Waits

_State = Enum("_State", "NEW RESERVING CALLING PAUSED WAITING SETTLING ENDED")
_NEW, _RESERVING, _CALLING, _PAUSED, _WAITING, _SETTLING, _ENDED = _State  # faster than the enums
_WHOLE, _REJECTED, _BROKEN = Ending.WHOLE, Ending.REJECTED, Ending.BROKEN


class Cascade:
    """The whole interface is ``handle`` and ``wake_at_ms``; ``closed`` says that all is booked."""

    def __init__(self, catalog: Catalog, request: Request, task_id: str, checker: Checker) -> None:
        """Begin a task; ``task_id`` makes its reservation ids unique, ``checker`` asks gates."""
        self._request, self._rules = request, catalog.rules
        look = first_look(request, catalog)
        self._seen = Experience()
        self._walk = walk.begin(catalog, request, look, self._seen)
        self._diary = Diary(request, catalog, look, [catalog.layers[0].name])
        kind, most = look.assessment.type, look.need.output_bound
        gating = gating_of(request, self._rules.quality, kind, most, checker)
        self._calling = Calling(request, self._rules, task_type=kind, gating=gating)
        self._state: _State = _NEW
        self._out: list[commands.Command] = []
        self._now = self._resume_ms = self._serial = 0
        self._task_id, self._reservation_id = task_id, ""
        self._choice: walk.Choice | None = None  # what is being reserved
        self._final: Live | None = None
        self._aftermath = Aftermath(self._diary, self._calling, self._seen)

    @cached_property
    def _waits(self) -> Waits:  # few tasks wait
        return Waits(self._diary, self._rules, self._request)

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
        if state is _WAITING:
            return self._waits.wake_at_ms
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
            case events.TurnCame() | events.TurnedAway():
                self._on_turn(event)
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
        self._waits.pause(pause, self._now, self._out)

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
            status = AttemptStatus.NOT_SENT
            self._aftermath.book(live, settlement.NOT_SENT, status, self._now, self._out)
            return
        skips = self._walk.granted(choice, event.denials)
        self._diary.skip(skips)
        told = change.facts(self._diary, choice.layer, live, skips)
        self._out += [commands.Announce(fact) for fact in told]
        if not self._calling.routed:
            self._out.append(commands.CallModel(live.number, candidate, self._task_id))
        self._calling.live, self._state = live, _CALLING

    def _conclude(self, over: Over | None) -> None:
        """An attempt is over: book it, then accept it, go on, or end."""
        if over is None:
            return
        why = self._aftermath.of(over, self._now, self._out)
        if why is not None:
            self._no_more(why)
        elif over.ending is _WHOLE:
            self._final, self._state = over.live, _SETTLING
        elif over.ending is _REJECTED or over.ending is _BROKEN:
            self._go_on()

    def _on_turn(self, event: events.TurnCame | events.TurnedAway) -> None:
        """Look anew after a wait, from the start of the way; or wait no more (R22)."""
        if self._state is not _WAITING:
            return
        if isinstance(event, events.TurnedAway):
            self._end_without(self._waits.turned_away(event, self._now, self._out))
            return
        self._request, self._walk = self._waits.anew(self._walk, self._now)
        self._calling.request = self._request
        self._advance(event.standing)

    def _on_time(self, standing: Standing) -> None:
        if self._state is _WAITING:
            why = self._waits.look(self._now, self._out)
            if why is not None:
                self._end_without(why)
        elif self._now >= self._request.deadline_ms and self._state not in (_ENDED, _SETTLING):
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
        durable, final = self._diary.settled(attempt), self._final
        if not durable or final is None or final.number != attempt:
            return
        if self._state is _SETTLING:
            self._state = _ENDED
            if self._diary.stand_in is not None:
                told = change.stands_in(self._diary, final)
                self._out += [commands.Announce(fact) for fact in told]
                self._out += self._calling.delivery_of(final)
            outcome = ending.finished(self._diary, final, standing, self._now)
            self._out.append(self._diary.end(outcome))

    def _on_settle_failed(self, attempt: int, detail: str) -> None:
        self._diary.settled(attempt)
        if self._state is _SETTLING:
            self._fail(ErrorReason.LEDGER_UNAVAILABLE, f"the cost is not booked yet: {detail}")

    def _no_way(self, untriggered: str) -> None:
        """Wait for what reopens, if that may be and can help; else end (R22)."""
        why = ending.no_way(self._diary, untriggered, self._aftermath.cut, self._now)
        if self._waits.begin(why, self._walk, self._now, self._out):
            self._state = _WAITING
        else:
            self._no_more(why)

    def _no_more(self, why: NoWay) -> None:
        """End; by the last rejected answer, if it may stand in, once that is on record (R21)."""
        if self._state is _ENDED:
            return
        live = self._aftermath.stand_in(why, self._now, self._out)
        if live is None:
            self._end_without(why)
        else:
            self._final, self._state = live, _SETTLING

    def _fail(self, reason: ErrorReason, detail: str) -> None:
        self._end_without(NoWay(reason, detail))

    def _end_without(self, why: NoWay) -> None:
        if self._state is not _ENDED:
            self._state = _ENDED
            self._out.append(self._diary.end(ending.failed(self._diary, why, self._now)))
