"""Writes orders as the scripts read them."""

from collections.abc import Callable, Iterable

from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.window import Window
from escalade_server.stores import redis_wire as wire
from escalade_server.stores.leasing import Fold
from escalade_server.stores.redis_leases import fold_fields
from escalade_server.stores.redis_news import News
from escalade_server.stores.redis_orders import (
    Again,
    Count,
    Find,
    Free,
    Look,
    Order,
    plain_fields,
)
from escalade_server.stores.redis_running import Running
from escalade_server.stores.redis_shared import DUTIES, DUTY_MS, SharedState
from escalade_server.stores.redis_usage import tally_of
from escalade_server.stores.redis_view import View
from escalade_server.stores.redis_wire import Field


class Writer:
    """Knows what the orders of one owner say beside themselves."""

    def __init__(
        self, calendar: Callable[[Counter, int], Window], days: Counter, *, view: View, news: News,
        shared: SharedState, running: Running,
    ) -> None:  # fmt: skip
        """Take what is known of the ledger; ``days`` has the zone in which days begin and end."""
        self._calendar, self._days = calendar, days
        self._view, self._news, self._shared, self._running = view, news, shared, running
        self.owner = ""
        self.counters: tuple[Counter, ...] = ()

    def fields(self, order: Order, now_ms: int, shift_ms: int) -> tuple[str, tuple[Field, ...]]:
        """Name the script of an order, and write its argument.

        ``now_ms`` is this machine's time, behind the store's by ``shift_ms``.

        Raises:
            ValueError: an amount is out of range.
        """
        now_ms += shift_ms
        match order:
            case Reserve():
                return self._reserve(order, now_ms, runs=True, is_forced=False)
            case Again(asked):
                runs = self._running.runs(asked)
                return self._reserve(asked, now_ms, runs=runs, is_forced=True)
            case Fold():
                return "fold", fold_fields(order, self.owner, self._windows(now_ms))
            case Settle():
                return "settle", wire.settle_fields(order)
            case Find():
                return "find", (wire.name_of(order.reservation_id),)
            case SetBench():
                return "bench", wire.bench_fields(order)
            case Look():
                return "look", self._look(order.lease_ms)
            case Free():
                return "free", (self.owner, order.claims)
            case Count():
                day = self._calendar(self._days, order.now_ms + shift_ms).id
                return "tally", (day, tally_of(order.tally))
            case _:
                return plain_fields(order)

    def _reserve(
        self, order: Reserve, now_ms: int, *, runs: bool, is_forced: bool
    ) -> tuple[str, tuple[Field, ...]]:
        day, window = self._calendar(self._days, now_ms).id, self._windows(now_ms)
        fields = wire.reserve_fields(order, self.owner, day, window, runs=runs, is_forced=is_forced)
        return "reserve", fields

    def _windows(self, now_ms: int) -> Callable[[Counter], tuple[Field, ...]]:
        return lambda counter: wire.counter_of(counter, self._calendar, now_ms)

    def _look(self, lease_ms: int) -> tuple[Field, ...]:
        names: Iterable[str] = {counter.key for counter in self.counters} | set(self._view.names())
        return (
            self.owner, lease_ms, self._view.version, tuple(names), self._news.seen, DUTIES,
            DUTY_MS, self._shared.version,
        )  # fmt: skip
