"""Who waits looks again oldest first, fairly between agents, at a pace (R22, T11)."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.engine.waiting import (
    BURST,
    JITTER_MS,
    TURNS_PER_S,
    RoomFullError,
    RoomLimits,
    Waiter,
    WaitingRoom,
)
from tests.core.builders import T0
from tests.engine.shell import LoopClock, Serial

pytestmark = pytest.mark.looptime

NEVER = T0 + 10**9


class World:
    """A room, and a log of who had its turn, with the ms since the start."""

    def __init__(self, limits: RoomLimits | None = None) -> None:
        self.room = WaitingRoom(LoopClock(), Serial(), limits)
        self.turns: list[tuple[str, int]] = []
        self.places = 10**9
        """How many find capacity; the others are put off for long."""

    def add(self, agent: str, name: str, since: int, *, earliest: int = 0, size: int = 0) -> Waiter:
        def look() -> None:
            self.turns.append((name, LoopClock().now_ms() - T0))
            if self.places:
                self.places -= 1
                self.room.leave(waiter)
            else:
                self.room.put_off(waiter, NEVER)

        waiter = Waiter(agent, name, T0 + since, size, look, T0 + earliest)
        self.room.enter(waiter)
        return waiter

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.turns]


async def test_nobody_looks_before_its_instant_and_then_not_all_replicas_at_once() -> None:
    world = World()
    world.add("a", "a1", 0, earliest=60_000)
    await asyncio.sleep(59.999)
    assert world.turns == []
    await asyncio.sleep(1)
    assert world.turns == [("a1", 60_000 + JITTER_MS // 2)]
    assert len(world.room) == 0


async def test_the_oldest_of_an_agent_goes_first_whenever_it_came_in() -> None:
    world = World()
    for since in (30, 10, 20):
        world.add("a", f"a{since}", since)
    await asyncio.sleep(1)
    assert world.order == ["a10", "a20", "a30"]


async def test_an_agent_with_a_thousand_waiters_delays_no_other() -> None:
    world = World()
    for number in range(500):
        world.add("crowd", f"c{number}", number)
    world.add("one", "o1", 10_000)
    world.add("two", "t1", 10_001)
    world.places = 4
    await asyncio.sleep(30)
    assert sorted(world.order[:3]) == ["c0", "o1", "t1"]
    assert len(world.room) == 498, "who found nothing keeps waiting"


async def test_two_agents_share_in_turn() -> None:
    world = World()
    for number in range(4):
        world.add("a", f"a{number}", number)
        world.add("b", f"b{number}", 100 + number)
    await asyncio.sleep(1)
    assert world.order == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]


async def test_turns_that_end_a_wait_are_paced() -> None:
    world = World()
    for number in range(200):
        world.add("a", f"{number:03}", number)
    await asyncio.sleep(10)
    assert len(world.turns) == 200
    by_then = JITTER_MS + 500
    assert sum(at <= by_then for _, at in world.turns) <= BURST + TURNS_PER_S
    assert world.turns[-1][1] >= (200 - BURST) * 1_000 // TURNS_PER_S


async def test_looks_that_find_nothing_are_not_paced_but_sliced() -> None:
    world = World()
    world.places = 0
    for number in range(1_000):
        world.add("a", f"{number:04}", number)
    await asyncio.sleep(2)
    assert len(world.turns) == 1_000
    assert len({at for _, at in world.turns}) >= 1_000 // 64


async def test_room_given_back_early_lets_everyone_look() -> None:
    world = World()
    world.places = 1
    world.add("a", "a1", 1, earliest=3_600_000)
    world.add("a", "a2", 2, earliest=7_200_000)
    await asyncio.sleep(1)
    world.room.look_again()
    await asyncio.sleep(1)
    assert world.order == ["a1", "a2"]
    assert len(world.room) == 1


async def test_one_who_left_has_no_turn_and_leaving_twice_is_safe() -> None:
    world = World()
    gone = world.add("a", "a1", 1, earliest=1_000)
    world.add("a", "a2", 2, earliest=1_000)
    world.room.leave(gone)
    world.room.leave(gone)
    await asyncio.sleep(2)
    assert world.order == ["a2"]
    assert world.room.position(gone) == 0


async def test_one_who_leaves_by_anothers_turn_is_passed_over() -> None:
    world = World()
    last = world.add("a", "a2", 2)
    room = world.room

    def look() -> None:
        room.leave(first)
        room.leave(last)

    first = Waiter("a", "a1", T0 + 1, 0, look, T0)
    room.enter(first)
    await asyncio.sleep(1)
    assert world.order == []


async def test_a_closed_room_gives_no_turns() -> None:
    world = World()
    world.add("a", "a1", 1)
    world.room.close()
    world.room.close()
    await asyncio.sleep(60)
    assert world.order == []


@pytest.mark.parametrize(
    ("limits", "agents", "says"),
    [
        (RoomLimits(waiters_max=2), ("a", "b"), "2 tasks wait already"),
        (RoomLimits(agent_waiters_max=2), ("c", "c"), "2 tasks of this agent wait already"),
        (RoomLimits(bytes_max=5 << 20), ("a", "b"), "waiting requests hold 4 MiB already"),
    ],
)
async def test_a_full_room_refuses_and_is_as_before(
    limits: RoomLimits, agents: tuple[str, str], says: str
) -> None:
    world = World(limits)
    for number, agent in enumerate(agents):
        world.add(agent, f"{number}", number, earliest=10**6, size=2 << 20)
    with pytest.raises(RoomFullError, match=says):
        world.add("c", "more", 9, size=2 << 20)
    assert len(world.room) == 2
    world.room.leave(next(iter(world.room)))
    world.add("c", "more", 9, earliest=10**6, size=2 << 20)


def test_the_position_told_is_the_place_in_the_order() -> None:
    @given(
        crowd=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=12),
        served=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=3),
    )
    def check(crowd: list[tuple[str, int]], served: list[tuple[str, int]]) -> None:
        async def main() -> None:
            world = World()
            waiters = [
                world.add(agent, f"{number:02}", since, earliest=10**6)
                for number, (agent, since) in enumerate(crowd)
            ]
            for agent, share in served:
                if agent in world.room._lines:
                    world.room._lines[agent].served = share
            expected = [waiter.request_id for waiter in world.room]
            told = sorted(waiters, key=world.room.position)
            assert [waiter.request_id for waiter in told] == expected
            places = sorted(map(world.room.position, waiters))
            assert places == list(range(1, len(waiters) + 1))
            world.room.close()

        asyncio.run(main())

    check()


class Leaping(LoopClock):
    """A wall clock that is set ahead."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


async def test_after_a_leap_of_the_clock_everyone_may_look_at_once() -> None:
    """The timer was set by the clock before: it would come a minute late."""
    world, clock = World(), Leaping()
    world.room = WaitingRoom(clock, Serial())
    world.add("a", "a1", 0, earliest=50_000)
    world.add("a", "a2", 1, earliest=70_000)
    clock.ahead_ms = 60_000
    world.room.look_again()
    await asyncio.sleep(1)
    assert world.order == ["a1", "a2"]


async def test_a_timer_that_is_due_is_not_put_off_by_those_who_come() -> None:
    world = World()
    for number in range(100):
        world.add("a", f"a{number:02}", number)
        world.room.look_again()
        await asyncio.sleep(0.01)
    assert len(world.turns) > 50
