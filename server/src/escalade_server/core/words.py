"""Figures and counters in words, the same everywhere a person reads them."""

from escalade_server.core.catalog import DEFAULT_ACCOUNT, Counter, Model, Period, Unit
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


def name(model: Model) -> str:
    """Name a model as the file does, with its account where the provider has several."""
    return f"{model.id}{on_account(model)}"


def on_account(model: Model) -> str:
    """Say on which account a model is, where the provider has several."""
    return "" if model.account == DEFAULT_ACCOUNT else f" ({model.account})"


def used(counter: Counter, total: int) -> str:
    """Say how much of a counter is used: ``50 of 50 requests today``."""
    if counter.unit is Unit.NANOS:
        return f"{usd(total)} of {usd(counter.limit)} {_THIS[counter.period]}"
    return f"{total:,} of {counter.limit:,} {counter.unit.value} {_THIS[counter.period]}"
