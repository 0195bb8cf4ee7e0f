"""Days and months as people name them, and the instants at which they begin and end in a zone."""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from escalade_server.engine.usage import KEPT_DAYS, NoSuchPeriodError, Span

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_MONTH = re.compile(r"\d{4}-\d{2}")


def today(now_ms: int, zone: str) -> date:
    """Answer the date of an instant."""
    return datetime.fromtimestamp(now_ms // 1_000, tz=UTC).astimezone(ZoneInfo(zone)).date()


def span(period: str, now_ms: int, zone: str) -> Span:
    """Read a day, a month, or the current month for nothing at all.

    Raises:
        NoSuchPeriodError: it is neither, it has not begun, or nothing is kept of it any more.
    """
    now = today(now_ms, zone)
    period = period or f"{now:%Y-%m}"
    is_day = _DAY.fullmatch(period) is not None
    try:
        begin = date.fromisoformat(period if is_day else f"{period}-01")
        end = begin + timedelta(days=1) if is_day else next_month(begin)
    except (ValueError, OverflowError):
        begin = end = date.max
    if begin == date.max or not (is_day or _MONTH.fullmatch(period)):
        mend = f"write {now:%Y-%m-%d} or {now:%Y-%m}"
        raise NoSuchPeriodError(f"{period!r} is no day or month: {mend}")
    oldest = now - timedelta(days=KEPT_DAYS)
    if begin > now:
        raise NoSuchPeriodError(f"{period} has not begun: it is {now} in {zone}")
    if end <= oldest:
        raise NoSuchPeriodError(f"nothing is kept of {period}: the first day kept is {oldest}")
    return between(begin, end, zone)


def between(begin: date, end: date, zone: str) -> Span:
    """Answer the span from one date to the day before another."""
    return Span(
        begin.isoformat(), end.isoformat(), midnight_ms(begin, zone), midnight_ms(end, zone)
    )


def month_of(begin: str) -> tuple[date, date]:
    """Answer the first day of the month around a date, and of the next month."""
    first = date.fromisoformat(begin).replace(day=1)
    return first, next_month(first)


def next_month(first: date) -> date:
    """Answer the first day of the next month."""
    return (first.replace(day=28) + timedelta(days=4)).replace(day=1)


def midnight_ms(day: date, zone: str) -> int:
    """Answer the first instant of a local day, also where clocks skip midnight."""
    return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp()) * 1_000
