"""Leased chunks over a file: what they spare the store, and what a death or a bad disk leaves."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from escalade_server.core import ledger
from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Billing, Counter, Period, Unit
from escalade_server.core.commands import Candidate, Reserve
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.facts import AlertKind
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, Usage
from escalade_server.core.trace import Figures
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.news import AlertNews, Entry
from escalade_server.engine.ports import StoreError
from escalade_server.stores import lease_journal
from escalade_server.stores.leased import LeasedStore
from escalade_server.stores.leasing import Fold, Folded
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_link import place_of
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.servers import serving
from tests.stores.world import NOW_MS, HandClock, audit, candidate, counter, reserve, settle

CALLS = counter("calls", 100_000)
MONEY = counter("money", 1_000_000, Unit.NANOS, Period.MONTH)
EVERY = (CALLS, MONEY)
ORDER = candidate(*EVERY, nanos=10)
ALERT = {"money": tuple(Mark(p, 10_000 * p, AlertKind.BUDGET, "layer") for p in (50, 80))}


class Watched(SqliteStore):
    """Notes what it is asked, and may be told to refuse folds."""

    asked: list[str]
    refuses = False

    def reserve(
        self, order: Reserve, now_ms: int
    ) -> Awaitable[Reserved | ReservationDenied | Repeated]:
        self.asked.append("reserve")
        return super().reserve(order, now_ms)

    def fold(self, order: Fold, now_ms: int) -> Awaitable[Folded]:
        self.asked.append("fold")
        if self.refuses:
            raise StoreError("the disk is full")
        return super().fold(order, now_ms)


@dataclass
class Life:
    """Processes that live one after the other over one file."""

    folder: Path
    clock: HandClock = field(default_factory=HandClock)
    asked: list[str] = field(default_factory=list)
    told: list[Entry] = field(default_factory=list)
    hot: int = 1
    is_told: bool = True
    """All that is booked is told in reports, too."""

    async def begin(self) -> LeasedStore:
        def beneath(_: object) -> Watched:
            store = Watched(self.folder / "state.db", self.clock, Calendar())
            store.asked = self.asked
            return store

        journal = str(self.folder / "leases")
        store = LeasedStore(beneath, journal, self.clock, Calendar(), hot=self.hot)
        store.follow(self.told.extend, ALERT)
        await store.open(EVERY)
        return store

    async def kill(self, store: LeasedStore) -> None:
        """Let go of the locks, as a death does, and of nothing else."""
        assert store._tick is not None
        store._tick.cancel()
        await asyncio.gather(store._tick, return_exceptions=True)
        await store.beneath.close()
        await store._journal.close()

    async def take(self, store: LeasedStore, id_: str, order: Candidate = ORDER) -> None:
        assert isinstance(await store.reserve(reserve(id_, order), NOW_MS), Reserved)

    async def spend(self, store: LeasedStore, name: str, times: int, nanos: int = 7) -> None:
        for number in range(times):
            await self.take(store, f"{name}{number}")
            await store.settle(settle(f"{name}{number}", nanos=nanos), NOW_MS)

    def figures(self, store: LeasedStore) -> list[tuple[int, int]]:
        return [(each.spent, each.held) for each in store.spends(NOW_MS)]

    def kept(self, store: LeasedStore) -> list[tuple[int, int]]:
        """What the file says, with the lease in it."""
        return [(each.spent, each.held) for each in store.beneath.spends(NOW_MS)]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path)
    yield life
    if life.is_told:
        audit(tmp_path / "state.db")


async def test_hot_counters_ask_seldom_and_are_exact_all_the_same(life: Life) -> None:
    store = await life.begin()
    await life.spend(store, "t", 500)
    assert life.figures(store) == [(500, 0), (3_500, 0)]
    assert len(life.asked) < 20, "each chunk is as large as all before it"
    leased = store.spends(NOW_MS)[0].leased
    assert life.kept(store)[0][1] >= leased > 0, "held there, and told apart here"
    await store.close()
    store = await life.begin()
    assert life.kept(store) == life.figures(store) == [(500, 0), (3_500, 0)]
    await store.close()


async def test_a_report_waits_for_what_is_on_its_way_to_the_store(life: Life) -> None:
    store = await life.begin()
    await life.spend(store, "t", 30)
    beneath, begun, gate = store.beneath, asyncio.Event(), asyncio.Event()
    assert isinstance(beneath, Watched)
    fold = beneath.fold

    async def held(order: Fold, now_ms: int) -> Folded:
        begun.set()
        await gate.wait()
        return await fold(order, now_ms)

    beneath.fold = held  # type: ignore[method-assign]
    [chunk] = store._chunks.alive.values()
    under_way = asyncio.ensure_future(store._fold(chunk, None))
    await begun.wait()
    asked = asyncio.ensure_future(store.usage("2000-01-01", "3000-01-01"))
    await asyncio.sleep(0)
    assert not asked.done()
    gate.set()
    [row] = (await asked).rows
    assert row.use.requests == 30
    await under_way
    await store.close()


async def test_cold_counters_are_not_leased(life: Life) -> None:
    life.hot = 20
    store = await life.begin()
    await life.spend(store, "t", 19)
    assert life.asked == ["reserve"] * 19
    await life.spend(store, "u", 19)
    assert life.asked.count("reserve") == 19
    await store.close()


async def test_what_others_must_know_asks_each_time(life: Life) -> None:
    """A request id is claimed in the ledger (R27), and a report may come to any server (R32)."""
    store = await life.begin()
    await life.spend(store, "t", 5)
    life.asked.clear()
    claim = replace(reserve("c1", ORDER), request_id="r", content="abc", agent="bot")
    assert isinstance(await store.reserve(claim, NOW_MS), Reserved)
    figures = Figures(Usage(1, 2), 8, 7, NOW_MS, NOW_MS)
    await store.settle(replace(settle("c1"), figures=figures), NOW_MS)
    again = await store.reserve(replace(claim, reservation_id="c2"), NOW_MS)
    assert isinstance(again, Repeated)
    routed = replace(reserve("r1", ORDER), routed=True)
    assert isinstance(await store.reserve(routed, NOW_MS), Reserved)
    assert life.asked == ["reserve"] * 3
    await store.close()


async def test_a_killed_process_loses_nothing_and_strands_nothing(life: Life) -> None:
    store = await life.begin()
    await life.spend(store, "t", 100)
    await life.take(store, "flying")
    await life.take(store, "unsure")
    await store.settle(settle("unsure", hold_until_ms=NOW_MS + 60_000), NOW_MS)
    rest = store.spends(NOW_MS)[0].leased
    assert rest > 0
    await life.kill(store)

    plain = SqliteStore(life.folder / "state.db", life.clock, Calendar())
    await plain.open(EVERY)
    [calls, _] = plain.spends(NOW_MS)
    assert (calls.spent, calls.held) == (102 + rest, 0), "booked in full until the journal tells"
    await plain.close()

    store = await life.begin()
    assert life.figures(store) == life.kept(store) == [(101, 1), (710, 10)]
    await store.settle(settle("flying", nanos=3), NOW_MS)
    await store.settle(settle("unsure", nanos=4), NOW_MS)
    await store.settle(settle("t7", nanos=999), NOW_MS)
    assert life.figures(store) == [(102, 0), (707, 0)]
    tables = await store.usage("2026-09-21", "2026-09-22")
    assert [(row.use.requests, row.use.list_nanos) for row in tables.rows] == [(102, 707)]
    await store.close()


async def test_after_a_power_cut_the_rest_of_a_lease_stays_booked(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged is there; who ran when the power went is not known."""
    store = await life.begin()
    await life.spend(store, "t", 100)
    rest = store.spends(NOW_MS)[0].leased
    await life.kill(store)
    other = tmp_path / "boot"
    other.write_text("another start of the machine")
    monkeypatch.setattr(lease_journal, "_BOOT", other)
    store = await life.begin()
    [(calls, held), (nanos, _)] = life.figures(store)
    assert (calls, held) == (100 + rest, 0)
    assert nanos > 700
    life.is_told = False  # nobody knows for whom the rest was used
    await store.close()


