"""One call of Route on the wire, for asyncio and for threads, with the same face (P13).

The synchronous calls of gRPC take what is sent from an iterator, in a thread of its own; so there
a queue feeds it. Everything above this file is written once, and generated for the other kind.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import grpc
import grpc.aio

from escalade.v1 import router_service_pb2, router_service_pb2_grpc

Metadata = tuple[tuple[str, str], ...]


class AsyncBidi:
    """Says and hears messages. One task hears; any may speak."""

    def __init__(
        self, channel: grpc.aio.Channel, timeout_s: float | None, metadata: Metadata
    ) -> None:
        service = router_service_pb2_grpc.RouterServiceStub(channel)
        self._call = service.Route(timeout=timeout_s, metadata=metadata)
        self._speaking = asyncio.Lock()  # one write at a time is all that gRPC takes
        self._timer: asyncio.TimerHandle | None = None
        self._given_up = False

    async def send(self, message: router_service_pb2.RouteRequest) -> None:
        """Say something; into a stream that is over it is said in vain, as hearing will show."""
        async with self._speaking:
            with suppress(grpc.RpcError, asyncio.InvalidStateError):
                await self._call.write(message)

    async def half_close(self) -> None:
        """Say that nothing more comes."""
        async with self._speaking:
            with suppress(grpc.RpcError, asyncio.InvalidStateError):
                await self._call.done_writing()

    async def receive(self) -> router_service_pb2.RouteResponse | None:
        """Hear the next message; None at the end.

        Raises:
            grpc.RpcError: The stream ended badly.
        """
        try:
            heard = await self._call.read()
        except asyncio.CancelledError:
            if not self._given_up:
                raise  # whoever hears was cancelled, not the call alone
            return None
        return heard if isinstance(heard, router_service_pb2.RouteResponse) else None

    def give_up_after(self, seconds: float) -> None:
        """Cut the stream unless it ends by itself until then."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def close(self) -> None:
        """Cut what still runs."""
        if self._timer is not None:
            self._timer.cancel()
        self._call.cancel()

    def _give_up(self) -> None:
        self._given_up = True
        self._call.cancel()


class Bidi:
    """The same for threads. One thread hears; any may speak."""

    def __init__(self, channel: grpc.Channel, timeout_s: float | None, metadata: Metadata) -> None:
        service = router_service_pb2_grpc.RouterServiceStub(channel)
        self._said: queue.SimpleQueue[router_service_pb2.RouteRequest | None] = queue.SimpleQueue()
        feed: Iterator[router_service_pb2.RouteRequest] = iter(self._said.get, None)
        self._call = service.Route(feed, timeout=timeout_s, metadata=metadata)
        self._call.add_callback(self.half_close)  # or the thread that takes from it waits for ever
        self._timer: threading.Timer | None = None
        self._given_up = False

    def send(self, message: router_service_pb2.RouteRequest) -> None:
        """Say something; into a stream that is over it is said in vain, as hearing will show."""
        self._said.put(message)

    def half_close(self) -> None:
        """Say that nothing more comes."""
        self._said.put(None)

    def receive(self) -> router_service_pb2.RouteResponse | None:
        """Hear the next message; None at the end.

        Raises:
            grpc.RpcError: The stream ended badly.
        """
        try:
            return next(self._call, None)
        except grpc.RpcError:
            if not self._given_up:
                raise
            return None

    def give_up_after(self, seconds: float) -> None:
        """Cut the stream unless it ends by itself until then."""
        self._timer = threading.Timer(seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """Cut what still runs."""
        if self._timer is not None:
            self._timer.cancel()
        self._call.cancel()

    def _give_up(self) -> None:
        self._given_up = True
        self._call.cancel()


class AsyncBeat:
    """Does something again and again while a block is open."""

    def __init__(self, period_s: float, action: Callable[[], Awaitable[None]]) -> None:
        self._period_s, self._action = period_s, action
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop, once the action is through: cancelled in mid-write it would take the call along."""
        self._stop.set()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._stop.wait(), self._period_s)
            except TimeoutError:
                await self._action()
            else:
                return


class Beat:
    """The same for threads, in one of its own."""

    def __init__(self, period_s: float, action: Callable[[], None]) -> None:
        self._period_s, self._action = period_s, action
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="escalade-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, once the action is through."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._action()
