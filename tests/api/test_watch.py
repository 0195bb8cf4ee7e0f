"""``WatchEvents`` on the wire: from now, from a cursor, from one that has expired; slow readers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from escalade.v1 import escalation_pb2, operations_service_pb2, operations_service_pb2_grpc
from escalade.v1.operations_service_pb2 import WatchEventsRequest, WatchEventsResponse
from escalade_server.api import watch as watch_module
from escalade_server.api.server import ApiServer, ServerOptions, build_server
from escalade_server.core.catalog import Period, Unit
from escalade_server.core.facts import AlertKind, EscalationKind, EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import CircuitState, VerdictClass
from escalade_server.engine import feed as feed_module
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.feed import Feed
from escalade_server.engine.news import (
    AlertNews,
    EscalatedNews,
    FallbackNews,
    ModelNews,
    News,
    Place,
    Quota,
    ReportNews,
    StrategyNews,
    TaskNews,
    WaitNews,
)
from escalade_server.stores import feed as store_module
from escalade_server.stores.sqlite import SqliteStore
from tests.api.world import FakeEngine, Told, told
from tests.stores.world import HandClock

LOCAL = (("grpc.use_local_subchannel_pool", 1),)
MINI, FLASH = Place("free", "openai", "a", "mini"), Place("free", "google", "a", "flash")


@dataclass
class World:
    feed: Feed
    store: SqliteStore
    api: ApiServer
    channel: aio.Channel
    mistakes: list[Exception]

    def watch(self, cursor: str = "", **fields: Any) -> Any:
        stub = operations_service_pb2_grpc.OperationsServiceStub(self.channel)
        return stub.WatchEvents(WatchEventsRequest(cursor=cursor, **fields))

    async def publish(self, *news: News) -> None:
        """Tell news, and return when they are kept."""
        for each in news:
            self.feed.publish(each)
        await self.store.entries(0, 0)

    async def watching(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.feed._watchers) != count:  # noqa: ASYNC110 - as seen from outside
                await asyncio.sleep(0.005)


@asynccontextmanager
async def world(path: Path | None = None, stall_s: float = 60.0) -> AsyncIterator[World]:
    clock = HandClock()
    store = SqliteStore(path, clock, Calendar())
    feed = Feed(store, clock)
    store.follow(feed.told)
    await store.open(())
    mistakes: list[Exception] = []

    def mistake(error: Exception) -> str:
        mistakes.append(error)
        return "id"

    options = ServerOptions(port=0, write_stall_s=stall_s)
    api = build_server(FakeEngine(), options, mistakes=mistake, feed=feed)
    port = await api.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=LOCAL) as channel:
            yield World(feed, store, api, channel, mistakes)
    finally:
        feed.close()
        await api.stop(0)
        await store.close()
    assert mistakes == []


async def days(call: Any, count: int) -> list[str]:
    """Read until so many entries came."""
    found: list[str] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            response = await call.read()
            assert isinstance(response, WatchEventsResponse), await call.code()
            found += [entry.report_ready.day for entry in response.entries]
    return found


def reports(count: int, begin: int = 0) -> list[ReportNews]:
    return [ReportNews(f"{number}") for number in range(begin, begin + count)]


def numbered(count: int, begin: int = 0) -> list[str]:
    return [f"{number}" for number in range(begin, begin + count)]


async def ending(call: Any) -> Told:
    with suppress(aio.AioRpcError):
        async with asyncio.timeout(30):
            async for _ in call:
                pass
    return await told(call, ())


async def test_from_now_on_and_again_from_a_cursor() -> None:
    async with world() as w:
        await w.publish(*reports(3))
        call = w.watch()
        begin = await call.read()
        assert not begin.entries
        await w.publish(*reports(4, 3))
        first = await call.read()
        assert [entry.report_ready.day for entry in first.entries] == numbered(4, 3)[
            : len(first.entries)
        ]
        second = w.watch(first.entries[0].cursor)
        assert await days(second, 3) == numbered(3, 4)
        assert await days(w.watch(begin.cursor), 4) == numbered(4, 3)
        third = w.watch(first.entries[0].cursor.partition(".")[0] + ".0")
        assert await days(third, 7) == numbered(7)


async def test_a_watch_outlives_the_server(tmp_path: Path) -> None:
    async with world(tmp_path / "s.db") as w:
        call = w.watch()
        await call.read()
        await w.publish(*reports(1))
        cursor = (await call.read()).cursor
        await w.publish(*reports(5, 1))
    async with world(tmp_path / "s.db") as w:
        assert await days(w.watch(cursor), 5) == numbered(5, 1)


@pytest.mark.parametrize("cursor", ["0.0", "ffffffff.3", "{epoch}.999"])
async def test_an_expired_cursor_names_the_oldest(cursor: str) -> None:
    async with world() as w:
        await w.publish(*reports(3))
        epoch = (await w.store.entries(0, 0)).epoch
        found = await ending(w.watch(cursor.format(epoch=epoch)))

        assert (found.code, found.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
        assert f"{epoch}.0" in found.message
        assert await days(w.watch(f"{epoch}.0"), 3) == numbered(3)


async def test_what_was_purged_is_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEPT_ROWS", 10)
    monkeypatch.setattr(store_module, "PURGE_ROWS", 10)
    async with world() as w:
        for number in range(50):
            await w.publish(*reports(1, number))
        page = await w.store.entries(0, 100)
        found = await ending(w.watch(f"{page.epoch}.1"))
        assert found.code is grpc.StatusCode.OUT_OF_RANGE
        oldest = f"{page.epoch}.{page.oldest}"
        assert f"is {oldest}" in found.message
        kept = len(page.entries)
        assert await days(w.watch(oldest), kept) == numbered(kept, 50 - kept)


@pytest.mark.parametrize("cursor", ["x", "1", "a.b", "../..", "a.1\n", "a.-1"])
async def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    async with world() as w:
        found = await ending(w.watch(cursor))
        assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")


async def test_an_unknown_kind_is_refused() -> None:
    async with world() as w:
        for kind in (0, 77):
            found = await ending(w.watch(kinds=[kind]))
            assert found.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_kinds_and_layers_choose() -> None:
    up = EscalatedNews("free", "plan", EscalationReason.CAP, EscalationKind.FAILURE, "why")
    top = EscalatedNews("plan", "top", EscalationReason.CAP, EscalationKind.FAILURE, "why")
    async with world() as w:
        await w.publish(up, top, ReportNews("a day"), AlertNews(AlertKind.QUOTA, "x", MINI))
        begin = (await w.store.entries(0, 0)).epoch + ".0"
        kinds = [operations_service_pb2.FEED_KIND_ESCALATED]
        both = await w.watch(begin, kinds=kinds).read()
        assert [entry.escalated.to_layer for entry in both.entries] == ["plan", "top"]
        assert both.cursor.endswith(".4")  # what was filtered out is behind it, too
        free = await w.watch(begin, layers=["free"]).read()
        assert [entry.WhichOneof("kind") for entry in free.entries] == ["escalated", "alert"]


async def test_several_watchers_see_all_in_order() -> None:
    async with world() as w:
        calls = [w.watch() for _ in range(8)]
        await w.watching(8)
        for batch in range(10):
            await w.publish(*reports(20, 20 * batch))
        for call in calls:
            assert await days(call, 200) == numbered(200)
        for call in calls:
            call.cancel()
        await w.watching(0)


async def test_a_slow_watcher_misses_nothing_and_is_not_held_in_memory() -> None:
    async with world() as w:
        call = w.watch()
        await w.watching(1)
        [watcher] = w.feed._watchers
        fell_behind = False
        for batch in range(60):
            long = "x" * 4_000
            for number in range(100):
                w.feed.publish(ReportNews(f"{batch * 100 + number} {long}"))
            await w.store.entries(0, 0)
            await asyncio.sleep(0)
            assert len(watcher._queue) <= feed_module.QUEUE_MAX
            fell_behind |= watcher._behind
        assert fell_behind
        found = await days(call, 6_000)
        assert [day.partition(" ")[0] for day in found] == numbered(6_000)


async def test_a_watcher_who_never_reads_is_cut() -> None:
    async with world(stall_s=0.3) as w:
        call = w.watch()
        await w.watching(1)
        for batch in range(120):
            for _ in range(100):
                w.feed.publish(ReportNews(f"{batch} {'x' * 2_000}"))
            await w.store.entries(0, 0)
            await asyncio.sleep(0)
        await w.watching(0)
        found = await ending(call)
        assert found.code is grpc.StatusCode.CANCELLED
        assert "not read for too long" in found.message


async def test_no_news_are_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "LIFE_S", 0.05)
    async with world() as w:
        call = w.watch()
        await call.read()
        life = await call.read()
        assert not life.entries
        await w.publish(*reports(1))
        assert await days(w.watch(life.cursor), 1) == ["0"]


async def test_too_many_watchers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "WATCHERS_MAX", 2)
    async with world() as w:
        calls = [w.watch() for _ in range(2)]
        await w.watching(2)
        found = await ending(w.watch())
        assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
        calls[0].cancel()
        await w.watching(1)
        w.watch()
        await w.watching(2)


async def test_a_draining_server_lets_its_watchers_go() -> None:
    async with world() as w:
        call = w.watch()
        await w.watching(1)
        w.feed.close()
        found = await ending(call)
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert (await ending(w.watch())).reason == "DRAINING"


async def test_every_kind_of_news_crosses_the_wire() -> None:
    quota = Quota("mini day", "model", Unit.REQUESTS, Period.DAY, 50, 40, 1, 1_790_000_000_000)
    every: tuple[News, ...] = (
        EscalatedNews("a", "b", EscalationReason.CAP, EscalationKind.DOWNGRADE, "why", 2),
        FallbackNews(1, MINI, FLASH, FailureClass.OUTAGE, "down"),
        AlertNews(AlertKind.QUOTA, "40 of 50", MINI, 80, quota),
        ModelNews(MINI, VerdictClass.DOWN, "cooldown", "down", 1_790_000_000_000, "model"),
        ModelNews(Place(provider="p"), VerdictClass.DOWN, "", "open", circuit=CircuitState.OPEN),
        WaitNews(
            waiting=True, since_ms=1_000, earliest_ms=2_000, reason=VerdictClass.RATE, rule="r",
            position=3,
        ),
        ReportNews("2026-11-22"),
        StrategyNews(applied=False, version="2.0", sha256="ab", loaded_ms=1_000, findings=("no",)),
        TaskNews(
            answered=True, task_type="debug", layers=("a", "b"), place=MINI, list_nanos=5,
            charged_nanos=4, story="Score 4.9",
        ),
    )  # fmt: skip
    async with world() as w:
        await w.publish(*every)
        begin = (await w.store.entries(0, 0)).epoch + ".0"
        got = (await w.watch(begin).read()).entries

    kinds = [entry.WhichOneof("kind") for entry in got]
    assert kinds == [
        "escalated", "fallback", "alert", "model_state_changed", "model_state_changed",
        "wait_changed", "report_ready", "strategy_reloaded", "task_ended",
    ]  # fmt: skip
    assert got[0].escalated.failed_attempt == 2
    assert got[1].fallback.to_target.model == "flash"
    assert (got[2].alert.percent, got[2].alert.quota.spent) == (80, 40)
    assert got[2].alert.kind == escalation_pb2.ALERT_KIND_QUOTA
    assert got[3].model_state_changed.status.cooldown.scope == "model"
    assert got[4].model_state_changed.status.circuit == operations_service_pb2.CIRCUIT_STATE_OPEN
    assert got[5].wait_changed.waiter.position == 3
    assert got[7].strategy_reloaded.findings[0].message == "no"
    assert got[8].task_ended.cost.charged_nano_usd == 4
