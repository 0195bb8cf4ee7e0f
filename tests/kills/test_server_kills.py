"""The whole server is killed under load: what providers saw is booked, and no cap is overspent.

``SERVER_KILLS=200`` is the full campaign. The providers keep a ledger of their own, which dies with
nobody; the servers that follow one another share one state, until its caps are used up.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc import aio

from escalade.v1 import escalation_pb2, router_service_pb2_grpc
from escalade_server.core.catalog import Catalog, Unit
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript, Simulator
from escalade_server.strategy.load import loads
from tests.api.world import ask, listen
from tests.e2e.world import KEY_NAME, START_S, pointed_at, scenario_of
from tests.stores.world import audit, rows

KILLS = int(os.environ.get("SERVER_KILLS", "20"))
ROOT = Path(__file__).resolve().parents[2]
LIVES = 20
"""One state, and one ledger of the providers, sees so many servers."""
CALLERS = 8
LONGEST_S = 0.5
SETTLED = 3
STRATEGY = """\
fallback_strategy:
  version: "2.0"
  layers:
    - name: free
      models:
        - {provider: openai, model: gpt-4o-mini, rate_limit: {requests_per_day: 15}}
        - {provider: deepseek, model: deepseek-chat, rate_limit: {requests_per_day: 15}}
      priority: 1
    - name: plan
      models:
        - {provider: openrouter, model: minimax/minimax-v2-pro, monthly_budget: 0.05_usd}
        - {provider: nano-gpt, model: glm-5, monthly_budget: 0.05_usd}
      priority: 2
      trigger: free.exhausted
    - name: premium
      models:
        - {provider: anthropic, model: claude-3-haiku}
        - {provider: openai, model: gpt-4o}
      priority: 3
      trigger: plan.exhausted
      monthly_cap: 0.05_usd
  failure_handling: {on_all_layers_exhausted: fail}
