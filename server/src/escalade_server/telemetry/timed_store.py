"""A store whose round trips are measured, now and then.

Measuring each would cost the event loop a microsecond twice a task. One in 10 ms of each kind is
enough for a histogram of a busy server, and is all of them on a quiet one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.standing import Standing
from escalade_server.core.tally import Tally
from escalade_server.engine.ports import Kept, Spend, Store

T = TypeVar("T")
EVERY_S = 0.01


class TimedStore:
    """``Store`` over another one; ``told`` hears the operation and its seconds."""

    def __init__(self, store: Store, told: Callable[[str, float], None]) -> None:
        """Measure this one."""
        self._store, self._told = store, told
        self._reserved_s = self._settled_s = 0.0

    def reserve(
        self, order: Reserve, now_ms: int
    ) -> Awaitable[Reserved | ReservationDenied | Repeated]:
        """Pass it on, and measure it unless another was measured just now."""
        work, begun = self._store.reserve(order, now_ms), perf_counter()
        if begun - self._reserved_s < EVERY_S:
            return work
        self._reserved_s = begun
        return self._measured("reserve", work, begun)

    def settle(self, order: Settle, now_ms: int) -> Awaitable[None]:
        """Pass it on, and measure it unless another was measured just now."""
        work, begun = self._store.settle(order, now_ms), perf_counter()
        if begun - self._settled_s < EVERY_S:
            return work
        self._settled_s = begun
        return self._measured("settle", work, begun)

    def _measured(self, operation: str, work: Awaitable[T], begun: float) -> Awaitable[T]:
        def done(_future: "asyncio.Future[T]") -> None:
            self._told(operation, perf_counter() - begun)

        future = asyncio.ensure_future(work)
        future.add_done_callback(done)
        return future

    # ------------------------------------------------------------------------ passed on as it is

    async def open(self, counters: Sequence[Counter]) -> None:
        """Pass it on."""
        await self._store.open(counters)

    def adopt(
        self, counters: Sequence[Counter], marks: Mapping[str, Sequence[Mark]] | None = None
    ) -> Awaitable[None]:
        """Pass it on."""
        return self._store.adopt(counters, marks)

    def standing(self, now_ms: int) -> Standing:
        """Pass it on."""
        return self._store.standing(now_ms)

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        """Pass it on."""
        return self._store.spends(now_ms)

    def tally(self, order: Tally, now_ms: int) -> Awaitable[None]:
        """Pass it on."""
        return self._store.tally(order, now_ms)

    def find(self, reservation_id: str) -> Awaitable[Kept | None]:
        """Pass it on."""
        return self._store.find(reservation_id)

    def bench(self, order: SetBench, now_ms: int) -> Awaitable[None]:
        """Pass it on."""
        return self._store.bench(order, now_ms)

    async def close(self) -> None:
        """Pass it on."""
        await self._store.close()
