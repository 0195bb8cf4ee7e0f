"""What the Redis store keeps beside its books: the feed, each day's use, sessions."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from escalade_server.core.alerting import Mark
from escalade_server.core.tally import Tally
from escalade_server.engine.news import Entry, Page
from escalade_server.engine.usage import UsageTables
from escalade_server.stores.leasing import Fold, Folded
from escalade_server.stores.redis_news import News
from escalade_server.stores.redis_orders import Answer, Count, Days, Order, Read, Report
from escalade_server.stores.redis_sessions import RedisSessions
from escalade_server.stores.redis_traces import RedisTraces
from escalade_server.stores.redis_usage import tables_of
from escalade_server.stores.usage import days_in


class Beside(RedisSessions, RedisTraces):
    """Feed, use, sessions and traces over the same queue as the books."""

    def __init__(self, zone: str) -> None:
        """Take the zone in which days begin and end."""
        self._news = News()
        self._days = days_in(zone)

    @abstractmethod
    def _submit(self, order: Order) -> "asyncio.Future[Answer]":
        """Queue an order."""

    def fold(self, order: Fold, now_ms: int) -> Awaitable[Folded]:  # noqa: ARG002
        """Queue a fold of a lease; see ``LeasableStore``."""
        return self._submit(order)  # type: ignore[return-value]

    def tally(self, order: Tally, now_ms: int) -> Awaitable[None]:
        """Queue the count of a task; see ``Store``."""
        return self._submit(Count(order, now_ms))  # type: ignore[return-value]

    async def usage(self, begin: str, end: str, agent: str | None = None) -> UsageTables:
        """Sum up a span of days; see ``UsageStore``."""
        days = sorted(await self._names(Days()))
        within = [day for day in days if begin <= day < end]
        found = [(day, await self._names(Days(day))) for day in within]
        return tables_of(found, agent, days[0] if days else "")

    def keep_report(self, day: str, report: str, now_ms: int) -> Awaitable[bool]:  # noqa: ARG002
        """Queue a report; see ``UsageStore``."""
        return self._submit(Report(day, report))  # type: ignore[return-value]

    async def unreported(self, begin: str, end: str) -> tuple[str, ...]:
        """List the days without a report; see ``UsageStore``."""
        days, done = await self._names(Days()), await self._names(Report())
        return tuple(sorted(day for day in set(days) - set(done) if begin <= day < end))

    async def _names(self, order: Order) -> list[str]:
        return await self._submit(order)  # type: ignore[return-value]

    def entries(self, after: int, limit: int) -> Awaitable[Page]:
        """Queue a look into the feed, after what waits to be written; see ``FeedStore``."""
        if self._news:
            self._submit(self._news.take()).add_done_callback(seen)
        return self._submit(Read(after, limit))  # type: ignore[return-value]

    def record(self, entries: Sequence[Entry]) -> None:
        """Take entries of the feed: they are written with the next look; see ``FeedStore``."""
        self._news.record(entries)

    def delivered(self, number: int) -> None:
        """Take up to where people are notified; see ``FeedStore``."""
        self._news.delivered(number)

    def follow(
        self,
        told: Callable[[Sequence[Entry]], None],
        marks: Mapping[str, Sequence[Mark]] = MappingProxyType({}),
    ) -> None:
        """Say who is told of kept entries, and of which marks; see ``FeedStore``."""
        self._news.follower, self._news.marks = told, marks


def seen(future: "asyncio.Future[Answer]") -> None:
    """Look at a failure that needs no answer: what could not be written waits again."""
    future.exception()
