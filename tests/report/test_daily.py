"""The report of each day: when it has ended, once, and again after a failure."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from escalade_server.core.failure import DAY_MS
from escalade_server.engine.ports import StoreError
from escalade_server.engine.usage import UsageReport, UsageTables
from escalade_server.report.daily import SETTLE_MS, DailyReports
from tests.report import sample

MIDNIGHT_MS = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp()) * 1_000


class Shelf:
    """Days with use, and reports that are kept."""

    def __init__(self, *used: str) -> None:
        self.used = used
        self.kept: dict[str, str] = {}
        self.fails = False
        self.looks = 0

    async def usage(self, begin: str, end: str, agent: str | None = None) -> UsageTables:
        raise AssertionError((begin, end, agent))

    async def unreported(self, begin: str, end: str) -> tuple[str, ...]:
        self.looks += 1
        if self.fails:
            raise StoreError("busy")
        return tuple(d for d in self.used if begin <= d < end and d not in self.kept)

    async def keep_report(self, day: str, report: str, now_ms: int) -> bool:
        return self.kept.setdefault(day, report) is report

    async def report(self, period: str, agent: str | None) -> UsageReport:
        assert agent is None
        return sample.report(period)


class World:
    """Daily reports by a clock that is set by hand."""

    def __init__(self, shelf: Shelf, wanted: Callable[[], bool] = lambda: True) -> None:
        self.at_ms = MIDNIGHT_MS
        self.made: list[str] = []
        self.work = DailyReports(
            shelf, shelf, self, zone="UTC", wanted=wanted,
            made=lambda report: self.made.append(report.period),
        )  # fmt: skip

    def now_ms(self) -> int:
        return self.at_ms

    async def look(self, at_ms: int) -> list[str]:
        self.at_ms = at_ms
        await self.work.look()
        return self.made


async def test_a_day_is_reported_when_its_last_calls_are_booked_and_once() -> None:
    shelf = Shelf("2026-11-22", "2026-11-23")
    world = World(shelf)
    assert await world.look(MIDNIGHT_MS + SETTLE_MS - 1) == []
    assert await world.look(MIDNIGHT_MS + SETTLE_MS) == ["2026-11-22"]
    for minute in range(5):
        assert await world.look(MIDNIGHT_MS + SETTLE_MS * (2 + minute)) == ["2026-11-22"]
    assert shelf.looks == 2
    assert '"period":"2026-11-22"' in shelf.kept["2026-11-22"]
    later = MIDNIGHT_MS + DAY_MS + SETTLE_MS
    assert await world.look(later) == ["2026-11-22", "2026-11-23"]


async def test_days_of_a_stopped_server_are_caught_up_with_for_a_week() -> None:
    world = World(Shelf("2026-11-01", "2026-11-16", "2026-11-21"))
    assert await world.look(MIDNIGHT_MS + SETTLE_MS) == ["2026-11-16", "2026-11-21"]


async def test_of_two_servers_one_announces_it() -> None:
    shelf = Shelf("2026-11-22")
    worlds = [World(shelf), World(shelf)]
    await asyncio.gather(*(world.look(MIDNIGHT_MS + SETTLE_MS) for world in worlds))
    assert sorted(len(world.made) for world in worlds) == [0, 1]


async def test_nothing_is_made_unless_wanted_and_then_it_is() -> None:
    """A reload may switch it on."""
    wanted = False
    world = World(Shelf("2026-11-22"), lambda: wanted)
    assert await world.look(MIDNIGHT_MS + SETTLE_MS) == []
    wanted = True
    assert await world.look(MIDNIGHT_MS + SETTLE_MS + 1) == ["2026-11-22"]


async def test_a_store_that_fails_is_asked_again() -> None:
    shelf = Shelf("2026-11-22")
    shelf.fails = True
    world = World(shelf)
    assert await world.look(MIDNIGHT_MS + SETTLE_MS) == []
    shelf.fails = False
    assert await world.look(MIDNIGHT_MS + SETTLE_MS + 1) == ["2026-11-22"]
