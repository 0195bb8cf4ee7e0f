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
`Cut`. Or it is a function from the request to the reply. Write replies as a stream; a caller who
wants the answer whole gets it whole. What has no pause in between travels in one message.

The server is a context manager, of `with` as of `async with`, and makes clients of both kinds.
"""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from escalade._accumulate import Accumulator
from escalade._async.client import AsyncClient
from escalade._channel import ANSWER_BYTES_MAX
from escalade._convert import message_to_proto
from escalade._refuse import refusal_of, refuse
from escalade._script import (
    Cut,
    Pause,
    Refused,
    Reply,
    Step,
    answer,
    assessed,
    cut_by_proxy,
    escalated,
    failed,
    fallback,
    finished,
    reasoning,
    retracted,
    selected,
    slowly,
    text,
    tool_call,
    waiting,
)
from escalade._scripted_route import RouteCall, RouteScript, ScriptedRoutes
from escalade._sync.client import Client
from escalade.v1 import (
    completion_pb2,
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
    "RouteCall",
    "RouteScript",
    "Server",
    "Step",
    "answer",
    "assessed",
    "cut_by_proxy",
    "escalated",
    "failed",
    "fallback",
    "finished",
    "reasoning",
    "retracted",
    "selected",
    "slowly",
    "text",
    "tool_call",
    "waiting",
]

CALLS_AT_ONCE = 512  # threads, which are made as they are needed
CALLS_PER_CONNECTION = 100  # as many proxies have it: the next one is not even sent
FOREVER_S = 10**9  # without a deadline gRPC tells of one that is centuries away


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the server saw it.

    Attributes:
        request: What was asked.
        metadata: The metadata of the call.
        connection: The address that it came from, one for each connection.
        timeout_s: The seconds that the caller gave it; None without a deadline.
        ended: Set when it is over.
        cancelled: Set when the caller left before the script ended.
    """

    request: router_service_pb2.CompleteRequest
    metadata: dict[str, str | bytes]
    connection: str
    timeout_s: float | None
    ended: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)


class Server:
    """The scripted service; a context manager. `target` is where it listens.

    Attributes:
        target: Its address.
        calls: The calls of Complete so far, in order.
        routes: The calls of Route so far, in order.
        reports: The outcomes reported outside of a stream so far, in order.
    """

    def __init__(
        self,
        script: Iterable[Reply] | Callable[[router_service_pb2.CompleteRequest], Reply] = (),
        *,
        routes: RouteScript = (),
        status: operations_service_pb2.GetStatusResponse | None = None,
        port: int = 0,
    ) -> None:
        """Listen on this host only.

        Args:
            script: One reply a call, or a function that makes one; a call beyond them fails
                and says so.
            routes: The same for calls of Route. After `selected` the script goes on when the
                outcome is told, unless it goes on with a `Pause` or with what ends a call.
            status: What GetStatus answers.
            port: Where; 0 takes a free one.
        """
        self.calls: list[Call] = []
        self._server = grpc.server(
            ThreadPoolExecutor(CALLS_AT_ONCE),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
                ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )
        self._router = _Router(script, self.calls)
        self._routes = ScriptedRoutes(routes)
        self.routes: list[RouteCall] = self._routes.calls
        self.reports: list[router_service_pb2.ReportOutcomeRequest] = self._routes.reports
        show = _Operations(status or operations_service_pb2.GetStatusResponse()).get_status
        complete = grpc.unary_stream_rpc_method_handler(
            self._router.complete,
            router_service_pb2.CompleteRequest.FromString,
            router_service_pb2.CompleteResponse.SerializeToString,
        )
        route = grpc.stream_stream_rpc_method_handler(
            self._routes.route,
            router_service_pb2.RouteRequest.FromString,
            router_service_pb2.RouteResponse.SerializeToString,
        )
        report = grpc.unary_unary_rpc_method_handler(
            self._routes.report,
            router_service_pb2.ReportOutcomeRequest.FromString,
            router_service_pb2.ReportOutcomeResponse.SerializeToString,
        )
        get_status = grpc.unary_unary_rpc_method_handler(
            show,
            operations_service_pb2.GetStatusRequest.FromString,
            operations_service_pb2.GetStatusResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "escalade.v1.RouterService",
                    {"Complete": complete, "Route": route, "ReportOutcome": report},
                ),
                grpc.method_handlers_generic_handler(
                    "escalade.v1.OperationsService", {"GetStatus": get_status}
                ),
            )
        )
        self.target = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Go away at once: calls are cut, and nobody answers any more."""
        self._server.stop(grace=None).wait()

    def add(self, *replies: Reply) -> None:
        """Put replies at the end of the script, also when it is under way."""
        self._router.added.extend(replies)

    def add_routes(self, *replies: Reply) -> None:
        """The same for calls of Route."""
        self._routes.added.extend(replies)

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

    def __init__(
        self,
        script: Iterable[Reply] | Callable[[router_service_pb2.CompleteRequest], Reply],
        calls: list[Call],
    ) -> None:
        self.added: deque[Reply] = deque()
        self._make = script if callable(script) else None
        self._script = iter(()) if callable(script) else iter(script)
        self._calls = calls
        self._lock = threading.Lock()

    def complete(
        self, request: router_service_pb2.CompleteRequest, context: grpc.ServicerContext
    ) -> Iterator[router_service_pb2.CompleteResponse]:
        remaining = context.time_remaining()
        call = Call(
            request=request,
            metadata=dict(context.invocation_metadata()),
            connection=context.peer(),
            timeout_s=remaining if remaining < FOREVER_S else None,
        )
        with self._lock:
            self._calls.append(call)
            number = len(self._calls)
            reply = self._next(request)
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

    def _next(self, request: router_service_pb2.CompleteRequest) -> Reply | None:
        if self._make is not None:
            return self._make(request)
        reply = next(self._script, None)
        return self.added.popleft() if reply is None and self.added else reply


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
                refuse(context, refusal_of(events[-1].failed))
            continue
        for step in group:
            match step:
                case Pause(seconds):
                    if call.ended.wait(seconds):
                        return
                case Refused():
                    played.set()
                    refuse(context, step)
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
