# Generated from ../_async/client.py by client_sdk/unasync.py; change that, then `make gen`.
"""The client: answers, whole or streamed, and the state of the service."""

import copy
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from google.protobuf.message import Message

from escalade._sync.channels import Channels
from escalade._sync.operations import Operations
from escalade._sync.route import Route
from escalade._sync.stream import Stream, Run
from escalade._channel import MESSAGE_BYTES_MAX, ChannelOption, Tls, dial
from escalade._convert import request_to_proto
from escalade._errors import Facts, RequestTooLarge
from escalade._events import Announcement, Answer, Retracted
from escalade._options import Options
from escalade._outcome import Feature, Plan, route_to_proto
from escalade._trace import COMPLETE, CallSpan, current
from escalade._types import (
    Constraints,
    Messages,
    QualityDemands,
    ReasoningEffort,
    ResponseFormat,
    Sampling,
    Task,
    Tool,
    ToolMode,
)
from escalade.v1 import (
    router_service_pb2,
    router_service_pb2_grpc,
)


class Client(Operations):
    """The way to an Escalade service: connections, opened as they are needed.

        with escalade.Client("localhost:50051") as client:
            answer = client.complete("Why does this test fail?")

    Calls that the server has not accepted yet are retried on UNAVAILABLE. A stream that breaks on
    the road before the first piece of its answer is asked for again, until the deadline, and
    tells `Reconnected`. Nothing else is repeated; a request id is made for every call, so that it
    is never answered and charged twice.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        token: str | None = None,
        tls: Tls | bool = False,
        allow_plaintext_token: bool = False,
        timeout: float | None = None,
        channel_options: Sequence[ChannelOption] = (),
    ) -> None:
        """Say where the service is; nothing is sent before the first call.

        Args:
            target: A gRPC target, such as "localhost:50051". Calls go round all addresses of
                "dns:///escalade:50051", or of a list such as "10.0.0.1:50051,10.0.0.2:50051".
            token: The bearer token of the agent.
            tls: True, or how.
            allow_plaintext_token: Send the token beyond this host without TLS.
            timeout: Seconds for a whole call, unless the call says otherwise; None sets none.
            channel_options: Options of the gRPC channel, which win over ours.

        Raises:
            UsageError: The arguments do not go together.
        """
        way = dial(
            target,
            token=token,
            tls=tls,
            allow_plaintext_token=allow_plaintext_token,
            options=channel_options,
        )
        self._channels = Channels(way)
        self._options = Options().with_more(timeout, None, None)
        self._is_view = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what still runs, and close the connections. A view of a client closes nothing."""
        if not self._is_view:
            self._channels.close()

    def with_options(
        self,
        *,
        timeout: float | None = None,
        constraints: Constraints | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Self:
        """See this client with other defaults. It costs nothing: the connections are shared.

            free = client.with_options(constraints=escalade.Constraints(free_only=True))

        What a call says wins over the view, and the view over the client. Constraints are laid
        over each other one by one: a call that says only `max_wait` on `free` stays free. What is
        None here stays as it is. A view lives as long as its client.

        Args:
            timeout: Seconds for a whole call.
            constraints: Limits of every task.
            metadata: Headers of every call, beside those of views under this one.

        Raises:
            UsageError: The timeout is none, or the metadata cannot travel.
        """
        view = copy.copy(self)
        view._options = self._options.with_more(timeout, constraints, metadata)  # noqa: SLF001
        view._is_view = True  # noqa: SLF001 - both are of this very class
        return view

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._channels.dial.target!r})"

    def complete(
        self,
        messages: Messages,
        *,
        task: Task | str | None = None,
        system: str | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: ToolMode | Tool | None = None,
        response_format: ResponseFormat | None = None,
        temperature: float | None = None,
        sampling: Sampling | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        max_output_tokens: int | None = None,
        constraints: Constraints | None = None,
        quality: QualityDemands | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        resume_token: str = "",
        on_event: Callable[[Announcement], None] | None = None,
    ) -> Answer:
        """Answer in one piece. A model that breaks in mid-answer is replaced by the next.

        Args:
            messages: A text of the user, a message, or a conversation.
            task: What is to be done, or only its type; what is absent is estimated.
            system: Instructions, before the conversation.
            tools: Tools that the model may call.
            tool_choice: How free it is to call them, or the one tool that it must call.
            response_format: "text", "json", or the `JsonSchema` that the answer must obey.
            temperature: Short for `Sampling(temperature=...)`; one of the two.
            sampling: How the model draws its words.
            reasoning_effort: How much it reasons.
            max_output_tokens: Limits the output, reasoning included.
            constraints: Limits of what may be done, and of what it may cost.
            quality: Quality demanded; an answer that lacks it escalates.
            timeout: Seconds for the whole call, whatever happens in it.
            request_id: Your own id, to repeat a call without paying twice.
            resume_token: The place of a waiting task whose stream broke.
            on_event: Called with each announcement as it comes; `print` will do.

        Raises:
            EscaladeError: There is no answer; its docstring names the tree.
        """
        stream = self._begin(
            request_to_proto(
                messages,
                task=task,
                system=system,
                tools=tools,
                tool_choice=tool_choice,
                response_format=response_format,
                temperature=temperature,
                sampling=sampling,
                reasoning_effort=reasoning_effort,
                max_output_tokens=max_output_tokens,
                constraints=self._options.constraints_of(constraints),
                quality=quality,
                request_id=request_id or uuid.uuid4().hex,
                resume_token=resume_token,
                whole=True,
                may_restart=True,
            ),
            is_own_id=request_id is None,
            timeout=timeout,
            on_event=on_event,
        )
        with stream:
            return stream.answer()

    def stream(
        self,
        messages: Messages,
        *,
        task: Task | str | None = None,
        system: str | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: ToolMode | Tool | None = None,
        response_format: ResponseFormat | None = None,
        temperature: float | None = None,
        sampling: Sampling | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        max_output_tokens: int | None = None,
        constraints: Constraints | None = None,
        quality: QualityDemands | None = None,
        flush_interval: timedelta | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        resume_token: str = "",
        on_event: Callable[[Announcement], None] | None = None,
        on_restart: Callable[[Retracted], None] | None = None,
    ) -> Stream:
        """Answer piece by piece, as it arrives. Arguments are those of `complete`, and two more.

            with client.stream("Explain.", on_event=print) as stream:
                for text in stream.text:
                    ...

        `flush_interval` joins later pieces for up to this time; the first is never held.
        `on_restart` is called when a model breaks in mid-answer: what it wrote is void, and the
        next model starts over after this call. Without it the stream fails instead.

        Raises:
            UsageError: The arguments do not go together. All else is raised while reading.
        """
        request = request_to_proto(
            messages,
            task=task,
            system=system,
            tools=tools,
            tool_choice=tool_choice,
            response_format=response_format,
            temperature=temperature,
            sampling=sampling,
            reasoning_effort=reasoning_effort,
            max_output_tokens=max_output_tokens,
            constraints=self._options.constraints_of(constraints),
            quality=quality,
            flush_interval=flush_interval,
            request_id=request_id or uuid.uuid4().hex,
            resume_token=resume_token,
            whole=False,
            may_restart=on_restart is not None,
        )
        return self._begin(
            request,
            is_own_id=request_id is None,
            timeout=timeout,
            on_event=on_event,
            on_restart=on_restart,
        )

    def route(
        self,
        task: Task | str,
        *,
        messages: Messages | None = None,
        features: Sequence[Feature] = (),
        input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        constraints: Constraints | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        on_event: Callable[[Announcement], None] | None = None,
    ) -> Route:
        """Let the service choose, call the model yourself, and report.

            with client.route("debug") as route:
                for choice in route:
                    with choice.attempt() as attempt:
                        response = sdks[choice.provider].create(model=choice.wire_model, ...)
                        attempt.ok(response)

        Args:
            task: What is to be done, or only its type.
            messages: The conversation, if estimates are to be made from it; it is not kept.
            features: What the request needs of a model.
            input_tokens: The input, for reservations and context checks; else the task's.
            max_output_tokens: Limits the output, reasoning included.
            constraints: Limits of what may be done, and of what it may cost.
            timeout: Seconds for the whole task.
            request_id: Your own id.
            on_event: Called with each announcement as it comes.

        Raises:
            UsageError: The task cannot be sent. All else is raised while iterating.
        """
        request = route_to_proto(
            task,
            messages=messages,
            features=features,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            constraints=self._options.constraints_of(constraints),
            request_id=request_id or uuid.uuid4().hex,
            dry_run=False,
        )
        return self._begin_route(request, timeout=timeout, on_event=on_event)

    def plan(
        self,
        task: Task | str,
        *,
        messages: Messages | None = None,
        features: Sequence[Feature] = (),
        input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        constraints: Constraints | None = None,
        timeout: float | None = None,
    ) -> Plan:
        """Show what would be done with a task now, model by model. Nothing is reserved.

        Arguments are those of `route`.

        Raises:
            EscaladeError: The service does not say.
        """
        request = route_to_proto(
            task,
            messages=messages,
            features=features,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            constraints=self._options.constraints_of(constraints),
            request_id=uuid.uuid4().hex,
            dry_run=True,
        )
        with self._begin_route(request, timeout=timeout, on_event=None) as route:
            return route.plan()

    def _begin_route(
        self,
        request: router_service_pb2.RouteRequest,
        *,
        timeout: float | None,
        on_event: Callable[[Announcement], None] | None,
    ) -> Route:
        _check_size(request, request.request_id)
        return Route(
            self._channels,
            request,
            timeout_s=self._options.timeout_of(timeout),
            metadata=self._metadata(),
            on_event=on_event,
        )

    def _begin(
        self,
        request: router_service_pb2.CompleteRequest,
        *,
        is_own_id: bool,
        timeout: float | None,
        on_event: Callable[[Announcement], None] | None,
        on_restart: Callable[[Retracted], None] | None = None,
    ) -> Stream:
        _check_size(request, request.request_id)
        metadata, context = self._metadata(), current()
        channels = self._channels

        def start(request: router_service_pb2.CompleteRequest, left_s: float | None) -> Run:
            lane = channels.waits if request.resume_token else channels.work
            channel, over = channels.take(lane)
            service = router_service_pb2_grpc.RouterServiceStub(channel)
            span = CallSpan(COMPLETE, request.request_id, context)
            headers = span.beside(metadata)
            return Run(service.Complete(request, timeout=left_s, metadata=headers), over, span)

        return Stream(
            start,
            request,
            is_own_id=is_own_id,
            timeout_s=self._options.timeout_of(timeout),
            on_event=on_event,
            on_restart=on_restart,
        )


def _check_size(request: Message, request_id: str) -> None:
    size = request.ByteSize()
    if size > MESSAGE_BYTES_MAX:
        limit = f"{size:,} bytes; the limit is {MESSAGE_BYTES_MAX:,}: send less, or smaller images"
        raise RequestTooLarge(f"the request has {limit}", Facts(request_id=request_id))
