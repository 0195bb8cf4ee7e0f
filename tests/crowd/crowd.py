"""A crowd on one dollar: workers of one server, callers of which half leave, providers that count.

What the providers billed is the truth. It may not exceed the cap, the books may not say less, and
nothing stays open; what is held in doubt is a state of its own, and is shown apart.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

import escalade
from escalade.v1.escalation_pb2 import QUOTA_UNIT_NANO_USD
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.e2e.world import World, world
from tests.stores.world import audit, rows

CAP_NANOS = 1_000_000_000
ORPHAN_S = 60.0
CALLERS_A_PROCESS = 400
STRATEGY = """\
fallback_strategy:
  layers:
    - name: paid
      priority: 1
      monthly_cap: {cap}_usd
      models:
        - {{provider: openai, model: gpt-4o}}
        - {{provider: nano-gpt, model: glm-5, price: {{input: 2.5, output: 10}}}}
        - {{provider: anthropic, model: claude-3-haiku, price: {{input: 2.5, output: 10}}}}
  failure_handling: {{on_all_layers_exhausted: fail}}
"""
SLOW = ModelScript(chunks=20, chunk_interval_ms=15, first_token_ms=20)
SCRIPTS = {
    "openai/gpt-4o": SLOW,
    "nano-gpt/glm-5": ModelScript(chunks=20, chunk_interval_ms=15, bills_after_disconnect=True),
    "anthropic/claude-3-haiku": ModelScript(
        chunks=20,
        chunk_interval_ms=15,
        faults=(Fault(kind=FaultKind.CUT, every=5, after_chunks=4),),
    ),
}
OPEN, UNCERTAIN = 0, 1
ROOT = Path(__file__).resolve().parents[2]
States = Callable[[], Counter[int]]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a crowd came to; money in nano-dollars."""

    cap: int
    truth: int
    booked: int
    held: int
    uncertain: int
    orphans: int
    orphans_s: float
    seen: Counter[str]
    workers: int

    def lines(self) -> str:
        """Write them for people."""
        money = {"cap": self.cap, "providers billed": self.truth, "booked": self.booked,
                 "held in doubt": self.held}  # fmt: skip
        rest = {
            "reservations in doubt": self.uncertain,
            f"reservations orphaned {self.orphans_s:.0f} s later": self.orphans,
            "workers that served": self.workers,
            **dict(sorted(self.seen.items())),
        }
        return "\n".join(
            [f"  {value / 1e9:10.6f}  $ {name}" for name, value in money.items()]
            + [f"  {value:10,}  {name}" for name, value in rest.items()]
        )

    def check(self) -> None:
        """Hold the books against the truth."""
        assert self.truth <= self.booked + self.held, "booked less than was billed"
        assert self.booked + self.held <= self.cap, "the cap is overspent"
        assert self.truth <= self.cap, "the providers billed more than the cap"
        assert not self.orphans, "reservations of nobody"


async def crowd(
    folder: Path, *, state: str | None, processes: int, callers: int, cap_nanos: int, seconds: float
) -> Figures:
    """Let a crowd loose on a server; ``state`` is the URL of a Redis, or None for SQLite."""
    strategy = STRATEGY.format(cap=cap_nanos / 1e9)
    options = ["--workers", str(processes)]
    if state is not None:
        options += ["--state", state]
    file = folder / "state.sqlite3"
    states = _states_of(file) if state is None else _states_in(state)
    async with world(folder, strategy, SCRIPTS, grace="60s", options=options) as made:
        groups = [CALLERS_A_PROCESS] * (callers // CALLERS_A_PROCESS)
        if callers % CALLERS_A_PROCESS:
            groups.append(callers % CALLERS_A_PROCESS)
        told = [_callers(made.target, count, seed, seconds) for seed, count in enumerate(groups)]
        seen = sum(await asyncio.gather(*told), Counter[str]())
        orphans_s = await _settled(states)
        left = states()
        spent, held = await _booked(made)
        truth = made.simulator.ledger().cost_nanos
        workers = _workers(made)
    if state is None:
        audit(file)
    return Figures(
        cap_nanos, truth, spent, held, left[UNCERTAIN], left[OPEN], orphans_s, seen, workers
    )


async def _callers(target: str, count: int, seed: int, seconds: float) -> Counter[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.crowd.callers", target, str(count), str(seed), str(seconds),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, process.returncode
    return Counter(json.loads(out))


async def _settled(states: States) -> float:
    """Wait until nothing is open; answer how long that took, at most ``ORPHAN_S``."""
    clock = asyncio.get_running_loop()
    began_s = clock.time()
    while clock.time() - began_s < ORPHAN_S and states()[OPEN]:  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.5)
    return clock.time() - began_s


async def _booked(made: World) -> tuple[int, int]:
    """Ask the server what is spent and held of the cap; each worker knows it within 250 ms."""
    await asyncio.sleep(1.0)
    async with escalade.AsyncClient(made.target) as client:
        status = await client.status()
    [layer] = status.layers
    [cap] = [quota for quota in layer.quotas if quota.unit == QUOTA_UNIT_NANO_USD]
    return cap.spent, cap.held


def _workers(made: World) -> int:
    """Count the workers that had a task."""
    ended = made.logged("task.finished") + made.logged("task.failed")
    return len({line["worker"] for line in ended})


def _states_of(file: Path) -> States:
    """Count the reservations of a file by their state."""

    def look() -> Counter[int]:
        found = rows(file, "SELECT state, count(*) FROM reservations GROUP BY state")
        return Counter({int(str(state)): int(str(count)) for state, count in found})

    return look


def _states_in(url: str) -> States:
    """Count the reservations of a Redis by their state."""
    client = redis.Redis.from_url(url, decode_responses=True)

    def look() -> Counter[int]:
        keys = list(client.scan_iter(match="{escalade}:r:*", count=1_000))
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.hget(key, "state")
        return Counter(int(state) for state in pipe.execute() if state is not None)

    return look
