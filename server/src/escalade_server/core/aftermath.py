"""What follows the end of an attempt, for the books, for this task and for everyone.

The cascade books here, and is told how it goes on: it alone changes its state.
"""

from dataclasses import dataclass

from escalade_server.core import change, settlement
from escalade_server.core.attempt import Ending, Live, Over
from escalade_server.core.calling import Calling
from escalade_server.core.commands import Announce, Command, ReportHealth
from escalade_server.core.diary import Diary
from escalade_server.core.ending import NoWay
from escalade_server.core.experience import Experience, shared
from escalade_server.core.facts import ErrorReason, Retracted
from escalade_server.core.failure import TABLE, Failure
from escalade_server.core.oddities import alerts
from escalade_server.core.settlement import Booking
from escalade_server.core.task import OnInterruption
from escalade_server.core.trace import AttemptStatus

_WHOLE, _REJECTED, _BROKEN = Ending.WHOLE, Ending.REJECTED, Ending.BROKEN


@dataclass(slots=True)
class Aftermath:
    """One instance a task."""

    diary: Diary
    calling: Calling
    seen: Experience
    rejections: int = 0
    cut: Failure | None = None
    """What broke an answer after its first delta, and was made good by starting over (R23)."""

    def of(self, over: Over, now_ms: int, out: list[Command]) -> NoWay | None:
        """Book an attempt that is over, and say what follows; a ``NoWay`` ends the task.

        Else a WHOLE answer is the task's, and after a REJECTED or BROKEN one it goes on.
        """
        live, end, failure = over.live, over.ending, over.failure
        routed = self.calling.routed
        booking, status = settlement.of(over, self.diary.look.need, routed=routed)
        self.book(live, booking, status, now_ms, out, failure)
        if end is _WHOLE or end is _REJECTED:
            out += () if routed else alerts(live)
            out.append(ReportHealth(live.model.provider))
        if failure is None:
            return None
        if end is _REJECTED:
            return self._rejected(live, failure, out)
        return self._broken(live, failure, now_ms, out) if end is _BROKEN else None

    def book(  # noqa: PLR0917 - as it is read: what, with what, how it ended, when
        self, live: Live, booking: Booking, status: AttemptStatus, now_ms: int, out: list[Command],
        failure: Failure | None = None,
    ) -> None:  # fmt: skip
        """Settle an attempt; its list value counts for the task's spend limit (R15)."""
        out.append(self.diary.book(live, booking, status, now_ms, failure))
        if live.model.is_paid:
            self.seen.spent_nanos += booking.nanos

    def stand_in(self, why: NoWay, now_ms: int, out: list[Command]) -> Live | None:
        """Let the last rejected answer stand in for none, where that is asked for (R21).

        Not after a break that its caller wants to end the task: text of that was delivered.
        """
        live = self.calling.unmet
        if live is None or (why.reason is ErrorReason.INTERRUPTED and self.cut is None):
            return None
        out.append(self.diary.accept(live, now_ms))
        return live

    def _rejected(self, live: Live, failure: Failure, out: list[Command]) -> NoWay | None:
        """An answer that fails its gate is charged, and its whole layer is out (R21)."""
        _retract(live, failure, out)
        self.seen.reject(live.model.layer_index)
        self.rejections += 1
        if self.rejections <= self.calling.rejections_max:
            return None
        return NoWay(ErrorReason.QUALITY_NOT_MET, f"every answer failed: {failure.detail}")

    def _broken(
        self, live: Live, failure: Failure, now_ms: int, out: list[Command]
    ) -> NoWay | None:
        """Set aside what must be; then the next model, unless none would do better."""
        request, estimate = self.diary.request, self.diary.look.need.input_estimate
        orders = self.seen.learn(live, failure, self.calling.rules, estimate, now_ms)
        out += shared(orders, live, failure, request)
        if live.delivered and request.on_interruption is OnInterruption.FAIL:
            return NoWay(ErrorReason.INTERRUPTED, change.broke(live.model, failure.detail))
        self.cut = failure if live.delivered else self.cut
        _retract(live, failure, out)
        if not TABLE[failure.cls].terminal:
            return None
        return NoWay(ErrorReason.REQUEST_REJECTED, change.broke(live.model, failure.detail))


def _retract(live: Live, failure: Failure, out: list[Command]) -> None:
    if live.delivered:
        out.append(Announce(Retracted(live.number, failure.cls, failure.detail)))
