"""When a provider will answer again: from headers and text to one instant in Unix ms.

Units differ by provider (provider-signals, parsing rule 4); whatever is read is held to
[now, now + 32 days] (T10). Nothing here raises.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final
from zoneinfo import ZoneInfo

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
AHEAD_MS_MAX: Final = 32 * DAY_MS
PAST_MS_MAX: Final = 5 * MINUTE_MS
"""So far the clocks of two machines may be apart."""

_PACIFIC: Final = ZoneInfo("America/Los_Angeles")
_UNIT_MS: Final = {"us": 0.001, "ms": 1, "s": 1_000, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_STEP: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(us|ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_STEP.pattern})+")
_ISO: Final = (
    r"(\d{4}-\d\d-\d\d(?:[Tt ]| at )\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:[Zz]|[+-]\d\d:?\d\d)?)"
)
_RESETS_AT: Final = re.compile(
    rf"\b(?:resets?|available|resumes?|again|access)\s+(?:at|on)\s+{_ISO}", re.IGNORECASE
)
_AGAIN_IN: Final = re.compile(rf"\btry again in ({_DURATION.pattern})\b", re.IGNORECASE)
# An epoch in ms is beyond this, one in seconds is below it, a wait in seconds far below.
_EPOCH_MS_MIN: Final = 1e11
_EPOCH_S_MIN: Final = 1e8


class Unit(Enum):
    """How a provider writes a reset."""

    DURATION = "duration"
    SECONDS = "seconds"
    EPOCH_MS = "epoch_ms"
    RFC_3339 = "rfc_3339"
    ANY = "any"
    """Of a provider we do not know: by its looks."""


class Window(Enum):
    """The window that a signal names; a calendar one ends in UTC unless it says otherwise."""

    NONE = "none"
    DAY = "day"
    WEEK = "week"
    """From Monday."""
    MONTH = "month"
    PACIFIC_DAY = "pacific_day"
    """Google's: it ends at midnight in California, summer and winter."""
    TEN_MINUTES = "ten_minutes"
    """Rolling, so at most this long from now."""


class Clamped(int):
    """An instant that cannot be what was meant, held to the bounds (T10)."""


@dataclass(frozen=True, slots=True)
class ResetHeader:
    """A header with an instant, and the one that says how much is left until then."""

    reset: str
    remaining: str
    unit: Unit


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """The instant of ``retry-after-ms``, else ``retry-after``, in any form; clamped."""
    millis = _number(headers.get("retry-after-ms", ""))
    if millis is not None:
        return _clamp(now_ms + millis, now_ms)
    text = headers.get("retry-after", "").strip()
    seconds = _number(text)
    if seconds is not None:
        return _clamp(now_ms + seconds * 1_000, now_ms)
    span = _duration(text)
    if span is not None:
        return _clamp(now_ms + span, now_ms)
    try:
        date = parsedate_to_datetime(text)
        return _clamp(_utc(date).timestamp() * 1_000, now_ms)
    except (ValueError, OverflowError):
        return None


def stated_ms(text: str, now_ms: int) -> int | None:
    """The instant that a message names as a date, clamped."""
    found = _RESETS_AT.search(text)
    instant = _rfc_3339(found[1]) if found else None
    return None if instant is None else _clamp(instant, now_ms)


def again_in_ms(text: str, now_ms: int) -> int | None:
    """The end of the wait that a message asks for, clamped."""
    found = _AGAIN_IN.search(text)
    span = _duration(found[1]) if found else None
    return None if span is None else _clamp(now_ms + span, now_ms)


def header_ms(
    headers: Mapping[str, str], resets: tuple[ResetHeader, ...], now_ms: int
) -> int | None:
    """When the limit that is used up resets; if none says it is, the first to reset.

    An instant out of bounds is a unit misread, so it counts as missing: believing it would set
    the model aside for a month.
    """
    used_up = used_up_ms(headers, resets, now_ms)
    return min(_stated(headers, resets, now_ms), default=None) if used_up is None else used_up


def used_up_ms(
    headers: Mapping[str, str], resets: tuple[ResetHeader, ...], now_ms: int
) -> int | None:
    """When every limit of which nothing is left has reset; None: something is left of each."""
    empty = tuple(header for header in resets if is_none_left(headers.get(header.remaining, "")))
    return max(_stated(headers, empty, now_ms), default=None)


def is_none_left(remaining: str) -> bool:
    """Whether a header says that nothing is left."""
    left = _number(remaining)
    return left is not None and left <= 0


def _stated(
    headers: Mapping[str, str], resets: tuple[ResetHeader, ...], now_ms: int
) -> Iterator[int]:
    """The instants that headers name, but for those out of bounds."""
    for header in resets:
        instant = _instant(headers.get(header.reset, ""), header.unit, now_ms)
        if instant is not None and instant <= now_ms + AHEAD_MS_MAX:
            yield _clamp(instant, now_ms)


def window_end_ms(window: Window, now_ms: int) -> int | None:
    """When the window that holds ``now_ms`` ends."""
    if window is Window.NONE:
        return None
    if window is Window.TEN_MINUTES:
        return now_ms + 10 * MINUTE_MS
    if window is Window.PACIFIC_DAY:
        today = datetime.fromtimestamp(now_ms // 1_000, _PACIFIC)
        midnight = datetime(today.year, today.month, today.day, tzinfo=_PACIFIC)
        # A wall clock's day, so the day on which the clocks change is an hour off the usual.
        return int((midnight + timedelta(days=1)).timestamp()) * 1_000
    if window is Window.MONTH:
        now = datetime.fromtimestamp(now_ms // 1_000, UTC)
        year, month = divmod(now.year * 12 + now.month, 12)
        return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp()) * 1_000
    days = now_ms // DAY_MS
    # Day 0 was a Thursday.
    ahead = 1 if window is Window.DAY else 7 - (days + 3) % 7
    return (days + ahead) * DAY_MS


def _clamp(instant: float, now_ms: int) -> int:
    if now_ms - PAST_MS_MAX <= instant <= now_ms + AHEAD_MS_MAX:
        return max(int(instant), now_ms)
    return Clamped(now_ms if instant < now_ms else now_ms + AHEAD_MS_MAX)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _duration(text: str) -> float | None:
    """``6m0s``, ``1h2m3.5s``, ``12ms``: in ms."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(count) * _UNIT_MS[unit] for count, unit in _STEP.findall(text))


def _rfc_3339(text: str) -> float | None:
    try:
        return _utc(datetime.fromisoformat(text.replace(" at ", " "))).timestamp() * 1_000
    except (ValueError, OverflowError):
        return None


def _utc(date: datetime) -> datetime:
    """Take a date without a zone as UTC, never as this machine's."""
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _instant(text: str, unit: Unit, now_ms: int) -> float | None:
    text = text.strip()
    number = _number(text)
    if unit is Unit.RFC_3339:
        return _rfc_3339(text)
    if unit is Unit.EPOCH_MS:
        return number
    if unit is Unit.SECONDS:
        return None if number is None else now_ms + number * 1_000
    span = _duration(text)
    if span is not None:
        return now_ms + span
    if unit is Unit.DURATION:
        return None
    return _rfc_3339(text) if number is None else _any(number, now_ms)


def _any(number: float, now_ms: int) -> float:
    if number >= _EPOCH_MS_MIN:
        return number
    return number * 1_000 if number >= _EPOCH_S_MIN else now_ms + number * 1_000
