"""The report of a day or a month: sums by layer, model, agent and type of task (R15).

Fees fall on the first day of each calendar month, so that days add up to their month. They, the
plan and the forecast are of the whole service: reports of one agent are without fees.

The forecast of a month's cost is::

    fees + charged so far + (charged in the last 7 days / their length) x what is left of it

where "the last 7 days" reach from the midnight seven days ago, or of the first day with any use
if that is later, until now, and count as one day at least.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta

from escalade_server.core.catalog import Billing, Catalog
from escalade_server.core.failure import DAY_MS
from escalade_server.engine.ports import Clock
from escalade_server.engine.usage import (
    Line,
    Span,
    UsageReport,
    UsageRow,
    UsageStore,
    UsageTables,
    Use,
)
from escalade_server.report import period as periods

RECENT_DAYS = 7
FINAL_MS = DAY_MS
"""How long after a day an attempt of it may still be corrected (R32)."""


class UsageReports:
    """Makes reports of what a store has counted."""

    def __init__(
        self, store: UsageStore, clock: Clock, catalog: Callable[[], Catalog], zone: str
    ) -> None:
        """``catalog`` answers the strategy in force; days begin and end in ``zone``."""
        self._store, self._clock, self._catalog = store, clock, catalog
        self.zone = zone

    async def report(self, period: str, agent: str | None) -> UsageReport:
        """Report a day, a month, or for the empty period the current month.

        Raises:
            NoSuchPeriodError: there is nothing to report on.
            StoreError: what is kept cannot be read.
        """
        now_ms, zone = self._clock.now_ms(), self.zone
        span = periods.span(period, now_ms, zone)
        tables = await self._store.usage(span.begin, span.end, agent)
        begin, end = periods.month_of(span.begin)
        month = periods.between(begin, end, zone)
        forecast = None
        if now_ms < month.ends_ms:
            recent = periods.today(now_ms, zone) - timedelta(days=RECENT_DAYS)
            since = min(begin, recent).isoformat()
            known = await self._store.usage(since, month.end, agent)
            forecast = forecast_nanos(known, month, now_ms, zone)
            forecast += 0 if agent is not None else fees(self._catalog())[0]
        return make(self._catalog(), tables, span, now_ms, zone, agent=agent, forecast=forecast)


def make(
    catalog: Catalog,
    tables: UsageTables,
    span: Span,
    now_ms: int,
    zone: str,
    *,
    agent: str | None = None,
    forecast: int | None = None,
) -> UsageReport:
    """Put a report together; ``forecast`` is that of the month around it."""
    rows, total = tables.rows, Use()
    for row in rows:
        total = total.plus(row.use)
    is_month = _is_month(span)
    flat, plan = fees(catalog)
    known = dict(tables.baselines)
    first = [f"{model.provider}/{model.id}" for model in catalog.baselines]
    names = [*first, *sorted(known.keys() - set(first))]
    return UsageReport(
        period=span.begin[:7] if is_month else span.begin,
        begins_ms=span.begins_ms,
        ends_ms=span.ends_ms,
        time_zone=zone,
        complete=now_ms >= span.ends_ms + FINAL_MS,
        total=total,
        layers=_lines((row.layer, row.use) for row in rows if row.model),
        models=_lines((model_name(row), row.use) for row in rows if row.model),
        agents=_lines((row.agent, row.use) for row in rows),
        task_types=_lines((row.task_type, row.use) for row in rows),
        days=_days(tables, span) if is_month else (),
        changes=tables.changes,
        fees_nanos=flat if agent is None and span.begin.endswith("-01") else 0,
        baselines=tuple((name, known[name]) for name in names if name in known),
        forecast_nanos=forecast,
        plan_nanos=flat + plan if plan and agent is None else 0,
        tracks_tokens=catalog.rules.track_tokens,
        agent=agent,
    )


def forecast_nanos(known: UsageTables, month: Span, now_ms: int, zone: str) -> int:
    """Forecast what the month will be charged, without fees (see the top of the file)."""
    recent = periods.today(now_ms, zone) - timedelta(days=RECENT_DAYS)
    since = max(recent.isoformat(), known.first_day)
    spent = _charged((day, use) for day, use in known.days if day >= month.begin)
    lately = _charged((day, use) for day, use in known.days if day >= since)
    began_ms = periods.midnight_ms(date.fromisoformat(since), zone)
    return spent + lately * max(month.ends_ms - now_ms, 0) // max(now_ms - began_ms, DAY_MS)


def fees(catalog: Catalog) -> tuple[int, int]:
    """Answer the flat fees of a month, and what is planned to be spent on metered layers."""
    flat = plan = 0
    for layer in catalog.layers:
        if any(model.billing is Billing.SUBSCRIPTION for model in layer.models):
            flat += layer.fee_nanos
        elif layer.is_paid:
            plan += layer.fee_nanos
    return flat, plan


def model_name(row: UsageRow) -> str:
    """Name a model without its account, as reports do: ``provider/model``."""
    provider, _account, model = row.model.split("/", 2)
    return f"{provider}/{model}"


def _is_month(span: Span) -> bool:
    return date.fromisoformat(span.end) - date.fromisoformat(span.begin) > timedelta(days=1)


def _charged(days: Iterable[tuple[str, Use]]) -> int:
    return sum(use.charged_nanos for _, use in days)


def _lines(uses: Iterable[tuple[str, Use]]) -> tuple[Line, ...]:
    """Sum up under each name; the dearest first."""
    sums: dict[str, Use] = {}
    for name, use in uses:
        sums[name] = sums.get(name, Use()).plus(use)
    ordered: Sequence[Line] = [Line(name, use) for name, use in sums.items()]
    return tuple(
        sorted(ordered, key=lambda line: (-line.use.list_nanos, -line.use.tasks, line.name))
    )


def _days(tables: UsageTables, span: Span) -> tuple[Line, ...]:
    """List every day of the span, also those without use."""
    used = dict(tables.days)
    begin, end = date.fromisoformat(span.begin), date.fromisoformat(span.end)
    days = [(begin + timedelta(days=n)).isoformat() for n in range((end - begin).days)]
    return tuple(Line(day, used.get(day, Use())) for day in days)
