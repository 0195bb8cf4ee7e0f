"""Leased chunks of counters: the arithmetic, whoever keeps the books (quotas C10).

A process takes a chunk of all counters that a model's calls touch, and spends it without asking.
The store only knows that the chunk is held. What was settled, what is still open and what the rest
should become is told to it in one order, a *fold*: book ``used``, hold ``keep``, and a new chunk on
top if there is room.

Why nothing is overspent. Let H be what the store holds for a lease. A process admits a call only
inside ``left = held - open - used``, where ``held`` is a lower bound of H that it alone lowers,
before it asks for that; and the store lets H grow only inside ``limit - spent - held`` of each
counter. So spent + held stays at or below the limit in the store, and what is open or used here
stays at or below H. A call that uses more than it reserved is booked in full, as everywhere (C3).

Why nothing is booked twice. Folds of a lease are numbered, one is under way at a time, and one
without an answer is said again word by word: the store does what it has not done yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from escalade_server.core.ledger import NOTHING, Amounts

TTL_MS = 30_000
"""Without a word of the store, a lease admits nothing after this time."""
DEMAND_MS = 5_000
"""A chunk is what was asked for in this time."""


class Room(NamedTuple):
    """One counter as the store knows it, with what the lease keeps counted as held."""

    column: int
    """Which of the amounts it counts (``ledger.FIELD``)."""
    limit: int
    free: int
    """``limit`` less what is spent and held; below 0 after an overshoot."""


class Wish(NamedTuple):
    """What a process would like to have on top of what it keeps."""

    want: Amounts
    """Of the last ``DEMAND_MS``, less what is left; nothing: it only gives back."""
    most: Amounts
    """The largest single call of that time."""


def grant(rooms: Iterable[Room], replicas: int, wish: Wish) -> Amounts | None:
    """Answer what is held on top; None: a counter is so near its end that each call must ask.

    A chunk is at most a 1 : 4 * replicas part of what is free, so that what is stranded in the
    leases of others is a small part of what is left; but at least one call of the largest kind.
    """
    given = list(wish.want)
    for column, limit, free in rooms:
        most = wish.most[column]
        if not limit or free < 0 or free < 2 * replicas * most:
            return None
        if given[column]:
            given[column] = min(given[column], max(free // (4 * replicas), most))
    return Amounts(*given)


@dataclass(slots=True)
class Lease:
    """One chunk as its holder knows it; it belongs to one window of each counter.

    Rules: ``held`` grows by what the store granted, and shrinks only in ``fold``. While a fold is
    under way (``is_asking``) calls go on inside what was kept for them.
    """

    columns: tuple[int, ...]
    """Of the amounts, those that any counter counts."""
    seq: int = 0
    """Number of the last fold that was sent."""
    is_asking: bool = False
    held: Amounts = NOTHING
    open: Amounts = NOTHING
    """Reserved by calls that run, or whose outcome is in doubt."""
    used: Amounts = NOTHING
    """Settled since the last fold; may be below 0 after corrections."""
    admits_to_ms: int = 0

    def left(self, column: int) -> int:
        """Answer what can still be spent of one amount."""
        return self.held[column] - self.open[column] - self.used[column]

    def admits(self, amounts: Amounts, now_ms: int) -> bool:
        """Tell whether a call fits without asking anybody."""
        if now_ms >= self.admits_to_ms:
            return False
        held, is_open, used = self.held, self.open, self.used
        for column in self.columns:
            if amounts[column] > held[column] - is_open[column] - used[column]:
                return False
        return True

    def hold(self, amounts: Amounts) -> None:
        """Reserve a call."""
        self.open = plus(self.open, amounts)

    def settle(self, reserved: Amounts, used: Amounts) -> None:
        """End a call: what it did not use is left for others, what it used above is booked, too."""
        self.open = self.open.minus(reserved)
        self.used = plus(self.used, used)

    def correct(self, difference: Amounts) -> None:
        """Book what is known better now."""
        self.used = plus(self.used, difference)

    def rest(self) -> Amounts:
        """Answer what is left of each amount, and nothing where it is overspent."""
        counted = self.columns
        return Amounts(*[max(self.left(c), 0) if c in counted else 0 for c in range(3)])

    def fold(self, *, keeps_rest: bool) -> tuple[int, Amounts, Amounts]:
        """Begin a fold: its number, what is booked, and what stays held.

        From here on only what is kept can be relied on, whether it is answered or not.
        """
        assert not self.is_asking, "one at a time, and that one until it is answered"
        kept = plus(self.open, self.rest()) if keeps_rest else self.open
        if not keeps_rest:
            self.admits_to_ms = 0
        used = self.used
        self.seq, self.is_asking = self.seq + 1, True
        self.held, self.used = kept, NOTHING
        return self.seq, used, kept

    def folded(self, granted: Amounts | None, admits_to_ms: int) -> None:
        """End a fold: what was granted on top can be spent."""
        self.is_asking = False
        if granted is None:
            self.admits_to_ms = 0
            return
        self.held = plus(self.held, granted)
        self.admits_to_ms = admits_to_ms

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing, owes nothing and waits for nothing."""
        return not (self.is_asking or any(self.held) or any(self.open) or any(self.used))


@dataclass(slots=True)
class Demand:
    """What was asked for lately, in slots of a second, and the largest single call among it."""

    _slots: list[tuple[int, Amounts, Amounts]] = field(default_factory=list)

    def add(self, amounts: Amounts, now_ms: int) -> None:
        """Take one call; a clock that goes back begins anew."""
        second = now_ms // 1_000
        slots = self._slots
        if slots and slots[-1][0] == second:
            _, sum_, most = slots[-1]
            slots[-1] = second, plus(sum_, amounts), highest(most, amounts)
            return
        slots[:] = [slot for slot in slots if second - DEMAND_MS // 1_000 < slot[0] < second]
        slots.append((second, amounts, amounts))

    def recent(self, now_ms: int) -> tuple[Amounts, Amounts]:
        """Answer the sum, and the largest amounts."""
        sum_, most = NOTHING, NOTHING
        since = now_ms // 1_000 - DEMAND_MS // 1_000
        for second, added, largest in self._slots:
            if second > since:
                sum_, most = plus(sum_, added), highest(most, largest)
        return sum_, most


def wish(lease: Lease, demand: Demand, now_ms: int) -> Wish:
    """Say what a lease lacks of what was asked for lately."""
    want, most = demand.recent(now_ms)
    rest = lease.rest()
    return Wish(Amounts(*[max(w - r, 0) for w, r in zip(want, rest, strict=True)]), most)


def plus(one: Amounts, other: Amounts) -> Amounts:
    """Add two up."""
    return Amounts(one[0] + other[0], one[1] + other[1], one[2] + other[2])


def highest(one: Amounts, other: Amounts) -> Amounts:
    """Answer the larger of each."""
    return Amounts(max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2]))
