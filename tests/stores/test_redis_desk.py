"""What a person does to a ledger in Redis beside its servers: entered, audited, and heard of."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.events import ReservationDenied, Reserved
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores.audit import Change
from escalade_server.stores.redis_audit import RedisLedgerDesk
from escalade_server.stores.redis_link import place_of
from tests.stores.servers import Server, free_port
from tests.stores.world import NOW_MS, HandClock, State, candidate, counter, numbers, reserve

CAP = counter("nanos/month:p/m", 100, Unit.NANOS, Period.MONTH)
OTHER = counter("nanos/month:p/other", 100, Unit.NANOS, Period.MONTH)
MINUTE = counter("requests/minute:p/m", 100, Unit.REQUESTS, Period.MINUTE)


class World:
    """Servers over one ledger, and a desk, which has no event loop of its own to be on."""

    def __init__(self, server: Server) -> None:
        self.state = State(None, url=server.url)
        self.clock = self.state.clock
        place = place_of(f"{server.url}?name={self.state.name}")
        self.desk = RedisLedgerDesk(place, self.clock, Calendar(), store_clock=self.clock)

    async def enter(self, value: int, *, is_change: bool = False) -> Change:
        made = partial(
            self.desk.enter, CAP.key, value, is_change=is_change, who="eve", reason="bill",
            known=CAP,
        )  # fmt: skip
        return await asyncio.to_thread(made)

    async def spent(self) -> list[tuple[str, int, int]]:
        standings = await asyncio.to_thread(self.desk.standings)
        return [(each.key, each.spent, each.held) for each in standings]


@pytest.fixture(params=["redis", "valkey"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made = World(request.getfixturevalue(request.param))
    yield made
    await made.state.close()
    await asyncio.to_thread(made.desk.close)


async def test_a_server_hears_of_it_with_the_next_order_and_without_one(world: World) -> None:
    store = await world.state.open(CAP, OTHER, MINUTE)
    call = candidate(CAP, nanos=10)
    assert isinstance(await store.reserve(reserve("r1", call), NOW_MS), Reserved)
    await world.enter(85)
    assert isinstance(await store.reserve(reserve("r2", call), NOW_MS), ReservationDenied)
    await world.enter(-5, is_change=True)
    assert isinstance(await store.reserve(reserve("r3", call), NOW_MS), Reserved)
    await world.enter(7)
    async with asyncio.timeout(20):
        while store.standing(NOW_MS).balances[CAP.key].spent != 7:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert store.standing(NOW_MS).balances[CAP.key].held == 20
    changes = await asyncio.to_thread(world.desk.changes)
    assert [(c.at_ms, c.old, c.new, c.who, c.reason) for c in changes] == [
        (NOW_MS, 0, 85, "eve", "bill"), (NOW_MS, 85, 80, "eve", "bill"),
        (NOW_MS, 80, 7, "eve", "bill"),
    ]  # fmt: skip
    assert await world.spent() == [(CAP.key, 7, 20)]


async def test_it_begins_the_window_of_the_stores_clock_and_ends_with_it(world: World) -> None:
    change = await world.enter(40)
    assert (change.window, change.old, change.new) == ("2026-09-01", 0, 40)
    store = await world.state.open(CAP)
    assert store.standing(NOW_MS).balances[CAP.key].spent == 40
    world.clock.at_ms += 40 * 86_400_000
    assert await world.spent() == []
    world.desk._clock = HandClock()  # this machine is a month behind
    assert (await world.enter(3)).window == "2026-10-01"


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (MINUTE.key, 1, "forgets by itself"),
        ("nanos/month:p/nobody", 1, "no counter"),
        (OTHER.key, 1, "give --strategy"),
        (CAP.key, -1, "0 or more"),
        (CAP.key, 1 << 62, "counted exactly"),
    ],
)
async def test_what_cannot_be_entered_changes_nothing(
    world: World, key: str, value: int, why: str
) -> None:
    store = await world.state.open(CAP, OTHER, MINUTE)
    await store.reserve(reserve("r1", candidate(CAP, MINUTE, nanos=10)), NOW_MS)
    before = await world.spent()
    enter = partial(world.desk.enter, key, value, is_change=False, who="eve", reason="x")
    with pytest.raises(StoreError, match=why):
        await asyncio.to_thread(enter)
    assert await world.spent() == before
    assert await asyncio.to_thread(world.desk.changes) == []


async def test_a_counter_keeps_its_unit_and_period(world: World) -> None:
    await world.state.open(CAP)
    other = counter(CAP.key, 5, Unit.NANOS, Period.DAY)
    enter = partial(
        world.desk.enter, CAP.key, 1, is_change=False, who="eve", reason="x", known=other
    )
    with pytest.raises(StoreError, match="needs a new key"):
        await asyncio.to_thread(enter)


def test_without_redis_it_says_so() -> None:
    place = place_of(f"redis://127.0.0.1:{free_port()}/0?name=n{next(numbers)}")
    desk = RedisLedgerDesk(place, HandClock(), Calendar())
    for call in (desk.standings, desk.changes):
        with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
            call()
    desk.close()
