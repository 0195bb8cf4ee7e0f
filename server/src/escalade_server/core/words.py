"""Figures and counters in words, the same everywhere a person reads them."""

from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.money import NANOS_PER_USD

_THIS = {
    Period.SECOND: "in this second",
    Period.MINUTE: "in this minute",
    Period.HOUR: "in this hour",
    Period.DAY: "today",
    Period.WEEK: "this week",
    Period.MONTH: "this month",
}


def usd(nanos: int) -> str:
    """Write nano-dollars as dollars: cents for a dollar and more, four places below."""
    if nanos >= NANOS_PER_USD or not nanos:
        return f"${nanos / NANOS_PER_USD:,.2f}"
    return f"${nanos / NANOS_PER_USD:.4f}" if nanos >= 50_000 else f"${nanos / NANOS_PER_USD:.7f}"


def points(micro: int) -> str:
    """Write micro-points as points with one decimal: the score people read."""
    return f"{micro / 1_000_000:.1f}"


def used(counter: Counter, total: int) -> str:
    """Say how much of a counter is used: ``50 of 50 requests today``."""
    if counter.unit is Unit.NANOS:
        return f"{usd(total)} of {usd(counter.limit)} {_THIS[counter.period]}"
    return f"{total:,} of {counter.limit:,} {counter.unit.value} {_THIS[counter.period]}"
