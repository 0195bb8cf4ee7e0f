"""What must hold of the books, kept a second time, by plain adding up."""

from collections import Counter as Tally
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Candidate
from escalade_server.core.ledger import FIELD, Amounts
from escalade_server.core.window import SPAN_MS, Window, slides
from escalade_server.simulation.books import Books
from escalade_server.simulation.checkers import demand


class Entry:
    """What one attempt holds, then uses, in one counter."""

    __slots__ = ("admitted_ms", "counts", "excess", "held", "spent")

    def __init__(self, admitted_ms: int, held: int) -> None:
        self.admitted_ms, self.held, self.spent, self.excess = admitted_ms, held, 0, 0
        self.counts = True


class Page:
    """The entries of one counter that still count in its window; sums are made anew each time."""

    __slots__ = ("entries", "excess", "held", "spent", "starts_ms")

    def __init__(self, starts_ms: int) -> None:
        self.starts_ms = starts_ms
        self.entries: deque[Entry] = deque()
        self.spent = self.held = self.excess = 0


class Kept(NamedTuple):
    """A reservation as the auditor remembers it."""

    candidate: Candidate
    lines: tuple[tuple[Counter, Page, Entry], ...]


class Auditor:
    """Booked is the sum of settlements, held the open reservations, and no cap is ever exceeded.

    A provider that bills more than it was granted (``lies``) is booked in full, even above a cap
    (quotas C3): that excess, and no other, is allowed for.
    """

    def __init__(
        self, calendar: Callable[[Counter, int], Window], lies: set[tuple[int, int]]
    ) -> None:
        """Begin with empty books."""
        self._calendar, self._lies = calendar, lies
        self._pages: dict[str, Page] = {}
        self._open: dict[str, Kept] = {}
        self._spent: Tally[str] = Tally()

    def held(self, id_: str, candidate: Candidate, now_ms: int) -> None:
        """See a reservation."""
        demand(id_ not in self._open, self, f"{id_} is held twice")
        lines = []
        for counter in candidate.counters:
            page = self._page(counter, now_ms)
            entry = Entry(now_ms, candidate.amount(counter))
            page.entries.append(entry)
            page.held += entry.held
            sum_ = page.spent + page.held - page.excess
            fits = sum_ <= counter.limit and counter.limit > 0
            demand(fits, self, f"{counter.key}: {sum_} of {counter.limit} booked and held by {id_}")
            lines.append((counter, page, entry))
        self._open[id_] = Kept(candidate, tuple(lines))

    def booked(self, id_: str, used: Amounts) -> None:
        """See a settlement become durable."""
        demand(id_ in self._open, self, f"{id_} is booked without being held")
        kept = self._open.pop(id_)
        number = int(id_.partition(".")[0], 16)
        honest = not any(task == number for task, _ in self._lies)
        within = used.nanos <= kept.candidate.nanos or not honest
        demand(within, self, f"{id_} is booked {used.nanos} of {kept.candidate.nanos} nanos")
        for counter, page, entry in kept.lines:
            amount = used[FIELD[counter.unit]]
            excess = max(amount - entry.held, 0)
            if entry.counts:
                page.held -= entry.held
                page.spent += amount
                page.excess += excess
            entry.held, entry.spent, entry.excess = 0, amount, excess
            self._spent[counter.key] += amount

    def close(self, books: Books) -> None:
        """See the end: nothing is held, and the store's own rows say the same."""
        demand(not self._open, self, f"still held: {sorted(self._open)[:5]}")
        rows: Tally[str] = Tally()
        for row in books.rows():
            demand(row.balance.held == 0, self, f"{row.counter.key} holds {row.balance.held}")
            rows[row.counter.key] += row.balance.spent
        demand(rows == self._spent, self, f"the rows say {rows - self._spent} more or less")

    def _page(self, counter: Counter, now_ms: int) -> Page:
        """Answer the page of a counter with what counts now, and nothing older."""
        page = self._pages.get(counter.key)
        if slides(counter.period):
            if page is None:
                page = self._pages[counter.key] = Page(0)
            after_ms = now_ms - SPAN_MS[counter.period]
            while page.entries and page.entries[0].admitted_ms <= after_ms:
                old = page.entries.popleft()
                old.counts = False
                page.spent -= old.spent
                page.held -= old.held
                page.excess -= old.excess
            return page
        starts_ms = self._calendar(counter, now_ms).starts_ms
        if page is None or page.starts_ms != starts_ms:
            page = self._pages[counter.key] = Page(starts_ms)
        return page