async def test_a_fold_without_an_answer_is_said_again_and_booked_once(life: Life) -> None:
    store = await life.begin()
    await life.spend(store, "t", 50)
    assert isinstance(store.beneath, Watched)
    fold, lost = store.beneath.fold, []

    async def unheard(order: Fold, now_ms: int) -> Folded:
        lost.append(await fold(order, now_ms))
        raise StoreError("no answer in time")

    store.beneath.fold = unheard  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="no answer"):
        await store.usage("2026-09-21", "2026-09-22")
    assert len(lost) == 1
    store.beneath.fold = fold  # type: ignore[method-assign]
    await life.spend(store, "u", 50)
    assert life.figures(store) == [(100, 0), (700, 0)]
    await life.kill(store)
    store = await life.begin()
    assert life.kept(store) == [(100, 0), (700, 0)]
    await store.close()


async def test_a_journal_that_grew_is_written_anew(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_journal, "LONG_BYTES", 3_000)
    store = await life.begin()
    await life.take(store, "flying")
    await life.spend(store, "t", 60)
    await life.kill(store)
    store = await life.begin()
    assert life.figures(store) == life.kept(store) == [(61, 0), (430, 0)]
    await store.close()


async def test_what_a_torn_line_said_was_never_done(life: Life) -> None:
    store = await life.begin()
    await life.spend(store, "t", 10)
    await life.kill(store)
    [path] = [each for each in life.folder.iterdir() if each.name == "leases-1"]
    with path.open("ab") as file:
        file.write(b'0badc0de ["H","torn"')
    store = await life.begin()
    assert life.kept(store) == [(10, 0), (70, 0)]
    await store.close()


