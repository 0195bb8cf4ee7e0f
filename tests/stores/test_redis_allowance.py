"""What free models may do while Redis is gone: a share of what was left, booked when it is back."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from escalade_server.core.catalog import Billing, Counter, Period, Unit
from escalade_server.core.commands import Candidate, Reserve
from escalade_server.core.events import Reserved
from escalade_server.core.failure import DAY_MS
from escalade_server.core.standing import Balance
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores.board import Board
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_allowance import Allowance
from escalade_server.stores.redis_link import DEADLINE_MS, place_of
from tests.stores.servers import Server, serving
from tests.stores.test_redis import until
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

DAILY, MINUTE = counter("daily", 50), counter("minute", 6, period=Period.MINUTE)
TOKENS = counter("tokens", 1_000, Unit.TOKENS)
CAP = counter("cap", 1_000, Unit.NANOS, Period.MONTH)


def free(*counters: Counter, nanos: int = 0, position: int = 0, tokens: int = 100) -> Candidate:
    made = candidate(*counters, nanos=nanos, position=position, tokens=tokens)
    return replace(made, model=replace(made.model, billing=Billing.FREE))


def allowance(**spent: int) -> Allowance:
    board = Board()
    ends_ms = NOW_MS - NOW_MS % DAY_MS + DAY_MS
    told = [(key, (Balance("w", used, 0, ends_ms),)) for key, used in spent.items()]
    board.publish(told, None, NOW_MS)
    return Allowance(board, Calendar())


def granted(share: Allowance, *candidates: Candidate, servers: int = 4, at_ms: int = NOW_MS) -> int:
    """Take until there is none left; the answer is how many there were."""
    for count in range(1_000):
        order = reserve(f"n{next(numbers)}", *candidates)
        if share.grant(order, servers, at_ms) is None:
            return count
    raise AssertionError("there is no end of it")


def test_each_server_may_use_its_share_of_what_was_left() -> None:
    assert granted(allowance(daily=11), free(DAILY)) == (50 - 11) // 4
    assert granted(allowance(), free(DAILY), servers=1) == 50
    assert granted(allowance(daily=47), free(DAILY)) == 0
    assert granted(allowance(daily=60), free(DAILY)) == 0
    assert granted(allowance(tokens=100), free(DAILY, TOKENS, tokens=30)) == 900 // 4 // 30
    assert granted(allowance(), free(counter("none", 0))) == 0


def test_what_is_paid_for_is_refused_and_what_costs_nothing_passes_a_cap() -> None:
    share = allowance()
    assert granted(share, candidate(DAILY), candidate()) == 0
    assert granted(share, free(DAILY, CAP, nanos=1)) == 0
    assert granted(share, free(DAILY, CAP)) == 12


def test_the_first_that_fits_is_taken_and_the_others_are_told_why() -> None:
    share = allowance(other=50)
    order = reserve("one", candidate(DAILY), free(counter("other", 50), position=1),
                    free(DAILY, position=2))  # fmt: skip
    answer = share.grant(order, 2, NOW_MS)
    assert isinstance(answer, Reserved)
    assert answer.position == 2
    assert [(d.position, d.counter_key, d.held_only) for d in answer.denials] == [
        (0, "daily", True), (1, "other", True),
    ]  # fmt: skip
    assert [d.balance.spent + d.balance.held for d in answer.denials] == [50, 50]
    assert share.grant(order, 2, NOW_MS) == Reserved(1, 2, ())
    [again] = share.unsaid()
    assert [each.model.position for each in again.order.candidates] == [2]


def test_a_new_window_brings_a_new_share() -> None:
    share = allowance(daily=42)
    assert [granted(share, free(DAILY), at_ms=NOW_MS + n) for n in range(2)] == [2, 0]
    assert granted(share, free(DAILY), at_ms=NOW_MS + DAY_MS) == 12
    sliding = allowance()
    ats = (NOW_MS, NOW_MS + 59_000, NOW_MS + 60_001)
    assert [granted(sliding, free(MINUTE), servers=2, at_ms=at) for at in ats] == [3, 0, 3]
    sliding.end()
    assert granted(sliding, free(MINUTE), servers=2, at_ms=ats[-1]) == 3


class Fleet:
    """Servers over one ledger of a Redis that keeps what it was told."""

    def __init__(self, server: Server, deadline_s: float = PATIENT_S) -> None:
        self.place = place_of(f"{server.url}?name=ledger-{next(numbers)}")
        self.deadline_s = deadline_s
        self.told: list[str] = []

    async def open(self, *counters: Counter) -> RedisStore:
        clock = HandClock()
        store = RedisStore(
            self.place, clock, Calendar(), self.told.append, deadline_s=self.deadline_s,
            store_clock=clock,
        )  # fmt: skip
        await store.open(counters)
        return store


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    keeping = ("--appendonly", "yes", "--appendfsync", "always")
    with serving(request.param, tmp_path, *keeping) as server:
        yield server


def figures(store: RedisStore) -> list[tuple[int, int]]:
    return [(spend.spent, spend.held) for spend in store.spends(NOW_MS)]


async def take(store: RedisStore, order: Reserve) -> bool:
    try:
        return isinstance(await store.reserve(order, NOW_MS), Reserved)
    except StoreError:
        return False


async def test_while_redis_is_gone_free_models_go_on_and_are_booked_when_it_is_back(
    server: Server,
) -> None:
    fleet = Fleet(server)
    stores = [await fleet.open(DAILY, CAP) for _ in range(3)]
    await until(lambda: all(store.shared.owners == 3 for store in stores))
    assert await take(stores[0], reserve("before", free(DAILY)))
    await until(lambda: all(figures(store)[0] == (0, 1) for store in stores))
    server.stop()
    await until(lambda: len(fleet.told) == 3)
    share = (50 - 1) // 3
    for number, store in enumerate(stores):
        with pytest.raises(StoreError):
            await store.reserve(reserve("paid", candidate(CAP)), NOW_MS)
        orders = [reserve(f"{number}-{n}", free(DAILY)) for n in range(20)]
        assert [await take(store, order) for order in orders] == [True] * share + [False] * 4
        for n in range(5):  # done, also without a journal: nothing is to be paid
            await store.settle(settle(f"{number}-{n}", nanos=0), NOW_MS)
        await store.settle(settle(f"{number}-5", requests=0, tokens=0, nanos=0), NOW_MS)
    server.start()
    await until(lambda: fleet.told.count("") == 3)
    await until(lambda: all(figures(store)[0] == (15, 1 + 3 * 10) for store in stores))
    for number, store in enumerate(stores):
        for n in range(6, share):
            await store.settle(settle(f"{number}-{n}", nanos=0), NOW_MS)
        await store.close()
    last = await fleet.open(DAILY)
    assert figures(last)[0] == (46, 0)  # "before" was left open: in full
    await last.close()


async def test_a_slow_redis_holds_nothing_twice(server: Server) -> None:
    """A reservation that timed out may have been held there all the same."""
    fleet = Fleet(server, deadline_s=DEADLINE_MS / 1_000)
    store = await fleet.open(DAILY)
    server.pause()
    orders = [reserve(f"n{n}", free(DAILY)) for n in range(10)]
    assert await asyncio.gather(*(take(store, order) for order in orders)) == [True] * 10
    server.resume()
    await until(lambda: fleet.told[-1:] == [""])
    assert figures(store) == [(0, 10)]
    for order in orders:
        await store.settle(settle(order.reservation_id), NOW_MS)
    assert figures(store) == [(10, 0)]
    await store.close()


async def test_what_is_held_while_it_comes_back_is_said_before_it_is_settled(
    server: Server,
) -> None:
    """A steady stream of calls over many outages: each is booked once, whenever it came."""
    fleet = Fleet(server)
    store = await fleet.open(counter("daily", 1_000_000))
    calls, working = 0, True

    async def work(number: int) -> None:
        nonlocal calls
        for turn in range(100_000):
            if not working:
                return
            id_ = f"{number}-{turn}"
            order = reserve(id_, free(counter("daily", 1_000_000)))
            if await take(store, order):
                calls += 1
                await store.settle(settle(id_, nanos=0), NOW_MS)
            await asyncio.sleep(0.001)

    workers = [asyncio.ensure_future(work(number)) for number in range(8)]
    for turn in range(1, 6):
        await asyncio.sleep(0.1)
        assert server.say("CLIENT", "KILL", "TYPE", "normal")[:1] == b":"
        await until(lambda: fleet.told.count("") == turn)  # noqa: B023
    working = False
    await asyncio.gather(*workers)
    await until(lambda: figures(store) == [(calls, 0)])
    assert calls > 100
    await store.close()
