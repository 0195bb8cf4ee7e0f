"""Every task comes through the engine's door, and leaves it with the limits of its agent."""

from dataclasses import replace

import pytest

from escalade_server.core.catalog import Agent, Catalog, Counter, CounterScope, Period, Unit
from escalade_server.core.facts import ErrorReason, Failed, Finished
from tests.core.builders import request, three_layers
from tests.engine.shell import World

pytestmark = pytest.mark.looptime

RATE = Counter("requests/day:agent/bot", Unit.REQUESTS, Period.DAY, 2, CounterScope.AGENT, "bot")
FREE_IS_FULL = three_layers(limit=0)


def under(own: Agent, catalog: Catalog) -> World:
    return World(replace(catalog, agents={own.name: own}))


async def test_a_free_only_agent_reaches_no_paid_layer_although_it_does_not_say_so() -> None:
    world = under(Agent("bot", free_only=True), FREE_IS_FULL)

    bot = await world.ask(replace(request(), agent="bot"))
    other = await world.ask(replace(request(), agent="other"))

    assert isinstance(bot.outcome, Failed)
    assert isinstance(other.outcome, Finished)
    assert world.providers.called == ["glm"]


async def test_an_agents_own_counter_is_booked_and_closes() -> None:
    world = under(Agent("bot", counters=(RATE,)), three_layers())
    asked = replace(request(), agent="bot")

    first, second, third = [await world.ask(asked) for _ in range(3)]
    await world.ask(replace(request(), agent="other"))

    assert isinstance(first.outcome, Finished)
    assert isinstance(second.outcome, Finished)
    assert [room.counter.key for room in second.outcome.report.headroom if room.spent] == [
        "requests/day:openai/default/mini",
        RATE.key,
    ]
    assert isinstance(third.outcome, Failed)
    assert third.outcome.reason is ErrorReason.RATE_LIMITED
    assert world.store.balances[RATE.key].spent == 2
    assert all(row.held == 0 for row in world.store.balances.values())
