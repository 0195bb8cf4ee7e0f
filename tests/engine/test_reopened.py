"""Whoever waits looks again when others made room before its time."""

import asyncio

import pytest

from escalade_server.core.facts import Finished
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Balance, Bench, Standing
from escalade_server.engine.reopened import Reopened, reopened
from tests.core.builders import T0
from tests.engine.test_waits import KEY, MINUTE_MS, patient, used_up, waits

NOW_MS, LATER_MS = 1_000_000, 1_060_000


def spent(spent: int, held: int = 0, ends_ms: int = LATER_MS) -> Standing:
    return Standing(balances={"cap": Balance("w", spent, held, ends_ms)})


def benched(until_ms: int) -> Standing:
    return Standing(benches={"p": Bench(until_ms, FailureClass.OUTAGE, "down")})


@pytest.mark.parametrize(
    ("before", "now", "is_freer"),
    [
        (spent(9), spent(8), True),
        (spent(9), Standing(), True),
        (spent(9), spent(9), False),
        (spent(9), spent(10), False),
        (spent(9, 5), spent(9, 0), False),
        (spent(9, ends_ms=NOW_MS), Standing(), False),
        (spent(9), spent(3, ends_ms=LATER_MS + 1), False),
        (benched(LATER_MS), Standing(), True),
        (benched(LATER_MS), benched(LATER_MS - 1), True),
        (benched(LATER_MS), benched(LATER_MS + 1), False),
        (benched(NOW_MS), Standing(), False),
        (Standing(), spent(9), False),
    ],
)
def test_what_is_freer_than_it_was_but_not_by_time(
    *, before: Standing, now: Standing, is_freer: bool
) -> None:
    assert reopened(before, now, NOW_MS) is is_freer


@pytest.mark.looptime
async def test_a_task_goes_on_when_its_counter_is_corrected_elsewhere() -> None:
    world = used_up(until_ms=T0 + 10 * MINUTE_MS)
    looking = asyncio.ensure_future(Reopened(world.engine).run())
    caller = world.start(patient())
    await asyncio.sleep(5)
    assert caller.heard[-1] == waits(caller)[-1], "it waits"
    world.store.balances[KEY] = Balance("w", 4, 0, T0 + 10 * MINUTE_MS)
    await asyncio.sleep(5)
    assert isinstance(caller.outcome, Finished)
    looking.cancel()
