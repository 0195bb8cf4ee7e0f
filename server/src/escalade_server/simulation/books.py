"""The books of a simulated store, in memory: the core's arithmetic over windows that move on.

What ``stores`` keeps in SQLite is kept here in dictionaries; nothing is lost and nothing fails.
How a store misbehaves is the business of ``store``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from escalade_server.core import ledger
from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Candidate, Reserve, SetBench, Settle
from escalade_server.core.events import Reserved
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Balance, Bench, Denial, Standing
from escalade_server.core.window import SLICES, Window, slice_at, slides, total

_FAR_MS = 1 << 62


@dataclass(slots=True, eq=False)
class Row:
    """One window, or slice, of one counter; ``admits_to_ms`` is when admissions go to a later."""

    counter: Counter
    admits_to_ms: int
    balance: Balance


@dataclass(slots=True, eq=False)
class Reservation:
    """What one attempt holds and where; ``due_ms`` is when a doubtful one is booked in full."""

    id: str
    position: int
    reserved: Amounts
    rows: tuple[Row, ...]
    denials: tuple[Denial, ...]
    due_ms: int = _FAR_MS
    is_open: bool = True


class Books:
    """Counters, reservations and benches; ``held`` and ``booked`` are told what was done."""

    def __init__(
        self,
        calendar: Callable[[Counter, int], Window],
        held: Callable[[str, Candidate, int], None],
        booked: Callable[[str, Amounts], None],
    ) -> None:
        """Begin empty."""
        self._calendar, self._held, self._booked = calendar, held, booked
        self._live: dict[str, list[Row]] = {}
        self._rows: list[Row] = []
        self._reservations: dict[str, Reservation] = {}
        self._doubtful: dict[str, Reservation] = {}
        self._balances: dict[str, Balance] = {}
        self._benches: dict[str, Bench] = {}
        self._standing: Standing | None = None
        self._until_ms = _FAR_MS

    # ------------------------------------------------------------------------------- reading

    def standing(self, now_ms: int) -> Standing:
        """Answer balances and benches as they are; windows that have ended show as empty."""
        self.sweep(now_ms)  # nobody may order anything: all wait for what is in doubt
        if now_ms >= self._until_ms:
            ended = [key for key, row in self._balances.items() if row.ends_ms <= now_ms]
            for key in ended:
                self._publish(key, now_ms)
            rows = self._balances.values()
            self._until_ms = min([row.ends_ms for row in rows], default=_FAR_MS)
        if self._standing is None:
            self._standing = Standing(self._balances.copy(), self._benches.copy())
        return self._standing

    def is_settled(self, reservation_id: str) -> bool:
        """Tell whether a reservation is closed, or its doubt is on record."""
        known = self._reservations.get(reservation_id)
        return known is not None and (not known.is_open or known.due_ms < _FAR_MS)

    def rows(self) -> list[Row]:
        """Every window that there ever was."""
        return self._rows

    # ---------------------------------------------------------------------------- the orders

    def reserve(self, order: Reserve, now_ms: int) -> Reserved | tuple[Denial, ...]:
        """Hold the first candidate with room everywhere, else say why not, one by one (P20)."""
        self.sweep(now_ms)
        known = self._reservations.get(order.reservation_id)
        if known is not None:
            return Reserved(order.attempt, known.position, known.denials)
        denials: list[Denial] = []
        for candidate in order.candidates:
            counters = candidate.counters
            rows = tuple([self._current(counter, now_ms) for counter in counters])
            balances = [self._total(row, now_ms) for row in rows]
            denial = ledger.denial(candidate, balances)
            if denial is not None:
                denials.append(denial)
                continue
            amounts = ledger.bounds(candidate).checked()
            id_, position = order.reservation_id, candidate.model.position
            for row in rows:
                amount = amounts[ledger.FIELD[row.counter.unit]]
                self._put(row, ledger.hold(row.balance, amount), now_ms)
            passed = tuple(denials)
            self._reservations[id_] = Reservation(id_, position, amounts, rows, passed)
            self._held(id_, candidate, now_ms)
            return Reserved(order.attempt, position, passed)
        return tuple(denials)

    def settle(self, order: Settle, now_ms: int) -> None:
        """Book a reservation in its windows of admission (T1); an unknown id holds nothing."""
        self.sweep(now_ms)
        known = self._reservations.get(order.reservation_id)
        if known is None or not known.is_open:
            return
        if order.hold_until_ms is not None:
            known.due_ms = order.hold_until_ms
            self._doubtful[known.id] = known
            return
        self._book(known, Amounts(order.requests, order.tokens, order.nanos).checked(), now_ms)

    def bench(self, order: SetBench) -> None:
        """Set something aside; the later end of old and new wins."""
        old = self._benches.get(order.key)
        if old is None or old.until_ms < order.bench.until_ms:
            self._benches[order.key] = order.bench
            self._standing = None

    def sweep(self, now_ms: int) -> None:
        """Book in full what has been in doubt for long enough (C5)."""
        if self._doubtful:
            for known in [r for r in self._doubtful.values() if r.due_ms <= now_ms]:
                self._book(known, known.reserved, now_ms)

    # ------------------------------------------------------------------------- how it is done

    def _book(self, known: Reservation, used: Amounts, now_ms: int) -> None:
        known.is_open = False
        self._doubtful.pop(known.id, None)
        for row in known.rows:
            at = ledger.FIELD[row.counter.unit]
            self._put(row, ledger.settle(row.balance, known.reserved[at], used[at]), now_ms)
        self._booked(known.id, used)

    def _current(self, counter: Counter, now_ms: int) -> Row:
        live = self._live.setdefault(counter.key, [])
        while live and live[0].balance.ends_ms <= now_ms and live[0].admits_to_ms <= now_ms:
            del live[0]
        if live and now_ms < live[-1].admits_to_ms:
            return live[-1]
        if slides(counter.period):
            window = slice_at(counter.period, now_ms)
            width = (window.ends_ms - window.starts_ms) // (SLICES + 1)
            admits_to_ms = window.starts_ms + width
        else:
            window = self._calendar(counter, now_ms)
            admits_to_ms = window.ends_ms
        row = Row(counter, admits_to_ms, Balance(window.id, 0, 0, window.ends_ms))
        live.append(row)
        self._rows.append(row)
        return row

    def _total(self, row: Row, now_ms: int) -> Balance:
        live = self._live[row.counter.key]
        if len(live) == 1:
            return row.balance
        return total([part.balance for part in live], now_ms) or row.balance

    def _put(self, row: Row, balance: Balance, now_ms: int) -> None:
        row.balance = balance
        self._publish(row.counter.key, now_ms)

    def _publish(self, key: str, now_ms: int) -> None:
        parts = [row.balance for row in self._live[key]]
        balance = parts[0] if len(parts) == 1 else total(parts, now_ms)
        if balance is None or balance.ends_ms <= now_ms:
            self._balances.pop(key, None)
        else:
            self._balances[key] = balance
            self._until_ms = min(self._until_ms, balance.ends_ms)
        self._standing = None
