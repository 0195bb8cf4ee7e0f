"""The client: answers, whole or streamed, and the state of the service."""

import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from escalade._async.stream import AsyncStream, Call
from escalade._channel import MESSAGE_BYTES_MAX, ChannelOption, Tls, dial
from escalade._convert import request_to_proto, seconds_of
from escalade._errors import Facts, RequestTooLarge, UsageError
from escalade._events import Announcement, Answer, Retracted
from escalade._status import error_from_rpc
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
    completion_pb2,
    operations_service_pb2,
    operations_service_pb2_grpc,
    router_service_pb2,
    router_service_pb2_grpc,
)


class AsyncClient:
    """A connection to an Escalade service.

        async with escalade.AsyncClient("localhost:50051") as client:
            answer = await client.complete("Why does this test fail?")

    Calls that the server has not accepted yet are retried on UNAVAILABLE; nothing else is ever
    repeated. A request id is made for every call, so that it is never charged twice.
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
            target: A gRPC target, such as "localhost:50051" or "dns:///escalade:50051".
            token: The bearer token of the agent.
            tls: True, or how.
            allow_plaintext_token: Send the token beyond this host without TLS.
            timeout: Seconds for a whole call, unless the call says otherwise; None sets none.
            channel_options: Options of the gRPC channel, which win over ours.

        Raises:
            UsageError: The arguments do not go together.
        """
        self._dial = dial(
            target,
            token=token,
            tls=tls,
            allow_plaintext_token=allow_plaintext_token,
            options=channel_options,
        )
        self._timeout_s = seconds_of(timeout)
        self._lock = threading.Lock()
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what still runs, and close the connection."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._dial.target!r})"

    async def complete(
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
                constraints=constraints,
                quality=quality,
                request_id=request_id or uuid.uuid4().hex,
                resume_token=resume_token,
                whole=True,
                may_restart=True,
            ),
            timeout=timeout,
            on_event=on_event,
        )
        async with stream:
            return await stream.answer()

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
    ) -> AsyncStream:
        """Answer piece by piece, as it arrives. Arguments are those of `complete`, and two more.

            async with client.stream("Explain.", on_event=print) as stream:
                async for text in stream.text:
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
            constraints=constraints,
            quality=quality,
            flush_interval=flush_interval,
            request_id=request_id or uuid.uuid4().hex,
            resume_token=resume_token,
            whole=False,
            may_restart=on_restart is not None,
        )
        return self._begin(request, timeout=timeout, on_event=on_event, on_restart=on_restart)

    async def status(
        self, *, timeout: float | None = None
    ) -> operations_service_pb2.GetStatusResponse:
        """Show every layer, model, quota, cap, cooldown and waiter as of now.

        Raises:
            EscaladeError: The service does not say.
        """
        service = operations_service_pb2_grpc.OperationsServiceStub(self._open())
        try:
            return await service.GetStatus(
                operations_service_pb2.GetStatusRequest(),
                timeout=seconds_of(timeout) or self._timeout_s,
                metadata=self._dial.metadata,
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id="") from error

    def _begin(
        self,
        request: router_service_pb2.CompleteRequest,
        *,
        timeout: float | None,
        on_event: Callable[[Announcement], None] | None,
        on_restart: Callable[[Retracted], None] | None = None,
    ) -> AsyncStream:
        size = request.ByteSize()
        if size > MESSAGE_BYTES_MAX:
            facts = Facts(request_id=request.request_id)
            limit = f"{size:,} bytes; the limit is {MESSAGE_BYTES_MAX:,}"
            raise RequestTooLarge(f"the request has {limit}", facts)
        timeout_s = seconds_of(timeout) or self._timeout_s

        def start() -> Call:
            service = router_service_pb2_grpc.RouterServiceStub(self._open())
            return service.Complete(request, timeout=timeout_s, metadata=self._dial.metadata)

        return AsyncStream(
            start,
            request_id=request.request_id,
            on_event=on_event,
            on_restart=on_restart,
            may_restart=request.on_interruption == completion_pb2.ON_INTERRUPTION_RESTART,
        )

    def _open(self) -> grpc.aio.Channel:
        """The channel, opened at the first call: asyncio's wants a running loop."""
        with self._lock:
            if self._closed:
                raise UsageError("the client is closed")
            if self._channel is None:
                way = self._dial
                self._channel = (
                    grpc.aio.insecure_channel(way.target, options=way.options)
                    if way.credentials is None
                    else grpc.aio.secure_channel(way.target, way.credentials, options=way.options)
                )
            return self._channel
