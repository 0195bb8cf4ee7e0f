from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.catalog import Counter, CounterScope, Period, Unit
from escalade_server.engine.calendar import Calendar

PACIFIC = "America/Los_Angeles"


def counter(period: Period, zone: str = "UTC", reset_day: int = 1) -> Counter:
    return Counter("k", Unit.REQUESTS, period, 1, CounterScope.MODEL, "", zone, reset_day)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


@pytest.mark.fault("T3")
@pytest.mark.parametrize(
    ("now", "zone", "id_", "starts", "ends"),
    [
        ("2026-11-01T07:30", PACIFIC, "2026-11-01", "2026-11-01T07:00", "2026-11-02T08:00"),
        ("2026-11-01T06:59", PACIFIC, "2026-10-31", "2026-10-31T07:00", "2026-11-01T07:00"),
        ("2026-03-08T08:00", PACIFIC, "2026-03-08", "2026-03-08T08:00", "2026-03-09T07:00"),
        ("2027-03-14T20:00", PACIFIC, "2027-03-14", "2027-03-14T08:00", "2027-03-15T07:00"),
        ("2026-06-15T23:59:59", "UTC", "2026-06-15", "2026-06-15T00:00", "2026-06-16T00:00"),
        # Clocks skip midnight: the day begins at one o'clock, which is the same instant.
        ("2026-04-23T22:00", "Africa/Cairo", "2026-04-24", "2026-04-23T22:00", "2026-04-24T21:00"),
        # A whole day is skipped at the date line.
        ("2011-12-30T10:00", "Pacific/Apia", "2011-12-31", "2011-12-30T10:00", "2011-12-31T10:00"),
    ],
)
def test_days(now: str, zone: str, id_: str, starts: str, ends: str) -> None:
    assert Calendar()(counter(Period.DAY, zone), ms(now)) == (id_, ms(starts), ms(ends))


@pytest.mark.fault("T7")
@pytest.mark.parametrize(
    ("now", "reset_day", "starts", "ends"),
    [
        ("2026-02-28T12:00", 1, "2026-02-01", "2026-03-01"),
        ("2026-01-31T23:59", 31, "2026-01-31", "2026-02-28"),
        ("2026-02-28T00:00", 31, "2026-02-28", "2026-03-31"),
        ("2026-03-30T00:00", 31, "2026-02-28", "2026-03-31"),
        ("2028-02-29T00:00", 29, "2028-02-29", "2028-03-29"),
        ("2026-12-14T00:00", 14, "2026-12-14", "2027-01-14"),
        ("2027-01-13T23:59", 14, "2026-12-14", "2027-01-14"),
    ],
)
def test_months(now: str, reset_day: int, starts: str, ends: str) -> None:
    found = Calendar()(counter(Period.MONTH, reset_day=reset_day), ms(now))
    assert found == (starts, ms(starts), ms(ends))


def test_weeks_begin_on_monday() -> None:
    found = Calendar()(counter(Period.WEEK), ms("2026-11-01T12:00"))
    assert found == ("2026-10-26", ms("2026-10-26"), ms("2026-11-02"))


@given(
    st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH]),
    st.sampled_from([PACIFIC, "UTC", "Europe/Berlin", "Africa/Cairo", "America/Havana"]),
    st.integers(1, 31),
    st.integers(ms("2020-01-01"), ms("2036-01-01")),
)
def test_windows_follow_each_other_without_gap(
    period: Period, zone: str, reset_day: int, now_ms: int
) -> None:
    calendar, of = Calendar(), counter(period, zone, reset_day)
    window = calendar(of, now_ms)
    assert window.starts_ms <= now_ms < window.ends_ms
    assert calendar(of, window.ends_ms - 1) == window
    following = calendar(of, window.ends_ms)
    assert following.starts_ms == window.ends_ms
    assert following.id > window.id
    longest = {Period.DAY: 25, Period.WEEK: 7 * 24 + 1, Period.MONTH: 31 * 24 + 1}[period]
    assert window.ends_ms - window.starts_ms <= longest * timedelta(hours=1) // timedelta(
        milliseconds=1
    )


def test_a_zone_that_does_not_exist_is_named() -> None:
    for zone in ("America/Los_Angles", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="no time zone"):
            Calendar()(counter(Period.DAY, zone), 0)
