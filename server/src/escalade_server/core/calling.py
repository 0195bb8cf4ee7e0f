"""The calls of one task in flight: the live attempt, and one that is read on after its caller left.

Turns news of calls and the passing of time into deltas to deliver and at most one ``Over``.
"""

from dataclasses import dataclass
from typing import NamedTuple

from escalade_server.core.answer import Fold
from escalade_server.core.attempt import Live
from escalade_server.core.commands import CancelCall, Candidate, Command, Deliver
from escalade_server.core.events import AttemptFailed, ChunkArrived, StreamEnded
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.rules import Rules
from escalade_server.core.task import Delivery, Request

DRAIN_MS = 60_000
"""How long a cancelled call that bills to its end is read on, for its real usage (R25)."""
_CUT_SHORT = Failure(FailureClass.PROTOCOL, "broke off without a finish reason")


class Over(NamedTuple):
    """An attempt has ended: whole without a ``failure``, or ``drained`` with nobody waiting."""

    live: Live
    failure: Failure | None = None
    drained: bool = False


@dataclass(slots=True)
class Calling:
    """At most one live attempt; news of any other is ignored."""

    request: Request
    rules: Rules
    live: Live | None = None
    draining: Live | None = None

    @property
    def wake_at_ms(self) -> int | None:
        """When a silent provider, or a drain, has had its time."""
        if self.live is not None:
            return self.live.patience_ms(self.rules)
        return self.draining.drain_until_ms if self.draining else None

    def prepare(
        self, number: int, candidate: Candidate, reservation_id: str, now_ms: int, *, others: bool
    ) -> Live:
        """Make an attempt with its limits of time.

        Its first token may take min(30 s, half of what is left) while ``others`` could still be
        tried, and all that is left for the last one (R24).
        """
        left = self.request.deadline_ms - now_ms
        first = min(self.rules.first_token_ms, left // 2) if others else left
        total = min(left, self.rules.attempt_total_ms)
        fold = Fold(keep=self.request.delivery is Delivery.WHOLE)
        at = now_ms
        return Live(number, candidate, reservation_id, at, at + first, at + total, fold)

    def hear(
        self, news: ChunkArrived | StreamEnded | AttemptFailed, now_ms: int, out: list[Command]
    ) -> Over | None:
        """Take news of a call; ``out`` gets what is to be delivered."""
        live = self.live
        if live is None or live.number != news.attempt:
            return self._hear_drained(news, now_ms)
        if isinstance(news, ChunkArrived):
            deltas = live.take(news, now_ms)
            if deltas and self.request.delivery is Delivery.STREAM:
                live.delivered = True
                out.append(Deliver(live.number, deltas))
            if live.finish is None or live.usage is None:
                return None
        self.live = None
        if live.finish is not None:
            return Over(live)  # with its finish reason the answer is whole (guarantee 6)
        return Over(live, news.failure if isinstance(news, AttemptFailed) else _CUT_SHORT)

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
        return Over(live, drained=True)

    def overdue(self, now_ms: int, out: list[Command]) -> Over | None:
        """End what has been silent for too long; ``out`` gets the cancellation."""
        live = self.live
        if live is None:
            live = self.draining
            if live is None or now_ms < live.drain_until_ms:
                return None
            self.draining = None
            out.append(CancelCall(live.number))
            return Over(live, drained=True)
        if now_ms < live.patience_ms(self.rules):
            return None
        self.live = None
        failure = live.overdue(self.rules, now_ms)
        if failure is not None:
            out.append(CancelCall(live.number))
        return Over(live, failure)

    def drop(self, now_ms: int, out: list[Command]) -> Live | None:
        """Let go of the live attempt: cancelled, or read on where it bills to its end (R25).

        Answers the attempt that is to be booked now; one that is read on is booked later.
        """
        live, self.live = self.live, None
        if live is None:
            return None
        drain = live.model.bills_after_cancel
        out.append(CancelCall(live.number, drain))
        if not drain:
            return live
        live.drain_until_ms = now_ms + DRAIN_MS
        self.draining = live
        return None
