"""The way out of finished spans: a bounded queue, and one sender on the event loop.

Rules of the file:
1. ``put`` never blocks and never raises. What does not fit is dropped, counted and logged; what
   is eventful takes the place of what is not.
2. An exporter that is down costs spans, never a task: a batch is tried again, the queue is full
   some time, and the log says once that it began and once that it is over.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum

from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log
from escalade_server.telemetry.otlp import Packer, Parcel

GATHER_S = 0.1
"""How long eventful spans wait for others."""
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class Sent(Enum):
    """What became of one export."""

    OK = "ok"
    LATER = "later"
    """It may be tried again."""
    NEVER = "never"


class ExportError(Exception):
    """An export did not arrive; the words hold no header."""

    def __init__(self, detail: str, *, again: bool) -> None:
        """``again`` says whether to try it once more."""
        super().__init__(detail)
        self.again = again


Send = Callable[[bytes], Awaitable[int]]
"""Sends one export, and answers how many of its spans were refused; raises ``ExportError``."""


class SpanExporter:
    """Implements ``tracer.Outlet``. Owned by one event loop."""

    def __init__(
        self, send: Send, packer: Packer, log: Log, *, queue_max: int, batch_max: int, delay_ms: int
    ) -> None:
        """Queue at most ``queue_max`` spans; nothing is sent before ``run``."""
        self._send, self._packer, self._log = send, packer, log
        self._queue_max, self._batch_max = queue_max, batch_max
        self._delay_s = delay_ms / 1_000
        self._eventful: deque[Parcel] = deque()
        self._rest: deque[Parcel] = deque()
        self._pending: list[Parcel] = []
        """The batch that is being sent; it counts as queued."""
        self._urgent = asyncio.Event()
        self.queued = self.sent = self.dropped = 0
        """Spans."""
        self._told_dropped = 0
        self._is_failing = False

    def put(self, parcel: Parcel, *, eventful: bool) -> None:
        """Take finished spans of one task."""
        count = len(parcel.spans)
        while eventful and self.queued + count > self._queue_max and self._rest:
            self._drop(len(self._rest.popleft().spans))
        if self.queued + count > self._queue_max:
            self.dropped += count
            return
        self.queued += count
        (self._eventful if eventful else self._rest).append(parcel)
        if eventful or self.queued >= self._batch_max:
            self._urgent.set()

    def _drop(self, count: int) -> None:
        self.queued -= count
        self.dropped += count

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._delay_s):
                    await self._urgent.wait()
                await asyncio.sleep(min(GATHER_S, self._delay_s))
            except TimeoutError:
                pass
            self._urgent.clear()
            tries = 0
            while self.queued:
                if await self._one() is Sent.LATER:
                    await asyncio.sleep(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)])
                    tries += 1
                else:
                    tries = 0

    async def flush(self, within_s: float) -> None:
        """Send what is left, each batch once, before the process ends."""
        try:
            async with asyncio.timeout(within_s):
                while self.queued and await self._one() is not Sent.LATER:
                    pass
        except TimeoutError:
            pass
        if self.queued:
            self.dropped += self.queued
            self.queued = 0
        self._say_dropped()

    async def _one(self) -> Sent:
        """Send one batch; one that may be tried again stays the first in line."""
        if not self._pending:
            self._pending = self._take()
        count = sum(len(parcel.spans) for parcel in self._pending)
        try:
            refused = await self._send(self._packer.pack(self._pending))
        except ExportError as error:
            self._fails(str(error))
            if error.again:
                return Sent.LATER
            outcome, refused = Sent.NEVER, count
        except Exception as error:  # noqa: BLE001 - spans of one batch, never the sender
            self._fails(type(error).__name__)
            outcome, refused = Sent.NEVER, count
        else:
            outcome = Sent.OK
        self._pending = []
        self.queued -= count
        self.sent += count - refused
        self.dropped += refused
        if outcome is Sent.OK and self._is_failing:
            self._is_failing = False
            self._log.info(names.TRACES_MENDED)
        if outcome is Sent.OK:
            self._say_dropped()
        return outcome

    def _take(self) -> list[Parcel]:
        batch: list[Parcel] = []
        room = self._batch_max
        for queue in (self._eventful, self._rest):
            while queue and (not batch or len(queue[0].spans) <= room):
                batch.append(queue.popleft())
                room -= len(batch[-1].spans)
        return batch

    def _fails(self, why: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.warning(names.TRACES_FAILING, detail=why)

    def _say_dropped(self) -> None:
        lost = self.dropped - self._told_dropped
        if lost:
            self._told_dropped = self.dropped
            self._log.warning(names.TRACES_DROPPED, spans=lost)
