"""The calls of one task in flight: the live attempt, and one that is read on after its caller left.

Turns news of calls and the passing of time into deltas to deliver and at most one ``Over``.
"""

from dataclasses import dataclass

from escalade_server.core.answer import Fold, is_kept
from escalade_server.core.attempt import Ending, Live, Over
from escalade_server.core.commands import CancelCall, Candidate, Command, Deliver, Reserve
from escalade_server.core.events import (
    AttemptFailed,
    ChunkArrived,
    Finish,
    OutcomeReported,
    StreamEnded,
)
from escalade_server.core.failure import ANSWERS, Failure, FailureClass
from escalade_server.core.gates import Gate, OnUnmet
from escalade_server.core.gating import Gating
from escalade_server.core.rules import Rules
from escalade_server.core.task import Delivery, Request

DRAIN_MS = 60_000
"""How long a cancelled call that bills to its end is read on, for its real usage (R25)."""
LEASE_MS = 600_000
"""How long a caller that calls a model itself may take to report, unless it says Progress (R32)."""
_STREAM, _WHOLE, _ROUTE = Delivery.STREAM, Delivery.WHOLE, Delivery.ROUTE  # faster than the enum
_EMPTY = Failure(FailureClass.PROTOCOL, "gave an empty answer", code=Gate.EMPTY.value)
_CUT_SHORT = Failure(FailureClass.PROTOCOL, "broke off without a finish reason")


