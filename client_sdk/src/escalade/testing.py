"""A scripted service in your own process, for your own tests: real gRPC on 127.0.0.1.

    from escalade import testing

    script = [testing.answer("42"), [testing.failed("RATE_LIMITED", "come back later")]]
    with testing.Server(script) as server, server.client() as client:
        assert client.complete("What is it?").text == "42"
        with pytest.raises(escalade.RateLimited):
            client.complete("And now?")
        assert server.calls[0].request.messages[0].parts[0].text == "What is it?"

The script holds one reply a call, each a list of steps: events (made here, or of
`escalade.v1.escalation_pb2`), `Pause`, and what may end a call without an event, `Refused` and
`Cut`. Write replies as a stream; a caller who wants the answer whole gets it whole. What has no
pause in between travels in one message.
"""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import NoReturn, Self

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from escalade._accumulate import Accumulator
from escalade._async.client import AsyncClient
from escalade._channel import ANSWER_BYTES_MAX
from escalade._convert import message_to_proto
from escalade._errors import CODES
from escalade._proto import name_of
from escalade._status import DETAILS_KEY, DOMAIN
from escalade._sync.client import Client
from escalade.v1 import (
    completion_pb2,
    error_pb2,
    escalation_pb2,
    operations_service_pb2,
    router_service_pb2,
)

__all__ = [
    "Call",
    "Cut",
    "Pause",
    "Refused",
    "Reply",
    "Server",
    "Step",
    "answer",
    "escalated",
    "failed",
    "finished",
    "retracted",
    "selected",
    "text",
    "tool_call",
]

CALLS_AT_ONCE = 32
FOREVER_S = 10**9  # without a deadline gRPC tells of one that is centuries away


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing happens for this time, or until the caller leaves."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The call ends with the status of this reason and its details, without an event.

    As the first step it stands for a call that the service never accepted.
    """

    reason: str
    message: str = ""
    retry_after: timedelta | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """The call ends with a bare status, as when the connection breaks, or a proxy speaks."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "cut by the script"


