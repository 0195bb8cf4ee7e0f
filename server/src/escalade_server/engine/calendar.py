"""Calendar windows: days, weeks and months that begin and end in a zone of the world (R18, C9).

The next reset is computed by the calendar, never as +24 h: days have 23 to 25 hours (T3).
"""

import calendar as months
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from escalade_server.core.catalog import Counter, Period
from escalade_server.core.window import Window


def _in_month(year: int, month: int, reset_day: int) -> date:
    """Answer the reset day of a month, clamped to its end (T7); month 0 and 13 carry over."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return date(year, month, min(reset_day, months.monthrange(year, month)[1]))


def _dates(period: Period, today: date, reset_day: int) -> tuple[date, date]:
    """Answer the first day of the window around ``today``, and of the next one."""
    if period is Period.DAY:
        return today, today + timedelta(days=1)
    if period is Period.WEEK:
        monday = today - timedelta(days=today.weekday())
        return monday, monday + timedelta(days=7)
    assert period is Period.MONTH, f"{period} slides"
    begin = _in_month(today.year, today.month, reset_day)
    if today < begin:
        begin = _in_month(today.year, today.month - 1, reset_day)
    return begin, _in_month(begin.year, begin.month + 1, reset_day)


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    """Answer the first instant of a local day, also where clocks skip midnight."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1_000


class Calendar:
    """Finds the window around an instant; each one is computed once and kept until its end."""

    def __init__(self) -> None:
        """Look at a zone, so that missing zone data is found at start (T8)."""
        self._known: dict[tuple[str, Period, int], Window] = {}
        self._zone("America/Los_Angeles")

    def __call__(self, counter: Counter, now_ms: int) -> Window:
        """Answer the counter's calendar window; its id is the local date on which it begins.

        Raises:
            ValueError: there is no such zone.
        """
        key = (counter.zone, counter.period, counter.reset_day)
        known = self._known.get(key)
        if known is None or not known.starts_ms <= now_ms < known.ends_ms:
            known = self._known[key] = self._window(*key, now_ms)
        return known

    def _window(self, name: str, period: Period, reset_day: int, now_ms: int) -> Window:
        zone = self._zone(name)
        today = datetime.fromtimestamp(now_ms // 1_000, tz=UTC).astimezone(zone).date()
        begin, following = _dates(period, today, reset_day)
        return Window(begin.isoformat(), _midnight_ms(begin, zone), _midnight_ms(following, zone))

    @staticmethod
    def _zone(name: str) -> ZoneInfo:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(
                f"no time zone {name!r}: give an IANA name such as 'America/Los_Angeles', and"
                " see that the package tzdata is installed"
            ) from error
