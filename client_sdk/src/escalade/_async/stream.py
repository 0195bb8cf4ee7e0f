"""One call of Complete: its events, its text, its answer."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import grpc

from escalade._accumulate import Accumulator, Snapshot
from escalade._errors import EscaladeError, Facts, TransportError, UsageError
from escalade._events import (
    Announcement,
    Answer,
    Event,
    Failed,
    ReasoningDelta,
    Retracted,
    TextDelta,
)
from escalade._reconnect import Road
from escalade._status import error_from_rpc, error_from_status
from escalade._trace import CallSpan, code_of
from escalade.v1 import completion_pb2, router_service_pb2


class Call(Protocol):
    """What is needed of a call of gRPC."""

    def cancel(self) -> bool | None: ...

    def __aiter__(self) -> AsyncIterator[router_service_pb2.CompleteResponse]: ...


class Run(NamedTuple):
    """One call on the wire, and what to tell when it is over, once."""

    call: Call
    over: Callable[[], None]
    span: CallSpan


Start = Callable[[router_service_pb2.CompleteRequest, float | None], Run]


class AsyncStream:
    """An answer that arrives. Made by `AsyncClient.stream`; use it as a context manager.

    Iterating gives every event, `text` the text alone; both read the one stream. Tool calls are
    void until the end: they are in `Finished.answer` and in `answer()`. Leaving the block
    cancels what still runs. One task reads a stream at a time. A stream that breaks before its
    first piece is asked for again, and tells `Reconnected`.

    Attributes:
        request_id: The id of the request.
    """

    def __init__(
        self,
        start: Start,
        request: router_service_pb2.CompleteRequest,
        *,
        is_own_id: bool,
        timeout_s: float | None,
        on_event: Callable[[Announcement], None] | None,
        on_restart: Callable[[Retracted], None] | None,
    ) -> None:
        self.request_id = request.request_id
        self._start = start
        self._request = request
        self._is_own_id = is_own_id
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._on_restart = on_restart
        self._fold = self._new_fold()
        self._road: Road | None = None
        self._run: Run | None = None
        self._responses: AsyncIterator[router_service_pb2.CompleteResponse] | None = None
        self._run_began_s = 0.0
        self._ready: deque[Event] = deque()
        self._error: EscaladeError | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._road is not None or self._closed:
            raise UsageError("a stream is entered once")
        now_s = time.monotonic()
        self._road = Road(
            resume_token=self._request.resume_token,
            is_own_id=self._is_own_id,
            deadline_s=None if self._timeout_s is None else now_s + self._timeout_s,
            now_s=now_s,
            draw=random.random,
        )
        self._begin_run(self._road)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what still runs; the service cancels the model's call and settles it."""
        self._closed = True
        self._end_run()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._fold.answer is not None:
                raise StopAsyncIteration
            await self._read()
        event = self._ready.popleft()
        if not isinstance(event, TextDelta | ReasoningDelta):
            if self._on_event is not None:
                self._on_event(event)
            if self._on_restart is not None and isinstance(event, Retracted):
                self._on_restart(event)
        return event

    @property
    def text(self) -> AsyncIterator[str]:
        """The text, piece by piece, as it comes."""
        return self._texts()

    async def _texts(self) -> AsyncIterator[str]:
        async for event in self:
            if isinstance(event, TextDelta):
                yield event.text

    @property
    def snapshot(self) -> Snapshot:
        """What stands of the answer now, whoever reads it and however far."""
        return self._fold.snapshot

    async def answer(self) -> Answer:
        """Read to the end, and give the whole answer.

        Raises:
            EscaladeError: There is none; see `escalade.EscaladeError` for the tree.
        """
        async for _ in self:
            pass
        answer = self._fold.answer
        assert answer is not None, "iteration ends with an answer or an error"
        return answer

    def _begin_run(self, road: Road) -> None:
        now_s = time.monotonic()
        self._request.resume_token = road.resume_token
        self._fold = self._new_fold()
        self._run = self._start(self._request, road.left_s(now_s))
        self._responses = aiter(self._run.call)
        self._run_began_s = now_s

    def _end_run(self, code: str = "CANCELLED") -> None:
        run, self._run = self._run, None
        if run is not None:
            run.call.cancel()
            run.over()
            run.span.end(code)

    def _new_fold(self) -> Accumulator:
        restart = self._request.on_interruption == completion_pb2.ON_INTERRUPTION_RESTART
        return Accumulator(self.request_id, may_restart=restart)

    async def _read(self) -> None:
        """Fold the next message, or the end, and put aside what the caller is to be told."""
        if self._responses is None or self._road is None or self._closed:
            closed = "was left before its end" if self._closed else "is used inside `with`"
            raise UsageError(f"the stream {closed}", Facts(request_id=self.request_id))
        failed: EscaladeError | None = None
        response: router_service_pb2.CompleteResponse | None = None
        try:
            response = await anext(self._responses, None)
        except grpc.RpcError as error:
            elapsed_s = time.monotonic() - self._run_began_s
            failed = error_from_rpc(
                error, request_id=self.request_id, elapsed_s=elapsed_s, failed=self._fold.failed
            )
            failed.__cause__ = error
        try:
            if failed is not None:
                await self._go_on(self._road, failed)
            elif response is not None:
                self._add(self._road, response)
            elif self._fold.failed is not None:  # a status OK after it is a mistake
                said = self._fold.failed
                failed = error_from_status(None, "", b"", request_id=self.request_id, failed=said)
                await self._go_on(self._road, failed)
            else:
                self._ready += self._fold.end()
                self._end_run("OK")
        except EscaladeError as error:
            self._error = error
            await self.close()

    def _add(self, road: Road, response: router_service_pb2.CompleteResponse) -> None:
        for event in response.events:
            told = self._fold.add(event)
            if isinstance(told, Failed):
                continue  # told when it is known that nothing follows it
            news = road.heard(time.monotonic())
            if news is not None:
                self._ready.append(news)
            if told is None:
                continue
            if isinstance(told, TextDelta | ReasoningDelta) or road.admits(told):
                self._ready.append(told)

    async def _go_on(self, road: Road, error: EscaladeError) -> None:
        """Begin another run after the end of one, or end with its error."""
        code = code_of(error)
        delay_s = None if self._fold.begun else road.delay_after(error, time.monotonic())
        if delay_s is not None:
            self._end_run(code)
            await asyncio.sleep(delay_s)
            if not self._closed:
                self._begin_run(road)
            return
        if self._fold.failed is not None:
            self._ready.append(self._fold.failed)
        if road.history and isinstance(error, TransportError):
            error.message += f" ({road.history})"
        self._error = error
        self._end_run(code)
