"""Waiting for capacity: whether a task may, until when, and what it is told meanwhile (R22).

Rules of the file:
1. Two budgets: the clock of the work stands still during a wait, and waits have one of their own.
   The caller's own deadline bounds their sum (P9).
2. What cannot be had in time is not waited for: the task ends at once, with the instant.
3. Nobody waits for a better answer (R21), after a cut (R23), or when all attempts are used up.
"""

from dataclasses import dataclass, field, replace

from escalade_server.core.commands import Announce, Command, Queue
from escalade_server.core.diary import Diary
from escalade_server.core.ending import NoWay
from escalade_server.core.events import TurnedAway
from escalade_server.core.facts import ErrorReason, Waiting
from escalade_server.core.rules import OnAllExhausted, OnTargetExhausted, Rules
from escalade_server.core.standing import VerdictClass
from escalade_server.core.survey import effective
from escalade_server.core.task import Request
from escalade_server.core.trace import Skip
from escalade_server.core.walk import Pause, Walk, begin

TELL_MS = 15_000
"""How often a task that waits is told that it does (quotas C11)."""
HELD_MS = 250
"""When a task that waits, and finds all room held by running calls, looks again at the latest."""
_HELD = VerdictClass.HELD
REOPENS = frozenset(
    {ErrorReason.RATE_LIMITED, ErrorReason.BUDGET_EXHAUSTED, ErrorReason.ALL_MODELS_FAILED}
)
"""Dead ends that open by themselves, if an instant is known."""


def allowed(rules: Rules, request: Request, walk: Walk) -> bool:
    """Tell whether a task that found no way may wait: strategy and request must both allow it.

    One that began above the first layer, and may not go down, follows ``on_target_exhausted``.
    """
    if request.constraints.may_wait is False:
        return False
    target = rules.on_target_exhausted
    if walk.base and not walk.may_downgrade and target is not OnTargetExhausted.DOWNGRADE:
        return target is OnTargetExhausted.WAIT
    return rules.on_all_exhausted is not OnAllExhausted.FAIL


