"""Reserve and settle pairs per second of the SQLite store, and their CPU.

Run it with ``python -m tests.bench.store [callers ...]``.

Callers run at once on one event loop over a real file; every pair is two durable round trips over
six counters (two of them sliding), as one attempt of a capped model makes.
"""

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

from escalade_server.core.catalog import Billing, Counter, CounterScope, Model, Period, Unit
from escalade_server.core.commands import Candidate, Reserve, Settle
from escalade_server.core.money import Price
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, Usage
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.stores.sqlite import SqliteStore

PAIRS = {1: 3_000, 16: 30_000, 200: 60_000}
AMPLE = 9_000_000_000_000_000
USAGE = Usage(700, 200, 100)
TALLY = Tally(
    "", "other", "premium", "openai/default/gpt",
    baselines=(("openai/gpt", 1_500_000), ("openai/mini", 90_000)),
)  # fmt: skip


def capped_model() -> Model:
    """A model with the six counters that one attempt touches."""
    kinds = [
        (Unit.REQUESTS, Period.MINUTE, CounterScope.MODEL),
        (Unit.TOKENS, Period.MINUTE, CounterScope.MODEL),
        (Unit.REQUESTS, Period.DAY, CounterScope.MODEL),
        (Unit.NANOS, Period.MONTH, CounterScope.MODEL),
        (Unit.NANOS, Period.MONTH, CounterScope.LAYER),
        (Unit.NANOS, Period.MONTH, CounterScope.STRATEGY),
    ]
    counters = tuple(
        Counter(f"{scope.value}:{unit.value}:{period.value}", unit, period, AMPLE, scope, "")
        for unit, period, scope in kinds
    )
    return Model(
        "openai", "default", "gpt", "gpt", "openai", "premium", 0, 0, frozenset(), counters,
        Price(1, 1), Billing.METERED,
    )  # fmt: skip


async def run(callers: int, path: Path, pairs: int) -> tuple[float, float, float]:
    """Answer pairs per second, CPU µs per pair, and the median µs of a pair."""
    clock = SystemClock()
    store = SqliteStore(path, clock, Calendar())
    candidate = Candidate(capped_model(), 1_000, 2_000_000, 512)
    await store.open(candidate.model.counters)
    each = pairs // callers
    waits: list[float] = []

    async def caller(number: int) -> None:
        for turn in range(each):
            begun = time.perf_counter()
            id_ = f"{number:016x}{turn:016x}-1"
            await store.reserve(Reserve(id_, 1, (candidate,)), clock.now_ms())
            store.standing(clock.now_ms())
            order = Settle(
                id_, 1, 1, 900, 1_500_000, 1_500_000, Basis.REPORTED, usage=USAGE, tally=TALLY
            )
            await store.settle(order, clock.now_ms())
            waits.append(time.perf_counter() - begun)

    began, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(caller(number) for number in range(callers)))
    took, spent = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    await store.close()
    seconds = spent.ru_utime + spent.ru_stime - cpu.ru_utime - cpu.ru_stime
    done = each * callers
    return done / took, seconds / done * 1e6, sorted(waits)[len(waits) // 2] * 1e6


def main() -> None:
    """Print one line for each number of callers."""
    for callers in [int(word) for word in sys.argv[1:]] or list(PAIRS):
        with tempfile.TemporaryDirectory() as folder:
            rate, cpu, median = asyncio.run(run(callers, Path(folder) / "state.db", PAIRS[callers]))
        print(
            f"{callers:4} callers {rate:8.0f} pairs/s {cpu:6.1f} µs CPU/pair  p50 {median:7.0f} µs"
        )


if __name__ == "__main__":
    main()