async def test_without_a_journal_settlements_go_to_the_ledger(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await life.begin()
    await life.spend(store, "t", 10)
    await life.take(store, "open")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    await store.settle(settle("open", nanos=1), NOW_MS)
    monkeypatch.undo()
    assert life.kept(store) == [(11, 0), (71, 0)]
    life.asked.clear()
    await life.spend(store, "u", 3)
    assert life.asked == ["reserve"] * 3, "and nothing is leased any more"
    await store.close()


async def test_a_lease_that_was_over_is_taken_up_again(life: Life) -> None:
    """Who looks after leases may find one empty that is just about to be filled."""
    store = await life.begin()
    chunk = store._chunks.take("lease", EVERY)
    await store._give_back(chunk)
    assert not store._chunks.alive
    bundle = store._bundle_of(reserve("t", ORDER))
    assert bundle is not None
    bundle.chunk = chunk
    bundle.demand.add(ledger.bounds(ORDER), NOW_MS)
    await store._renew(chunk, bundle)
    await life.take(store, "t")
    await life.kill(store)
    store = await life.begin()
    assert life.kept(store) == [(1, 0), (10, 0)]
    await store.close()


async def test_a_mark_is_told_once_when_the_lease_is_settled(life: Life) -> None:
    store = await life.begin()
    dear = candidate(*EVERY, nanos=1_000)
    for number in range(850):
        await life.take(store, f"t{number}", dear)
        await store.settle(settle(f"t{number}", nanos=1_000), NOW_MS)
    await store.close()
    store = await life.begin()
    await life.take(store, "more", dear)
    await store.settle(settle("more", nanos=1_000), NOW_MS)
    await store.close()
    alerts = [entry.news for entry in life.told if isinstance(entry.news, AlertNews)]
    assert [news.percent for news in alerts] in ([50, 80], [80])


async def test_paid_models_close_with_the_ledger_and_free_ones_go_on(life: Life) -> None:
    store = await life.begin()
    await life.spend(store, "t", 50)
    free = replace(ORDER, model=replace(ORDER.model, billing=Billing.FREE))
    life.asked.clear()
    store._told("the ledger is gone")
    await life.take(store, "free", free)
    assert life.asked == []
    await life.take(store, "paid")
    assert life.asked == ["reserve"], "the ledger itself is asked"
    store._told("")
    await life.take(store, "again")
    assert life.asked == ["reserve"]
    await store.close()


async def test_another_strategy_ends_the_leases(life: Life) -> None:
    """R18: a new limit counts what was spent, and no chunk of the old one is left."""
    store = await life.begin()
    await life.spend(store, "t", 50)
    smaller = replace(CALLS, limit=60)
    await store.adopt([smaller, MONEY], {})
    assert life.kept(store) == [(50, 0), (350, 0)]
    order = candidate(smaller, MONEY, nanos=10)
    for number in range(10):
        await life.take(store, f"u{number}", order)
    answer = await store.reserve(reserve("over", order), NOW_MS)
    assert isinstance(answer, ReservationDenied)
    assert answer.denials[0].held_only
    await store.close()


async def test_idle_chunks_of_one_model_are_not_in_the_way_of_another(life: Life) -> None:
    cap = counter("cap", 1_000, Unit.NANOS, Period.MONTH)
    own = counter("own", 100_000)
    store = await life.begin()
    for number in range(20):
        await life.take(store, f"t{number}", candidate(own, cap, nanos=20))
        await store.settle(settle(f"t{number}", nanos=20), NOW_MS)
    assert any(each.leased for each in store.spends(NOW_MS)) or store._chunks.alive
    await life.take(store, "all", candidate(cap, nanos=600, position=1))
    denied = await store.reserve(reserve("none", candidate(cap, nanos=1, position=1)), NOW_MS)
    assert isinstance(denied, ReservationDenied)
    await store.close()


async def test_tallies_and_corrections_are_added_up_like_everywhere(life: Life) -> None:
    store = await life.begin()
    await life.spend(store, "t", 5)
    await life.take(store, "last")
    tally = Tally("bot", "debug", "layer", "p/a/m0", 1, 0, 0, (("a", "b", "cap"),), (("p/x", 9),))
    await store.settle(settle("last", nanos=10, basis=Basis.RESERVED), NOW_MS)
    await store.settle(replace(settle("last", nanos=2), tally=tally), NOW_MS)
    tables = await store.usage("2026-09-21", "2026-09-22")
    assert sum(row.use.list_nanos for row in tables.rows) == 37
    assert tables.baselines == (("p/x", 9),)
    assert [change.times for change in tables.changes] == [1]
    await store.close()


def test_counters_of_a_second_pace_and_are_not_leased(tmp_path: Path) -> None:
    fast: Counter = counter("fast", 9, period=Period.SECOND)

    async def run() -> list[str]:
        life = Life(tmp_path)
        store = await life.begin()
        await life.take(store, "t", candidate(fast))
        await store.close()
        return life.asked

    assert asyncio.run(run()) == ["reserve"]


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_takeover_without_the_last_folds_loses_nothing(kind: str, tmp_path: Path) -> None:
    """S10: the server that takes over has not heard of what was booked and granted last."""
    home, copy, told = tmp_path / "home", tmp_path / "copy", list[str]()
    home.mkdir()
    clock = HandClock()
    with serving(kind, home, "--appendonly", "yes", "--appendfsync", "always") as server:

        def beneath(tell: Callable[[str], None]) -> RedisStore:
            place = place_of(server.url)
            return RedisStore(place, clock, Calendar(), tell, deadline_s=20.0, store_clock=clock)

        journal = str(tmp_path / "leases")
        store = LeasedStore(beneath, journal, clock, Calendar(), told.append, hot=1)
        await store.open(EVERY)
        life = Life(tmp_path)
        await life.spend(store, "known", 50)
        await store.usage("2026-09-21", "2026-09-22")
        shutil.copytree(home, copy)  # up to here it was heard of
        await life.spend(store, "lost", 50)
        await store.usage("2026-09-21", "2026-09-22")
        await life.take(store, "open")
        server.stop()
        shutil.rmtree(home)
        copy.rename(home)
        server.start()
        for _ in range(1_200):
            if len(told) >= 2 and not told[-1]:
                break
            await asyncio.sleep(0.05)
        await store.settle(settle("open", nanos=7), NOW_MS)
        tables = await store.usage("2026-09-21", "2026-09-22")
        assert [row.use.list_nanos for row in tables.rows] == [707]
        await store.close()
        plain = beneath(told.append)
        await plain.open(EVERY)
        assert [(each.spent, each.held) for each in plain.spends(NOW_MS)] == [(101, 0), (707, 0)]
        await plain.close()
