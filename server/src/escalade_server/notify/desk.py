"""Reads the feed where it left off, folds what has one cause, and hands notices to the sinks.

Up to which entry people are notified is kept in the store: a notice that a crash caught on its way
is sent again, under the same id. Of several servers over one ledger one tells people; when it is
gone another one goes on where it was.
"""

import asyncio
from collections.abc import Callable, Sequence

from escalade_server.core.rules import OnAllExhausted, OnBudgetAlert, Rules
from escalade_server.engine.feed import CursorExpiredError, Feed, FeedClosedError, Watcher
from escalade_server.engine.news import Entry
from escalade_server.engine.ports import Clock, FeedStore, Notice, Notifier
from escalade_server.notify.fold import GATHER_MS, MONEY, WAITING, WINDOW_MS, Fold

IDLE_S = 60.0
"""How often it looks at the clock and at who leads, though nothing comes."""
LEAD_S = 1.0
"""How often it is asked whether it is this server that tells people."""
RECALLED = 10_000
"""Entries before those that are not told yet, in which causes of the last hour are looked for."""
RECALLED_AT_ONCE = 500
SPARE = 100
"""Entries of no interest to people that are read before the store is told so."""


class Desk:
    """Owned by one event loop; ``run`` is its work."""

    def __init__(
        self,
        feed: Feed,
        store: FeedStore,
        clock: Clock,
        *,
        rules: Callable[[], Rules],
        log: Callable[[], Notifier | None],
        hooks: Callable[[], Sequence[Notifier]],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """``log`` and ``hooks`` answer the sinks, ``rules`` the rules, as they are in force.

        ``leads`` says whether it is this server that tells people.
        """
        self._feed, self._store, self._clock, self._rules = feed, store, clock, rules
        self._log, self._hooks, self._leads = log, hooks, leads
        self._sending: dict[int, int] = {}
        """Notices on their way, by the number of their first entry: sinks that have them."""
        self._read = self._told = 0
        self._unsent: int | None = None

    async def run(self) -> None:
        """Work for ever; started again, it goes on where people were notified last."""
        while True:
            while not self._leads():  # noqa: ASYNC110  # another process says so, not an event
                await asyncio.sleep(LEAD_S)
            await self._serve()

    async def _serve(self) -> None:
        """Tell people for as long as this server is the one to do it."""
        watcher = await self._feed.undelivered()
        self._read = self._told = watcher.last
        self._sending.clear()
        try:
            fold = await self._recalled(watcher)
            while self._leads():
                try:
                    entries = await watcher.take(self._wait_s(fold))
                except FeedClosedError:  # the rest is told after the next start
                    await asyncio.get_running_loop().create_future()
                    return
                except CursorExpiredError as error:  # nobody was notified for a week
                    watcher.skip_to(error.oldest)
                    continue
                if self._leads():  # else who leads now tells them
                    self._take(entries, fold)
        finally:
            self._feed.leave(watcher)

    async def _recalled(self, watcher: Watcher) -> Fold:
        """Begin with what people were told in the last hour: of one cause they are told once."""
        fold, last = Fold(watcher.epoch), watcher.last
        since_ms = self._clock.now_ms() - GATHER_MS - WINDOW_MS
        after = max(last - RECALLED, 0)
        while after < last:
            page = await self._store.entries(after, min(RECALLED_AT_ONCE, last - after))
            entries = [entry for entry in page.entries if entry.number <= last]
            for entry in entries:
                if entry.at_ms >= since_ms:
                    fold.recall(entry)
            after = entries[-1].number if entries else last
        return fold

    def _wait_s(self, fold: Fold) -> float:
        due_ms = fold.due_ms()
        if due_ms is None:
            return IDLE_S
        return min(max(due_ms - self._clock.now_ms(), 0) / 1_000, IDLE_S)

    def _take(self, entries: Sequence[Entry], fold: Fold) -> None:
        now_ms = self._clock.now_ms()
        for entry in entries:
            fold.take(entry, now_ms)
            self._read = entry.number
        for number, notice in fold.notices(now_ms):
            self._send(number, notice)
        self._unsent = fold.unsent()
        self._remember(least=SPARE)

    def _send(self, number: int, notice: Notice) -> None:
        sinks = self._sinks(notice.kind)
        if sinks:
            self._sending[number] = len(sinks)

        def done() -> None:
            left = self._sending.get(number, 0) - 1
            if left > 0:
                self._sending[number] = left
            else:
                self._sending.pop(number, None)
                self._remember(least=1)

        for sink in sinks:
            sink.notify(notice, done)

    def _sinks(self, kind: str) -> tuple[Notifier, ...]:
        """Say who is told; alerts about money and tasks that wait have a say of their own."""
        rules, line = self._rules(), self._log()
        log = () if line is None else (line,)
        if kind in MONEY and rules.on_budget_alert is not OnBudgetAlert.NOTIFY:
            return log
        if kind == WAITING and rules.on_all_exhausted is not OnAllExhausted.NOTIFY_AND_WAIT:
            return ()
        return (*log, *self._hooks())

    def _remember(self, *, least: int) -> None:
        """Keep up to where everybody was notified."""
        waiting = [*self._sending, *([] if self._unsent is None else [self._unsent])]
        told = min(waiting, default=self._read + 1) - 1
        if told >= self._told + least:
            self._told = told
            self._store.delivered(told)
