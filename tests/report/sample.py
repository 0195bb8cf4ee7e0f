"""A month of three layers, made up by rule, so that every figure of it can be worked out.

``python -m tests.report.sample`` writes the golden files anew: read the difference before.
"""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from escalade_server.core.catalog import Billing, Catalog
from escalade_server.engine.usage import ChangeCount, UsageReport, UsageRow, UsageTables, Use
from escalade_server.report import period as periods
from escalade_server.report.html import as_html
from escalade_server.report.text import as_csv, as_json
from escalade_server.report.usage import forecast_nanos, make
from tests.core import builders

GOLDEN = Path(__file__).with_name("golden")
NOW_MS = int(datetime(2026, 11, 23, 18, 0, tzinfo=UTC).timestamp()) * 1_000
USD = 1_000_000_000
ZONE = "UTC"
FREE = ("free_primary", "openai/default/gpt-4o-mini")
PLAN = ("budget_subscription", "nano-gpt/default/glm-5")
BEST = ("premium_reserve", "openai/work/gpt-4o")
FEES = 1 * USD
PLANNED = 3 * USD
EACH = (300_000, 900_000, 19_000_000)
"""What a task is worth on each layer's model."""


def catalog() -> Catalog:
    """Three layers: a free one, a subscription for 1 USD, a metered one planned at 3 USD."""
    made = builders.catalog(
        (FREE[0], (builders.model("openai/gpt-4o-mini"),), ()),
        (PLAN[0], (builders.model("nano-gpt/glm-5", billing=Billing.SUBSCRIPTION),), ()),
        (BEST[0], (builders.model("openai/gpt-4o", billing=Billing.METERED),), ()),
    )
    free, plan, best = made.layers
    paid = (free, replace(plan, fee_nanos=FEES), replace(best, fee_nanos=PLANNED))
    compared = (best.models[0], plan.models[0])
    return replace(made, layers=paid, baseline=best.models[0], baselines=compared)


def use_of(number: int, place: int) -> Use:
    """The use of a day (its number in the month) in a layer (0 is the first)."""
    tasks = max((number * 7 + place * 5) % 23 - 6 * place, 0)
    nanos = tasks * EACH[place]
    return Use(
        requests=tasks + tasks // 9,
        input_tokens=tasks * 3_700,
        cached_tokens=tasks * 800,
        output_tokens=tasks * 540,
        reasoning_tokens=tasks * 90,
        list_nanos=nanos,
        charged_nanos=nanos if place == 2 else 0,
        estimated_nanos=nanos // 50,
        tasks=tasks,
        fallbacks=tasks // 11,
        waits=tasks // 20,
        waited_ms=tasks // 20 * 90_000,
    )


def tables(begin: date, end: date) -> UsageTables:
    """What a store would answer of these days."""
    rows: dict[tuple[str, str, str, str], Use] = {}
    days = []
    for number in range((end - begin).days):
        day = begin + timedelta(days=number)
        if day > date(2026, 11, 23):
            break
        total = Use()
        for place, (layer, key) in enumerate((FREE, PLAN, BEST)):
            use = use_of(day.day, place)
            agent = "ci-bot" if day.day % 3 else "=review&<b>"
            kind = ("parse", "debug", "refactor")[(day.day + place) % 3]
            at = (layer, key, agent, kind)
            rows[at] = rows.get(at, Use()).plus(use)
            total = total.plus(use)
        lost = Use(tasks=1, failed=1) if day.day % 8 == 0 else Use()
        if lost.tasks:
            rows["", "", "ci-bot", "debug"] = rows.get(("", "", "ci-bot", "debug"), Use()).plus(
                lost
            )
        days.append((day.isoformat(), total.plus(lost)))
    changes = (
        ChangeCount("free_primary", "budget_subscription", "rate_limit", 61),
        ChangeCount("free_primary", "premium_reserve", "complexity", 34),
        ChangeCount("budget_subscription", "premium_reserve", "outage", 7),
        ChangeCount("premium_reserve", "budget_subscription", "downgrade", 2),
    )
    answered = sum(use.tasks - use.failed for _, use in days)
    baselines = (("nano-gpt/glm-5", answered * EACH[1]), ("openai/gpt-4o", answered * EACH[2]))
    return UsageTables(
        tuple(UsageRow(*at, use) for at, use in rows.items()), tuple(days), changes, baselines,
        "2026-10-05",
    )  # fmt: skip


def report(period: str = "2026-11", agent: str | None = None) -> UsageReport:
    """The report of a month or a day of it, as of the 23rd, 18:00."""
    span = periods.span(period, NOW_MS, ZONE)
    begin, end = date.fromisoformat(span.begin), date.fromisoformat(span.end)
    month = periods.between(*periods.month_of(span.begin), ZONE)
    known = tables(date(2026, 11, 1), date(2026, 12, 1))
    forecast = forecast_nanos(known, month, NOW_MS, ZONE) + FEES
    return make(catalog(), tables(begin, end), span, NOW_MS, ZONE, agent=agent, forecast=forecast)


def written() -> dict[str, str]:
    """The files of the sample, as they are made today."""
    month = report()
    data = json.dumps(as_json(month), indent=1, ensure_ascii=False) + "\n"
    return {"report.html": as_html(month, NOW_MS), "report.csv": as_csv(month), "report.json": data}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in written().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
