"""What one task has been through and what it owes: its attempts, its path, its open bookings."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from escalade_server.core.assess import FirstLook
from escalade_server.core.attempt import Live
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import Settle
from escalade_server.core.facts import Escalated
from escalade_server.core.failure import Failure
from escalade_server.core.settlement import Booking
from escalade_server.core.task import Request
from escalade_server.core.trace import AttemptRecord, AttemptStatus, Skip


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
    unsettled: set[int] = field(default_factory=set)
    """Attempts whose settlement is not durable yet."""

    def skip(self, skips: Iterable[Skip]) -> None:
        """Keep the latest reason for each model."""
        for skip in skips:
            self.skips[skip.layer, skip.model.key if skip.model else ""] = skip

    def book(
        self, live: Live, booking: Booking, status: AttemptStatus, now_ms: int,
        failure: Failure | None = None,
    ) -> Settle:  # fmt: skip
        """Write an attempt down and order its settlement; once for each reservation."""
        self.unsettled.add(live.number)
        self.attempts.append(booking.record(live, status, now_ms, failure))
        return booking.order(live, now_ms)