"""
SLOW = ModelScript(chunk_interval_ms=4, first_token_ms=3)
SCRIPTS = {
    "openai/gpt-4o-mini": SLOW,
    "deepseek/deepseek-chat": ModelScript(
        chunk_interval_ms=4, faults=(Fault(kind=FaultKind.SERVER_ERROR, every=7),)
    ),
    "openrouter/minimax/minimax-v2-pro": ModelScript(
        chunk_interval_ms=4, faults=(Fault(kind=FaultKind.CUT, every=5, after_chunks=4),)
    ),
    "nano-gpt/glm-5": ModelScript(chunk_interval_ms=2, bills_after_disconnect=True),
    "anthropic/claude-3-haiku": SLOW,
    "openai/gpt-4o": SLOW,
}


@dataclass
class Nursery:
    """Where servers come from: see there."""

    process: asyncio.subprocess.Process

    async def ask(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        return int(await self.process.stdout.readline())


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.kills.nursery",
        cwd=ROOT, env=os.environ | {KEY_NAME: "made-up"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Nursery(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


@dataclass
class Era:
    """One state with its providers, and what callers were told about it."""

    folder: Path
    nursery: Nursery
    catalog: Catalog
    simulator: Simulator
    answers: dict[str, int] = field(default_factory=dict)
    """Nano-dollars of each answered attempt, by its reservation."""
    totals: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> Path:
        return self.folder / "state.sqlite3"

    async def born(self) -> int:
        """Start a server; answer its process id."""
        (self.folder / "out").write_text("")
        options = {
            "--strategy": "strategy.yaml", "--state": "state.sqlite3", "--listen": "127.0.0.1:0"
        }  # fmt: skip
        arguments = ["serve", "--grace", "0s", "--json"]
        for name, value in options.items():
            arguments += [name, value if ":" in value else str(self.folder / value)]
        paths = str(self.folder / "out"), str(self.folder / "log.jsonl")
        return await self.nursery.ask(json.dumps([*paths, arguments]))

    async def target(self) -> str:
        """Wait until it serves; answer where."""
        async with asyncio.timeout(START_S):
            while not (line := (self.folder / "out").read_text()).endswith("\n"):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return str(json.loads(line)["target"])

    async def end(self, server: int, number: signal.Signals) -> None:
        os.kill(server, number)
        code = await self.nursery.ask("")
        assert code == (-number if number is signal.SIGKILL else 0)

    async def life(self, chance: random.Random) -> None:
        """Let one server live under load for a while."""
        server = await self.born()
        if chance.random() < 0.1:  # killed at its start, perhaps while it books orphans
            await asyncio.sleep(chance.random() * 0.2)
            await self.end(server, signal.SIGKILL)
            self.totals["killed at the start"] += 1
            return
        async with aio.insecure_channel(await self.target()) as channel:
            callers = [asyncio.ensure_future(self.caller(channel)) for _ in range(CALLERS)]
            await asyncio.sleep(chance.random() * LONGEST_S)
            self.totals["calls under way when killed"] += sum(not c.done() for c in callers)
            await self.end(server, signal.SIGKILL)
            await asyncio.gather(*callers)
        self.totals["killed under load"] += 1

    async def caller(self, channel: aio.Channel) -> None:
        """Ask until the server is gone."""
        stub = router_service_pb2_grpc.RouterServiceStub(channel)
        while True:
            told = await listen(stub.Complete(ask("Say something."), timeout=20))
            if told.events and told.kinds[-1] == "finished" and told.code is grpc.StatusCode.OK:
                self.totals["answers"] += 1
                for attempt in told.events[-1].finished.report.attempts:
                    if attempt.status == escalation_pb2.ATTEMPT_STATUS_OK:
                        self.answers[attempt.reservation_id] = attempt.cost.list_nano_usd
            elif told.status is not None:
                self.totals[f"refused: {told.reason}"] += 1
                await asyncio.sleep(0.02)
            else:
                return

    def check(self) -> None:
        """Hold the file against the callers' answers, the providers' ledger, and the caps."""
        if not self.state.exists() or not rows(self.state, "SELECT 1 FROM sqlite_schema"):
            assert not self.answers
            return
        audit(self.state)
        query = "SELECT id, used_nanos FROM reservations WHERE state = ?"
        settled = {str(id_): nanos for id_, nanos in rows(self.state, query, SETTLED)}
        for id_, nanos in self.answers.items():
            assert settled[id_] == nanos, id_
        query = "SELECT key, sum(spent), sum(held) FROM windows JOIN counters ON counter = id"
        booked = {
            str(key): int(str(spent)) + int(str(held))
            for key, spent, held in rows(self.state, f"{query} GROUP BY key")
        }
        for model in self.catalog.models:
            seen = self.simulator.ledger().of(model.provider, model.wire_id)
            truth = {Unit.REQUESTS: seen.requests_received, Unit.NANOS: seen.cost_nanos}
            for counter in model.counters:
                have = booked.get(counter.key, 0)
                assert have <= counter.limit, counter.key
                assert truth.get(counter.unit, 0) <= have, counter.key

    async def bury(self) -> None:
        """Start once more: nothing is left open, and the figures hold."""
        server = await self.born()
        await self.target()
        await self.end(server, signal.SIGTERM)
        self.check()
        assert rows(self.state, "SELECT count(*) FROM reservations WHERE state = 0") == [(0,)]
        for what, state in (("assumed", 2), ("uncertain", 1), ("settled", 3)):
            query = "SELECT count(*) FROM reservations WHERE state = ?"
            [(count,)] = rows(self.state, query, state)
            self.totals[f"reservations {what}"] += int(str(count))


@asynccontextmanager
async def era(folder: Path, nursery: Nursery) -> AsyncIterator[Era]:
    await asyncio.to_thread(folder.mkdir)
    catalog = loads(STRATEGY, environ={}, assume_keys=True).catalog
    simulator = Simulator(scenario_of(catalog, SCRIPTS))
    await simulator.start()
    try:
        (folder / "strategy.yaml").write_text(pointed_at(STRATEGY, catalog, simulator))
        yield Era(folder, nursery, catalog, simulator)
    finally:
        await simulator.stop()


async def test_a_server_killed_at_any_point_overspends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    totals: Counter[str] = Counter()
    began = time.monotonic()
    async with nursery() as born:
        for first in range(0, KILLS, LIVES):
            async with era(tmp_path / str(first), born) as made:
                for number in range(first, min(first + LIVES, KILLS)):
                    await made.life(random.Random(number))
                    made.check()
                await made.bury()
                totals.update(made.totals)
    took = time.monotonic() - began
    with capsys.disabled():
        figures = "\n".join(f"  {count:8,}  {what}" for what, count in totals.items())
        print(f"\n{figures}\n  {took:8.0f}  s")  # noqa: T201  # the campaign's product
    assert totals["answers"] > KILLS // 4  # four or five a life, fewer on a slow machine
    if KILLS >= LIVES:
        assert any(what.startswith("refused") for what in totals), "the caps are in reach"
    assert totals["calls under way when killed"] > KILLS
