"""What is added up for reports: the same figures as the books', by day (R15)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from escalade_server.core.catalog import Billing, Unit
from escalade_server.core.commands import Candidate, Reserve, Settle
from escalade_server.core.events import Reserved
from escalade_server.core.failure import DAY_MS
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, Usage
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.engine.usage import KEPT_DAYS, ChangeCount, UsageRow, Use
from escalade_server.stores.books import PURGE_EVERY_MS
from escalade_server.stores.leased import LeasedStore
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.schema import MIGRATIONS, migrate
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.world import (
    KEEPING,
    LEASED,
    NOW_MS,
    HandClock,
    State,
    candidate,
    counter,
    rows,
    settle,
    state_in,
)

DAILY = counter("daily", 999)
TOKENS = counter("tokens", 999_999, Unit.TOKENS)
TODAY, TOMORROW = "2026-09-21", "2026-09-22"
METERED = candidate(DAILY, TOKENS)
FREE = replace(METERED, model=replace(METERED.model, billing=Billing.FREE))
KEY = "p/a/m0"
USAGE = Usage(70, 30, cached_tokens=40, cache_write_tokens=5, reasoning_tokens=20)
TALLY = Tally(
    "bot", "debug", "layer", KEY, 1, 1_500, 1, (("free", "layer", "cap"),), (("p/dear", 900),)
)


@pytest.fixture(params=[*KEEPING, *LEASED, "memory"])
async def state(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    state = state_in(request, tmp_path)
    yield state
    await state.close()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[State]:
    """A state that outlives the store."""
    state = State(tmp_path / "state.db")
    yield state
    await state.close()


async def opened(state: State) -> SqliteStore | RedisStore | LeasedStore:
    store = await state.open(DAILY, TOKENS)
    assert isinstance(store, SqliteStore | RedisStore | LeasedStore)
    return store


async def take(
    store: SqliteStore | RedisStore | LeasedStore,
    id_: str,
    of: Candidate = METERED,
    at_ms: int = NOW_MS,
) -> None:
    order = Reserve(id_, 1, (of,), "bot", routed=True, task_type="debug")
    assert isinstance(await store.reserve(order, at_ms), Reserved)


def told(id_: str, *, tally: Tally | None = None, nanos: int = 9) -> Settle:
    return Settle(
        id_, 1, 1, USAGE.total_tokens, nanos, nanos, Basis.REPORTED, usage=USAGE, tally=tally
    )


def row(use: Use) -> UsageRow:
    return UsageRow("layer", KEY, "bot", "debug", use)


async def test_an_attempt_is_added_to_its_day_with_all_its_figures(state: State) -> None:
    store = await opened(state)
    await take(store, "a")
    await store.settle(told("a", tally=TALLY), NOW_MS)
    tables = await store.usage(TODAY, TOMORROW)
    use = Use(1, 70, 40, 5, 30, 20, 0, 9, 9, 0, 1, 0, 1, 1, 1_500)
    assert tables.rows == (row(use),)
    assert tables.days == ((TODAY, use),)
    assert tables.changes == (ChangeCount("free", "layer", "cap", 1),)
    assert tables.baselines == (("p/dear", 900),)
    assert tables.first_day == TODAY
    assert await store.usage("2026-09-20", TODAY) == tables._replace(
        rows=(), days=(), changes=(), baselines=()
    )
    assert (await store.usage(TODAY, TOMORROW, "bot")).rows == tables.rows
    assert not (await store.usage(TODAY, TOMORROW, "other")).rows


async def test_a_second_settlement_adds_nothing(state: State) -> None:
    store = await opened(state)
    await take(store, "a")
    for _ in range(3):
        await store.settle(told("a", tally=TALLY), NOW_MS)
    [found] = (await store.usage(TODAY, TOMORROW)).rows
    assert (found.use.requests, found.use.tasks) == (1, 1)


async def test_what_was_assumed_is_corrected_in_the_day_of_admission(state: State) -> None:
    """R32: the report comes on the next day; the day of the call gets the difference."""
    store = await opened(state)
    await take(store, "a")
    await store.settle(settle("a", basis=Basis.RESERVED), NOW_MS)
    [before] = (await store.usage(TODAY, TOMORROW)).rows
    assert before.use == Use(1, assumed_tokens=100, list_nanos=10, charged_nanos=10,
                             estimated_nanos=10)  # fmt: skip
    await store.settle(told("a"), NOW_MS + DAY_MS)
    tables = await store.usage(TODAY, "2026-09-24")
    assert tables.rows == (row(Use(1, 70, 40, 5, 30, 20, 0, 9, 9)),)
    assert [day for day, _ in tables.days] == [TODAY]


async def test_not_sent_after_all_takes_everything_back(state: State) -> None:
    store = await opened(state)
    await take(store, "a")
    await store.settle(settle("a", basis=Basis.RESERVED), NOW_MS)
    await store.settle(settle("a", nanos=0, tokens=0, requests=0, basis=Basis.NONE), NOW_MS)
    [found] = (await store.usage(TODAY, TOMORROW)).rows
    assert found.use == Use()


async def test_a_release_leaves_no_trace(state: State) -> None:
    store = await opened(state)
    await take(store, "a")
    await store.settle(settle("a", nanos=0, tokens=0, requests=0, basis=Basis.NONE), NOW_MS)
    assert not (await store.usage(TODAY, TOMORROW)).rows


@pytest.mark.parametrize(("of", "charged"), [(METERED, 10), (FREE, 0)])
async def test_what_a_dead_owner_left_is_added_in_full(
    kept: State, of: Candidate, charged: int
) -> None:
    first = await opened(kept)
    await take(first, "a", of)
    await first.close()
    store = await opened(kept)
    [found] = (await store.usage(TODAY, TOMORROW)).rows
    assert found == row(
        Use(1, assumed_tokens=100, list_nanos=10, charged_nanos=charged, estimated_nanos=10)
    )


async def test_doubt_is_added_when_it_is_over(state: State) -> None:
    store = await opened(state)
    await take(store, "a")
    await store.settle(settle("a", basis=Basis.RESERVED, hold_until_ms=NOW_MS + 1), NOW_MS)
    assert not (await store.usage(TODAY, TOMORROW)).rows
    state.clock.at_ms = NOW_MS + 2
    await take(store, "b", at_ms=NOW_MS + 2)
    [found] = (await store.usage(TODAY, TOMORROW)).rows
    assert found.use.list_nanos == 10


async def test_a_task_without_an_answer_counts_without_a_model(state: State) -> None:
    store = await opened(state)
    await store.tally(Tally("bot", "debug", waits=1, waited_ms=70), NOW_MS)
    assert (await store.usage(TODAY, TOMORROW)).rows == (
        UsageRow("", "", "bot", "debug", Use(tasks=1, failed=1, waits=1, waited_ms=70)),
    )


async def test_days_are_those_of_the_zone(tmp_path: Path) -> None:
    """T3: a call after midnight in Kolkata is tomorrow's, though UTC still has today."""
    store = SqliteStore(tmp_path / "s.db", HandClock(), Calendar(), zone="Asia/Kolkata")
    await store.open((DAILY, TOKENS))
    late_ms = int(datetime(2026, 9, 21, 19, 0, tzinfo=UTC).timestamp()) * 1_000
    await take(store, "a")
    await store.settle(told("a"), late_ms)
    await take(store, "b", at_ms=late_ms)
    await store.settle(told("b"), late_ms)
    days = (await store.usage(TODAY, "2026-09-30")).days
    await store.close()
    assert [(day, use.requests) for day, use in days] == [(TODAY, 1), (TOMORROW, 1)]


