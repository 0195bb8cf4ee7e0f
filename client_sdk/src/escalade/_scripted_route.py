"""The part of the scripted service that decides only: Route and ReportOutcome."""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc

from escalade._refuse import refusal_of, refuse
from escalade._script import Cut, Pause, Refused, Reply, Step
from escalade.v1 import escalation_pb2, router_service_pb2

RouteScript = Iterable[Reply] | Callable[[router_service_pb2.RouteRequest], Reply]
Outcomes = queue.SimpleQueue[router_service_pb2.Outcome | None]


@dataclass(frozen=True, slots=True)
class RouteCall:
    """A call of Route as the server saw it.

    Attributes:
        request: The first message.
        metadata: The metadata of the call.
        outcomes: What was told of attempts on the stream, in order.
        progress: How often a lease was extended, one entry each.
        ended: Set when it is over.
    """

    request: router_service_pb2.RouteRequest
    metadata: dict[str, str | bytes]
    outcomes: list[router_service_pb2.Outcome] = field(default_factory=list)
    progress: list[router_service_pb2.Progress] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


class ScriptedRoutes:
    """Plays the script of routes, and takes reports."""

    def __init__(self, script: RouteScript) -> None:
        self.calls: list[RouteCall] = []
        self.reports: list[router_service_pb2.ReportOutcomeRequest] = []
        self.added: deque[Reply] = deque()
        self._make = script if callable(script) else None
        self._script = iter(()) if callable(script) else iter(script)
        self._lock = threading.Lock()

    def route(
        self,
        messages: Iterator[router_service_pb2.RouteRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[router_service_pb2.RouteResponse]:
        call = RouteCall(next(messages), dict(context.invocation_metadata()))
        told: Outcomes = queue.SimpleQueue()

        def over() -> None:
            call.ended.set()
            told.put(None)

        if not context.add_callback(over):
            over()
        with self._lock:
            self.calls.append(call)
            number = len(self.calls)
            reply = self._next(call.request)
        if reply is None:
            what = f"the script has no reply to route {number}"
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, what)
        threading.Thread(target=_hear, args=(messages, call, told), daemon=True).start()
        yield from _play(reply, context, call, told)

    def report(
        self,
        request: router_service_pb2.ReportOutcomeRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - needs nothing
    ) -> router_service_pb2.ReportOutcomeResponse:
        known = request in self.reports
        self.reports.append(request)
        attempt = escalation_pb2.Attempt(
            attempt=request.outcome.attempt, reservation_id=request.reservation_id
        )
        return router_service_pb2.ReportOutcomeResponse(attempt=attempt, corrected=not known)

    def _next(self, request: router_service_pb2.RouteRequest) -> Reply | None:
        if self._make is not None:
            return self._make(request)
        reply = next(self._script, None)
        return self.added.popleft() if reply is None and self.added else reply


def _hear(
    messages: Iterator[router_service_pb2.RouteRequest], call: RouteCall, told: Outcomes
) -> None:
    try:
        for message in messages:
            if message.HasField("outcome"):
                call.outcomes.append(message.outcome)
                told.put(message.outcome)
            elif message.HasField("progress"):
                call.progress.append(message.progress)
    except grpc.RpcError:
        pass  # the caller is gone
    except Exception:
        if not call.ended.is_set():
            raise
    finally:
        told.put(None)


def _play(
    reply: Sequence[Step], context: grpc.ServicerContext, call: RouteCall, told: Outcomes
) -> Iterator[router_service_pb2.RouteResponse]:
    """Do the steps, each event in a message of its own."""
    numbers = itertools.count(1)
    for at, step in enumerate(reply):
        match step:
            case Pause(seconds):
                if call.ended.wait(seconds):
                    return
            case Refused():
                refuse(context, step)
            case Cut(code, message):
                context.abort(code, message)
            case _:
                yield _response(_shaped(step, call), next(numbers))
                if step.HasField("failed"):
                    refuse(context, refusal_of(step.failed))
                follows = reply[at + 1 : at + 2]
                waits = step.HasField("selected") and not isinstance(
                    follows[0] if follows else None, Pause | Refused | Cut
                )
                if waits and told.get() is None:
                    if not call.ended.is_set():
                        yield _response(_unreported(call, step.selected), next(numbers))
                    return


def _response(event: escalation_pb2.Event, number: int) -> router_service_pb2.RouteResponse:
    event.sequence = number
    return router_service_pb2.RouteResponse(events=[event])


def _shaped(step: escalation_pb2.Event, call: RouteCall) -> escalation_pb2.Event:
    """Name the request in reports, and list in a failure what was told."""
    event = escalation_pb2.Event()
    event.CopyFrom(step)
    kind = event.WhichOneof("kind")
    if kind in ("finished", "failed"):
        report = event.finished.report if kind == "finished" else event.failed.report
        report.request_id = report.request_id or call.request.request_id
        if kind == "failed" and not report.attempts:
            for outcome in call.outcomes:
                status = escalation_pb2.ATTEMPT_STATUS_FAILED
                report.attempts.add(attempt=outcome.attempt, status=status)
    return event


def _unreported(call: RouteCall, selected: escalation_pb2.Selected) -> escalation_pb2.Event:
    """End as the service does when the caller says that no report comes."""
    made = escalation_pb2.Finished()
    made.report.request_id = call.request.request_id
    made.report.attempts.add(
        attempt=selected.attempt,
        target=selected.target,
        status=escalation_pb2.ATTEMPT_STATUS_UNREPORTED,
        reservation_id=selected.reservation_id,
    )
    return escalation_pb2.Event(finished=made)
