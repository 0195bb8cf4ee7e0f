"""Windows of counters: how long a part of a balance counts.

A day and longer are calendar windows, made by the engine's calendar. A second, a minute and an
hour slide (R18). A sliding window is kept as slices, ten to a window, and the last eleven count,
the current one among them: two admissions less than a window apart are never more than ten slice
borders apart, so no window of that length ever holds more than the limit, wherever it begins.
"""

from collections.abc import Iterable
from typing import NamedTuple

from escalade_server.core.catalog import Period
from escalade_server.core.standing import Balance

SLICES = 10
SPAN_MS = {Period.SECOND: 1_000, Period.MINUTE: 60_000, Period.HOUR: 3_600_000}
"""Length of the windows that slide."""


class Window(NamedTuple):
    """A calendar window or one slice: what is admitted from ``starts_ms`` counts to ``ends_ms``.

    For a slice ``ends_ms`` is the instant at which it leaves the sliding window.
    """

    id: str
    starts_ms: int
    ends_ms: int


def slides(period: Period) -> bool:
    """Whether windows of this length slide."""
    return period in SPAN_MS


def slice_at(period: Period, now_ms: int) -> Window:
    """Answer the slice of a sliding window into which an admission falls now."""
    width = SPAN_MS[period] // SLICES
    starts = now_ms - now_ms % width
    return Window(period.value, starts, starts + (SLICES + 1) * width)


def total(parts: Iterable[Balance], now_ms: int) -> Balance | None:
    """Add up the parts that still count; None when nothing does.

    The sum's ``ends_ms`` is when its oldest part leaves: then some room comes back.
    """
    window, spent, held, ends_ms = "", 0, 0, 0
    for part in parts:
        if part.ends_ms > now_ms and (part.spent or part.held):
            window = part.window
            spent += part.spent
            held += part.held
            ends_ms = min(ends_ms, part.ends_ms) if ends_ms else part.ends_ms
    return Balance(window, spent, held, ends_ms) if ends_ms else None