Step = escalation_pb2.Event | Pause | Refused | Cut
Reply = Sequence[Step]


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the server saw it.

    Attributes:
        request: What was asked.
        metadata: The metadata of the call.
        timeout_s: The seconds that the caller gave it; None without a deadline.
        ended: Set when it is over.
        cancelled: Set when the caller left before the script ended.
    """

    request: router_service_pb2.CompleteRequest
    metadata: dict[str, str | bytes]
    timeout_s: float | None
    ended: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)


def selected(
    model: str = "gpt-4o-mini", *, provider: str = "openai", layer: str = "free", attempt: int = 1
) -> escalation_pb2.Event:
    """Announce the model that is called next."""
    target = escalation_pb2.ModelRef(layer=layer, provider=provider, model=model)
    made = escalation_pb2.Selected(attempt=attempt, target=target, wire_model=model)
    return escalation_pb2.Event(selected=made)


def escalated(
    from_layer: str, to_layer: str, reason: str = "RATE_LIMIT", detail: str = ""
) -> escalation_pb2.Event:
    """Announce a change of layer; `reason` is a name of EscalationReason without its prefix."""
    made = escalation_pb2.Escalated(
        from_layer=from_layer,
        to_layer=to_layer,
        reason=escalation_pb2.EscalationReason.Value(f"ESCALATION_REASON_{reason}"),
        detail=detail,
        kind=escalation_pb2.ESCALATION_KIND_FAILURE,
    )
    return escalation_pb2.Event(escalated=made)


def text(piece: str, *, attempt: int = 1) -> escalation_pb2.Event:
    """Send a piece of text."""
    return escalation_pb2.Event(delta=completion_pb2.Delta(attempt=attempt, text=piece))


def tool_call(
    name: str,
    arguments_json: str = "{}",
    *,
    call_id: str = "call-1",
    index: int = 0,
    attempt: int = 1,
) -> escalation_pb2.Event:
    """Send a tool call, whole."""
    made = completion_pb2.ToolCallDelta(
        index=index, id=call_id, name=name, arguments_json_fragment=arguments_json
    )
    return escalation_pb2.Event(delta=completion_pb2.Delta(attempt=attempt, tool_call=made))


def retracted(attempt: int = 1, reason: str = "OUTAGE", detail: str = "") -> escalation_pb2.Event:
    """Void an attempt; `reason` is a name of FailureClass without its prefix."""
    made = escalation_pb2.Retracted(
        attempt=attempt,
        reason=error_pb2.FailureClass.Value(f"FAILURE_CLASS_{reason}"),
        detail=detail,
    )
    return escalation_pb2.Event(retracted=made)


def finished(
    model: str = "gpt-4o-mini",
    *,
    provider: str = "openai",
    layer: str = "free",
    finish_reason: str = "STOP",
    cost_nanos: int = 0,
    story: str = "",
    attempt: int = 1,
) -> escalation_pb2.Event:
    """End with an answer; its report names one attempt, which `model` answered."""
    target = escalation_pb2.ModelRef(layer=layer, provider=provider, model=model)
    reason = completion_pb2.FinishReason.Value(f"FINISH_REASON_{finish_reason}")
    cost = completion_pb2.Cost(list_nano_usd=cost_nanos, charged_nano_usd=cost_nanos)
    made = escalation_pb2.Attempt(
        attempt=attempt,
        target=target,
        status=escalation_pb2.ATTEMPT_STATUS_OK,
        finish_reason=reason,
        cost=cost,
        basis=completion_pb2.BASIS_REPORTED,
    )
    report = escalation_pb2.Report(
        answered=target, layer_path=[layer], cost=cost, attempts=[made], story=story
    )
    end = escalation_pb2.Finished(
        finish_reason=reason, quality=escalation_pb2.QUALITY_MET, report=report
    )
    return escalation_pb2.Event(finished=end)


def failed(
    reason: str, message: str = "", *, report: escalation_pb2.Report | None = None
) -> escalation_pb2.Event:
    """End without an answer; the status of this reason follows by itself."""
    made = escalation_pb2.Failed(
        reason=error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"),
        message=message,
        report=report,
    )
    return escalation_pb2.Event(failed=made)


def answer(
    *pieces: str,
    model: str = "gpt-4o-mini",
    provider: str = "openai",
    layer: str = "free",
    cost_nanos: int = 0,
) -> Reply:
    """Reply with a text, in these pieces."""
    return [
        selected(model, provider=provider, layer=layer),
        *(text(piece) for piece in pieces),
        finished(model, provider=provider, layer=layer, cost_nanos=cost_nanos),
    ]


class Server:
    """The scripted service; a context manager. `target` is where it listens.

    Attributes:
        target: Its address.
        calls: The calls of Complete so far, in order.
    """

    def __init__(
        self,
        script: Iterable[Reply],
        *,
        status: operations_service_pb2.GetStatusResponse | None = None,
    ) -> None:
        """Listen on a free port of this host.

        Args:
            script: One reply a call; a call beyond them fails and says so.
            status: What GetStatus answers.
        """
        self.calls: list[Call] = []
        self._server = grpc.server(
            ThreadPoolExecutor(CALLS_AT_ONCE),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )
        play = _Router(script, self.calls).complete
        show = _Operations(status or operations_service_pb2.GetStatusResponse()).get_status
        complete = grpc.unary_stream_rpc_method_handler(
            play,
            router_service_pb2.CompleteRequest.FromString,
            router_service_pb2.CompleteResponse.SerializeToString,
        )
        get_status = grpc.unary_unary_rpc_method_handler(
            show,
            operations_service_pb2.GetStatusRequest.FromString,
            operations_service_pb2.GetStatusResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "escalade.v1.RouterService", {"Complete": complete}
                ),
                grpc.method_handlers_generic_handler(
                    "escalade.v1.OperationsService", {"GetStatus": get_status}
                ),
            )
        )
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(grace=None).wait()

    def client(self, *, token: str | None = None, timeout: float | None = 10.0) -> Client:
        """Make a client of it."""
        return Client(self.target, token=token, timeout=timeout)

    def async_client(
        self, *, token: str | None = None, timeout: float | None = 10.0
    ) -> AsyncClient:
        """Make an asyncio client of it."""
        return AsyncClient(self.target, token=token, timeout=timeout)


class _Router:
    """Plays the script."""

    def __init__(self, script: Iterable[Reply], calls: list[Call]) -> None:
        self._script = iter(script)
        self._calls = calls
        self._lock = threading.Lock()

    def complete(
        self, request: router_service_pb2.CompleteRequest, context: grpc.ServicerContext
    ) -> Iterator[router_service_pb2.CompleteResponse]:
        remaining = context.time_remaining()
        call = Call(
            request=request,
            metadata=dict(context.invocation_metadata()),
            timeout_s=remaining if remaining < FOREVER_S else None,
        )
        with self._lock:
            self._calls.append(call)
            number = len(self._calls)
            reply = next(self._script, None)
        played = threading.Event()

        def over() -> None:
            if not played.is_set():
                call.cancelled.set()
            call.ended.set()

        context.add_callback(over)
        if reply is None:
            played.set()
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"the script has no reply to call {number}"
            )
        steps = _shaped(reply, request)
        if not isinstance(steps[0] if steps else None, Refused | Cut):
            context.send_initial_metadata(())  # the call is accepted: no retry repeats it (P12)
        yield from _play(steps, context, call, played)
        played.set()


def _play(
    steps: Sequence[Step], context: grpc.ServicerContext, call: Call, played: threading.Event
) -> Iterator[router_service_pb2.CompleteResponse]:
    """Do the steps; events without a step in between travel together."""
    for kind, group in itertools.groupby(steps, key=type):
        if kind is escalation_pb2.Event:
            events = [step for step in group if isinstance(step, escalation_pb2.Event)]
            yield router_service_pb2.CompleteResponse(events=events)
            if events[-1].HasField("failed"):
                played.set()
                _refuse(context, _refusal_of(events[-1].failed))
            continue
        for step in group:
            match step:
                case Pause(seconds):
                    if call.ended.wait(seconds):
                        return
                case Refused():
                    played.set()
                    _refuse(context, step)
                case Cut(code, message):
                    played.set()
                    context.abort(code, message)


def _shaped(reply: Reply, request: router_service_pb2.CompleteRequest) -> list[Step]:
    """Number the events, name the request in reports, and deliver as the caller asked."""
    whole = request.delivery == completion_pb2.DELIVERY_WHOLE
    fold = Accumulator(request.request_id, may_restart=True)
    numbers = itertools.count(1)
    steps: list[Step] = []
    for step in reply:
        if not isinstance(step, escalation_pb2.Event):
            steps.append(step)
            continue
        event = escalation_pb2.Event()
        event.CopyFrom(step)
        kind = event.WhichOneof("kind")
        if kind == "finished" and not event.finished.report.request_id:
            event.finished.report.request_id = request.request_id
        if kind == "failed" and not event.failed.report.request_id:
            event.failed.report.request_id = request.request_id
        if whole:
            fold.add(event)
            if kind in ("delta", "retracted"):
                continue
            if kind == "finished" and not event.finished.HasField("answer"):
                fold.end()
                assert fold.answer is not None, "end() makes it"
                event.finished.answer.CopyFrom(message_to_proto(fold.answer.message))
        event.sequence = next(numbers)
        steps.append(event)
    return steps


def _refusal_of(end: escalation_pb2.Failed) -> Refused:
    return Refused(name_of(error_pb2.ErrorReason.DESCRIPTOR, end.reason), end.message)


def _refuse(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    """Abort as the service does, with the details of google.rpc."""
    code = CODES.get(refused.reason, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo(
        reason=refused.reason, domain=DOMAIN, metadata=refused.metadata
    )
    details = [Any(), Any()] if refused.retry_after is not None else [Any()]
    details[0].Pack(info)
    if refused.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(refused.retry_after)
        details[1].Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=refused.message, details=details)
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(code, refused.message)


class _Operations:
    """Shows the status that it was given."""

    def __init__(self, status: operations_service_pb2.GetStatusResponse) -> None:
        self._status = status

    def get_status(
        self,
        request: operations_service_pb2.GetStatusRequest,  # noqa: ARG002 - says nothing
        context: grpc.ServicerContext,  # noqa: ARG002 - needs nothing
    ) -> operations_service_pb2.GetStatusResponse:
        status = operations_service_pb2.GetStatusResponse()
        status.CopyFrom(self._status)
        if not status.HasField("now"):
            now = Timestamp()
            now.GetCurrentTime()
            status.now.CopyFrom(now)
        return status
