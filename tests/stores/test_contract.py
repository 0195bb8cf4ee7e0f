"""What every store must do, whatever it keeps its rows in."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.commands import SetBench
from escalade_server.core.events import ReservationDenied, Reserved
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.money import CAP_NANOS_MAX
from escalade_server.core.standing import Bench
from escalade_server.core.task import Basis
from escalade_server.engine.ports import StoreError
from tests.stores.world import (
    KEEPING,
    LEASED,
    NOW_MS,
    USD,
    State,
    candidate,
    counter,
    reserve,
    settle,
    state_in,
)

MINUTE_MS = 60_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


@pytest.fixture(params=[*KEEPING, *LEASED, "memory"])
async def state(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    state = state_in(request, tmp_path)
    yield state
    await state.close()


@pytest.fixture(params=[*KEEPING, *LEASED])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    """A state that outlives the store."""
    state = state_in(request, tmp_path)
    yield state
    await state.close()


async def test_200_at_once_on_50_are_exactly_50(state: State) -> None:
    daily = counter("daily", 50)
    store = await state.open(daily)
    answers = await asyncio.gather(
        *(store.reserve(reserve(f"t{n}", candidate(daily)), NOW_MS) for n in range(200))
    )
    taken = [answer for answer in answers if isinstance(answer, Reserved)]
    assert len(taken) == 50
    assert state.figures(store, daily) == [(0, 50)]


async def test_a_dollar_is_never_overspent_by_200_callers(state: State) -> None:
    """Half of them vanish: they settle nothing, and what they hold stays held."""
    cap = counter("cap", USD, Unit.NANOS, Period.MONTH)
    store = await state.open(cap)
    spent = 0

    async def caller(number: int) -> None:
        nonlocal spent
        for turn in range(4):
            id_ = f"{number}-{turn}"
            order = reserve(id_, candidate(cap, nanos=9_000_000 + number))
            answer = await store.reserve(order, NOW_MS)
            [(booked, held)] = state.figures(store, cap)
            assert booked + held <= USD
            if isinstance(answer, Reserved) and number % 2:
                await store.settle(settle(id_, nanos=4_000_000 + number), NOW_MS)
                spent += 4_000_000 + number

    await asyncio.gather(*(caller(number) for number in range(200)))
    [(booked, held)] = state.figures(store, cap)
    assert booked == spent
    assert 0.98 * USD < booked + held <= USD


async def test_the_first_candidate_with_room_is_taken_and_the_others_say_why(state: State) -> None:
    full, busy, small, free = (counter(f"c{n}", 2) for n in range(4))
    tokens = counter("tokens", 50, Unit.TOKENS)
    store = await state.open(full, busy, small, free, tokens)
    for _ in range(2):
        await store.settle(settle(await state.take(store, candidate(full))), NOW_MS)
        await state.take(store, candidate(busy))
    order = reserve(
        "ordered",
        candidate(free, full, position=0),
        candidate(busy, position=1),
        candidate(tokens, small, position=2),
        candidate(free, position=3),
        candidate(small, position=4),
    )
    answer = await store.reserve(order, NOW_MS)
    assert isinstance(answer, Reserved)
    assert answer.position == 3
    assert [
        (d.position, d.counter_key, d.amount, d.held_only, d.never_fits) for d in answer.denials
    ] == [
        (0, "c0", 1, False, False),
        (1, "c1", 1, True, False),
        (2, "tokens", 100, False, True),
    ]
    assert (answer.denials[0].balance.spent, answer.denials[1].balance.held) == (2, 2)
    assert answer.denials[0].balance.ends_ms == ms("2026-09-22")
    # All counters or none: the passed-over ones hold nothing.
    assert state.figures(store, full, busy, small, free) == [(2, 0), (0, 2), (0, 0), (0, 1)]


async def test_a_denial_comes_with_fresh_standing(state: State) -> None:
    daily = counter("daily", 1)
    store = await state.open(daily)
    await state.take(store, candidate(daily))
    answer = await state.refusal(store, candidate(daily))
    assert answer.standing.balances["daily"].held == 1
    assert answer.denials[0].held_only


async def test_standing_is_current_after_each_answer(state: State) -> None:
    daily = counter("daily", 9)
    store = await state.open(daily)
    before = store.standing(NOW_MS)
    id_ = await state.take(store, candidate(daily))
    held = store.standing(NOW_MS)
    assert store.standing(NOW_MS) is held
    await store.settle(settle(id_), NOW_MS)
    settled = store.standing(NOW_MS)
    found = [standing.balances.get("daily") for standing in (before, held, settled)]
    assert [balance and (balance.spent, balance.held) for balance in found] == [
        None, (0, 1), (1, 0),
    ]  # fmt: skip


async def test_a_limit_of_nothing_allows_nothing(state: State) -> None:
    none = counter("none", 0, Unit.NANOS)
    store = await state.open(none)
    answer = await state.refusal(store, candidate(none, nanos=0))
    assert answer.denials[0].never_fits


@pytest.mark.fault("S13")
async def test_the_same_reservation_twice_is_one(state: State) -> None:
    daily = counter("daily", 5)
    full = counter("full", 0)
    store = await state.open(daily, full)
    order = reserve("same", candidate(full, position=3), candidate(daily, position=8))
    first, second = await asyncio.gather(store.reserve(order, NOW_MS), store.reserve(order, NOW_MS))
    assert first == second == await store.reserve(order, NOW_MS)
    assert state.figures(store, daily) == [(0, 1)]
    await store.settle(settle("same"), NOW_MS)
    again = await store.reserve(order, NOW_MS)
    assert isinstance(again, Reserved)
    assert again.position == 8
    assert state.figures(store, daily) == [(1, 0)]


async def test_a_settlement_books_what_was_used_once(state: State) -> None:
    requests = counter("requests", 10)
    tokens = counter("tokens", 1_000, Unit.TOKENS)
    money = counter("money", USD, Unit.NANOS, Period.MONTH)
    store = await state.open(requests, tokens, money)
    order = candidate(requests, tokens, money, tokens=400, nanos=600)
    id_ = await state.take(store, order)
    assert state.figures(store, requests, tokens, money) == [(0, 1), (0, 400), (0, 600)]
    for _ in range(3):
        await store.settle(settle(id_, tokens=1_200, nanos=70), NOW_MS)
    await store.settle(settle(id_, tokens=5, nanos=5), NOW_MS)
    assert state.figures(store, requests, tokens, money) == [(1, 0), (1_200, 0), (70, 0)]
    denied = await state.refusal(store, order)
    assert denied.denials[0].counter_key == "tokens"


async def test_nothing_sent_releases_everything(state: State) -> None:
    daily = counter("daily", 1)
    store = await state.open(daily)
    id_ = await state.take(store, candidate(daily))
    await store.settle(settle(id_, 0, 0, 0, Basis.NONE), NOW_MS)
    assert state.figures(store, daily) == [(0, 0)]
    await state.take(store, candidate(daily))


async def test_settling_what_holds_nothing_is_no_error(state: State) -> None:
    daily = counter("daily", 1)
    store = await state.open(daily)
    await store.settle(settle("never seen"), NOW_MS)
    assert state.figures(store, daily) == [(0, 0)]


async def test_amounts_out_of_range_are_refused_alone(state: State) -> None:
    daily = counter("daily", 9)
    store = await state.open(daily)
    id_ = await state.take(store, candidate(daily))
    for wrong in (settle(id_, nanos=-1), settle(id_, nanos=CAP_NANOS_MAX + 1)):
        with pytest.raises(StoreError, match="amounts must be"):
            await store.settle(wrong, NOW_MS)
    with pytest.raises(StoreError, match="amounts must be"):
        await state.take(store, candidate(daily, nanos=1 << 70))
    await store.settle(settle(id_, nanos=CAP_NANOS_MAX), NOW_MS)
    assert state.figures(store, daily) == [(1, 0)]


async def test_a_booking_at_the_reserve_is_corrected_once(state: State) -> None:
    money = counter("money", USD, Unit.NANOS)
    store = await state.open(money)
    id_ = await state.take(store, candidate(money, nanos=500))
    for _ in range(2):
        await store.settle(settle(id_, nanos=500, basis=Basis.RESERVED), NOW_MS)
    assert state.figures(store, money) == [(500, 0)]
    for nanos in (120, 300):
        await store.settle(settle(id_, nanos=nanos), NOW_MS)
    assert state.figures(store, money) == [(120, 0)]


@pytest.mark.fault("T1", "T2")
@pytest.mark.parametrize(
    ("period", "zone", "admitted", "settled", "ends"),
    [
        (Period.DAY, "UTC", "2026-09-21T23:59:59", "2026-09-22T00:00:30", "2026-09-23"),
        (Period.MONTH, "UTC", "2026-09-30T23:59:59", "2026-10-01T00:00:30", "2026-11-01"),
        (
            Period.DAY, "America/Los_Angeles",
            "2026-11-01T06:59:59", "2026-11-01T07:30", "2026-11-02T08:00",
        ),
    ],
)  # fmt: skip
async def test_what_was_admitted_yesterday_is_charged_to_yesterday(
    state: State, period: Period, zone: str, admitted: str, settled: str, ends: str
) -> None:
    limit = counter("limit", 2, period=period, zone=zone)
    state.clock.at_ms = ms(admitted)
    store = await state.open(limit)
    first, second = [await state.take(store, candidate(limit)) for _ in range(2)]
    await state.refusal(store, candidate(limit))
    state.clock.at_ms = ms(settled)
    assert state.figures(store, limit) == [(0, 0)]
    await store.settle(settle(first), ms(settled))
    await state.take(store, candidate(limit))
    await store.settle(settle(second), ms(settled))
    assert state.figures(store, limit) == [(0, 1)]
    [spend] = store.spends(ms(settled))
    assert spend.ends_ms == ms(ends)
    assert store.standing(ms(settled)).balances["limit"].ends_ms == ms(ends)


@pytest.mark.fault("T4", "T6")
async def test_a_clock_that_goes_back_opens_no_used_window(kept: State) -> None:
    """T4: in one run and over a restart."""
    daily = counter("daily", 1)
    hourly = counter("hourly", 1, period=Period.HOUR)
    kept.clock.at_ms = ms("2026-09-22T00:05")
    store = await kept.open(daily, hourly)
    await kept.take(store, candidate(daily, hourly))
    kept.clock.at_ms = ms("2026-09-21T23:55")
    await kept.refusal(store, candidate(daily))
    await store.close()
    store = await kept.open(daily, hourly)
    await kept.refusal(store, candidate(daily))
    await kept.refusal(store, candidate(hourly))
    assert kept.figures(store, daily) == [(1, 0)], "the orphan was booked"


async def test_a_minute_slides(state: State) -> None:
    limit = counter("limit", 3, period=Period.MINUTE)
    store = await state.open(limit)
    admitted: list[int] = []
    for step in [0, 20_000, 20_000, 5_000, 14_000, 8_000, 6_000, 100, 30_000, 31_000, 70_000] * 2:
        state.clock.at_ms += step
        order = reserve(f"at-{state.clock.at_ms}-{len(admitted)}", candidate(limit))
        answer = await store.reserve(order, state.clock.at_ms)
        if isinstance(answer, Reserved):
            admitted.append(state.clock.at_ms)
        else:
            assert isinstance(answer, ReservationDenied)
            until = answer.denials[0].balance.ends_ms
            assert state.clock.at_ms < until <= state.clock.at_ms + 66_000
            assert store.standing(until).balances["limit"].held < 3
    assert len(admitted) >= 12
    for begin in admitted:
        assert sum(begin <= instant < begin + MINUTE_MS for instant in admitted) <= 3


async def test_standing_lets_go_of_what_has_ended(state: State) -> None:
    daily = counter("daily", 5)
    minutely = counter("minutely", 5, period=Period.MINUTE)
    store = await state.open(daily, minutely)
    await state.take(store, candidate(daily, minutely))
    state.clock.at_ms += 30_000
    await state.take(store, candidate(daily, minutely))

    def held_at(after_ms: int) -> dict[str, int]:
        balances = store.standing(NOW_MS + after_ms).balances
        return {key: balance.held for key, balance in balances.items()}

    assert held_at(59_000) == {"daily": 2, "minutely": 2}
    assert held_at(67_000) == {"daily": 2, "minutely": 1}
    assert held_at(120_000) == {"daily": 2}
    assert held_at(86_400_000) == {}


async def test_uncertain_stays_held_then_is_booked_in_full(state: State) -> None:
    money = counter("money", 1_000, Unit.NANOS)
    store = await state.open(money)
    until = NOW_MS + 15 * MINUTE_MS
    first, second, third = [await state.take(store, candidate(money, nanos=300)) for _ in range(3)]
    for id_ in (first, second, third):
        await store.settle(settle(id_, 0, 0, 0, Basis.ESTIMATED, until), NOW_MS)
    assert state.figures(store, money) == [(0, 900)]
    await store.settle(settle(first, nanos=50), NOW_MS)
    assert state.figures(store, money) == [(50, 600)]
    state.clock.at_ms = until
    await store.bench(SetBench("x", Bench(until + 1, FailureClass.OUTAGE, "")), until)
    assert state.figures(store, money) == [(650, 0)]
    await store.settle(settle(second, nanos=20), until)
    await store.settle(settle(second, nanos=30), until)
    await store.settle(settle(third, 0, 0, 0, Basis.ESTIMATED, until + 1), until)
    assert state.figures(store, money) == [(370, 0)], "told late, it is corrected once"


async def test_an_uncertain_hold_ends_by_time_alone(kept: State) -> None:
    money = counter("money", 1_000, Unit.NANOS)
    store = await kept.open(money)
    id_ = await kept.take(store, candidate(money, nanos=300))
    await store.settle(settle(id_, hold_until_ms=NOW_MS + 10), NOW_MS)
    kept.clock.at_ms += 10
    for _ in range(100):
        await asyncio.sleep(0.05)
        if kept.figures(store, money) == [(300, 0)]:
            return
    pytest.fail("nobody looked")


async def test_of_two_cooldowns_the_later_end_wins(kept: State) -> None:
    store = await kept.open()
    near = Bench(NOW_MS + 5, FailureClass.RATE_SHORT, "5 ms")
    far = Bench(NOW_MS + 9, FailureClass.QUOTA_WINDOW, "9 ms")
    never = Bench(NEVER_MS, FailureClass.AUTH, "key refused")
    for key, bench in [("m", near), ("m", far), ("m", near), ("p", far), ("a", never)]:
        await store.bench(SetBench(key, bench), NOW_MS)
    assert store.standing(NOW_MS).benches == {"m": far, "p": far, "a": never}
    await store.close()
    store = await kept.open()
    assert store.standing(NOW_MS).benches == {"m": far, "p": far, "a": never}
    await store.bench(SetBench("p", Bench(0, FailureClass.AUTH, "")), NOW_MS)
    await store.bench(SetBench("unknown", Bench(0, FailureClass.AUTH, "")), NOW_MS)
    assert store.standing(NOW_MS).benches == {"m": far, "a": never}
    await store.close()
    store = await kept.open()
    assert store.standing(NOW_MS).benches == {"m": far, "a": never}
    await store.close()
    kept.clock.at_ms += 9
    store = await kept.open()
    assert store.standing(NOW_MS).benches == {"a": never}


async def test_what_a_dead_owner_left_open_is_booked_in_full(kept: State) -> None:
    requests = counter("requests", 10)
    money = counter("money", USD, Unit.NANOS)
    minutely = counter("minutely", 10, period=Period.MINUTE)
    every = (requests, money, minutely)
    store = await kept.open(*every)
    order = candidate(*every, nanos=500)
    done, open_, unsure, old = [await kept.take(store, order) for _ in range(4)]
    await store.settle(settle(done, nanos=40), NOW_MS)
    await store.settle(settle(unsure, hold_until_ms=NOW_MS + 60_000), NOW_MS)
    await store.settle(settle(old, hold_until_ms=NOW_MS + 10), NOW_MS)
    await store.close()

    kept.clock.at_ms += 20
    store = await kept.open(*every)
    assert kept.figures(store, *every) == [(3, 1), (1_040, 500), (3, 1)]
    await store.settle(settle(open_, nanos=70), NOW_MS)
    await store.settle(settle(done, nanos=99), NOW_MS)
    await store.settle(settle(unsure, nanos=80), NOW_MS)
    assert kept.figures(store, *every) == [(4, 0), (40 + 70 + 80 + 500, 0), (4, 0)]
    again = await store.reserve(reserve(open_, order), NOW_MS)
    assert isinstance(again, Reserved)
    assert kept.figures(store, requests) == [(4, 0)]


async def test_all_counters_are_listed_used_or_not(state: State) -> None:
    used = counter("used", 5)
    idle = counter("idle", 5, Unit.TOKENS, Period.MONTH)
    sliding = counter("sliding", 5, period=Period.SECOND)
    store = await state.open(used, idle, sliding)
    await state.take(store, candidate(used))
    assert [(s.counter, s.spent, s.held, s.ends_ms) for s in store.spends(NOW_MS)] == [
        (used, 0, 1, ms("2026-09-22")),
        (idle, 0, 0, ms("2026-10-01")),
        (sliding, 0, 0, NOW_MS + 1_100),
    ]


async def test_a_counter_made_by_a_reload_works_at_once(state: State) -> None:
    new = counter("new", 1)
    store = await state.open()
    await state.take(store, candidate(new))
    await state.refusal(store, candidate(new))
    # G13: a changed limit applies to the next reservation.
    await state.take(store, candidate(counter("new", 2)))


async def test_a_key_means_one_unit_and_period(kept: State) -> None:
    store = await kept.open(counter("key", 1))
    with pytest.raises(StoreError, match="needs a new key"):
        await store.reserve(reserve("t", candidate(counter("key", 1, Unit.TOKENS))), NOW_MS)
    await kept.take(store, candidate(counter("key", 1)))
    await store.close()
    with pytest.raises(StoreError, match="kept so far as requests per day"):
        await kept.open(counter("key", 1, period=Period.MONTH))


async def test_who_stops_waiting_settles_the_id(state: State) -> None:
    daily = counter("daily", 1)
    store = await state.open(daily)
    waiting = asyncio.ensure_future(store.reserve(reserve("gone", candidate(daily)), NOW_MS))
    waiting.cancel()
    await store.settle(settle("gone", 0, 0, 0, Basis.NONE), NOW_MS)
    assert state.figures(store, daily) == [(0, 0)]
    await state.take(store, candidate(daily))


async def test_a_closed_store_refuses_and_closes_twice(state: State) -> None:
    daily = counter("daily", 9)
    store = await state.open(daily)
    queued = [store.reserve(reserve(f"q{n}", candidate(daily)), NOW_MS) for n in range(5)]
    await store.close()
    assert [type(await answer) for answer in queued] == [Reserved] * 5
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.reserve(reserve("late", candidate(daily)), NOW_MS)


async def test_a_denied_id_may_be_taken_later(state: State) -> None:
    daily = counter("daily", 1)
    store = await state.open(daily)
    first = await state.take(store, candidate(daily))
    order = reserve("again", candidate(daily))
    assert isinstance(await store.reserve(order, NOW_MS), ReservationDenied)
    await store.settle(settle(first, 0, 0, 0), NOW_MS)
    assert isinstance(await store.reserve(order, NOW_MS), Reserved)


@pytest.mark.fault("S14")
async def test_the_largest_cap_is_counted_to_the_last_unit(state: State) -> None:
    """Just below 2^53, where a store that compares in floating point is still exact."""
    cap = counter("cap", CAP_NANOS_MAX, Unit.NANOS, Period.MONTH)
    store = await state.open(cap)
    most = await state.take(store, candidate(cap, nanos=CAP_NANOS_MAX - 2))
    one = await state.take(store, candidate(cap, nanos=1))
    denied = await state.refusal(store, candidate(cap, nanos=2))
    assert denied.denials[0].held_only
    await store.settle(settle(most, nanos=CAP_NANOS_MAX - 1), NOW_MS)
    await store.settle(settle(one, nanos=1), NOW_MS)
    assert state.figures(store, cap) == [(CAP_NANOS_MAX, 0)]
    await state.refusal(store, candidate(cap, nanos=1))


async def test_the_same_id_with_other_candidates_answers_as_before(state: State) -> None:
    full, daily, other = counter("full", 0), counter("daily", 5), counter("other", 5)
    store = await state.open(full, daily, other)
    await store.reserve(
        reserve("same", candidate(full, position=3), candidate(daily, position=8)), NOW_MS
    )
    again = await store.reserve(reserve("same", candidate(other, position=1)), NOW_MS)
    assert isinstance(again, Reserved)
    assert again.position == 8
    assert state.figures(store, daily, other) == [(0, 1), (0, 0)]
