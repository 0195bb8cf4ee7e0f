"""The event feed on the event loop: what is told goes to the store, what is kept to the watchers.

A watcher that reads slowly is never waited for, and never held in memory beyond ``QUEUE_MAX``
entries: it goes on from the store, where it left off. Nobody polls the store.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from escalade_server.core import alerting
from escalade_server.core.alerting import Mark
from escalade_server.core.facts import (
    Alert,
    ErrorReason,
    Escalated,
    Fact,
    Failed,
    Fallback,
    Finished,
    Outcome,
    Selected,
    Waiting,
)
from escalade_server.core.task import Request
from escalade_server.core.tracing import trace_id
from escalade_server.engine.news import (
    AlertNews,
    Entry,
    EscalatedNews,
    FallbackNews,
    News,
    Once,
    Page,
    Place,
    TaskNews,
    WaitNews,
    place_of,
)
from escalade_server.engine.ports import Clock, FeedStore

WATCHERS_MAX = 100
QUEUE_MAX = 1_000
PAGE = 200
TEXT_MAX = 500
"""Characters of a detail; a story is told whole with the task's own ending."""
_CURSOR = re.compile(r"([0-9a-z]{1,32})\.([0-9]{1,18})")
_QUIET = frozenset(
    {ErrorReason.CANCELLED, ErrorReason.REQUEST_IN_PROGRESS, ErrorReason.ALREADY_ANSWERED}
)
"""Failures that are no news: the caller left, or asked twice."""
NO_MARKS: MappingProxyType[str, Sequence[Mark]] = MappingProxyType({})


class CursorUnreadableError(Exception):
    """The text is no cursor of any feed."""


class CursorExpiredError(Exception):
    """What follows the cursor is not kept any more, or it is one of another feed."""

    def __init__(self, oldest: str) -> None:
        """Keep the cursor from which everything that is kept follows."""
        super().__init__(oldest)
        self.oldest = oldest


class TooManyWatchersError(Exception):
    """``WATCHERS_MAX`` watch already."""


class FeedClosedError(Exception):
    """The service shuts down."""


