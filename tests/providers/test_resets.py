"""Instants in every form, held to [now, now + 32 days] (provider-signals, parsing rules 3, 4)."""

from datetime import UTC, datetime

import pytest

from escalade_server.providers.resets import (
    AHEAD_MS_MAX,
    ResetHeader,
    Unit,
    Window,
    again_in_ms,
    header_ms,
    retry_after_ms,
    stated_ms,
    window_end_ms,
)

NOW_MS = 1_795_586_400_000  # Wednesday 2026-11-25, 06:00 UTC
LAST = AHEAD_MS_MAX


@pytest.mark.fault("T10")
@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("20", 20_000),
        ("0", 0),
        ("1.5", 1_500),
        (" 7 ", 7_000),
        ("-3", 0),
        ("-inf", 0),
        ("inf", LAST),
        ("1e12", LAST),
        ("1000000000000", LAST),
        ("9" * 400, LAST),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("46s", 46_000),
        ("Wed, 25 Nov 2026 06:01:00 GMT", 60_000),
        ("Wed, 25 Nov 2026 06:01:00 -0000", 60_000),
        ("Wed, 25 Nov 2026 07:01:00 +0100", 60_000),
        ("Wed, 25 Nov 2020 06:01:00 GMT", 0),
        ("Wed, 25 Nov 9999 06:01:00 GMT", LAST),
        ("Wed, 99 Nov 2026 06:01:00 GMT", None),
        ("2026-11-25", None),
    ],
)
def test_retry_after(text: str, offset: int | None) -> None:
    expected = None if offset is None else NOW_MS + offset
    assert retry_after_ms({"retry-after": text}, NOW_MS) == expected


def test_milliseconds_come_first_unless_they_are_nonsense() -> None:
    both = {"retry-after-ms": "250", "retry-after": "20"}
    assert retry_after_ms(both, NOW_MS) == NOW_MS + 250
    assert retry_after_ms({**both, "retry-after-ms": "nan"}, NOW_MS) == NOW_MS + 20_000
    assert retry_after_ms({}, NOW_MS) is None


