"""Charts as inline SVG: no script, nothing fetched; colours are those of the page's style."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from escalade_server.core.words import usd

WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 12, 26
_STEPS = (1, 2, 5)


class Bar(NamedTuple):
    """One horizontal bar; ``kind`` is the class that colours it."""

    name: str
    value: int
    text: str
    kind: str = "main"


class Column(NamedTuple):
    """One day: of ``value``, ``part`` is drawn in the strong colour."""

    name: str
    value: int
    part: int
    title: str


def bars(rows: Sequence[Bar], title: str) -> str:
    """Draw horizontal bars with their names to the left and their figures to the right."""
    longest = max((row.value for row in rows), default=0) or 1
    room, step, left = 380, 30, 200
    parts = []
    for place, row in enumerate(rows):
        y = place * step + 6
        width = max(round(row.value * room / longest), 2 if row.value else 0)
        parts.append(
            f'<text x="{left - 10}" y="{y + 14}" class="name">{escape(_short(row.name))}</text>'
            f'<path class="{row.kind}" d="{_right_rounded(left, y, width, 20)}">'
            f"<title>{escape(row.name)}: {escape(row.text)}</title></path>"
            f'<text x="{left + width + 8}" y="{y + 14}" class="figure">{escape(row.text)}</text>'
        )
    return _svg("".join(parts), len(rows) * step + 6, title)


def columns(days: Sequence[Column], title: str, height: int = 240) -> str:
    """Draw days side by side over a scale of money."""
    top = max((day.value for day in days), default=0)
    step = nice_step(top)
    scale = max(-(-top // step), 1) * step
    plot = height - _TOP - _BOTTOM
    slot = (WIDTH - _LEFT - _RIGHT) / max(len(days), 1)
    width = min(slot * 0.72, 28)
    parts = []
    for value in range(0, scale + 1, step):
        y = _TOP + plot - value * plot / scale
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" class="name">{usd(value)}</text>'
        )
    for place, day in enumerate(days):
        x = _LEFT + slot * place + (slot - width) / 2
        middle = x + width / 2
        drawn = [("soft", day.value), ("main", day.part)]
        shapes = "".join(
            f'<rect class="{kind}" x="{x:.1f}" y="{_TOP + plot - value * plot / scale:.1f}"'
            f' width="{width:.1f}" height="{value * plot / scale:.1f}"/>'
            for kind, value in drawn
            if value > 0
        )
        parts.append(f"<g>{shapes}<title>{escape(day.title)}</title></g>")
        if place == 0 or (place + 1) % 5 == 0:
            label = escape(day.name)
            parts.append(f'<text x="{middle:.1f}" y="{height - 8}" class="tick">{label}</text>')
    return _svg("".join(parts), height, title)


def nice_step(top: int, steps: int = 4) -> int:
    """Answer a round step, so that at most ``steps`` of them reach the top."""
    size = 1
    while True:
        for factor in _STEPS:
            if size * factor * steps >= top:
                return size * factor
        size *= 10


def _svg(inside: str, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{inside}</svg>"
    )


def _right_rounded(x: int, y: int, width: int, height: int) -> str:
    """Write the path of a bar whose far end is rounded."""
    radius = min(4, width)
    straight = width - radius
    return (
        f"M{x} {y}h{straight}q{radius} 0 {radius} {radius}v{height - 2 * radius}"
        f"q0 {radius} -{radius} {radius}h-{straight}z"
    )


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
