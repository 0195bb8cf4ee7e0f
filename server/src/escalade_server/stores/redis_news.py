"""The event feed over Redis: what waits to be written, and which marks are told.

Marks are told by their level, not by the step over them: whoever sees a counter above one writes
the entry, and the script keeps the first. So each is told once whoever settles, and a crash
between a settlement and its entry loses none: the next look at the counter finds it again.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter
from escalade_server.core.standing import Balance, Standing
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
from escalade_server.stores.redis_wire import Field, NewsRow, Reply, name_of

NOTES_MAX = 10_000
WRITE_MAX = 200


class _Note(NamedTuple):
    """An entry with the keys that it claims, its own first."""

    entry: Entry
    once: tuple[Once, ...]


class News:
    """What one process has to write, and whom it tells of what is kept."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.marks: Mapping[str, Sequence[Mark]] = MappingProxyType({})
        self.follower: Callable[[Sequence[Entry]], None] = lambda _: None
        self.seen = 0
        """Number of the last entry that was told here."""
        self._waiting: deque[_Note] = deque(maxlen=NOTES_MAX)
        self._delivered = 0
        self._written = 0
        self._counters: dict[str, Counter] = {}
        self._claimed: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._delivered > self._written

    def adopt(self, counters: Sequence[Counter]) -> None:
        """Know the counters of a strategy by their keys."""
        self._counters = {counter.key: counter for counter in counters}

    def change(
        self, counters: Sequence[Counter], marks: Mapping[str, Sequence[Mark]],
        standing: Standing, now_ms: int,
    ) -> None:  # fmt: skip
        """Go on with another strategy: a limit that was lowered may have passed marks."""
        self.adopt(counters)
        self.marks = marks
        for key, balance in standing.balances.items():
            self.look_at(key, balance, now_ms)

    def record(self, entries: Sequence[Entry]) -> None:
        """Let entries wait."""
        self._waiting += [_Note(each, (each.once,) if each.once else ()) for each in entries]

    def delivered(self, number: int) -> None:
        """Let wait up to where people are notified."""
        self._delivered = max(self._delivered, number)

    def look_at(self, key: str, balance: Balance | None, now_ms: int) -> None:
        """Write of the marks that a counter's window has passed and that lasts: the highest."""
        marks, counter = self.marks.get(key), self._counters.get(key)
        if not marks or counter is None or balance is None or balance.ends_ms <= now_ms:
            return
        if balance.spent < marks[0].at:
            return
        for kind in dict.fromkeys(mark.kind for mark in marks):
            passed = [
                (mark, name)
                for mark in marks
                if mark.kind is kind
                and balance.spent >= mark.at
                and (name := f"mark {kind.value} {mark.percent} {balance.window} {key}")
                not in self._claimed
            ]
            if passed:
                self._claimed.update(name for _, name in passed)
                self._waiting.append(_alert(counter, balance, passed, now_ms))

    def take(self) -> "Write":
        """Take what is to be written next."""
        count = min(len(self._waiting), WRITE_MAX)
        return Write([self._waiting.popleft() for _ in range(count)], self._delivered)

    def give_back(self, write: "Write") -> None:
        """Let wait again what could not be written."""
        self._waiting.extendleft(reversed(write.notes))

    def written(self, write: "Write") -> None:
        """Remember how far it was written."""
        self._written = max(self._written, write.delivered)

    def told(self, rows: Sequence[NewsRow]) -> None:
        """Tell of what is kept, everything once and in order."""
        fresh = [row for row in rows if row.number > self.seen]
        if fresh:
            self.seen = fresh[-1].number
            entries = [entry for row in fresh if (entry := _entry(row)) is not None]
            if entries:
                self.follower(entries)


class Write(NamedTuple):
    """The order to write a part of the feed."""

    notes: list[_Note]
    delivered: int

    @property
    def fields(self) -> tuple[Field, ...]:
        """Write it for the script."""
        entries: list[Field] = [
            (
                e.at_ms, e.kind.value, e.agent, e.request_id, e.trace_id, to_json(e.news),
                [(name_of(each.key), each.until_ms) for each in once],
            )
            for e, once in self.notes
        ]  # fmt: skip
        return entries, self.delivered


def page_of(epoch: str, reply: Reply) -> Page:
    """Read a page; what only a newer version can read is passed over."""
    oldest, newest, delivered = (int(note) for note in reply.notes)
    entries = tuple([entry for row in reply.news if (entry := _entry(row)) is not None])
    return Page(epoch, oldest, newest, delivered, entries)


def _entry(row: NewsRow) -> Entry | None:
    try:
        news = from_json(row.kind, row.text)
    except ValueError:
        return None
    return Entry(row.at_ms, news, row.agent, row.request_id, row.trace_id, None, row.number)


def _alert(
    counter: Counter, balance: Balance, passed: Sequence[tuple[Mark, str]], now_ms: int
) -> _Note:
    highest, _ = passed[-1]
    detail = f"{counter.label or counter.key}: {used(counter, balance.spent)}"
    if len(passed) > 1:
        percents = ", ".join(f"{mark.percent} %" for mark, _ in passed)
        detail += f"; passed {percents} at once"
    quota = quota_of(counter, balance.spent, balance.held, balance.ends_ms)
    news = AlertNews(highest.kind, detail, Place(layer=highest.layer), highest.percent, quota)
    once = tuple([Once(name, balance.ends_ms) for _, name in reversed(passed)])
    return _Note(Entry(now_ms, news), once)