@pytest.mark.parametrize(
    ("unit", "text", "offset"),
    [
        (Unit.DURATION, "12ms", 12),
        (Unit.DURATION, "6m0s", 360_000),
        (Unit.DURATION, "1h2m3.5s", 3_723_500),
        (Unit.DURATION, "1d", 86_400_000),
        (Unit.DURATION, "31", None),
        (Unit.DURATION, "5y", None),
        (Unit.DURATION, "999999999999d", None),
        (Unit.SECONDS, "31", 31_000),
        (Unit.SECONDS, "31s", None),
        (Unit.SECONDS, "-31", 0),
        (Unit.EPOCH_MS, str(NOW_MS + 5), 5),
        (Unit.EPOCH_MS, str(NOW_MS * 1_000), None),
        (Unit.EPOCH_MS, "30", 0),
        (Unit.EPOCH_MS, "", None),
        (Unit.RFC_3339, "2026-11-25T06:00:09Z", 9_000),
        (Unit.RFC_3339, "2026-11-25T06:00:09+00:00", 9_000),
        (Unit.RFC_3339, "2026-11-25T06:00:09", 9_000),
        (Unit.RFC_3339, "2027-11-25T06:00:09Z", None),
        (Unit.RFC_3339, "0001-01-01T00:00:00+14:00", 0),
        (Unit.RFC_3339, "9", None),
        (Unit.ANY, "9", 9_000),
        (Unit.ANY, "9s", 9_000),
        (Unit.ANY, str(NOW_MS // 1_000 + 9), 9_000),
        (Unit.ANY, str(NOW_MS + 9_000), 9_000),
        (Unit.ANY, "2026-11-25T06:00:09Z", 9_000),
        (Unit.ANY, "nan", None),
        (Unit.ANY, "inf", None),
    ],
)
def test_reset_headers(unit: Unit, text: str, offset: int | None) -> None:
    expected = None if offset is None else NOW_MS + offset
    assert header_ms({"r": text}, (ResetHeader("r", "left", unit),), NOW_MS) == expected


def test_the_limit_that_is_used_up_decides() -> None:
    headers = tuple(ResetHeader(f"r{n}", f"left{n}", Unit.SECONDS) for n in (1, 2, 3))
    told = {"r1": "10", "r2": "20", "r3": "30"}
    assert header_ms(told, headers, NOW_MS) == NOW_MS + 10_000
    assert header_ms({**told, "left2": "0"}, headers, NOW_MS) == NOW_MS + 20_000
    assert header_ms({**told, "left2": "0", "left3": "-1"}, headers, NOW_MS) == NOW_MS + 30_000
    assert header_ms({**told, "left1": "5"}, headers, NOW_MS) == NOW_MS + 10_000
    assert header_ms({}, headers, NOW_MS) is None


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("limit reached, resets at 2026-11-25T06:00:05Z (2056)", 5_000),
        ("It RESETS AT 2026-11-25 06:00:05", 5_000),
        ("access resumes on 2026-11-25T06:01Z.", 60_000),
        ("resets at 2026-11-25T14:00:05+08:00", 5_000),
        ("resets at 2020-11-25T06:00:05Z", 0),
        ("resets at 2126-11-25T06:00:05Z", LAST),
        ("You will regain access on 2026-11-25 at 06:02 UTC.", 120_000),
        ("resets at 2026-13-25T06:00:05Z", None),
        ("resets at noon", None),
        ("", None),
    ],
)
def test_a_date_in_a_text(text: str, offset: int | None) -> None:
    assert stated_ms(text, NOW_MS) == (None if offset is None else NOW_MS + offset)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("Please try again in 7m12s. Visit", 432_000),
        ("please Try again in 8.64s.", 8_640),
        ("try again in 20ms", 20),
        ("try again in a while", None),
        ("try again in 5", None),
    ],
)
def test_a_wait_in_a_text(text: str, offset: int | None) -> None:
    assert again_in_ms(text, NOW_MS) == (None if offset is None else NOW_MS + offset)


@pytest.mark.fault("T3")
@pytest.mark.parametrize(
    ("window", "now", "end"),
    [
        (Window.DAY, "2026-11-25T06:00", "2026-11-26T00:00"),
        (Window.DAY, "2026-11-25T00:00", "2026-11-26T00:00"),
        (Window.WEEK, "2026-11-25T06:00", "2026-11-30T00:00"),
        (Window.WEEK, "2026-11-30T00:00", "2026-12-07T00:00"),
        (Window.WEEK, "2026-11-29T23:59", "2026-11-30T00:00"),
        (Window.MONTH, "2026-11-25T06:00", "2026-12-01T00:00"),
        (Window.MONTH, "2026-12-31T23:59", "2027-01-01T00:00"),
        (Window.MONTH, "2028-02-29T12:00", "2028-03-01T00:00"),
        (Window.PACIFIC_DAY, "2026-11-25T06:00", "2026-11-25T08:00"),
        (Window.PACIFIC_DAY, "2026-11-25T08:00", "2026-11-26T08:00"),
        (Window.PACIFIC_DAY, "2026-07-01T06:59", "2026-07-01T07:00"),
        (Window.PACIFIC_DAY, "2026-11-01T07:00", "2026-11-02T08:00"),  # a day of 25 hours
        (Window.PACIFIC_DAY, "2027-03-14T12:00", "2027-03-15T07:00"),  # and one of 23
        (Window.TEN_MINUTES, "2026-11-25T06:00", "2026-11-25T06:10"),
    ],
)
def test_the_end_of_a_calendar_window(window: Window, now: str, end: str) -> None:
    now_ms, end_ms = (
        int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000
        for text in (now, end)
    )
    assert window_end_ms(window, now_ms) == end_ms
    assert window_end_ms(Window.NONE, now_ms) is None
