"""A process that spends a cap as fast as it can, and says what it was promised.

It writes to standard output ``g`` for each call that was granted, ``s`` and what it used for each
settlement that was acknowledged, and at its end ``ops`` and the orders that its store was given.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.commands import Reserve, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.stores.leased import LeasedStore
from escalade_server.stores.leasing import Fold, Folded
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_link import place_of
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.world import candidate, counter, reserve, settle

RESERVED = 10
"""Nanos that each call reserves, of which it uses 1 to 10."""
CALLERS = 40
PATIENCE_S = 12.0
"""So long a call waits for what others hold (R14), longer than a lease that nobody uses."""


class Plan(NamedTuple):
    """What one process is to do."""

    state: str
    """The URL of a Redis, or the path of a file."""
    journal: str
    units: int
    """The cap on calls that all processes share."""
    seed: int

    @property
    def counters(self) -> tuple[Counter, Counter]:
        """The cap, and a second one beside it, which counts what was used."""
        money = counter("money", RESERVED * self.units, Unit.NANOS, Period.MONTH)
        return counter("calls", self.units, period=Period.MONTH), money


class Counted:
    """Counts the orders about counters that reach a store."""

    def __init__(self, store: SqliteStore | RedisStore) -> None:
        """Stand in for three of its methods."""
        self.store = store
        self.orders = 0
        self._reserve, self._settle, self._fold = store.reserve, store.settle, store.fold
        store.reserve = self.reserve  # type: ignore[method-assign]
        store.settle = self.settle  # type: ignore[method-assign]
        store.fold = self.fold  # type: ignore[method-assign]

    def reserve(
        self, order: Reserve, now_ms: int
    ) -> Awaitable[Reserved | ReservationDenied | Repeated]:
        self.orders += 1
        return self._reserve(order, now_ms)

    def settle(self, order: Settle, now_ms: int) -> Awaitable[None]:
        self.orders += 1
        return self._settle(order, now_ms)

    def fold(self, order: Fold, now_ms: int) -> Awaitable[Folded]:
        self.orders += 1
        return self._fold(order, now_ms)


def made(plan: Plan, clock: SystemClock, tell: Callable[[str], None]) -> SqliteStore | RedisStore:
    if plan.state.startswith("redis://"):
        return RedisStore(place_of(plan.state), clock, Calendar(), tell, deadline_s=5.0)
    return SqliteStore(plan.state, clock, Calendar(), tell=tell)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def spend(plan: Plan) -> None:
    """Spend until nothing is left."""
    clock, counted = SystemClock(), []

    def beneath(tell: Callable[[str], None]) -> SqliteStore | RedisStore:
        counted.append(Counted(made(plan, clock, tell)))
        return counted[0].store

    store = LeasedStore(beneath, plan.journal, clock, Calendar())
    await store.open(plan.counters)
    say("open")
    order, left = candidate(*plan.counters, nanos=RESERVED), [True]

    async def caller(number: int) -> None:
        dice = random.Random(plan.seed * 1_000 + number)
        turn, patient_s = 0, PATIENCE_S
        while left[0]:
            turn += 1
            id_ = f"{plan.seed}.{number}.{turn}"
            answer = await store.reserve(reserve(id_, order), clock.now_ms())
            if isinstance(answer, Reserved):
                say("g")
                await asyncio.sleep(dice.random() / 500)
                used = dice.randint(1, RESERVED)
                await store.settle(settle(id_, nanos=used), clock.now_ms())
                say(f"s{used}")
                continue
            assert isinstance(answer, ReservationDenied)
            say("d")
            if not all(denial.held_only for denial in answer.denials) or patient_s <= 0:
                left[0] = False
            patient_s -= 0.5
            await asyncio.sleep(0.5)

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    await store.close()
    say(f"ops {counted[0].orders}")


if __name__ == "__main__":
    STATE, JOURNAL, UNITS, SEED = sys.argv[1:]
    asyncio.run(spend(Plan(STATE, JOURNAL, int(UNITS), int(SEED))))
