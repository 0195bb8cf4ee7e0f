"""Days and months in a zone, and which there are."""

from datetime import UTC, datetime

import pytest

from escalade_server.engine.usage import KEPT_DAYS, NoSuchPeriodError
from escalade_server.report.period import month_of, span, today

NOW_MS = int(datetime(2026, 11, 23, 18, 0, tzinfo=UTC).timestamp()) * 1_000
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("", "2026-11-01", "2026-12-01"),
        ("2026-11", "2026-11-01", "2026-12-01"),
        ("2025-12", "2025-12-01", "2026-01-01"),
        ("2026-02", "2026-02-01", "2026-03-01"),
        ("2026-11-23", "2026-11-23", "2026-11-24"),
        ("2026-10-31", "2026-10-31", "2026-11-01"),
    ],
)
def test_periods_are_read(period: str, begin: str, end: str) -> None:
    found = span(period, NOW_MS, "UTC")
    assert (found.begin, found.end) == (begin, end)


@pytest.mark.parametrize(
    ("period", "why"),
    [
        ("yesterday", "no day or month: write 2026-11-23 or 2026-11"),
        ("2026-13", "no day or month"),
        ("2026-02-30", "no day or month"),
        ("20261101", "no day or month"),
        ("2026-W10", "no day or month"),
        ("9999-12", "no day or month"),
        ("2026-11-24", "has not begun"),
        ("2026-12", "has not begun"),
        ("2024-01", "nothing is kept"),
    ],
)
def test_other_periods_are_refused_with_the_mend(period: str, why: str) -> None:
    with pytest.raises(NoSuchPeriodError, match=why):
        span(period, NOW_MS, "UTC")


def test_the_day_before_the_first_that_is_kept_is_refused() -> None:
    day_ms = 24 * HOUR_MS
    first = today(NOW_MS - (KEPT_DAYS - 1) * day_ms, "UTC").isoformat()
    assert span(first, NOW_MS, "UTC").begin == first
    with pytest.raises(NoSuchPeriodError):
        span(today(NOW_MS - (KEPT_DAYS + 1) * day_ms, "UTC").isoformat(), NOW_MS, "UTC")


@pytest.mark.parametrize(("day", "hours"), [("2026-03-08", 23), ("2026-11-01", 25)])
def test_days_of_a_changed_clock_have_their_true_length(day: str, hours: int) -> None:
    """T3."""
    found = span(day, NOW_MS, "America/Los_Angeles")
    assert found.ends_ms - found.begins_ms == hours * HOUR_MS


def test_the_date_is_that_of_the_zone() -> None:
    assert today(NOW_MS, "Asia/Tokyo").isoformat() == "2026-11-24"
    assert span("2026-11-24", NOW_MS, "Asia/Tokyo").begin == "2026-11-24"


def test_the_month_around_a_day() -> None:
    assert [day.isoformat() for day in month_of("2026-12-31")] == ["2026-12-01", "2027-01-01"]
