"""What the service hands to a caller of Route, and what it has heard of it. No I/O.

One attempt is handed over at a time. What is told of it on the stream has been heard when a later
one is selected, or when the report at the end shows it; anything else is told again outside the
stream, which is idempotent (R32). A stream that breaks a rule is not believed.
"""

from dataclasses import dataclass

from escalade._accumulate import Accumulator
from escalade._events import Announcement, Answer, Assessed, Failed, Finished, Selected, Waiting
from escalade._outcome import not_sent_outcome
from escalade.v1 import escalation_pb2, router_service_pb2

UNHEARD = (escalation_pb2.ATTEMPT_STATUS_UNSPECIFIED, escalation_pb2.ATTEMPT_STATUS_UNREPORTED)


@dataclass(slots=True)
class Handed:
    """One attempt that is the caller's.

    Attributes:
        selected: What was handed over.
        begun: The caller opened a block for it.
        open: The block is open.
        outcome: How it ended; None until that is known.
        said: The outcome was written to the stream.
        error: The provider's exception that ended the block and was kept from the caller.
    """

    selected: Selected
    begun: bool = False
    open: bool = False
    outcome: router_service_pb2.Outcome | None = None
    said: bool = False
    error: Exception | None = None

    @property
    def is_ok(self) -> bool:
        """The caller has its answer."""
        return self.outcome is not None and self.outcome.HasField("ok")

    def pass_over(self) -> None:
        """Settle one that nobody opened a block for: it was not sent."""
        if not self.begun:
            self.outcome = not_sent_outcome()
            self.outcome.attempt = self.selected.attempt

    def message(self) -> router_service_pb2.RouteRequest:
        """What is said of its end on the stream."""
        self.said = True
        return router_service_pb2.RouteRequest(outcome=self.outcome)


class Desk:
    """Folds the events of one route."""

    def __init__(self, request_id: str) -> None:
        self.last: Handed | None = None
        self.assessed: Assessed | None = None
        self.waits = False
        self._fold = Accumulator(request_id, may_restart=True)
        self._fresh: Handed | None = None

    @property
    def failed(self) -> Failed | None:
        """The service's last word, if it is no."""
        return self._fold.failed

    @property
    def result(self) -> Answer | None:
        """The end, if it is good."""
        return self._fold.answer

    @property
    def report(self) -> escalation_pb2.Report | None:
        """The record of the task, when it has ended."""
        if self.result is not None:
            return self.result.report
        return self.failed.report if self.failed is not None else None

    def take(self) -> Handed | None:
        """The attempt that was handed over and not yet taken up."""
        fresh, self._fresh = self._fresh, None
        return fresh

    def add(self, response: router_service_pb2.RouteResponse) -> list[Announcement]:
        """Fold a message; what the caller is told of it.

        Raises:
            ProtocolViolation: An event cannot be, after those before it.
        """
        told: list[Announcement] = []
        for event in response.events:
            news = self._fold.add(event)
            self.waits = isinstance(news, Waiting)
            if isinstance(news, Assessed):
                self.assessed = news
            elif isinstance(news, Selected):
                self.last = self._fresh = Handed(news)
            if isinstance(news, Announcement) and not isinstance(news, Failed):
                told.append(news)
        return told

    def end(self) -> list[Announcement]:
        """End with status OK.

        Raises:
            ProtocolViolation: There is no end.
        """
        return [one for one in self._fold.end() if isinstance(one, Finished)]

    def unheard(self) -> Handed | None:
        """The attempt whose outcome the service has not heard on the stream, if there is one."""
        last, report = self.last, self.report
        if last is None or not last.selected.reservation_id:
            return None
        is_heard = report is not None and any(
            attempt.attempt == last.selected.attempt and attempt.status not in UNHEARD
            for attempt in report.attempts
        )
        return None if is_heard else last
