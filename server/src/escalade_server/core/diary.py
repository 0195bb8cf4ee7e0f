"""What one task has been through and what it owes: its attempts, its path, its open bookings."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from escalade_server.core import settlement, signs, trace
from escalade_server.core.assess import FirstLook
from escalade_server.core.attempt import Live
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import End, Settle
from escalade_server.core.facts import ErrorReason, Escalated, Failed, Outcome
from escalade_server.core.failure import Failure
from escalade_server.core.settlement import Booking
from escalade_server.core.tally import Tally, changes, compared
from escalade_server.core.task import Request
from escalade_server.core.trace import AttemptRecord, AttemptStatus, Skip

_NO_TASK = (
    ErrorReason.ALREADY_ANSWERED, ErrorReason.REQUEST_INVALID, ErrorReason.REQUEST_IN_PROGRESS,
)  # fmt: skip
_ANSWERED = (AttemptStatus.OK, AttemptStatus.UNREPORTED)


@dataclass(slots=True)
class Diary:
    """Grows with each step; the report, the spans and the story are made of it."""

    request: Request
    catalog: Catalog
    look: FirstLook
    layer_path: list[str]
    started_ms: int = 0
    attempts: list[AttemptRecord] = field(default_factory=list)
    skips: dict[tuple[str, str], Skip] = field(default_factory=dict)
    escalations: list[Escalated] = field(default_factory=list)
    unsettled: list[int] = field(default_factory=list)
    """Attempts with a settlement that is not durable yet, once for each."""
    stand_in: AttemptRecord | None = None
    """The attempt whose answer stands in, although it failed a gate (R21)."""
    fallbacks: int = 0
    waits: int = 0
    waited_ms: int = 0
    waiting_since_ms: int | None = None
    is_counted: bool = False
    """A settlement has the tally of the task."""

    def skip(self, skips: Iterable[Skip]) -> None:
        """Keep the latest reason for each model."""
        for skip in skips:
            self.skips[skip.layer, skip.model.key if skip.model else ""] = skip

    def wait(self, now_ms: int) -> None:
        """Take down that the task is told to wait."""
        self.waits, self.waiting_since_ms = 1, now_ms

    def go_on(self, now_ms: int) -> None:
        """Take down that it looks for a model, after a wait or not."""
        if self.waiting_since_ms is not None:
            self.waited_ms += now_ms - self.waiting_since_ms
            self.waiting_since_ms = None

    def book(
        self, live: Live, booking: Booking, status: AttemptStatus, now_ms: int,
        failure: Failure | None = None,
    ) -> Settle:  # fmt: skip
        """Write an attempt down and order its settlement; once for each reservation."""
        self.unsettled.append(live.number)
        self.attempts.append(booking.record(live, status, now_ms, failure))
        if status is not AttemptStatus.OK:
            return booking.order(live, now_ms)
        self.is_counted, told = True, None
        if self.request.content:
            told = trace.figures(self.attempts, self.started_ms, now_ms)
        return booking.order(live, now_ms, told, self.tally(self.attempts[-1], now_ms))

    def accept(self, live: Live, now_ms: int) -> Settle:
        """Let a rejected answer stand in, and order that its request id is answered (R21, R27).

        What it is booked with stays as it is.
        """
        record = next(a for a in self.attempts if a.number == live.number)
        self.stand_in = record
        self.unsettled.append(live.number)
        booking = Booking(1, record.usage, record.list_nanos, record.basis)
        told = trace.figures(self.attempts, self.started_ms, now_ms)
        return booking.order(live, now_ms, told)

    def settled(self, attempt: int) -> bool:
        """Take down that a settlement is durable, or kept; answer whether none of it is left."""
        if attempt in self.unsettled:
            self.unsettled.remove(attempt)
        return attempt not in self.unsettled

    def tally(self, winner: AttemptRecord | None, now_ms: int) -> Tally:
        """Count the task; ``winner`` is the attempt that answered it."""
        layer = model = ""
        instead: tuple[tuple[str, int], ...] = ()
        if winner is not None:
            layer, model = winner.model.layer, winner.model.key
            instead = compared(winner.usage, self.catalog.baselines)
        tally = Tally(
            self.request.agent, self.look.assessment.type, layer, model, self.fallbacks,
            self.waited_ms, self.waits, changes(self.escalations), instead,
        )  # fmt: skip
        step, turn = self.request.session, self.look.turn
        if step is None or turn is None:
            return tally
        most = self.request.output_tokens_max
        session = signs.after(step, turn, self.attempts, winner, most, now_ms)
        return replace(tally, session_key=step.key, session=session)

    def end(self, outcome: Outcome) -> End:
        """Order the ending, with the tally unless a settlement has it.

        A request id that was used before is no new task (R27).
        """
        repeated = isinstance(outcome, Failed) and outcome.reason in _NO_TASK
        if self.is_counted or repeated:
            return End(outcome)
        self.go_on(outcome.report.ended_ms)
        good = [a for a in self.attempts if a.status in _ANSWERED]
        answered = None if isinstance(outcome, Failed) or not good else good[-1]
        return End(outcome, self.tally(answered or self.stand_in, outcome.report.ended_ms))

    def release(self, reservation_id: str, attempt: int) -> Settle:
        """Order to let go of what a failed ledger may have held all the same (S13)."""
        self.unsettled.append(attempt)
        return settlement.release(reservation_id, attempt)
