# Generated from ../_async/route.py by client_sdk/unasync.py; change that, then `make gen`.
"""One call of Route: the service chooses, the caller calls the model itself, and reports."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc

from escalade._sync.channels import Channels
from escalade._sync.choice import Choice
from escalade._bidi import Bidi, Metadata
from escalade._desk import Desk, Handed
from escalade._errors import (
    Draining,
    EscaladeError,
    Facts,
    LedgerUnavailable,
    TransportError,
    UsageError,
)
from escalade._events import Announcement, Answer
from escalade._outcome import Plan, plan_from_answer
from escalade._status import error_from_rpc, error_from_status
from escalade._trace import ROUTE, CallSpan, code_of, current
from escalade.v1 import escalation_pb2, router_service_pb2, router_service_pb2_grpc

LEAVE_S = 5.0  # how long the end of a route that is left is waited for
REPORT_S = 10.0  # how long a report outside the stream is tried for
REPORT_TRY_S = 3.0
REPORT_DELAY_S = 0.1


class Route:
    """A task whose models the caller calls. Made by `Client.route`; a context manager.

    Iterating gives one choice after the other, until an attempt was ok. When there is no further
    choice it raises: the error of the service, with the provider's last exception as its cause.
    A refusal is an answer, and goes to no other vendor: then the provider's exception is raised.

    What is told of an attempt reaches the books also if the stream breaks: it is then reported
    outside of it. Leaving the block early gives back what was handed over and not used.

    Attributes:
        request_id: The id of the request.
        events: What the service announced so far.
    """

    def __init__(
        self,
        channels: Channels,
        request: router_service_pb2.RouteRequest,
        *,
        timeout_s: float | None,
        metadata: Metadata,
        on_event: Callable[[Announcement], None] | None,
    ) -> None:
        self.request_id = request.request_id
        self.events: list[Announcement] = []
        self._channels = channels
        self._request = request
        self._timeout_s = timeout_s
        self._metadata = metadata
        self._on_event = on_event
        self._desk = Desk(self.request_id)
        self._wire: Bidi | None = None
        self._give_back: Callable[[], None] | None = None
        self._span: CallSpan | None = None
        self._begun_s = 0.0
        self._over = False
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        if self._wire is not None or self._over:
            raise UsageError("a route is entered once")
        channel, self._give_back = self._channels.take(self._channels.work)
        self._span = CallSpan(ROUTE, self.request_id, current())
        self._metadata = self._span.beside(self._metadata)
        self._wire = Bidi(channel, self._timeout_s, self._metadata)
        self._begun_s = time.monotonic()
        self._wire.send(self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except EscaladeError:
            if error is None:
                raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Choice:
        wire = self._entered()
        last = self._desk.last
        if last is not None and last.open:
            raise UsageError("the attempt is still open: the next choice comes after its block")
        if last is not None and not last.said and not self._over:
            last.pass_over()
            wire.send(last.message())
        while not self._over:
            self._read(wire)
            handed = self._desk.take()
            if handed is not None:
                return Choice(wire, handed)
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        """End the task, and give back what was not used. Nothing more can be told afterwards.

        Raises:
            EscaladeError: The answer was good, and its report did not reach the service.
        """
        wire = self._wire
        if wire is None or self._over:
            self._over = True
            return
        try:
            wire.give_up_after(LEAVE_S)
            wire.half_close()
            goes_on = True
            while goes_on:  # one that waits has nothing reserved
                goes_on = self._read(wire, leaving=True) and not self._desk.waits
        finally:
            self._over = True
            self._end("CANCELLED")
        last = self._desk.last
        if last is not None and last.is_ok and self._error is not None:
            raise self._error

    @property
    def report(self) -> escalation_pb2.Report | None:
        """The record of the task, as the wire has it, once it has ended; None if it broke."""
        return self._desk.report

    @property
    def result(self) -> Answer | None:
        """What the task came to: model, cost, attempts, story. Its text is the caller's own."""
        return self._desk.result

    def plan(self) -> Plan:
        """Read the plan of a dry run."""
        wire = self._entered()
        while not self._over:
            self._read(wire)
        if self._error is not None:
            raise self._error
        assert self.result is not None, "a route ends with a result or an error"
        return plan_from_answer(self._desk.assessed, self.result)

    def _entered(self) -> Bidi:
        if self._wire is None:
            raise UsageError("the route is used inside `with`", Facts(request_id=self.request_id))
        return self._wire

    def _read(self, wire: Bidi, *, leaving: bool = False) -> bool:
        """Fold the next message, or the end; tell whether the stream goes on."""
        error: EscaladeError | None = None
        try:
            response = wire.receive()
            if response is not None:
                self._tell(self._desk.add(response))
                return True
            if self._desk.failed is None:
                self._tell(self._desk.end())
            else:  # a status OK after it is a mistake
                said = self._desk.failed
                error = error_from_status(None, "", b"", request_id=self.request_id, failed=said)
        except grpc.RpcError as broken:
            elapsed_s = time.monotonic() - self._begun_s
            failed = self._desk.failed
            error = error_from_rpc(
                broken, request_id=self.request_id, elapsed_s=elapsed_s, failed=failed
            )
            error.__cause__ = broken
        except EscaladeError as violation:
            error = violation
        self._over = True
        self._end("OK" if error is None else code_of(error))
        if self._desk.failed is not None:
            self._tell([self._desk.failed])
        self._conclude(error, leaving=leaving)
        return False

    def _conclude(self, error: EscaladeError | None, *, leaving: bool) -> None:
        """Report outside the stream what was not heard on it, and say how the route ended."""
        unheard, last = self._desk.unheard(), self._desk.last
        if unheard is not None and leaving:
            unheard.pass_over()
        if unheard is not None and unheard.outcome is not None:
            try:
                self._report(unheard)
            except EscaladeError as lost:
                error = error or lost
                error.message += (
                    f" (attempt {unheard.selected.attempt} is not reported: {lost.message};"
                    f" its reservation {unheard.selected.reservation_id} stays booked)"
                )
            else:
                if unheard.is_ok:
                    return
        if last is not None and last.error is not None:
            if error is None:
                self._error = last.error
                return
            error.__cause__ = last.error
        self._error = error

    def _report(self, handed: Handed) -> None:
        """Report outside the stream; what was heard on it after all is not booked twice.

        Raises:
            EscaladeError: The service cannot be reached for a while, or says no.
        """
        request = router_service_pb2.ReportOutcomeRequest(
            reservation_id=handed.selected.reservation_id, outcome=handed.outcome
        )
        ends_s = time.monotonic() + REPORT_S
        delay_s = REPORT_DELAY_S
        while True:
            channel, over = self._channels.take(self._channels.work)
            service = router_service_pb2_grpc.RouterServiceStub(channel)
            try:
                service.ReportOutcome(request, timeout=REPORT_TRY_S, metadata=self._metadata)
            except grpc.RpcError as error:
                failed = error_from_rpc(error, request_id=self.request_id)
                failed.__cause__ = error
                may_pass = isinstance(failed, TransportError | Draining | LedgerUnavailable)
                if not may_pass or time.monotonic() + delay_s >= ends_s:
                    raise failed from error
            else:
                return
            finally:
                over()
            time.sleep(delay_s)
            delay_s *= 2

    def _tell(self, events: list[Announcement]) -> None:
        for event in events:
            self.events.append(event)
            if self._on_event is not None:
                self._on_event(event)

    def _end(self, code: str) -> None:
        """Cut what still runs, and give the connection back, once."""
        give_back, self._give_back = self._give_back, None
        if self._wire is not None and give_back is not None:
            self._wire.close()
            give_back()
        if self._span is not None:
            self._span.end(code)
