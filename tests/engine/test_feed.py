"""Which facts of a task are news, and that a straight task is none."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from escalade_server.core.facts import (
    Alert,
    AlertKind,
    ErrorReason,
    Fallback,
    Finished,
    Waiting,
)
from escalade_server.core.failure import HOUR_MS, FailureClass
from escalade_server.core.standing import VerdictClass
from escalade_server.core.task import Request, Task
from escalade_server.core.trace import Answer
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.feed import TEXT_MAX, Feed
from escalade_server.engine.news import (
    AlertNews,
    Entry,
    EscalatedNews,
    FallbackNews,
    News,
    TaskNews,
    WaitNews,
    from_json,
    to_json,
)
from escalade_server.stores.sqlite import SqliteStore
from tests.api.world import ASSESSED, ESCALATED, MODELS, failed, finished, record, report, selected
from tests.stores.world import NOW_MS, HandClock

REQUEST = Request("req", Task(), (), agent="bo")
WAIT = Waiting(VerdictClass.RATE, NOW_MS + 1_000, "mini: 50 of 50 today", "", 2)


class World:
    def __init__(self) -> None:
        self.store = SqliteStore(None, HandClock(), Calendar())
        self.feed = Feed(self.store, HandClock())
        self.told: list[Entry] = []

    async def news(self) -> list[News]:
        await self.store.entries(0, 0)
        found = [entry.news for entry in self.told]
        self.told.clear()
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.store.follow(made.told.extend)
    await made.store.open(())
    yield made
    await made.store.close()


async def test_facts_that_are_news(world: World) -> None:
    for fact in (
        ASSESSED,
        selected(),
        ESCALATED,
        Fallback(1, MODELS[0], MODELS[1], FailureClass.OUTAGE, "down"),
        Alert(AlertKind.AUTH, "x" * 2_000, MODELS[0]),
    ):
        world.feed.fact("task", REQUEST, fact, NOW_MS)
    await world.store.entries(0, 0)
    told = world.told

    assert [type(entry.news) for entry in told] == [EscalatedNews, FallbackNews, AlertNews]
    assert {(e.agent, e.request_id, e.trace_id, e.at_ms) for e in told} == {
        ("bo", "req", "task", NOW_MS)
    }
    assert [entry.layers for entry in told] == [("free", "plan"), ("free",), ("free",)]
    alert = told[2].news
    assert isinstance(alert, AlertNews)
    assert len(alert.detail) == TEXT_MAX
    for entry in told:
        assert from_json(entry.kind.value, to_json(entry.news)) == entry.news


async def test_a_straight_task_is_no_news(world: World) -> None:
    world.feed.ended("task", REQUEST, finished("Hello"))
    replayed = Finished(replace(report(), layer_path=("free", "plan")), Answer(), replayed=True)
    world.feed.ended("task", REQUEST, replayed)
    for quiet in (
        ErrorReason.CANCELLED, ErrorReason.REQUEST_IN_PROGRESS, ErrorReason.ALREADY_ANSWERED
    ):  # fmt: skip
        world.feed.ended("task", REQUEST, failed(quiet))
    assert await world.news() == []


@pytest.mark.parametrize(
    "changes",
    [{"layer_path": ("free", "plan")}, {"attempts": (record(1), record(2))}],
    ids=["escalated", "fell back"],
)
async def test_one_that_did_not_go_straight_is(world: World, changes: dict[str, object]) -> None:
    told = replace(report(), **changes)  # type: ignore[arg-type]
    world.feed.ended("task", REQUEST, Finished(told, Answer()))
    [news] = await world.news()
    assert isinstance(news, TaskNews)
    assert (news.answered, news.story, news.place.model) == (True, told.story, "mini")


async def test_a_failure_is(world: World) -> None:
    world.feed.ended("task", REQUEST, failed(ErrorReason.RATE_LIMITED, detail="50 of 50"))
    [news] = await world.news()
    assert isinstance(news, TaskNews)
    assert (news.answered, news.story) == (False, "50 of 50")


async def test_r22_a_wait_says_whether_a_person_is_to_be_told(world: World) -> None:
    pause = replace(WAIT, position=0)
    for fact in (pause, replace(WAIT, notify=True), WAIT, replace(WAIT, repeated=True)):
        world.feed.fact("task", REQUEST, fact, NOW_MS)
    told = [
        (news.notify, news.position) for news in await world.news() if isinstance(news, WaitNews)
    ]

    assert told == [(False, 0), (True, WAIT.position)]


async def test_a_wait_is_told_when_it_begins_and_when_it_ends(world: World) -> None:
    for _ in range(3):  # its caller is told again and again
        world.feed.fact("task", REQUEST, WAIT, NOW_MS)
    world.feed.fact("other", REQUEST, selected(), NOW_MS)
    world.feed.fact("task", REQUEST, selected(), NOW_MS + 5)
    world.feed.ended("task", REQUEST, finished())
    begun, over, end = await world.news()

    assert isinstance(begun, WaitNews)
    assert (begun.waiting, begun.position, begun.rule) == (True, 2, WAIT.rule)
    assert over == replace(begun, waiting=False, position=0)
    assert isinstance(end, TaskNews)
    assert not world.feed._waits
    assert not world.feed._waited


async def test_a_wait_that_ends_with_its_task_is_told(world: World) -> None:
    world.feed.fact("task", REQUEST, WAIT, NOW_MS)
    world.feed.ended("task", REQUEST, failed(ErrorReason.CANCELLED))
    kinds = [type(news) for news in await world.news()]
    assert kinds == [WaitNews, WaitNews, TaskNews]
    assert not world.feed._waited


async def test_an_alert_that_several_processes_meet_is_told_once_an_hour(world: World) -> None:
    other = Feed(world.store, HandClock())
    refused, odd = Alert(AlertKind.AUTH, "401", MODELS[0]), Alert(AlertKind.UNCONFIGURED, "odd")
    for now_ms in (NOW_MS, NOW_MS + HOUR_MS - 1):
        for feed in (world.feed, other):
            feed.fact("task", REQUEST, refused, now_ms)
    assert len(await world.news()) == 1
    for feed in (world.feed, other):
        feed.fact("task", REQUEST, odd, NOW_MS)
    assert len(await world.news()) == 2, "each of no model is news"