async def test_a_report_is_kept_once_as_it_was_made(state: State) -> None:
    store = await opened(state)
    await take(store, "a")
    await store.settle(told("a"), NOW_MS)
    assert await store.unreported(TODAY, TOMORROW) == (TODAY,)
    assert await store.keep_report(TODAY, "{}", NOW_MS)
    assert not await store.keep_report(TODAY, "{another}", NOW_MS)
    assert await store.unreported(TODAY, TOMORROW) == ()
    if state.path is not None:
        assert rows(state.path, "SELECT day, report FROM reports") == [(TODAY, "{}")]


async def test_old_days_are_dropped(state: State) -> None:
    store = await opened(state)
    await take(store, "a")
    await store.settle(told("a", tally=TALLY), NOW_MS)
    await store.keep_report(TODAY, "{}", NOW_MS)
    for days, is_there in ((KEPT_DAYS, True), (KEPT_DAYS + 1, False)):
        state.clock.at_ms = NOW_MS + days * DAY_MS + PURGE_EVERY_MS
        for turn in range(2):
            await take(store, f"{days}-{turn}", at_ms=state.clock.at_ms)
        tables = await store.usage(TODAY, TOMORROW)
        assert bool(tables.rows) == is_there
        assert bool(tables.changes) == bool(tables.baselines) == is_there
        assert bool(await store.unreported(TODAY, TOMORROW)) is False


async def test_what_is_undone_is_not_added(kept: State) -> None:
    """The file is busy elsewhere: the settlement waits in the journal, and is added once."""
    store = await opened(kept)
    await take(store, "a")
    assert kept.path is not None
    assert isinstance(store, SqliteStore)
    other = apsw.Connection(str(kept.path))
    other.execute("BEGIN IMMEDIATE")
    assert isinstance(store, SqliteStore)
    store._connection.set_busy_timeout(1)
    await store.settle(told("a", tally=TALLY), NOW_MS)
    other.execute("ROLLBACK")
    other.close()
    await take(store, "b")
    [found] = (await store.usage(TODAY, TOMORROW)).rows
    assert (found.use.requests, found.use.tasks) == (1, 1)


async def test_a_file_of_an_earlier_build_goes_on(tmp_path: Path) -> None:
    """S5: what was reserved before is added to the day of its admission."""
    path = tmp_path / "old.db"
    old = apsw.Connection(str(path))
    migrate(old, MIGRATIONS[:2])
    old.execute(
        "INSERT INTO reservations VALUES (1, 'x', 9, ?, 0, 0, 100, 10, '', ?, 0, 0, 0, 0, 'bot', 1,"
        " '', '', '', '')",
        (KEY, NOW_MS),
    )
    old.close()
    store = await opened(State(path))
    tables = await store.usage(TODAY, TOMORROW)
    await store.close()
    assert tables.rows[0].model == KEY
    assert tables.days[0][1].list_nanos == 10


async def test_a_closed_store_says_so(state: State) -> None:
    store = await opened(state)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.usage(TODAY, TOMORROW)
