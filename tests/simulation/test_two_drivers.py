"""The same script through the simulation and through the asyncio engine: the same commands."""

from itertools import pairwise

import pytest

from escalade_server.simulation.trial import Trial
from escalade_server.simulation.worlds import Kind, World, world
from tests.simulation import twin
from tests.simulation.twin import Line

pytestmark = pytest.mark.looptime
APART_US = 2
SEEDS = [seed for seed in range(60) if world(seed).kind is Kind.CHAOS]


def simulated(of: World) -> list[Line] | None:
    """Answer what the simulation ordered; None where two tasks had news at one instant.

    Of two things that are no more apart than the clock's resolution a loop does either first.
    """
    verdict = Trial(of).run()
    assert not verdict.violation
    lines = verdict.lines
    for one, next_ in pairwise(lines):
        if next_.at_us - one.at_us <= APART_US and one.number != next_.number:
            return None
    return [(at.wall_ms, f"{at.number:032x}", at.commands) for at in lines if at.commands]


def same(expected: list[Line] | None, actual: list[Line]) -> None:
    assert actual
    if expected is not None:
        for mine, theirs in zip(expected, actual, strict=False):
            assert theirs == mine
        assert len(actual) == len(expected)


@pytest.mark.parametrize("seed", SEEDS)
async def test_two_drivers_give_one_trace(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    same(simulated(world(seed)), await twin.play(world(seed), monkeypatch))


@pytest.mark.parametrize("seed", SEEDS[:30])
async def test_the_books_of_sqlite_give_it_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    same(simulated(world(seed)), await twin.play(world(seed), monkeypatch, sqlite=True))


def test_most_seeds_are_compared() -> None:
    assert sum(simulated(world(seed)) is not None for seed in SEEDS) >= len(SEEDS) - 8
