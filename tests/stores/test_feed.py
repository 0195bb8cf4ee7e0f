"""The event feed of a store, and alerts that are told exactly once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from escalade_server.core.alerting import Mark, marks_of
from escalade_server.core.catalog import Billing, Counter, CounterScope, Period, Unit
from escalade_server.core.facts import AlertKind
from escalade_server.core.failure import DAY_MS, HOUR_MS
from escalade_server.core.rules import OnBudgetAlert, Rules
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.news import AlertNews, Entry, Once, Page, ReportNews
from escalade_server.stores import feed as feed_module
from escalade_server.stores.sqlite import SqliteStore
from tests.core.builders import catalog, model
from tests.stores.world import NOW_MS, HandClock, candidate, counter, reserve, rows, settle

PERCENTS = (50, 80, 95, 100)


def marks(of: Counter, percents: Sequence[int] = PERCENTS) -> dict[str, tuple[Mark, ...]]:
    kind = AlertKind.BUDGET if of.unit is Unit.NANOS else AlertKind.QUOTA
    return {of.key: tuple(Mark(p, -(-of.limit * p // 100), kind, "layer") for p in percents)}


@dataclass
class Fed:
    """One file over which stores are opened, and what their followers were told."""

    path: Path | None
    clock: HandClock = field(default_factory=HandClock)
    told: list[Entry] = field(default_factory=list)
    stores: list[SqliteStore] = field(default_factory=list)

    async def open(self, *counters: Counter, percents: Sequence[int] = PERCENTS) -> SqliteStore:
        store = SqliteStore(self.path, self.clock, Calendar())
        every = {key: found for each in counters for key, found in marks(each, percents).items()}
        store.follow(self.told.extend, every)
        await store.open(counters)
        self.stores.append(store)
        return store

    async def spend(self, store: SqliteStore, of: Counter, nanos: int, id_: str) -> None:
        now_ms = self.clock.at_ms
        await store.reserve(reserve(id_, candidate(of, nanos=nanos)), now_ms)
        await store.settle(settle(id_, nanos=nanos), now_ms)

    def alerts(self) -> list[tuple[str, int | None]]:
        return [
            (entry.news.kind.value, entry.news.percent)
            for entry in self.told
            if isinstance(entry.news, AlertNews)
        ]


@pytest.fixture(params=["sqlite", "memory"])
async def fed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fed]:
    made = Fed(tmp_path / "state.db" if request.param == "sqlite" else None)
    yield made
    for store in made.stores:
        await store.close()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Fed]:
    made = Fed(tmp_path / "state.db")
    yield made
    for store in made.stores:
        await store.close()


CAP = counter("cap", 1_000, Unit.NANOS, Period.MONTH)


async def test_each_mark_is_told_once_when_it_is_reached(fed: Fed) -> None:
    store = await fed.open(CAP)
    found = []
    for step in range(20):
        await fed.spend(store, CAP, 50, f"t{step}")
        found.append(fed.alerts()[-1:])

    assert fed.alerts() == [("budget", percent) for percent in PERCENTS]
    # 450 is 45 %, 500 is 50 %: told at the mark itself, neither before nor later.
    assert found[8] == []
    assert found[9] == [("budget", 50)]


async def test_one_attempt_over_several_marks_is_one_alert_of_the_highest(fed: Fed) -> None:
    store = await fed.open(CAP)
    await fed.spend(store, CAP, 960, "t")

    assert fed.alerts() == [("budget", 95)]
    [entry] = fed.told
    assert isinstance(entry.news, AlertNews)
    assert "passed 50 %, 80 %, 95 % at once" in entry.news.detail
    assert entry.news.quota is not None
    assert (entry.news.quota.spent, entry.news.quota.limit) == (960, 1_000)


async def test_what_is_held_tells_nothing(fed: Fed) -> None:
    store = await fed.open(CAP)
    await store.reserve(reserve("t", candidate(CAP, nanos=990)), NOW_MS)
    assert fed.told == []
    await store.settle(settle("t", nanos=10), NOW_MS)
    assert fed.told == []


async def test_fifty_settlements_at_once_that_cross_a_mark_tell_it_once(fed: Fed) -> None:
    store = await fed.open(CAP)
    ids = [f"t{number}" for number in range(50)]
    for id_ in ids:
        await store.reserve(reserve(id_, candidate(CAP, nanos=20)), NOW_MS)
    await asyncio.gather(*(store.settle(settle(id_, nanos=20), NOW_MS) for id_ in ids))

    assert sorted(fed.alerts()) == sorted(("budget", percent) for percent in PERCENTS)


async def test_a_restart_does_not_tell_again_and_does_not_forget(kept: Fed) -> None:
    store = await kept.open(CAP)
    await kept.spend(store, CAP, 600, "t1")
    await store.close()
    store = await kept.open(CAP)
    await kept.spend(store, CAP, 100, "t2")
    assert kept.alerts() == [("budget", 50)]
    await kept.spend(store, CAP, 150, "t3")
    assert kept.alerts() == [("budget", 50), ("budget", 80)]


async def test_what_a_dead_owner_left_tells_its_marks_at_the_start(kept: Fed) -> None:
    store = await kept.open(CAP)
    await store.reserve(reserve("t", candidate(CAP, nanos=900)), NOW_MS)
    await store.close()  # open reservations are booked in full by the next owner (C6)
    assert kept.told == []
    store = await kept.open(CAP)
    assert kept.alerts() == [("budget", 80)]
    page = await store.entries(0, 10)
    assert [entry.number for entry in page.entries] == [1]


async def test_the_next_window_tells_anew(fed: Fed) -> None:
    daily = counter("daily", 10)
    store = await fed.open(daily, percents=(80,))
    for day in range(2):
        for number in range(10):
            await fed.spend(store, daily, 1, f"{day}-{number}")
        fed.clock.at_ms += DAY_MS
    assert fed.alerts() == [("quota", 80)] * 2


async def test_a_settlement_after_its_window_tells_nobody(fed: Fed) -> None:
    daily = counter("daily", 1)
    store = await fed.open(daily)
    await store.reserve(reserve("t", candidate(daily)), NOW_MS)
    fed.clock.at_ms += DAY_MS
    await store.settle(settle("t"), fed.clock.at_ms)
    assert fed.told == []


async def test_a_changed_strategy_goes_on_with_what_was_told(fed: Fed) -> None:
    store = await fed.open(CAP, percents=(50,))
    await fed.spend(store, CAP, 600, "t1")
    await store.adopt((CAP,), marks(CAP, (50, 55, 90)))
    await fed.spend(store, CAP, 1, "t2")
    await fed.spend(store, CAP, 300, "t3")
    assert fed.alerts() == [("budget", 50), ("budget", 55), ("budget", 90)]


async def test_a_limit_that_was_lowered_tells_what_it_has_passed_by_then(fed: Fed) -> None:
    """A counter that is full meets no settlement any more."""
    store = await fed.open(CAP)
    await fed.spend(store, CAP, 400, "a")
    assert fed.alerts() == []
    lower = replace(CAP, limit=400)
    await store.adopt((lower,), marks(lower))
    await store.adopt((lower,), marks(lower))
    assert fed.alerts() == [("budget", 100)]
    await fed.spend(store, lower, 0, "b")
    assert fed.alerts() == [("budget", 100)]


async def test_the_alert_is_in_the_transaction_of_its_settlement(kept: Fed) -> None:
    """The row is there as soon as the settlement is answered: no moment lies between them."""
    store = await kept.open(CAP)
    assert kept.path is not None
    await kept.spend(store, CAP, 500, "t")
    found = rows(kept.path, "SELECT number, kind FROM events")
    assert found == [(1, "alert")]


async def test_a_settlement_that_is_undone_tells_nothing(kept: Fed) -> None:
    store = await kept.open(CAP)
    await store.reserve(reserve("t", candidate(CAP, nanos=500)), NOW_MS)
    commit = store._books.commit

    def fail() -> None:
        raise_error = OSError("the disk is gone")
        store._books.commit = commit  # type: ignore[method-assign]
        raise raise_error

    store._books.commit = fail  # type: ignore[method-assign]
    await store.settle(settle("t", nanos=500), NOW_MS)  # the journal has it (S2)
    assert kept.told == []


async def test_entries_of_the_loop_are_kept_in_order_and_told(fed: Fed) -> None:
    store = await fed.open()
    for number in range(5):
        store.record((Entry(NOW_MS + number, ReportNews(f"day {number}"), agent="bo"),))
    page = await store.entries(2, 2)  # what waits is written with it

    assert [entry.number for entry in fed.told] == [1, 2, 3, 4, 5]
    assert [entry.news for entry in page.entries] == [ReportNews("day 2"), ReportNews("day 3")]
    assert (page.oldest, page.newest, page.entries[0].agent) == (0, 5, "bo")


async def test_entries_are_written_without_any_order(fed: Fed) -> None:
    store = await fed.open()
    kept = asyncio.Event()
    store.follow(lambda _: kept.set())
    store.record((Entry(NOW_MS, ReportNews("a day")),))
    async with asyncio.timeout(10):
        await kept.wait()


async def test_entries_ride_with_the_next_batch(fed: Fed) -> None:
    store = await fed.open(CAP)
    store.record((Entry(NOW_MS, ReportNews("a day")),))
    await store.reserve(reserve("t", candidate(CAP)), NOW_MS)
    assert [entry.news for entry in fed.told] == [ReportNews("a day")]


async def test_closing_keeps_what_was_taken(kept: Fed) -> None:
    store = await kept.open()
    store.record((Entry(NOW_MS, ReportNews("a day")),))
    store.delivered(1)
    await store.close()
    store = await kept.open()
    page = await store.entries(0, 10)
    assert [entry.news for entry in page.entries] == [ReportNews("a day")]
    assert page.delivered == 1


async def test_what_is_told_once_is_not_kept_again_before_its_time(kept: Fed) -> None:
    store = await kept.open()
    once = Once("layer out", NOW_MS + HOUR_MS)
    for _ in range(3):
        store.record((Entry(kept.clock.at_ms, ReportNews("out"), once=once),))
    await store.close()
    store = await kept.open()
    store.record((Entry(kept.clock.at_ms, ReportNews("out"), once=once),))
    assert len((await _settled(store)).entries) == 1
    kept.clock.at_ms += HOUR_MS
    again = once._replace(until_ms=kept.clock.at_ms + HOUR_MS)
    store.record((Entry(kept.clock.at_ms, ReportNews("out"), once=again),))
    assert len((await _settled(store)).entries) == 2


async def _settled(store: SqliteStore) -> Page:
    """Read everything; what waits is written first."""
    return await store.entries(0, 1_000)


async def test_the_feed_keeps_its_size(kept: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "KEPT_ROWS", 100)
    monkeypatch.setattr(feed_module, "PURGE_ROWS", 50)
    store = await kept.open()
    for number in range(500):
        store.record((Entry(NOW_MS, ReportNews(f"{number}")),))
        if number % 25 == 0:
            await _settled(store)
    page = await _settled(store)
    assert 100 <= len(page.entries) <= 150
    assert (page.newest, page.oldest) == (500, 500 - len(page.entries))


async def test_what_is_a_week_old_goes_but_numbers_never_come_again(kept: Fed) -> None:
    store = await kept.open()
    for number in range(5):
        store.record((Entry(NOW_MS, ReportNews(f"{number}")),))
    await _settled(store)
    kept.clock.at_ms += 8 * DAY_MS
    await store.reserve(reserve("t"), kept.clock.at_ms)
    page = await store.entries(0, 10)
    assert [entry.number for entry in page.entries] == [5]
    await store.close()
    store = await kept.open()
    store.record((Entry(kept.clock.at_ms, ReportNews("new")),))
    assert (await _settled(store)).newest == 6


async def test_two_files_have_two_epochs(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b", "a"):
        fed = Fed(tmp_path / f"{name}.db")
        store = await fed.open()
        pages.append(await store.entries(0, 0))
        await store.close()
    assert pages[0].epoch == pages[2].epoch != pages[1].epoch


def test_which_counters_have_marks() -> None:
    day = counter("day", 10)
    minute = replace(day, key="minute", period=Period.MINUTE)
    nothing = replace(day, key="nothing", limit=0)
    cap = replace(CAP, scope=CounterScope.LAYER)
    only = model("p/m", counters=(day, minute, nothing, cap))
    found = marks_of(catalog(("one", (only,), ()), rules=Rules(alert_percents=(80, 100))))
    assert found == {
        "day": (Mark(80, 8, AlertKind.QUOTA, "one"), Mark(100, 10, AlertKind.QUOTA, "one")),
        "cap": (Mark(80, 800, AlertKind.BUDGET, "one"), Mark(100, 1_000, AlertKind.BUDGET, "one")),
    }
    off = Rules(on_budget_alert=OnBudgetAlert.OFF)
    assert marks_of(catalog(("one", (only,), ()), rules=off)) == {}


async def test_the_planned_cost_of_a_metered_layer_is_a_mark_of_its_cap(fed: Fed) -> None:
    cap = replace(CAP, scope=CounterScope.LAYER)
    metered = model("p/m", counters=(cap,), billing=Billing.METERED)
    whole = catalog(("one", (metered,), ()), rules=Rules(alert_percents=(80,)))
    planned = replace(whole.layers[0], fee_nanos=600)
    found = marks_of(replace(whole, layers=(planned,)))
    assert found == {
        "cap": (Mark(60, 600, AlertKind.PLAN, "one"), Mark(80, 800, AlertKind.BUDGET, "one"))
    }
    store = SqliteStore(fed.path, fed.clock, Calendar())
    store.follow(fed.told.extend, found)
    await store.open((cap,))
    fed.stores.append(store)
    await fed.spend(store, cap, 850, "t")
    assert fed.alerts() == [("plan", 60), ("budget", 80)]
