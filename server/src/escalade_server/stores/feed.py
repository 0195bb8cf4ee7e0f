"""The event feed of the SQLite store: rows with a growing number, kept by count and by age.

What the books themselves find out (a counter passed a mark) is written in the transaction of the
settlement that brought it about, and so is told exactly once, whatever crashes. All else comes
from the event loop after the caller was told, is written with whatever batch is next, a tenth of a
second later at the latest, and is lost in a crash before that.

The feed is a part of the books: its changes are undone with theirs.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import apsw

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter
from escalade_server.core.failure import DAY_MS
from escalade_server.core.standing import Balance
from escalade_server.core.words import used
from escalade_server.engine.news import (
    AlertNews,
    Entry,
    Once,
    Page,
    Place,
    from_json,
    quota_of,
    to_json,
)
from escalade_server.engine.traces import Trace
from escalade_server.stores.statements import Upsert
from escalade_server.stores.traces import TraceTable

KEPT_MS = 7 * DAY_MS
KEPT_ROWS = 100_000
PURGE_ROWS = 1_000
"""Dropped in one go, and written before the next go."""
_INSERT = Upsert(7, "INSERT INTO events VALUES $ROWS")
_PURGE = """
DELETE FROM events
WHERE number IN (SELECT number FROM events ORDER BY number LIMIT ?)
  AND (number <= ? OR at_ms <= ?) AND number < ?
"""


Note = Entry | Trace | int
"""For the feed: an entry, or the number of the last one that people were notified of; a trace."""
NOTES_MAX = 10_000


class Notes:
    """What waits for the next batch: put in on the event loop, taken out by the writer.

    While the disk refuses, more than ``NOTES_MAX`` push out the oldest.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._waiting: deque[Note] = deque(maxlen=NOTES_MAX)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, *notes: Note) -> None:
        """Let some wait."""
        self._waiting.extend(notes)

    def take(self) -> list[Note]:
        """Take all; others may be added meanwhile."""
        taken = []
        with suppress(IndexError):
            while self._waiting:
                taken.append(self._waiting.popleft())
        return taken

    def give_back(self, notes: Sequence[Note]) -> None:
        """Let those that could not be written wait again, before all later ones."""
        later = self.take()
        self._waiting.extend((*notes, *later))


