"""Leased chunks keep a cap to the unit, whoever dies, at a small part of the store's work (A18).

``UNITS=100000 REPLICAS=8`` is the full proof, ``make leases``; CI runs a short form of it.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from escalade_server.engine.clock import SystemClock
from tests.leases.spender import CALLERS, RESERVED, Plan, made
from tests.stores.servers import Server, serving

UNITS = int(os.environ.get("UNITS", "20000"))
REPLICAS = int(os.environ.get("REPLICAS", "4"))
CUT = 50
LONGEST_S = 600.0


@dataclass
class Spender:
    """One process, and what it says."""

    plan: Plan
    granted: int = 0
    settled: int = 0
    nanos: int = 0
    denied: int = 0
    orders: int | None = None
    is_open: threading.Event = field(default_factory=threading.Event)

    def start(self) -> "Spender":
        command = [sys.executable, "-m", "tests.leases.spender", *map(str, self.plan)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith("\n"):
                continue  # torn: nobody has heard it
            if line == "g\n":
                self.granted += 1
            elif line == "d\n":
                self.denied += 1
            elif line == "open\n":
                self.is_open.set()
            elif line[0] == "s":
                self.settled += 1
                self.nanos += int(line[1:])
            else:
                self.orders = int(line.removeprefix("ops "))
        self.is_open.set()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        self.process.wait(LONGEST_S)
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    with serving("redis", tmp_path) as server:
        yield server


def scripts_run(server: Server) -> int:
    """Ask the server itself how many scripts it has run."""
    told = server.say("INFO", "commandstats").decode()
    [line] = [line for line in told.splitlines() if line.startswith("cmdstat_evalsha:")]
    return int(line.split("calls=")[1].split(",")[0])


def ledger(plan: Plan) -> list[tuple[int, int]]:
    """Ask the ledger what is spent and held of each counter, as a newcomer who leases nothing."""

    async def ask() -> list[tuple[int, int]]:
        clock = SystemClock()
        store = made(plan, clock, lambda _: None)
        await store.open(plan.counters)
        found = [(spend.spent, spend.held) for spend in store.spends(clock.now_ms())]
        await store.close()
        return found

    return asyncio.run(ask())


def show(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n  {text}")  # noqa: T201 - the proof's product


def ended(spenders: list[Spender]) -> None:
    for each in spenders:
        each.end()
        assert each.process.returncode == 0


def test_a_cap_is_spent_to_the_unit_at_a_fiftieth_of_the_orders(
    redis: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many processes over one Redis."""
    began = time.monotonic()
    journal = str(tmp_path / "leases")
    plans = [Plan(redis.url, journal, UNITS, seed) for seed in range(REPLICAS)]
    spenders = [Spender(plan).start() for plan in plans]
    ended(spenders)
    settled, nanos = sum(s.settled for s in spenders), sum(s.nanos for s in spenders)
    run = scripts_run(redis)
    orders = sum(s.orders or 0 for s in spenders)
    calls, money = ledger(plans[0])
    without = 2 * settled + sum(s.denied for s in spenders)
    show(
        capsys,
        f"{REPLICAS} processes, cap {UNITS:,}: {settled:,} calls, {orders:,} orders about counters"
        f" (÷ {without / orders:.0f}), {run:,} scripts in all (÷ {without / run:.0f}),"
        f" {UNITS - settled} stranded; {time.monotonic() - began:.0f} s",
    )

    assert calls == (settled, 0)
    assert money == (nanos, 0)
    assert 0.99 * UNITS <= settled <= UNITS
    assert without >= CUT * orders
    assert without >= CUT * run


def test_a_file_is_spared_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process over SQLite, whose file serves one server."""
    plan = Plan(str(tmp_path / "state.db"), str(tmp_path / "leases"), UNITS, 1)
    spender = Spender(plan).start()
    ended([spender])
    calls, money = ledger(plan)
    orders = spender.orders or 0
    without = 2 * spender.settled + spender.denied
    show(
        capsys,
        f"SQLite, cap {UNITS:,}: {spender.settled:,} calls, {orders:,} orders"
        f" (÷ {without / orders:.0f}), {UNITS - spender.settled} stranded",
    )

    assert (calls, money) == ((spender.settled, 0), (spender.nanos, 0))
    assert 0.99 * UNITS <= spender.settled <= UNITS
    assert without >= CUT * orders


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_processes_that_are_killed_lose_and_overspend_nothing(
    redis: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Each that is killed comes back, and tells what its journal has."""
    dice = random.Random(7)
    journal = str(tmp_path / "leases")
    state = redis.url if kind == "redis" else str(tmp_path / "state.db")
    replicas = REPLICAS if kind == "redis" else 1
    seeds = iter(range(1_000))
    dead: list[Spender] = []
    alive = [Spender(Plan(state, journal, UNITS, next(seeds))).start() for _ in range(replicas)]
    heard = 0
    while heard < UNITS // 2:
        target = min(heard + UNITS // 20, UNITS // 2)
        while heard < target and any(each.process.poll() is None for each in alive):
            time.sleep(0.01)
            heard = sum(each.settled for each in [*dead, *alive])
        victim = alive.pop(dice.randrange(len(alive)))
        assert victim.is_open.wait(LONGEST_S)
        victim.kill()
        dead.append(victim)
        alive.append(Spender(Plan(state, journal, UNITS, next(seeds))).start())
    ended(alive)
    every = [*dead, *alive]
    settled, nanos = sum(s.settled for s in every), sum(s.nanos for s in every)
    flying = sum(s.granted - s.settled for s in dead)
    plan = alive[0].plan
    (calls, held), (money, _) = ledger(plan)
    show(
        capsys,
        f"{kind}: {len(dead)} kills, {settled:,} settlements acknowledged, {flying} calls under"
        f" way when their process died; {calls:,} booked of {UNITS:,}, {held} held",
    )

    # What a dead process had reserved without a lease is held until its owner is known to be dead.
    booked = calls + held
    assert settled + flying <= booked <= UNITS
    # Each of those used 1 at least: some were settled, and their process died before it said so.
    assert nanos + flying <= money + held * RESERVED
    # Beyond that only calls whose grant nobody has heard of: each in full, and one a caller.
    unheard = booked - settled - flying
    assert unheard <= CALLERS * len(dead)
    assert money - nanos <= (calls - settled) * RESERVED
    assert booked >= 0.99 * UNITS
