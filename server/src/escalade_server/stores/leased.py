"""Leased chunks for hot counters: a store over another store (quotas C10, ADR 10).

Where a model is called often, this process takes a chunk of all its counters from the store beneath
it and spends it here: a reservation is a line in a journal, a settlement the same line synced, and
the store hears of hundreds of them in one order, a *fold* (``stores.leasing``). What must be true:

- Nothing is overspent: a chunk is held in the store before any of it is spent (``core.leases``).
- Nothing acknowledged is lost: it is in the journal, and a process that starts reads the journals
  of dead ones. Until then the store has booked their chunks in full.
- A window is that of the admission: a lease belongs to one window of each counter, and admits
  nothing once that is over; what runs in it is booked there.
- What is special asks the store each time: a request id (R27) or a report that may come later (R32)
  must be known to all, counters near their end are shared to the last unit, cold ones cost nothing.

A lease is brought up to date as its chunk runs out, or every ``FOLD_S``; idle, it is given back
with that. So marks of caps are told at most so much later, in the fold's transaction: still once.
Reports are brought up to date before they are read.

When the store beneath is in trouble, paid models are closed at once; free ones go on inside what
their lease holds, at most until it ends.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from escalade_server.core import ledger
from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Billing, Counter
from escalade_server.core.commands import Candidate, Reserve, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Balance, Standing
from escalade_server.core.window import Window
from escalade_server.engine.ports import Clock, Kept, Spend, StoreError
from escalade_server.engine.usage import UsageTables
from escalade_server.stores.lease_journal import open_journals
from escalade_server.stores.lease_keeper import HOT, Bundle, Keeper
from escalade_server.stores.lease_state import Call
from escalade_server.stores.leasing import LeasableStore
from escalade_server.stores.rows import BOOKING
from escalade_server.stores.usage import days_in

TURNS = 3
"""So often a call waits for a chunk before it asks for itself."""
PASSED_MAX = 20_000

T = TypeVar("T")
Answer = Reserved | ReservationDenied | Repeated


class LeasedStore(Keeper):
    """Every port of a store over another one, which serves what is not about counters."""

    def __init__(
        self,
        make: Callable[[Callable[[str], None]], LeasableStore],
        journal: str,
        clock: Clock,
        calendar: Callable[[Counter, int], Window],
        tell: Callable[[str], None] = lambda _: None,
        *,
        zone: str = "UTC",
        hot: int = HOT,
    ) -> None:
        """Take what makes the store beneath, given whom it tells of its troubles.

        ``journal`` begins the names of the journals: processes on one machine may share it.
        ``zone`` is that of the days in reports; ``hot`` is how many calls in 5 s begin a lease.
        """
        super().__init__(make, clock, tell, hot=hot)
        self._place = journal
        self._calendar = calendar
        self._days = days_in(zone)
        self._passed: dict[str, None] = {}
        self._tick: asyncio.Task[None] | None = None
        self._seen: tuple[Standing, int, Standing] | None = None

    # ------------------------------------------------------------------------- begin and end

    async def open(self, counters: Sequence[Counter]) -> None:
        """Open the store beneath, and tell it what dead processes had not; see ``Store``."""
        self._loop = asyncio.get_running_loop()
        self._journal, former = open_journals(self._place)
        try:
            for _, told in former:
                self._chunks.replay(told.records, is_whole=told.is_whole)
            self._journal.begin(self._chunks.state())
            for journal, _ in former:  # from here on mine tells it
                if journal is not self._journal:
                    journal.remove()
                    await journal.close()
            await self.beneath.open(counters)
            for chunk in list(self._chunks.alive.values()):
                await self._fold(chunk, None)  # whatever was assumed of it
                await self._give_back(chunk)
        except OSError as error:
            await self._abandon()
            raise StoreError(f"the journal {self._place} cannot be written: {error}") from error
        except BaseException:
            await self._abandon()
            raise
        self._closed = None
        self._tick = asyncio.ensure_future(self._ticking())

    async def _abandon(self) -> None:
        await self._journal.close()
        await self.beneath.close()

    async def close(self) -> None:
        """Give everything back that is not in use, and close; safe twice."""
        if self._closed is not None or self._tick is None:
            return
        self._closed = "the store is closed"
        self._tick.cancel()
        await asyncio.gather(self._tick, return_exceptions=True)
        while self._works:
            await asyncio.gather(*self._works, return_exceptions=True)
        with contextlib.suppress(StoreError):
            for chunk in list(self._chunks.alive.values()):
                await self._give_back(chunk)
        await self.beneath.close()
        with contextlib.suppress(OSError):
            self._journal.begin(self._chunks.state())
        await self._journal.close()

    async def adopt(
        self, counters: Sequence[Counter], marks: Mapping[str, Sequence[Mark]] | None = None
    ) -> None:
        """Go on with other counters: leases end, what is spent under a key stays (R18)."""
        for chunk in list(self._chunks.alive.values()):
            await self._give_back(chunk)
        self._bundles.clear()
        await self.beneath.adopt(counters, marks)

    # ------------------------------------------------------------------------------- the port

    def standing(self, now_ms: int) -> Standing:
        """Answer shared state as known here: what is leased here and not in use, is free here."""
        self._chunks.sweep(now_ms)
        known, version = self.beneath.standing(now_ms), self._chunks.version
        if self._seen is not None and self._seen[0] is known and self._seen[1] == version:
            return self._seen[2]
        shifts = self._shifts(now_ms)
        seen = known
        if any(key in known.balances for key in shifts):
            balances = dict(known.balances)
            for key, (spent, held) in shifts.items():
                balance = balances.get(key)
                if balance is not None:
                    balances[key] = _shifted(balance, spent, held)
            seen = replace(known, balances=balances)
        self._seen = known, version, seen
        return seen

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        """Answer every counter; what is leased here and not in use stands apart."""
        self._chunks.sweep(now_ms)
        shifts = self._shifts(now_ms)
        rests: dict[str, int] = {}
        for chunk in self._chunks.alive.values():
            rest = chunk.lease.rest()
            for key, (column, ends_ms) in chunk.windows.items():
                if ends_ms > now_ms:
                    rests[key] = rests.get(key, 0) + rest[column]
        found = []
        for spend in self.beneath.spends(now_ms):
            key = spend.counter.key
            spent, held = shifts.get(key, (0, 0))
            spent, held = max(spend.spent + spent, 0), max(spend.held + held, 0)
            found.append(replace(spend, spent=spent, held=held, leased=rests.get(key, 0)))
        return tuple(found)

    def reserve(self, order: Reserve, now_ms: int) -> Awaitable[Answer]:
        """Hold the first candidate here if its lease has room; else ask; see ``Store``."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._closed is not None:
            future.set_exception(StoreError(self._closed))
            return future
        known = self._chunks.known.get(order.reservation_id)
        if known is not None:
            future.set_result(Reserved(order.attempt, known.position))
            return future
        bundle = self._bundle_of(order)
        if bundle is None:
            return self._work(self._ask(order, now_ms))
        try:
            amounts = ledger.bounds(order.candidates[0]).checked()
        except ValueError as error:
            future.set_exception(StoreError(f"{error}"))
            return future
        bundle.demand.add(amounts, now_ms)
        if not self._admit(order, bundle, amounts, now_ms):
            return self._work(self._wait(order, bundle, amounts, now_ms))
        future.set_result(Reserved(order.attempt, order.candidates[0].model.position))
        return future

    def settle(self, order: Settle, now_ms: int) -> Awaitable[None]:
        """Book a call; done means durable, in the journal or beneath; see ``Store``."""
        call = self._chunks.known.get(order.reservation_id)
        if call is None:
            return self.beneath.settle(order, now_ms)
        if self._closed is None:
            with contextlib.suppress(ValueError):
                self._chunks.settle(call, order)
                return self._durable(call.chunk)
        failed: asyncio.Future[None] = self._loop.create_future()
        used = Amounts(order.requests, order.tokens, order.nanos)
        try:
            used.checked()
        except ValueError as error:
            failed.set_exception(StoreError(f"{error}"))
        else:
            failed.set_exception(StoreError(f"{self._closed}"))
        return failed

    async def find(self, reservation_id: str) -> Kept | None:
        """Look a reservation up; see ``Store``."""
        call = self._chunks.known.get(reservation_id)
        if call is None:
            return await self.beneath.find(reservation_id)
        return Kept(
            call.id, call.model, call.agent, routed=False, state=BOOKING[call.state], digest="",
            admitted_ms=call.admitted_ms, reserved_tokens=call.reserved.tokens,
            reserved_nanos=call.reserved.nanos, tokens=call.used.tokens, nanos=call.used.nanos,
        )  # fmt: skip

    async def usage(self, begin: str, end: str, agent: str | None = None) -> UsageTables:
        """Sum up a span of days, with what was spent here; see ``UsageStore``."""
        await self._fold_all()
        return await self.beneath.usage(begin, end, agent)

    async def unreported(self, begin: str, end: str) -> tuple[str, ...]:
        """List the days without a report; see ``UsageStore``."""
        await self._fold_all()
        return await self.beneath.unreported(begin, end)

    # ----------------------------------------------------------------------- reserving, in full

    def _bundle_of(self, order: Reserve) -> Bundle | None:
        """Find the counters of the first candidate; None: this order is for the store to know."""
        is_here = not (order.request_id or order.routed or self._journal.broken)
        if not is_here or not order.candidates or order.reservation_id in self._passed:
            return None
        candidate = order.candidates[0]
        if self._down and candidate.model.is_paid:
            return None
        counters = candidate.counters
        key = tuple([(c.key, c.limit, c.unit, c.period) for c in counters])
        bundle = self._bundles.get(key)
        if bundle is None:
            bundle = self._bundles[key] = Bundle(counters)
        return bundle if bundle.is_leasable else None

    def _admit(self, order: Reserve, bundle: Bundle, amounts: Amounts, now_ms: int) -> bool:
        chunk = bundle.chunk
        if chunk is None or not chunk.lease.admits(amounts, now_ms):
            return False
        candidate: Candidate = order.candidates[0]
        model = candidate.model
        call = Call(
            order.reservation_id, chunk, amounts, model.position, now_ms,
            self._calendar(self._days, now_ms).id, model.layer, model.key, order.agent,
            order.task_type, model.billing is Billing.METERED,
        )  # fmt: skip
        try:
            self._chunks.hold(call)
        except StoreError:
            return False
        return True

    async def _wait(self, order: Reserve, bundle: Bundle, amounts: Amounts, now_ms: int) -> Answer:
        """Get a chunk, together with all who wait for it; or ask for this call alone."""
        for _ in range(TURNS):
            if not self._is_worth(bundle, now_ms):
                break
            await asyncio.shield(self._refill(bundle, order.reservation_id, now_ms))
            if self._admit(order, bundle, amounts, now_ms):
                return Reserved(order.attempt, order.candidates[0].model.position)
        return await self._ask(order, now_ms)

    def _pass(self, order: Reserve, now_ms: int) -> Awaitable[Answer]:
        """Ask the store, at once and in the order of the calls."""
        self._passed[order.reservation_id] = None
        if len(self._passed) > PASSED_MAX:
            del self._passed[next(iter(self._passed))]
        return self.beneath.reserve(order, now_ms)

    def _ask(self, order: Reserve, now_ms: int) -> Coroutine[None, None, Answer]:
        """Ask the store at once; but where only this process is in the way, it gives way first."""
        keys = self._in_the_way(order, now_ms)
        return self._asked(order, None if keys else self._pass(order, now_ms), keys, now_ms)

    async def _asked(
        self, order: Reserve, asking: Awaitable[Answer] | None, keys: set[str], now_ms: int
    ) -> Answer:
        if asking is None:
            await self._clear(keys)
            asking = self._pass(order, now_ms)
        answer = await asking
        if not isinstance(answer, ReservationDenied):
            return answer
        if await self._clear({denial.counter_key for denial in answer.denials}):
            answer = await self.beneath.reserve(order, now_ms)
        if isinstance(answer, ReservationDenied):
            return replace(answer, standing=self.standing(now_ms))
        return answer

    def _in_the_way(self, order: Reserve, now_ms: int) -> set[str]:
        """Find the counters that seem full, and in which this process holds what is not in use."""
        shifts = self._shifts(now_ms)
        if not shifts:
            return set()
        balances = self.beneath.standing(now_ms).balances
        return {
            counter.key
            for candidate in order.candidates
            for counter in candidate.counters
            if shifts.get(counter.key, (0, 0)) != (0, 0)
            and (balance := balances.get(counter.key)) is not None
            and balance.spent + balance.held + candidate.amount(counter) > counter.limit
        }

    async def _clear(self, keys: Collection[str]) -> bool:
        """Give back what is idle in some counters, and book what is spent; tell if any."""
        found = [
            chunk
            for chunk in self._chunks.alive.values()
            if any(key in keys for key in chunk.windows)
            and (any(chunk.lease.rest()) or any(chunk.lease.used))
        ]
        for chunk in found:
            await self._give_back(chunk)
        return bool(found)


def _shifted(balance: Balance, spent: int, held: int) -> Balance:
    window, was_spent, was_held, ends_ms = balance
    return Balance(window, max(was_spent + spent, 0), max(was_held + held, 0), ends_ms)
