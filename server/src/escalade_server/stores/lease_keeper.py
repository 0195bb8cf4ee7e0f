"""The leases of a leased store: when they are taken, renewed and given back (quotas C10)."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from escalade_server.core import leases
from escalade_server.core.catalog import Counter, Period
from escalade_server.core.leases import Demand
from escalade_server.engine.ports import Clock, StoreError
from escalade_server.stores.lease_journal import Journal, Record
from escalade_server.stores.lease_state import Chunk, Chunks
from escalade_server.stores.leased_beneath import Beneath
from escalade_server.stores.leasing import LeasableStore

FOLD_S, TICK_S = 3.0, 0.5
"""A chunk that others need comes back within the patience of who waits for it (R14)."""
HOT = 20
"""So many calls in five seconds make a lease worth while: fewer cost the store no more without."""
BACK_S = 1.0
"""After a refusal nothing is asked for so long."""
T = TypeVar("T")


@dataclass(slots=True)
class Bundle:
    """Counters that are touched together, with the lease that new calls go to."""

    counters: tuple[Counter, ...]
    demand: Demand = field(default_factory=Demand)
    chunk: Chunk | None = None
    asking: "asyncio.Future[None] | None" = None
    closed_to_s: float = 0.0

    @property
    def is_leasable(self) -> bool:
        """Whether its windows last long enough."""
        return all(counter.period is not Period.SECOND for counter in self.counters)


class Keeper(Beneath):
    """Keeps all leases of a process."""

    _journal: Journal
    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        make: Callable[[Callable[[str], None]], LeasableStore],
        clock: Clock,
        tell: Callable[[str], None],
        *,
        hot: int,
    ) -> None:
        """See ``LeasedStore``."""
        self._down = ""
        self._tell = tell
        super().__init__(make(self._told))
        self._clock = clock
        self._hot = hot
        self._chunks = Chunks(self._write)
        self._bundles: dict[tuple[object, ...], Bundle] = {}
        self._works: set[asyncio.Future[Any]] = set()
        self._folds: dict[str, asyncio.Future[None]] = {}
        self._closed: str | None = "the store is not open"

    # ------------------------------------------------------------------------- asking for chunks

    def _is_worth(self, bundle: Bundle, now_ms: int) -> bool:
        asked, _ = bundle.demand.recent(now_ms)
        is_open = self._loop.time() >= bundle.closed_to_s and not self._down
        return is_open and not self._journal.broken and asked.requests >= self._hot

    def _refill(self, bundle: Bundle, id_: str, now_ms: int) -> "asyncio.Future[None]":
        if bundle.asking is None:
            bundle.asking = self._work(self._refilling(bundle, id_, now_ms))
        return bundle.asking

    async def _refilling(self, bundle: Bundle, id_: str, now_ms: int) -> None:
        """Renew the lease of a bundle, or begin another one where its time is over."""
        try:
            await asyncio.sleep(0)  # all who are about to ask are in the demand
            chunk = bundle.chunk
            if chunk is None or now_ms >= chunk.lease.admits_to_ms:
                if chunk is not None:
                    bundle.chunk = None
                    await self._give_back(chunk)
                chunk = self._chunks.take(f"{id_}~", bundle.counters)
            await self._renew(chunk, bundle)
            bundle.chunk = chunk if chunk.lease.admits_to_ms else None
        except StoreError:
            bundle.closed_to_s = self._loop.time() + BACK_S
        finally:
            bundle.asking = None

    async def _renew(self, chunk: Chunk, bundle: Bundle) -> None:
        """Book what was settled, and ask for what is wanted; too little left ends the lease."""
        await self._fold(chunk, bundle)
        if not chunk.lease.admits_to_ms:
            bundle.closed_to_s = self._loop.time() + BACK_S
            await self._give_back(chunk)

    async def _give_back(self, chunk: Chunk) -> None:
        """Keep only what is in use."""
        chunk.lease.admits_to_ms = 0
        for _ in range(2):  # one may be under way that keeps the rest
            lease = chunk.lease
            if chunk.pending is not None or any(lease.rest()) or any(lease.used) or chunk.sums:
                await self._fold(chunk, None)
        if chunk.is_over and chunk.id in self._chunks.alive and chunk.id not in self._folds:
            self._chunks.drop(chunk)

    async def _fold(self, chunk: Chunk, bundle: Bundle | None) -> None:
        """Bring the store up to date; one fold of a lease at a time."""
        while chunk.id in self._folds:
            await asyncio.shield(self._folds[chunk.id])
        task = self._folds[chunk.id] = self._work(self._folding(chunk, bundle))
        task.add_done_callback(lambda _: self._folds.pop(chunk.id, None))
        await asyncio.shield(task)

    async def _folding(self, chunk: Chunk, bundle: Bundle | None) -> None:
        now_ms = self._clock.now_ms()
        if chunk.pending is not None:  # unanswered so far: word by word, once more
            await self._say(chunk, now_ms)
        if bundle is None:
            self._chunks.fold(chunk, keeps_rest=False)
        else:
            wish = leases.wish(chunk.lease, bundle.demand, now_ms)
            self._chunks.fold(chunk, wish, keeps_rest=True)
        await self._say(chunk, now_ms)

    async def _say(self, chunk: Chunk, now_ms: int) -> None:
        assert chunk.pending is not None, "there is something to say"
        answer = await self.beneath.fold(chunk.pending, now_ms)
        self._chunks.folded(chunk, answer, now_ms)
        chunk.folded_s = self._loop.time()

    async def _fold_all(self) -> None:
        """Tell the store everything that is settled, and go on."""
        if self._closed is not None:
            raise StoreError(self._closed)
        bundles = {id(each.chunk): each for each in self._bundles.values() if each.chunk}
        for chunk in list(self._chunks.alive.values()):
            bundle = bundles.get(id(chunk))
            if chunk.pending is not None or any(chunk.lease.used) or chunk.sums:
                await (self._renew(chunk, bundle) if bundle else self._give_back(chunk))

    def _durable(self, chunk: Chunk) -> Awaitable[None]:
        """Wait until what was written is safe: in the journal, or if that cannot be, beneath."""
        if self._journal.broken or not chunk.windows:  # of a dead process, corrected late
            return self._work(self._give_back(chunk))
        done: asyncio.Future[None] = self._loop.create_future()

        def synced(future: "asyncio.Future[None]") -> None:
            if future.exception() is not None:
                self._work(self._give_back(chunk)).add_done_callback(told)
            elif not done.done():
                done.set_result(None)

        def told(future: "asyncio.Future[None]") -> None:
            error = future.exception()
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._journal.sync(self._chunks.state).add_done_callback(synced)
        return done

    async def _ticking(self) -> None:
        """Do what time brings: renew, give back, forget."""
        while True:
            await asyncio.sleep(TICK_S)
            with contextlib.suppress(StoreError):  # the next time
                await self._look_after()

    async def _look_after(self) -> None:
        now_ms, now_s = self._clock.now_ms(), self._loop.time()
        self._chunks.sweep(now_ms)
        bundles = {id(each.chunk): each for each in self._bundles.values() if each.chunk}
        for chunk in list(self._chunks.alive.values()):
            if now_s - chunk.folded_s < FOLD_S and chunk.pending is None:
                continue
            bundle = bundles.get(id(chunk))
            if bundle is None:
                await self._give_back(chunk)
            elif bundle.asking is not None:
                continue
            elif self._is_worth(bundle, now_ms) and chunk.lease.admits_to_ms > now_ms:
                await self._renew(chunk, bundle)
            else:
                bundle.chunk = None
                await self._give_back(chunk)

    # --------------------------------------------------------------------------------- smaller

    def _work(self, work: Coroutine[None, None, T]) -> "asyncio.Future[T]":
        """Keep hold of what is done beside: ``close`` waits for it."""
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Future[Any]") -> None:
        self._works.discard(task)
        if not task.cancelled():
            task.exception()  # who waits is told; perhaps nobody does

    def _told(self, detail: str) -> None:
        self._down = detail
        self._tell(detail)

    def _write(self, record: Record) -> None:
        """Keep a record. What admits must be kept; what ends is told to the store otherwise."""
        try:
            self._journal.append(record)
        except StoreError:
            if record[0] in {"L", "H"}:
                raise

    def _shifts(self, now_ms: int) -> dict[str, tuple[int, int]]:
        """Answer by how much spent and held differ here from what the store knows."""
        found: dict[str, tuple[int, int]] = {}
        for chunk in self._chunks.alive.values():
            lease, sent = chunk.lease, chunk.pending
            for key, (column, ends_ms) in chunk.windows.items():
                if ends_ms <= now_ms:
                    continue
                spent, held = found.get(key, (0, 0))
                spent += lease.used[column] + (sent.used[column] if sent else 0)
                found[key] = spent, held + lease.open[column] - chunk.stored[column]
        return found
