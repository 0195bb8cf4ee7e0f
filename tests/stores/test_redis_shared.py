"""What servers over one Redis know of each other: running request ids, duties, tokens."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from escalade_server.core.catalog import Counter, Rank
from escalade_server.core.commands import Reserve
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.task import Usage
from escalade_server.core.trace import Figures
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import Duty, StoreError
from escalade_server.engine.tokens import TokenDesk, holder
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_link import place_of
from escalade_server.stores.redis_orders import LEASE_MS
from escalade_server.stores.redis_shared import DUTY_MS, STALE_S, SharedState
from escalade_server.stores.redis_tokens import RedisTokens
from escalade_server.stores.redis_wire import Shared
from tests.stores.servers import Server, serving
from tests.stores.test_redis import kill, until
from tests.stores.test_tokens import Numbers
from tests.stores.world import (
    NOW_MS,
    PATIENT_S,
    HandClock,
    candidate,
    counter,
    numbers,
    reserve,
    settle,
)

DAILY, NONE = counter("daily", 50), counter("none", 0)


class Fleet:
    """Servers over one ledger, with one clock."""

    def __init__(self, server: Server) -> None:
        self.place = place_of(f"{server.url}?name=ledger-{next(numbers)}")
        self.clock = HandClock()
        self.stores: list[RedisStore] = []

    async def open(self, *counters: Counter) -> RedisStore:
        store = RedisStore(
            self.place, self.clock, Calendar(), deadline_s=PATIENT_S, store_clock=self.clock
        )
        await store.open(counters)
        self.stores.append(store)
        return store

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


@pytest.fixture(params=["redis", "valkey"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    fleet = Fleet(request.getfixturevalue(request.param))
    yield fleet
    await fleet.close()


def asked(id_: str, *, content: str = "abc", of: Counter = DAILY) -> Reserve:
    made = reserve(id_, candidate(of))
    return replace(made, agent="bot", request_id="r", content=content)


BUSY = Repeated(1, runs=True)


async def test_a_running_request_id_is_refused_elsewhere_from_first_to_last(fleet: Fleet) -> None:
    """R27: also between two attempts, when nothing is reserved, and while a call is in doubt."""
    one, two = await fleet.open(DAILY, NONE), await fleet.open(DAILY, NONE)
    assert isinstance(await one.reserve(asked("t1.1"), NOW_MS), Reserved)
    assert await two.reserve(asked("t2.1"), NOW_MS) == BUSY
    await one.settle(settle("t1.1", requests=1, tokens=0, nanos=0), NOW_MS)
    assert await two.reserve(asked("t3.1"), NOW_MS) == BUSY
    assert isinstance(await one.reserve(asked("t1.2", of=NONE), NOW_MS), ReservationDenied)
    assert await two.reserve(asked("t4.1", of=NONE), NOW_MS) == BUSY
    assert await two.reserve(asked("t5.1", content="other"), NOW_MS) == Repeated(1)
    look = replace(asked("t6.0"), candidates=())
    assert await two.reserve(look, NOW_MS) == BUSY
    two.free("bot", "r")  # what another server runs is not freed
    one.free("other", "r")
    assert await two.reserve(asked("t7.1"), NOW_MS) == BUSY
    one.free("bot", "r")
    await one.find("t1.1")  # after it
    assert isinstance(await two.reserve(asked("t8.1"), NOW_MS), Reserved)
    assert await one.reserve(asked("t9.1"), NOW_MS) == BUSY


async def test_a_look_runs_nothing_and_an_answer_says_more(fleet: Fleet) -> None:
    one, two = await fleet.open(DAILY), await fleet.open(DAILY)
    look = replace(asked("t1.0"), candidates=())
    assert isinstance(await one.reserve(look, NOW_MS), ReservationDenied)
    assert isinstance(await two.reserve(asked("t2.1"), NOW_MS), Reserved)
    figures = Figures(Usage(1, 2), 3, 4, 5, 6)
    await two.settle(replace(settle("t2.1"), figures=figures), NOW_MS)
    assert not two._running._claims
    assert await one.reserve(asked("t3.1"), NOW_MS) == Repeated(1, "p/a/m0", figures)


async def test_the_request_ids_of_a_dead_server_may_run_again(fleet: Fleet) -> None:
    dead, alive = await fleet.open(DAILY), await fleet.open(DAILY)
    await dead.reserve(asked("t1.1"), NOW_MS)
    await kill(dead)
    fleet.stores.remove(dead)
    fleet.clock.at_ms += LEASE_MS - 1
    await alive.find("x")
    assert await alive.reserve(asked("t2.1"), NOW_MS) == BUSY
    fleet.clock.at_ms += 2
    assert isinstance(await alive.reserve(asked("t3.1"), NOW_MS), Reserved)


async def test_an_id_that_ends_while_redis_is_gone_is_freed_when_it_is_back(fleet: Fleet) -> None:
    one, two = await fleet.open(DAILY), await fleet.open(DAILY)
    await one.reserve(asked("t1.1"), NOW_MS)
    await one._fail([], "the cable was pulled")
    one.free("bot", "r")
    assert await two.reserve(asked("t2.1"), NOW_MS) == BUSY
    await until(lambda: not one._running)
    assert isinstance(await two.reserve(asked("t3.1"), NOW_MS), Reserved)


def holders(stores: list[RedisStore], duty: Duty) -> list[RedisStore]:
    return [store for store in stores if store.shared.holds(duty)]


async def test_one_server_has_a_duty_and_hands_it_on(fleet: Fleet) -> None:
    first = await fleet.open(DAILY)
    others = [await fleet.open(DAILY) for _ in range(3)]
    for duty in Duty:
        await until(lambda: holders(fleet.stores, duty) == [first])  # noqa: B023
    await first.close()
    fleet.stores.remove(first)
    await until(lambda: len(holders(others, Duty.NOTICES)) == 1)


async def test_the_duties_of_a_dead_server_pass_to_another(fleet: Fleet) -> None:
    dead, alive = await fleet.open(DAILY), await fleet.open(DAILY)
    await kill(dead)
    fleet.stores.remove(dead)
    fleet.clock.at_ms += DUTY_MS - 1
    await asyncio.sleep(0.6)
    assert not alive.shared.holds(Duty.REPORTS)
    fleet.clock.at_ms += 2
    await until(lambda: alive.shared.holds(Duty.REPORTS))


def test_a_duty_that_could_not_be_renewed_is_over_before_another_gets_it() -> None:
    now_s = 0.0
    state = SharedState(lambda: now_s)
    state.take(Shared(2, ["notices"], "0", []), 0.0)  # asked at 0.0, however late the answer
    now_s = DUTY_MS / 1_000 - 0.001
    assert state.holds(Duty.NOTICES)
    assert not state.holds(Duty.REPORTS)
    now_s = DUTY_MS / 1_000
    assert not state.holds(Duty.NOTICES)


async def test_servers_hear_of_tokens_by_themselves(fleet: Fleet) -> None:
    stores = [await fleet.open(DAILY) for _ in range(2)]
    desk = TokenDesk(RedisTokens(fleet.place), fleet.clock, Numbers())
    text, token = await asyncio.to_thread(desk.create, "alice", Rank.OPERATOR, None)
    await until(lambda: all(s.shared.find(token.key_id) == token for s in stores))
    assert holder(text, stores[0].shared, NOW_MS) == token
    assert holder(f"{text}0", stores[0].shared, NOW_MS) is None
    later = await fleet.open(DAILY)  # knows them from the first moment on
    assert later.shared.all() == (token,)
    await asyncio.to_thread(desk.revoke, token.key_id)
    await until(lambda: all(holder(text, s.shared, NOW_MS) is None for s in fleet.stores))
    await asyncio.to_thread(desk.close)


async def test_d2_the_text_of_a_token_never_reaches_redis(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("aof")
    with serving("redis", folder, "--appendonly", "yes", "--appendfsync", "always") as server:
        fleet = Fleet(server)
        desk = TokenDesk(RedisTokens(fleet.place), fleet.clock, Numbers())
        text, token = await asyncio.to_thread(desk.create, "alice", Rank.AGENT, None)
        await asyncio.to_thread(desk.close)
    kept = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert token.digest.hex().encode() in kept
    assert text.rpartition("_")[2].encode() not in kept


def test_tokens_are_not_believed_for_ever_without_redis() -> None:
    now_s = 0.0
    state = SharedState(lambda: now_s)
    state.take(Shared(1, [], "0", []), 0.0)
    now_s = STALE_S
    assert state.find("k") is None
    now_s = STALE_S + 1
    with pytest.raises(StoreError, match="no token can be believed"):
        state.find("k")