class Feed:
    """The rows of the feed, and what has been told once; used inside the books' transactions."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Take the books' connection; ``load`` reads."""
        self._db = connection
        self._traces = TraceTable(connection)
        self._epoch = ""
        self._next = 1
        self._told_to: int | None = None
        """Number of the last entry that was handed out, or was there before."""
        self._delivered = 0
        self._since_purge = 0
        self._told: dict[str, int] = {}
        self._fresh: list[Entry] = []

    def load(self) -> None:
        """Read what is known by heart; forget what was not committed.

        What another process has written since the last time is fresh here, too.
        """
        [(self._epoch, self._delivered)] = self._rows("SELECT epoch, delivered FROM feed")
        [(last,)] = self._rows("SELECT ifnull(max(number), 0) FROM events")
        self._next = last + 1
        self._told = dict(self._rows("SELECT key, until_ms FROM told"))
        self._fresh.clear()
        if self._told_to is None:
            self._told_to = last
        elif last > self._told_to:
            self._fresh += self.page(self._told_to, last - self._told_to).entries

    def note(self, notes: Sequence[Note], now_ms: int) -> None:
        """Write what waited."""
        if notes:
            self.add([note for note in notes if isinstance(note, Entry)], now_ms)
            numbers = [note for note in notes if isinstance(note, int)]
            if numbers:
                self.deliver(max(numbers))
            self._traces.add([note for note in notes if isinstance(note, Trace)], now_ms)

    def add(self, entries: Iterable[Entry], now_ms: int) -> None:
        """Write entries, except those that were to be told once and have been."""
        kept = []
        for entry in entries:
            if entry.once is None or self._is_first(entry.once, now_ms):
                kept.append(entry._replace(number=self._next))
                self._next += 1
        if not kept:
            return
        rows: list[tuple[str | int, ...]] = [
            (e.number, e.at_ms, e.kind.value, e.agent, e.request_id, e.trace_id, to_json(e.news))
            for e in kept
        ]
        _INSERT.write(self._db, rows)
        self._fresh += kept
        self._since_purge += len(kept)
        if self._since_purge >= PURGE_ROWS:
            self.purge(now_ms)

    def fresh(self) -> Sequence[Entry]:
        """Answer, once, what the last transaction has written."""
        fresh, self._fresh = self._fresh, []
        self._told_to = self._next - 1
        return fresh

    def deliver(self, number: int) -> None:
        """Remember up to where people are notified."""
        self._delivered = max(self._delivered, number)
        self._db.execute("UPDATE feed SET delivered = ?", (self._delivered,))

    def page(self, after: int, limit: int) -> Page:
        """Read entries; what only a newer version can read is passed over."""
        newest = self._next - 1
        [(first,)] = self._rows("SELECT ifnull(min(number), ?) FROM events", newest + 1)
        rows = self._rows(
            "SELECT * FROM events WHERE number > ? ORDER BY number LIMIT ?", after, limit
        )
        entries = []
        for number, at_ms, kind, agent, request_id, trace_id, text in rows:
            try:
                news = from_json(kind, text)
            except ValueError:
                continue
            entries.append(Entry(at_ms, news, agent, request_id, trace_id, None, number))
        return Page(self._epoch, first - 1, newest, self._delivered, tuple(entries))

    def purge(self, now_ms: int) -> None:
        """Drop what is too old or too many; the last row stays, so that numbers never come again.

        One go drops as much as is written until the next: the feed keeps its size.
        """
        last = self._next - 1
        self._db.execute(_PURGE, (2 * PURGE_ROWS, last - KEPT_ROWS, now_ms - KEPT_MS, last))
        self._since_purge = 0
        over = [key for key, until_ms in self._told.items() if until_ms <= now_ms]
        for key in over:
            del self._told[key]
        if over:
            self._db.execute("DELETE FROM told WHERE until_ms <= ?", (now_ms,))

    def next_mark(self, counter: str, window: str, marks: Sequence[Mark]) -> int | None:
        """Say at how many units of a window people are to be told next; None: never again."""
        for mark in marks:
            if _key(counter, window, mark) not in self._told:
                return mark.at
        return None

    def pass_marks(
        self, counter: Counter, balance: Balance, marks: Sequence[Mark], now_ms: int
    ) -> None:
        """Tell, once, which marks a window has passed: the highest of each kind, with the others.

        What is spent counts; what is held may be given back.
        """
        passed = [
            mark
            for mark in marks
            if balance.spent >= mark.at
            and self._is_first(Once(_key(counter.key, balance.window, mark), balance.ends_ms), 0)
        ]
        for kind in dict.fromkeys(mark.kind for mark in passed):
            percents = [mark.percent for mark in passed if mark.kind is kind]
            detail = f"{counter.label or counter.key}: {used(counter, balance.spent)}"
            if len(percents) > 1:
                detail += f"; passed {', '.join(f'{percent} %' for percent in percents)} at once"
            quota = quota_of(counter, balance.spent, balance.held, balance.ends_ms)
            place = Place(layer=passed[0].layer)
            news = AlertNews(kind, detail, place, percents[-1], quota)
            self.add([Entry(now_ms, news)], now_ms)

    def _is_first(self, once: Once, now_ms: int) -> bool:
        """Claim a key; False if it is taken. With ``now_ms`` 0 also one whose time is over."""
        until_ms = self._told.get(once.key)
        if until_ms is not None and (not now_ms or now_ms < until_ms):
            return False
        self._told[once.key] = once.until_ms
        self._db.execute("INSERT OR REPLACE INTO told VALUES (?, ?)", (once.key, once.until_ms))
        return True

    def _rows(self, sql: str, *bindings: str | int) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, bindings).fetchall()


def _key(counter: str, window: str, mark: Mark) -> str:
    return f"mark {mark.kind.value} {mark.percent} {window} {counter}"
