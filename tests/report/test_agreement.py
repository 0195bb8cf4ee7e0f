"""Tasks by chance: the report is what callers were told, and what the counters count (R15)."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest

from escalade_server.core.catalog import Catalog, Unit
from escalade_server.core.facts import Failed, Finished, Outcome
from escalade_server.core.failure import FailureClass
from escalade_server.core.rules import OnAllExhausted, Rules
from escalade_server.core.settlement import UNCERTAIN_MS
from escalade_server.core.task import Basis, Task, Usage
from escalade_server.core.trace import AttemptStatus
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.usage import UsageReport, Use
from escalade_server.report.usage import UsageReports
from escalade_server.stores.sqlite import SqliteStore
from tests.core.builders import request, three_layers
from tests.engine.shell import LoopClock, Step, World, fails, finish, text

pytestmark = pytest.mark.looptime

TASKS = 60
FAILURES = (
    FailureClass.OUTAGE, FailureClass.TIMEOUT, FailureClass.QUOTA_WINDOW, FailureClass.CONTENT,
    FailureClass.RATE_SHORT, FailureClass.OVERLOADED, FailureClass.UNKNOWN,
)  # fmt: skip


def strategy() -> Catalog:
    made = three_layers(Rules(on_all_exhausted=OnAllExhausted.FAIL), limit=20)
    free, _, best = made.layers
    return replace(made, baselines=(best.models[0], free.models[0]))


def script(chance: random.Random) -> list[Step]:
    """One call: an answer with some usage or none, a failure, or a break after some words."""
    usage = Usage(
        chance.randint(1, 60), chance.randint(1, 90), chance.randint(0, 1), 0, chance.randint(0, 1)
    )
    good = [*text("Hello"), finish(usage if chance.random() < 0.8 else None)]
    failure = fails(chance.choice(FAILURES))
    return chance.choice([good, good, good, [failure], [*text("Hal"), failure], text("cut")])


async def played(seed: int) -> tuple[UsageReport, list[Outcome], SqliteStore, World]:
    """Run random tasks over a real store, in memory, and report on their month."""
    chance, catalog = random.Random(seed), strategy()
    world, store = World(catalog), SqliteStore(None, LoopClock(), Calendar())
    counters = {c.key: c for m in catalog.models for c in m.counters}
    await store.open(tuple(counters.values()))
    world.engine.store = store
    for model in catalog.models:
        world.providers.scripts[model.id] = [script(chance) for _ in range(TASKS)]
    for number in range(TASKS):
        kind = chance.choice(("parse", "debug", "architecture", "unheard-of"))
        asked = request(task=Task(type=kind))
        agent = chance.choice(("", "bot", "ci"))
        leaves_at = chance.choice((0, 0, 0, 0, 2, 4))
        due_ms = LoopClock().now_ms() + 60_000
        asked = replace(asked, id=f"{number}", agent=agent, deadline_ms=due_ms)
        await world.ask(asked, leaves_at=leaves_at)
    await asyncio.sleep(UNCERTAIN_MS / 1_000)  # until what is in doubt is booked
    await store.find("nothing")
    reports = UsageReports(store, LoopClock(), lambda: catalog, "UTC")
    return await reports.report("", None), world.observer.outcomes, store, world


@pytest.mark.parametrize("seed", range(12))
async def test_the_report_is_what_callers_and_counters_say(seed: int) -> None:
    found, outcomes, store, _ = await played(seed)
    told = [outcome.report for outcome in outcomes]
    attempts = [attempt for report in told for attempt in report.attempts]
    total = found.total

    assert total.tasks == len(told) == TASKS
    assert total.failed <= sum(isinstance(outcome, Failed) for outcome in outcomes)
    answered = [o.report for o in outcomes if isinstance(o, Finished)]
    left_whole = total.tasks - total.failed - len(answered)  # answered, but nobody was there
    assert left_whole >= 0
    assert total.list_nanos == sum(a.list_nanos for a in attempts)
    assert total.charged_nanos == sum(a.charged_nanos for a in attempts)
    assert total.requests == sum(a.status is not AttemptStatus.NOT_SENT for a in attempts)
    doubted = [a.list_nanos for a in attempts if a.basis is not Basis.REPORTED]
    assert total.estimated_nanos == sum(doubted)
    assert total.input_tokens == sum(a.usage.input_tokens for a in attempts)
    assert total.output_tokens == sum(a.usage.output_tokens for a in attempts)
    if not left_whole:
        assert dict(found.baselines)["openai/gpt"] == sum(r.baseline_nanos or 0 for r in answered)
    changes = Counter[tuple[str, str]]()
    for change in found.changes:
        changes[change.from_layer, change.to_layer] += change.times
    pairs = [pair for r in told for pair in zip(r.layer_path, r.layer_path[1:], strict=False)]
    assert changes == Counter(pairs)
    for lines in (found.agents, found.task_types, found.days):
        summed = Use()
        for line in lines:
            summed = summed.plus(line.use)
        assert summed == total
    spent = Counter[str]()
    for spend in store.spends(LoopClock().now_ms()):
        if spend.counter.unit is Unit.REQUESTS:
            spent["requests"] += spend.spent
        elif spend.counter.unit is Unit.NANOS:
            spent["nanos"] += spend.spent
    by_layer = {line.name: line.use for line in found.layers}
    paid = sum(use.list_nanos for name, use in by_layer.items() if name != "free")
    assert spent == +Counter({"requests": by_layer["free"].requests, "nanos": paid})
    await store.close()