@dataclass(slots=True)
class Waits:
    """What one task has waited, and the wait that goes on."""

    diary: Diary
    rules: Rules
    request: Request
    """With the deadline of its work as it is by now."""
    told: set[VerdictClass] = field(default_factory=set)
    """Causes of pauses that the caller was told of."""
    queued_for: set[VerdictClass] = field(default_factory=set)
    """Causes of waits that the caller was told of."""
    budget_ms: int = 0
    """What is left of the time for waits."""
    ends_ms: int = 0
    """When the wait that goes on ends at the latest."""
    tell_at_ms: int = 0
    _fact: Waiting | None = None
    _why: NoWay | None = None
    _began_ms: int = 0
    _work_ms: int = 0
    """What was left of the time for work when the wait began."""

    def __post_init__(self) -> None:
        """Set the budget: the strategy's, unless the request allows less."""
        most, asked = self.rules.max_wait_ms, self.request.constraints.max_wait_ms
        self.budget_ms = most if asked is None else min(most, asked)

    @property
    def wake_at_ms(self) -> int:
        """When there is something to tell, or the wait is over."""
        return min(self.tell_at_ms, self.ends_ms)

    def pause(self, pause: Pause, now_ms: int, out: list[Command]) -> None:
        """Say why the task pauses on its way; once for each cause."""
        if pause.reason not in self.told:
            self.told.add(pause.reason)
            before = tuple(self.diary.attempts)
            told = Waiting(pause.reason, pause.earliest_ms, pause.rule, before=before)
            out.append(Announce(told))
        self.diary.wait(now_ms)

    def begin(self, why: NoWay, walk: Walk, now_ms: int, out: list[Command]) -> bool:
        """Begin to wait, or go on with it after a turn; False: the task ends now, for this reason.

        A wait before a break of the stream, which the request remembers, is part of the budget.
        """
        request, first, earliest_ms = self.request, why.first, why.retry_at_ms
        if earliest_ms is None and (self._why is not None or request.waiting_since_ms):
            first = next((s for s in self.diary.skips.values() if s.verdict.cls is _HELD), None)
            earliest_ms = now_ms + HELD_MS
        if first is None or earliest_ms is None or why.reason not in REOPENS:
            return False
        spent = len(self.diary.attempts) >= self.rules.attempts_max or walk.seen.rejected_layers
        work_ms = request.deadline_ms - now_ms
        if spent or work_ms <= 0 or not allowed(self.rules, request, walk):
            return False
        if request.waiting_since_ms and self._why is None:
            self.budget_ms -= now_ms - request.waiting_since_ms
        ends_ms = min(now_ms + self.budget_ms, request.ends_ms or request.deadline_ms)
        if earliest_ms >= ends_ms:
            return False
        out.append(Queue(self._waiting(first, earliest_ms, why, now_ms)))
        self._began_ms, self._work_ms, self.ends_ms = now_ms, work_ms, ends_ms
        self.diary.wait(now_ms)
        return True

    def _waiting(self, first: Skip, earliest_ms: int, why: NoWay, now_ms: int) -> Waiting:
        cls, before = effective(first.verdict), self._fact
        known = before is not None and (before.reason, before.earliest_ms) == (cls, earliest_ms)
        known = known or (before is not None and cls is _HELD)  # a moment is nothing to tell of
        if not known:
            self.tell_at_ms = now_ms + TELL_MS
        notify = self.rules.on_all_exhausted is OnAllExhausted.NOTIFY_AND_WAIT
        notify = notify and cls not in self.queued_for
        self.queued_for.add(cls)
        self._why = why
        self._fact = Waiting(
            cls, earliest_ms, why.rule, why.detail, notify=notify, repeated=known,
            before=tuple(self.diary.attempts),
        )  # fmt: skip
        return self._fact

    def anew(self, walk: Walk, now_ms: int) -> tuple[Request, Walk]:
        """Look again, from the start of the way: what failed in this task may be tried again.

        Answers the request with the new deadline of its work.
        """
        self.budget_ms -= now_ms - self._began_ms
        request, seen = self.request, walk.seen
        ends_ms = request.ends_ms or request.deadline_ms
        self.request = replace(request, deadline_ms=min(now_ms + self._work_ms, ends_ms))
        self.diary.skips.clear()
        seen.forget()
        anew = begin(walk.catalog, self.request, self.diary.look, seen)
        anew.hold_until_ms = now_ms  # as of one that comes back
        return self.request, anew

    def look(self, now_ms: int, out: list[Command]) -> NoWay | None:
        """Tell of the wait again when it is time to; answer why it is given up."""
        assert self._why is not None, "it waits"
        if now_ms >= self.ends_ms:
            waited = f"waited {(now_ms - self.diary.started_ms) / 1000:.0f} s"
            detail = f"{waited}, as long as it may; {self._why.detail}"
            return NoWay(self._why.reason, detail, self._still(now_ms), self._why.metadata)
        if now_ms >= self.tell_at_ms:
            self.tell_at_ms = now_ms + TELL_MS
            out.append(self._again(now_ms))
        return None

    def turned_away(self, event: TurnedAway, now_ms: int, out: list[Command]) -> NoWay:
        """End a wait for which there is no room, or no server any more."""
        assert self._why is not None, "it waits"
        if event.reason is ErrorReason.DRAINING:  # the next server is asked at once
            out.append(self._again(now_ms))
            return NoWay(event.reason, event.detail)
        detail = f"{event.detail}, and {self._why.detail}"
        return NoWay(event.reason, detail, self._still(now_ms), self._why.metadata)

    def _again(self, now_ms: int) -> Announce:
        assert self._fact is not None, "it waits"
        earliest_ms = max(self._fact.earliest_ms, now_ms)  # due, and others go first
        return Announce(replace(self._fact, earliest_ms=earliest_ms, notify=False, repeated=True))

    def _still(self, now_ms: int) -> int | None:
        """Answer the earliest instant, if it lies ahead."""
        earliest_ms = self._why.retry_at_ms if self._why is not None else None
        return earliest_ms if earliest_ms is not None and earliest_ms > now_ms else None
