"""Calendar windows of a vendor and what has been used in them."""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass

from escalade_server.provider_simulator.scenario import FaultKind, Quota

DAY_MS = 86_400_000
LENGTH_MS = {"second": 1_000, "minute": 60_000, "hour": 3_600_000}


def window_of(quota: Quota, now_ms: int) -> tuple[int, int]:
    """Returns first instant and end of the window of `quota` that holds `now_ms`."""
    length_ms = LENGTH_MS.get(quota.per)
    if length_ms is not None:
        start_ms = now_ms - now_ms % length_ms
        return start_ms, start_ms + length_ms
    zone = zoneinfo.ZoneInfo(quota.zone)
    day = datetime.datetime.fromtimestamp(now_ms / 1000, zone).date()
    if quota.per == "day":
        return midnight_ms(day, zone), midnight_ms(day + datetime.timedelta(days=1), zone)
    first = day.replace(day=1)
    following = (first + datetime.timedelta(days=32)).replace(day=1)
    return midnight_ms(first, zone), midnight_ms(following, zone)


def midnight_ms(day: datetime.date, zone: zoneinfo.ZoneInfo) -> int:
    """Unix ms at which `day` begins in `zone`: days of 23 and 25 hours come out right."""
    return int(datetime.datetime.combine(day, datetime.time.min, zone).timestamp()) * 1000


def refusal_of(quota: Quota) -> FaultKind:
    """How a vendor refuses what is over `quota`: its own word, else by what is counted."""
    if quota.refusal is not None:
        return quota.refusal
    long = quota.per in {"day", "month"}
    if quota.of == "tokens":
        return FaultKind.TOKENS_DAY_LIMIT if long else FaultKind.TOKENS_LIMIT
    return FaultKind.DAY_LIMIT if long else FaultKind.RATE_LIMIT


@dataclass(slots=True)
class Counter:
    """One quota and its use in the current window."""

    quota: Quota
    start_ms: int = 0
    end_ms: int = 0
    used: int = 0

    def roll(self, now_ms: int) -> None:
        """Begins a new window when the old one is over."""
        if now_ms >= self.end_ms:
            self.start_ms, self.end_ms = window_of(self.quota, now_ms)
            self.used = 0

    @property
    def full(self) -> bool:
        """Whether nothing more is let in."""
        return self.used >= self.quota.limit


class Counters:
    """The quotas of a model or an account."""

    __slots__ = ("counters",)

    def __init__(self, quotas: Iterable[Quota], before: Counters | None = None) -> None:
        """Takes over what was used before, for quotas that count the same thing."""
        old = (
            {(c.quota.of, c.quota.per, c.quota.zone): c for c in before.counters} if before else {}
        )
        self.counters: list[Counter] = []
        for quota in quotas:
            counter = Counter(quota)
            kept = old.get((quota.of, quota.per, quota.zone))
            if kept is not None:
                counter.start_ms, counter.end_ms = kept.start_ms, kept.end_ms
                counter.used = kept.used
            self.counters.append(counter)

    def first_full(self, now_ms: int) -> Counter | None:
        """The first quota with no room for a request, if any."""
        for counter in self.counters:
            counter.roll(now_ms)
            if counter.full:
                return counter
        return None

    def add(self, of: str, amount: int, now_ms: int) -> None:
        """Books `amount` requests or tokens."""
        for counter in self.counters:
            if counter.quota.of == of:
                counter.roll(now_ms)
                counter.used += amount
