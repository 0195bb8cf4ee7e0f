"""What free models may still do while Redis is gone (S8): this server's share of what was left.

Of each counter every server may use what was left when it was last heard of, divided by the number
of servers: so together they stay within the limit, but for what others did in the moment before.
What is paid for is refused: nobody knows what others spend. What was held here is said to Redis,
room or not, before anything else when it is back.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from escalade_server.core.catalog import Billing, Counter, Unit
from escalade_server.core.commands import Candidate, Reserve
from escalade_server.core.events import Reserved
from escalade_server.core.standing import Balance, Denial
from escalade_server.core.window import SPAN_MS, Window
from escalade_server.stores.board import Board
from escalade_server.stores.redis_orders import Again


class Allowance:
    """The share of one server, from the moment that Redis is gone until it is back."""

    def __init__(self, board: Board, calendar: Callable[[Counter, int], Window]) -> None:
        """``board`` is what was last heard of."""
        self._board, self._calendar = board, calendar
        self._grants: dict[str, Again] = {}
        self._used: dict[str, deque[tuple[int, int]]] = {}

    def grant(self, order: Reserve, servers: int, now_ms: int) -> Reserved | None:
        """Hold the first free candidate with room in its share; None: there is none.

        The same reservation again is answered as before, and holds nothing twice.
        """
        before = self._grants.get(order.reservation_id)
        if before is not None:
            return Reserved(order.attempt, before.order.candidates[0].model.position, ())
        denials: list[Denial] = []
        for candidate in order.candidates:
            closed = self._closed(candidate, servers, now_ms)
            if closed is None:
                return self._take(order, candidate, tuple(denials), now_ms)
            denials += closed
        return None

    def _take(
        self, order: Reserve, candidate: Candidate, denials: tuple[Denial, ...], now_ms: int
    ) -> Reserved:
        self._grants[order.reservation_id] = Again(replace(order, candidates=(candidate,)))
        for counter in candidate.counters:
            used = self._used.setdefault(counter.key, deque())
            used.append((now_ms, candidate.amount(counter)))
        return Reserved(order.attempt, candidate.model.position, denials)

    def _closed(self, candidate: Candidate, servers: int, now_ms: int) -> Sequence[Denial] | None:
        """Say why a candidate is passed over; None: it fits."""
        is_free = candidate.model.billing is Billing.FREE
        for counter in candidate.counters:
            known = self._board.balance(counter.key, now_ms)
            balance = known or Balance("", 0, 0, self._ends_ms(counter, now_ms))
            left = counter.limit - balance.spent - balance.held
            amount = candidate.amount(counter)
            is_money = counter.unit is Unit.NANOS and amount > 0
            share = left // servers - self._used_since(counter, now_ms)
            if not is_free or is_money or amount > share or not counter.limit:
                # The rest may be in the hands of others.
                taken = balance._replace(held=max(counter.limit - balance.spent, balance.held))
                position, key = candidate.model.position, counter.key
                return (Denial(position, key, taken, amount, held_only=True, never_fits=False),)
        return None if is_free else ()

    def _used_since(self, counter: Counter, now_ms: int) -> int:
        """Add up what was held here in the window of now."""
        used = self._used.get(counter.key, deque())
        span_ms = SPAN_MS.get(counter.period)
        starts_ms = now_ms - span_ms if span_ms else self._calendar(counter, now_ms).starts_ms
        while used and used[0][0] < starts_ms:
            used.popleft()
        return sum(amount for _, amount in used)

    def _ends_ms(self, counter: Counter, now_ms: int) -> int:
        span_ms = SPAN_MS.get(counter.period)
        return now_ms + span_ms if span_ms else self._calendar(counter, now_ms).ends_ms

    def is_unsaid(self, reservation_id: str) -> bool:
        """Tell whether a reservation is held here only."""
        return reservation_id in self._grants

    def unsaid(self) -> list[Again]:
        """Answer what Redis is to be told."""
        return list(self._grants.values())

    def said(self, order: Again) -> None:
        """Take it that Redis knows of one."""
        self._grants.pop(order.order.reservation_id, None)

    def end(self) -> None:
        """Redis is back, and what it tells holds all that was used here."""
        self._used.clear()
