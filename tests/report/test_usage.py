"""What a report says: sums, fees once a month, baselines, and the forecast by its formula (R15)."""

from dataclasses import replace
from datetime import date

import pytest

from escalade_server.core.failure import DAY_MS
from escalade_server.core.rules import Rules
from escalade_server.engine.usage import UsageReport, UsageRow, UsageTables, Use
from escalade_server.report import period as periods
from escalade_server.report.usage import UsageReports, fees, forecast_nanos, make
from tests.report.sample import FEES, NOW_MS, PLANNED, USD, ZONE, catalog, report, tables


def of(**uses: Use) -> UsageTables:
    """What is kept of days, written d23=..."""
    days = tuple((f"2026-11-{name[1:]}", use) for name, use in sorted(uses.items()))
    return UsageTables(days=days, first_day=days[0][0] if days else "")


NOVEMBER = periods.between(date(2026, 11, 1), date(2026, 12, 1), ZONE)
LEFT_MS = NOVEMBER.ends_ms - NOW_MS
SINCE_16_MS = NOW_MS - periods.midnight_ms(date(2026, 11, 16), ZONE)


def test_every_table_adds_up_to_the_total() -> None:
    found = report()
    for lines in (found.agents, found.task_types, found.days):
        total = Use()
        for line in lines:
            total = total.plus(line.use)
        assert total == found.total
    for lines in (found.layers, found.models):
        assert sum(line.use.list_nanos for line in lines) == found.total.list_nanos
        assert sum(line.use.tasks for line in lines) == found.total.tasks - found.total.failed
        assert all(line.name for line in lines)
    assert [line.name for line in found.days][0:30:29] == ["2026-11-01", "2026-11-30"]


def test_days_add_up_to_their_month_fees_and_all() -> None:
    whole = report()
    days = [report(f"2026-11-{day:02}") for day in range(1, 24)]
    total = Use()
    for day in days:
        total = total.plus(day.total)
    assert total == whole.total
    assert [day.fees_nanos for day in days] == [FEES] + [0] * 22
    assert whole.fees_nanos == FEES


def test_accounts_of_a_provider_are_one_model() -> None:
    rows = tuple(
        UsageRow("l", f"p/{account}/vendor/m", "", "t", Use(requests=1, list_nanos=5))
        for account in ("work", "spare")
    )
    found = make(catalog(), UsageTables(rows), NOVEMBER, NOW_MS, ZONE)
    assert [(line.name, line.use.requests) for line in found.models] == [("p/vendor/m", 2)]


def test_the_strategys_baseline_comes_first_then_what_was_kept_of_others() -> None:
    known = UsageTables(baselines=(("a/gone", 1), ("nano-gpt/glm-5", 2), ("openai/gpt-4o", 3)))
    found = make(catalog(), known, NOVEMBER, NOW_MS, ZONE)
    assert found.baselines == (("openai/gpt-4o", 3), ("nano-gpt/glm-5", 2), ("a/gone", 1))


def test_fees_are_flat_and_plans_are_not() -> None:
    assert fees(catalog()) == (FEES, PLANNED)
    assert report().plan_nanos == FEES + PLANNED
    alone = report(agent="ci-bot")
    assert (alone.fees_nanos, alone.plan_nanos) == (0, 0)


def test_it_is_final_when_no_report_can_come_any_more() -> None:
    """R32: an attempt of the last moment may be corrected for a day."""
    span = periods.span("2026-11-20", NOW_MS, ZONE)
    for at_ms, complete in ((span.ends_ms + DAY_MS - 1, False), (span.ends_ms + DAY_MS, True)):
        assert make(catalog(), UsageTables(), span, at_ms, ZONE).complete is complete


def test_the_forecast_is_what_was_charged_and_the_mean_of_seven_days_for_the_rest() -> None:
    early, late = Use(charged_nanos=50 * USD), Use(charged_nanos=14 * USD)
    known = of(d02=early, d20=late)
    more = 14 * USD * LEFT_MS // SINCE_16_MS
    assert forecast_nanos(known, NOVEMBER, NOW_MS, ZONE) == 64 * USD + more


def test_a_young_ledger_is_forecast_from_its_first_day() -> None:
    known = of(d22=Use(charged_nanos=3 * USD))
    began_ms = periods.midnight_ms(date(2026, 11, 22), ZONE)
    more = 3 * USD * LEFT_MS // (NOW_MS - began_ms)
    assert forecast_nanos(known, NOVEMBER, NOW_MS, ZONE) == 3 * USD + more


def test_the_first_hours_count_as_a_day() -> None:
    known = of(d23=Use(charged_nanos=USD))
    assert forecast_nanos(known, NOVEMBER, NOW_MS, ZONE) == USD + USD * LEFT_MS // DAY_MS


def test_last_months_days_count_for_the_mean_and_not_for_what_was_charged() -> None:
    now_ms = periods.midnight_ms(date(2026, 11, 2), ZONE)
    known = UsageTables(days=(("2026-10-30", Use(charged_nanos=7 * USD)),), first_day="2026-01-01")
    assert forecast_nanos(known, NOVEMBER, now_ms, ZONE) == 7 * USD * 29 // 7


class Shelf:
    """A store that answers from the sample, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []

    async def usage(self, begin: str, end: str, agent: str | None = None) -> UsageTables:
        self.asked.append((begin, end, agent))
        return tables(date.fromisoformat(begin), date.fromisoformat(end))

    async def keep_report(self, day: str, report: str, now_ms: int) -> bool:
        raise AssertionError((day, report, now_ms))

    async def unreported(self, begin: str, end: str) -> tuple[str, ...]:
        raise AssertionError((begin, end))


class Clock:
    def now_ms(self) -> int:
        return NOW_MS


async def made(period: str = "", agent: str | None = None) -> tuple[UsageReport, Shelf]:
    shelf = Shelf()
    reports = UsageReports(shelf, Clock(), catalog, ZONE)
    return await reports.report(period, agent), shelf


async def test_the_current_month_is_the_default() -> None:
    found, shelf = await made()
    assert found == report()
    assert shelf.asked == [("2026-11-01", "2026-12-01", None)] * 2


async def test_an_agents_forecast_is_without_fees() -> None:
    everyone, _ = await made()
    alone, shelf = await made(agent="ci-bot")
    assert shelf.asked[0] == ("2026-11-01", "2026-12-01", "ci-bot")
    assert everyone.forecast_nanos is not None
    assert alone.forecast_nanos == everyone.forecast_nanos - FEES


async def test_a_month_that_is_over_has_no_forecast() -> None:
    found, shelf = await made("2026-10")
    assert found.forecast_nanos is None
    assert len(shelf.asked) == 1


@pytest.mark.parametrize("tracked", [True, False])
def test_tokens_can_be_left_out(tracked: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """R7: the switch drops columns of reports, nothing that is counted."""
    quiet = replace(catalog(), rules=Rules(track_tokens=tracked))
    assert make(quiet, UsageTables(), NOVEMBER, NOW_MS, ZONE).tracks_tokens is tracked
