"""What a good answer says is used up is set aside in the background (P14)."""

import asyncio
from collections.abc import Awaitable

import pytest

from escalade_server.core.commands import SetBench
from escalade_server.core.facts import Finished
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Bench
from tests.core.builders import T0, request, three_layers
from tests.engine.shell import World

pytestmark = pytest.mark.looptime

UNTIL_MS = T0 + 60_000
ORDER = SetBench("openai/default/mini", Bench(UNTIL_MS, FailureClass.RATE_SHORT, "nothing is left"))


async def test_the_next_task_passes_the_model_by() -> None:
    world = World(three_layers())

    world.engine.heed(ORDER)
    assert world.store.benches == {}, "nobody waits for it"
    await asyncio.sleep(0.01)
    caller = world.start(request())
    await world.engine.drain()

    assert world.store.benches == {ORDER.key: ORDER.bench}
    assert isinstance(caller.outcome, Finished)
    assert world.providers.called == ["flash"]


async def test_a_store_that_cannot_keep_it_is_no_mistake_and_a_bug_is_one() -> None:
    loop, strays = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _loop, context: strays.append(context.get("exception")))
    world = World(three_layers(), fail=lambda _: True)

    world.engine.heed(ORDER)
    await asyncio.sleep(0.01)
    assert (world.store.benches, strays) == ({}, [])

    bug = ValueError("ours")

    async def breaks() -> None:
        raise bug

    def bench(_order: SetBench, _now_ms: int) -> Awaitable[None]:
        return breaks()

    world.store.bench = bench  # type: ignore[method-assign, assignment]
    world.engine.heed(ORDER)
    await asyncio.sleep(0.01)
    assert strays == [bug]