class Feed:
    """``Observer`` of the engine, and the place where watchers meet. Owned by one event loop."""

    def __init__(self, store: FeedStore, clock: Clock) -> None:
        """Take the store that keeps the entries; it tells ``told`` of each."""
        self._store, self._clock = store, clock
        self._watchers: set[Watcher] = set()
        self._listeners: list[Callable[[Sequence[Entry]], None]] = []
        self._waits: dict[str, WaitNews] = {}
        self._waited: set[str] = set()
        self._closed = False

    # ------------------------------------------------------------------------- what is told

    def publish(
        self,
        news: News,
        *,
        at_ms: int | None = None,
        agent: str = "",
        request_id: str = "",
        trace_id: str = "",
        once: Once | None = None,
    ) -> None:
        """Tell news; with ``once`` only if nobody, no replica either, has told them before."""
        at_ms = self._clock.now_ms() if at_ms is None else at_ms
        self._store.record((Entry(at_ms, news, agent, request_id, trace_id, once),))

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        """See one announced fact."""
        news: News
        once: Once | None = None
        match fact:
            case Selected():
                if task_id in self._waits:
                    self._waited_enough(task_id, request, now_ms)
                return
            case Escalated():
                news = EscalatedNews(
                    fact.from_layer, fact.to_layer, fact.reason, fact.kind, _cut(fact.detail),
                    fact.failed_attempt,
                )  # fmt: skip
            case Fallback():
                origin, to = place_of(fact.from_model), place_of(fact.to_model)
                news = FallbackNews(fact.attempt, origin, to, fact.cls, _cut(fact.detail))
            case Alert():
                place = Place() if fact.model is None else place_of(fact.model)
                news = AlertNews(fact.kind, _cut(fact.detail), place)
                about = alerting.subject(fact)  # another process may meet it, too
                once = Once(f"alert {about}", now_ms + alerting.AGAIN_MS) if about else None
            case Waiting():
                if task_id in self._waits and not fact.notify:
                    return  # repeated for its caller, who wants to see a sign of life
                news = self._waits[task_id] = WaitNews(
                    waiting=True,
                    since_ms=now_ms,
                    earliest_ms=fact.earliest_ms,
                    reason=fact.reason,
                    rule=fact.rule,
                    position=fact.position,
                    notify=fact.notify,
                )
                self._waited.add(task_id)
            case _:
                return
        self._tell(news, task_id, request, now_ms, once)

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """See the one ending of a task; it is news if the task did not go straight."""
        report = outcome.report
        waited = bool(self._waited) and task_id in self._waited
        if isinstance(outcome, Finished):
            straight = len(report.attempts) <= 1 and len(report.layer_path) <= 1
            plain = straight or outcome.replayed
        else:
            plain = outcome.reason in _QUIET
        if plain and not waited:
            return
        self._waited.discard(task_id)
        if task_id in self._waits:
            self._waited_enough(task_id, request, report.ended_ms)
        news = TaskNews(
            isinstance(outcome, Finished),
            report.assessment.type,
            report.layer_path,
            place_of(report.answered) if report.answered is not None else Place(),
            report.list_nanos,
            report.charged_nanos,
            _cut(report.story if not isinstance(outcome, Failed) else outcome.detail),
        )
        self._tell(news, task_id, request, report.ended_ms)

    def _waited_enough(self, task_id: str, request: Request, now_ms: int) -> None:
        news = replace(self._waits.pop(task_id), waiting=False, position=0)
        self._tell(news, task_id, request, now_ms)

    def _tell(
        self, news: News, task_id: str, request: Request, now_ms: int, once: Once | None = None
    ) -> None:
        trace = trace_id(task_id, request.trace)
        self._store.record((Entry(now_ms, news, request.agent, request.id, trace, once),))

    # ------------------------------------------------------------------------- who is told

    def told(self, entries: Sequence[Entry]) -> None:
        """Take what the store has kept."""
        for watcher in self._watchers:
            watcher.offer(entries)
        for listener in self._listeners:
            listener(entries)

    def listen(self, listener: Callable[[Sequence[Entry]], None]) -> None:
        """Have it hear every entry from now on, on the event loop; it neither blocks nor raises."""
        self._listeners.append(listener)

    async def watch(self, cursor: str = "") -> "Watcher":
        """Watch from a cursor, or from now on. Give the watcher back to ``leave``.

        Raises:
            CursorUnreadableError: that is no cursor.
            CursorExpiredError: what follows it is gone; the error names the oldest.
            TooManyWatchersError: no more are taken.
            FeedClosedError: the service shuts down.
            StoreError: the feed cannot be read.
        """
        found = _CURSOR.fullmatch(cursor)
        if cursor and found is None:
            raise CursorUnreadableError(cursor)
        if self._closed:
            raise FeedClosedError
        if len(self._watchers) >= WATCHERS_MAX:
            raise TooManyWatchersError
        watcher = Watcher(self._store)
        self._watchers.add(watcher)  # from now on it misses nothing
        try:
            page = await self._store.entries(0, 0)
            watcher.begin(page.epoch, page.newest if found is None else int(found[2]))
            if found is not None:
                _refuse_expired(page, found[1], int(found[2]))
                watcher.fall_behind()
        except BaseException:
            self._watchers.discard(watcher)
            raise
        return watcher

    async def undelivered(self) -> "Watcher":
        """Watch from where people were notified last; give the watcher back to ``leave``.

        Raises:
            StoreError: the feed cannot be read.
        """
        watcher = Watcher(self._store)
        self._watchers.add(watcher)
        try:
            page = await self._store.entries(0, 0)
        except BaseException:
            self._watchers.discard(watcher)
            raise
        watcher.begin(page.epoch, max(page.delivered, page.oldest))
        watcher.fall_behind()
        return watcher

    def leave(self, watcher: "Watcher") -> None:
        """Let a watcher go; safe twice."""
        self._watchers.discard(watcher)

    def close(self) -> None:
        """End every watch: ``take`` raises ``FeedClosedError``."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()


class Watcher:
    """One who reads the feed, at its own speed."""

    def __init__(self, store: FeedStore) -> None:
        """Use ``Feed.watch``."""
        self._store = store
        self._queue: list[Entry] = []
        self.epoch, self.last = "", 0
        """Whose entries they are, and the number of the last one taken."""
        self._behind = False
        self._closed = False
        self._news = asyncio.Event()

    @property
    def cursor(self) -> str:
        """Where ``take`` would go on."""
        return self.cursor_of(self.last)

    def cursor_of(self, number: int) -> str:
        """Write the cursor of an entry."""
        return f"{self.epoch}.{number}"

    def begin(self, epoch: str, number: int) -> None:
        """Say after which entry it begins."""
        self.epoch, self.last = epoch, number

    def skip_to(self, cursor: str) -> None:
        """Go on after a cursor of this feed."""
        self.last = int(cursor.rpartition(".")[2])
        self.fall_behind()

    def fall_behind(self) -> None:
        """Go on from the store."""
        self._behind = True
        self._queue.clear()
        self._news.set()

    def offer(self, entries: Sequence[Entry]) -> None:
        """Take what is new, or remember that there is something."""
        if self._behind or len(self._queue) + len(entries) > QUEUE_MAX:
            self.fall_behind()
        else:
            self._queue += entries
            self._news.set()

    def close(self) -> None:
        """End the watch."""
        self._closed = True
        self._news.set()

    async def take(self, wait_s: float) -> Sequence[Entry]:
        """Return what comes next, in order; nothing if nothing came for ``wait_s``.

        Raises:
            CursorExpiredError: it was so slow that what follows is gone.
            FeedClosedError: the service shuts down.
            StoreError: the feed cannot be read.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        if self._closed:
            raise FeedClosedError
        self._news.clear()
        if self._behind:
            return await self._read()
        taken = [entry for entry in self._queue if entry.number > self.last]
        self._queue.clear()
        if taken:
            self.last = taken[-1].number
        return taken

    async def _read(self) -> Sequence[Entry]:
        self._behind = False  # what is kept from here on is offered, and waits
        page = await self._store.entries(self.last, PAGE)
        if self.last < page.oldest:
            raise CursorExpiredError(self.cursor_of(page.oldest))
        if page.entries:
            self.last = page.entries[-1].number
            if self.last < page.newest:
                self.fall_behind()
        return page.entries


def _refuse_expired(page: Page, epoch: str, number: int) -> None:
    if epoch != page.epoch or not page.oldest <= number <= page.newest:
        raise CursorExpiredError(f"{page.epoch}.{page.oldest}")


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 3]}..."
