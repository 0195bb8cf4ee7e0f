"""One call of Complete: its events, its text, its answer."""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol, Self

import grpc

from escalade._accumulate import Accumulator, Snapshot
from escalade._errors import EscaladeError, Facts, UsageError
from escalade._events import Announcement, Answer, Event, ReasoningDelta, Retracted, TextDelta
from escalade._status import error_from_rpc, error_from_status
from escalade.v1 import router_service_pb2


class Call(Protocol):
    """What is needed of a call of gRPC."""

    def cancel(self) -> bool | None: ...

    def __aiter__(self) -> AsyncIterator[router_service_pb2.CompleteResponse]: ...


class AsyncStream:
    """An answer that arrives. Made by `AsyncClient.stream`; use it as a context manager.

    Iterating gives every event, `text` the text alone; both read the one stream. Tool calls are
    void until the end: they are in `Finished.answer` and in `answer()`. Leaving the block
    cancels what still runs. One task reads a stream at a time.

    Attributes:
        request_id: The id of the request.
    """

    def __init__(
        self,
        start: Callable[[], Call],
        *,
        request_id: str,
        on_event: Callable[[Announcement], None] | None,
        on_restart: Callable[[Retracted], None] | None,
        may_restart: bool,
    ) -> None:
        self.request_id = request_id
        self._start = start
        self._on_event = on_event
        self._on_restart = on_restart
        self._fold = Accumulator(request_id, may_restart=may_restart)
        self._call: Call | None = None
        self._responses: AsyncIterator[router_service_pb2.CompleteResponse] | None = None
        self._started_s = 0.0
        self._ready: deque[Event] = deque()
        self._error: EscaladeError | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._call is not None or self._closed:
            raise UsageError("a stream is entered once")
        self._started_s = time.monotonic()
        self._call = self._start()
        self._responses = aiter(self._call)
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
        if self._call is not None:
            self._call.cancel()

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

    async def _read(self) -> None:
        """Fold the next message, or the end, and put aside what the caller is to be told."""
        if self._responses is None or self._closed:
            closed = "was left before its end" if self._closed else "is used inside `with`"
            raise UsageError(f"the stream {closed}", Facts(request_id=self.request_id))
        try:
            response = await anext(self._responses, None)
        except grpc.RpcError as error:
            self._error = error_from_rpc(
                error,
                request_id=self.request_id,
                elapsed_s=time.monotonic() - self._started_s,
                failed=self._fold.failed,
            )
            raise self._error from error
        try:
            if response is not None:
                told = (self._fold.add(event) for event in response.events)
                self._ready += (event for event in told if event is not None)
            elif (failed := self._fold.failed) is not None:  # a status OK after it is a mistake
                self._error = error_from_status(
                    None, "", b"", request_id=self.request_id, failed=failed
                )
            else:
                self._ready += self._fold.end()
        except EscaladeError as error:
            self._error = error
            await self.close()
