"""Circuits at work: whoever was granted too late looks again, and one call probes (R35)."""

import asyncio
from dataclasses import replace

import pytest

from escalade_server.core.facts import Finished, Selected
from escalade_server.core.task import Basis, Delivery
from tests.core.builders import T0, request, three_layers
from tests.engine.shell import STORE_S, FakeCaller, World

pytestmark = pytest.mark.looptime


def break_openai(world: World) -> None:
    for _ in range(world.engine.catalog.rules.breaker_failures):
        world.engine.health.report("openai", ok=False, now_ms=world.engine.clock.now_ms())


def selected(caller: FakeCaller) -> list[str]:
    return [fact.model.id for fact in caller.heard if isinstance(fact, Selected)]


async def test_a_grant_that_meets_an_opened_circuit_is_given_back() -> None:
    world = World(three_layers())
    caller = world.start(request())
    await asyncio.sleep(STORE_S / 2)
    break_openai(world)

    await world.rest()

    assert isinstance(caller.outcome, Finished)
    assert (selected(caller), world.providers.called) == (["flash"], ["flash"])
    given_back, booked = world.store.settles
    assert (given_back.requests, given_back.nanos, given_back.basis) == (0, 0, Basis.NONE)
    assert booked.requests == 1
    assert world.store.open_ids == {}


@pytest.mark.parametrize("delivery", Delivery)
async def test_one_task_probes_a_half_open_circuit(delivery: Delivery) -> None:
    world = World(three_layers())
    break_openai(world)
    await asyncio.sleep(10)
    asked = replace(request(deadline_ms=T0 + 60_000), delivery=delivery)

    callers = [world.start(asked) for _ in range(4)]
    await asyncio.sleep(4 * STORE_S)
    told = [selected(caller)[0] for caller in callers]
    for caller in callers:
        caller.leave()
    await world.rest()

    assert told == ["mini", "flash", "flash", "flash"]