@dataclass(slots=True)
class Calling:
    """At most one live attempt; news of any other is ignored."""

    request: Request
    rules: Rules
    live: Live | None = None
    draining: Live | None = None
    task_type: str = ""
    gating: Gating | None = None
    unmet: Live | None = None
    """The last answer that failed a gate, to stand in where no better one can be had (R21)."""

    @property
    def routed(self) -> bool:
        """The caller calls the models itself: nothing is cancelled or read here."""
        return self.request.delivery is _ROUTE

    @property
    def wake_at_ms(self) -> int | None:
        """When a silent provider, or a drain, has had its time."""
        if self.live is not None:
            return self.live.patience_ms(self.rules)
        return self.draining.drain_until_ms if self.draining else None

    @property
    def rejections_max(self) -> int:
        """Failed gates that the task may escalate on: a caller may lower the strategy's number."""
        asked, most = self.request.quality, self.rules.quality.escalations_max
        if asked is None or asked.escalations_max is None:
            return most
        return min(asked.escalations_max, most)

    def prepare(
        self, number: int, candidate: Candidate, reservation_id: str, now_ms: int, *, others: bool
    ) -> Live:
        """Make an attempt with its limits of time.

        Its first token may take min(30 s, half of what is left) while ``others`` could still be
        tried, and all that is left for the last one (R24).
        """
        left = self.request.deadline_ms - now_ms
        pace, rules = candidate.model.pace, self.rules
        most = rules.attempt_total_ms if pace.total_ms is None else pace.total_ms
        total = min(left, most)
        first = rules.first_token_ms if pace.first_token_ms is None else pace.first_token_ms
        first = min(first, left // 2) if others else left
        if self.routed:
            first = total = min(left, LEASE_MS)
        demands = None if self.gating is None else self.gating.demands_on(candidate)
        is_whole = self.request.delivery is _WHOLE or demands is not None
        fold = Fold(keep=is_whole or is_kept(self.request, self.rules))
        at = now_ms
        live = Live(number, candidate, reservation_id, at, at + first, at + total, fold)
        live.demands = demands
        return live

    def hear(
        self, news: ChunkArrived | StreamEnded | AttemptFailed, now_ms: int, out: list[Command]
    ) -> Over | None:
        """Take news of a call; ``out`` gets what is to be delivered."""
        live = self.live
        if live is None or live.number != news.attempt:
            return self._hear_drained(news, now_ms)
        if isinstance(news, ChunkArrived):
            deltas = live.take(news, now_ms)
            if deltas and self.request.delivery is _STREAM:
                live.delivered = True
                out.append(Deliver(live.number, deltas))
            if live.finish is None or news.usage is None:
                return None  # usage told before the finish may not be the last (U26)
        failure = news.failure if isinstance(news, AttemptFailed) else _CUT_SHORT
        return self._end(live, failure, out)

    def _end(self, live: Live, failure: Failure | None, out: list[Command]) -> Over:
        """With its finish reason an answer is whole, however the stream ended (guarantee 6)."""
        self.live = None
        if live.is_empty:
            return Over(live, Ending.REJECTED, _EMPTY)
        if live.finish is not None or failure is None:
            failure = None
        elif failure.cls in ANSWERS and not live.delivered:
            live.finish = Finish(ANSWERS[failure.cls], failure.code)
        else:
            return Over(live, Ending.BROKEN, failure)
        if live.demands is not None:
            rejected = self._rejection(live, failure)
            if rejected is not None:
                return Over(live, Ending.REJECTED, rejected)
            out += self.delivery_of(live)
        return Over(live, Ending.WHOLE, failure)

    def _rejection(self, live: Live, failure: Failure | None) -> Failure | None:
        """Ask the gates; ``failure`` is that of a filter, whose answer is charged as told (C5)."""
        gating = self.gating
        if gating is None or live.demands is None:
            return None
        failed = gating.checker.check(self.request, live.answer, live.demands)
        if failed is None:
            return None
        if gating.on_unmet is OnUnmet.DELIVER:
            self.unmet = live
        cls = failure.cls if failure else FailureClass.PROTOCOL
        return Failure(cls, failed.detail, code=failed.gate.value)

    def delivery_of(self, live: Live) -> tuple[Deliver, ...]:
        """Order what was held back of an attempt to be delivered, if its caller takes deltas."""
        held = live.held()
        if not held or self.request.delivery is not _STREAM:
            return ()
        live.delivered = True
        return (Deliver(live.number, held),)

    def report(self, outcome: OutcomeReported, now_ms: int) -> Over | None:
        """Take the caller's word on the attempt that it called itself (R32)."""
        live = self.live
        if live is None or live.number != outcome.attempt:
            return None
        self.live = None
        return reported(live, outcome, now_ms)

    def order(self, reservation_id: str, number: int, some: tuple[Candidate, ...]) -> Reserve:
        """Make the command that reserves one of the candidates."""
        asked = self.request
        claim = asked.id if asked.content else ""
        return Reserve(
            reservation_id, number, some, asked.agent, self.routed, claim, asked.content,
            self.task_type,
        )  # fmt: skip

    def extend(self, attempt: int, now_ms: int) -> None:
        """Extend the lease of the attempt that the caller works on."""
        if self.live is not None and self.live.number == attempt:
            until = min(self.request.deadline_ms, now_ms + LEASE_MS)
            self.live.first_token_by_ms = self.live.total_by_ms = until

    def _hear_drained(
        self, news: ChunkArrived | StreamEnded | AttemptFailed, now_ms: int
    ) -> Over | None:
        live = self.draining
        if live is None or live.number != news.attempt:
            return None
        if isinstance(news, ChunkArrived):
            live.take(news, now_ms)
            return None
        self.draining = None
        return Over(live, Ending.DRAINED)

    def overdue(self, now_ms: int, out: list[Command]) -> Over | None:
        """End what has been silent for too long; ``out`` gets the cancellation."""
        live = self.live
        if live is None:
            live = self.draining
            if live is None or now_ms < live.drain_until_ms:
                return None
            self.draining = None
            out.append(CancelCall(live.number))
            return Over(live, Ending.DRAINED)
        if now_ms < live.patience_ms(self.rules):
            return None
        if self.routed:
            return self.drop(now_ms, out)
        failure = live.overdue(self.rules, now_ms)
        if failure is not None:
            out.append(CancelCall(live.number))
        return self._end(live, failure, out)

    def drop(self, now_ms: int, out: list[Command]) -> Over | None:
        """Let go of the live attempt: cancelled, or read on where it bills to its end (R25).

        One that is read on is over later.
        """
        live, self.live = self.live, None
        if live is None:
            return None
        if self.routed:
            return Over(live, Ending.UNREPORTED)
        drain = live.model.bills_after_cancel
        out.append(CancelCall(live.number, drain))
        if not drain:
            return Over(live, Ending.DROPPED)
        live.drain_until_ms = now_ms + DRAIN_MS
        self.draining = live
        return None


def reported(live: Live, outcome: OutcomeReported, now_ms: int) -> Over:
    """End an attempt as the caller that made it says (R32).

    A refusal or a filter is an answer here too, and goes to no other vendor (guarantee 6).
    """
    failure = outcome.failure
    live.usage, live.finish, live.reported_model = outcome.usage, outcome.finish, outcome.model
    live.digest = outcome.digest
    if outcome.elapsed_ms is not None:
        live.ended_ms = min(live.started_ms + outcome.elapsed_ms, now_ms)
    if failure is None and outcome.first_token_ms is not None:
        live.first_ms = min(live.started_ms + outcome.first_token_ms, live.ended_ms or now_ms)
    if outcome.rejected:
        code = outcome.gate.value if outcome.gate else ""
        detail = f"failed the caller's gate {outcome.rejected}"
        gate = Failure(FailureClass.PROTOCOL, detail, code=code)
        return Over(live, Ending.REJECTED, gate)
    if failure is None:
        return Over(live, Ending.WHOLE)
    if failure.cls in ANSWERS:
        live.finish = Finish(ANSWERS[failure.cls], failure.code)
        return Over(live, Ending.WHOLE, failure)
    return Over(live, Ending.BROKEN, failure)
