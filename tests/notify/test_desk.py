"""The desk reads the feed, and forgets nothing over a restart."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from escalade_server.core.facts import AlertKind, EscalationKind, EscalationReason
from escalade_server.core.rules import OnAllExhausted, OnBudgetAlert, Rules
from escalade_server.core.standing import VerdictClass
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.feed import Feed
from escalade_server.engine.news import AlertNews, EscalatedNews, ReportNews, WaitNews
from escalade_server.engine.ports import Notice
from escalade_server.notify import fold
from escalade_server.notify.desk import Desk
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.world import HandClock


@dataclass
class Sink:
    """Takes notices; ``answers`` says whether they arrive."""

    answers: bool = True
    notices: list[Notice] = field(default_factory=list)
    got: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self, notice: Notice, done: Callable[[], None]) -> None:
        self.notices.append(notice)
        self.got.set()
        if self.answers:
            done()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.notices) < count:
                self.got.clear()
                await self.got.wait()

    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]


@dataclass
class World:
    feed: Feed
    store: SqliteStore
    log: Sink
    hook: Sink


@asynccontextmanager
async def desk(
    path: Path, rules: Rules | None = None, *, answers: bool = True
) -> AsyncIterator[World]:
    clock = HandClock()
    store = SqliteStore(path, clock, Calendar())
    feed = Feed(store, clock)
    store.follow(feed.told)
    await store.open(())
    log, hook = Sink(), Sink(answers)
    made = Desk(
        feed, store, clock, rules=lambda: rules or Rules(), log=lambda: log, hooks=lambda: [hook]
    )
    work = asyncio.create_task(made.run())
    try:
        yield World(feed, store, log, hook)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await store.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "GATHER_MS", 0)


def report(day: str) -> ReportNews:
    return ReportNews(day)


async def test_news_become_notices(tmp_path: Path) -> None:
    async with desk(tmp_path / "s.db") as world:
        world.feed.publish(report("2026-11-22"))
        await world.hook.until(1)
        assert world.hook.kinds() == world.log.kinds() == ["report"]


async def test_what_was_told_is_not_told_again_after_a_restart(tmp_path: Path) -> None:
    async with desk(tmp_path / "s.db") as world:
        world.feed.publish(report("2026-11-22"))
        await world.hook.until(1)
        await world.store.entries(0, 0)  # what was told is written with it
    async with desk(tmp_path / "s.db") as world:
        world.feed.publish(report("2026-11-23"))
        await world.hook.until(1)
        assert [notice.facts["day"] for notice in world.hook.notices] == ["2026-11-23"]


async def test_one_cause_is_one_notice_over_many_restarts(tmp_path: Path) -> None:
    news = EscalatedNews("a", "b", EscalationReason.OUTAGE, EscalationKind.FAILURE, "x")
    for start in range(4):
        async with desk(tmp_path / "s.db") as world:
            world.feed.publish(news)
            world.feed.publish(report(f"2026-11-0{start + 1}"))
            await world.hook.until(1 if start else 2)
            await world.store.entries(0, 0)  # what was told is written with it
            assert world.hook.kinds() == (["report"] if start else ["escalated", "report"])


async def test_what_was_on_its_way_is_sent_again_under_the_same_id(tmp_path: Path) -> None:
    async with desk(tmp_path / "s.db", answers=False) as world:
        world.feed.publish(report("2026-11-22"))
        await world.hook.until(1)
        [first] = world.hook.notices
    async with desk(tmp_path / "s.db") as world:
        await world.hook.until(1)
        assert [notice.id for notice in world.hook.notices] == [first.id]


async def test_what_happened_while_nobody_was_there_is_told(tmp_path: Path) -> None:
    clock = HandClock()
    store = SqliteStore(tmp_path / "s.db", clock, Calendar())
    await store.open(())
    Feed(store, clock).publish(report("2026-11-22"))
    await store.close()
    async with desk(tmp_path / "s.db") as world:
        await world.hook.until(1)


@pytest.mark.parametrize(
    ("rules", "hooked", "logged"),
    [
        (Rules(), {"alert.budget", "waiting", "report"}, {"alert.budget", "waiting", "report"}),
        (
            Rules(on_budget_alert=OnBudgetAlert.LOG),
            {"waiting", "report"},
            {"alert.budget", "waiting", "report"},
        ),
        (
            Rules(on_all_exhausted=OnAllExhausted.WAIT),
            {"alert.budget", "report"},
            {"alert.budget", "report"},
        ),
    ],
    ids=["notify_user", "log", "wait"],
)
async def test_rules_say_who_is_told(
    tmp_path: Path, rules: Rules, hooked: set[str], logged: set[str]
) -> None:
    async with desk(tmp_path / "s.db", rules) as world:
        world.feed.publish(AlertNews(AlertKind.BUDGET, "the cap", percent=80))
        world.feed.publish(
            WaitNews(
                waiting=True, since_ms=1, earliest_ms=2, reason=VerdictClass.RATE, rule="50 of 50"
            )
        )
        world.feed.publish(report("2026-11-22"))
        await world.hook.until(len(hooked))
        await world.log.until(len(logged))
        assert set(world.hook.kinds()) == hooked
        assert set(world.log.kinds()) == logged


async def test_a_storm_of_a_thousand_escalations_is_at_most_two_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "GATHER_MS", 1)  # of a clock that stands: all are there first
    monkeypatch.setattr("escalade_server.notify.desk.IDLE_S", 0.01)  # the clock jumps
    async with desk(tmp_path / "s.db") as world:
        news = EscalatedNews("a", "b", EscalationReason.OUTAGE, EscalationKind.FAILURE, "x")
        for _ in range(1_000):
            world.feed.publish(news)
        page = await world.store.entries(0, 2_000)
        assert len(page.entries) == 1_000
        clock = world.feed._clock
        assert isinstance(clock, HandClock)
        async with asyncio.timeout(20):
            while sum(notice.count for notice in world.hook.notices) < 1_000:
                await asyncio.sleep(0.01)
                clock.at_ms += 1_000_000  # a quarter of an hour
        assert len(world.hook.notices) <= 2
