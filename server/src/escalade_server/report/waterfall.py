"""How one task went, as bars on one axis of time; and as a page that stands alone.

Long waits would leave everything else a hair's breadth: where waits are most of the time, the axis
runs slower in the rest, and says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from html import escape

from escalade_server.report.page import page

WAITS_SHARE = 0.3
"""Of the axis, for waits that took longer than all the rest."""
SEEN_MS = 100
"""What is done beside waits that takes less is not worth a bend."""
TICKS = 4


class Kind(Enum):
    """What a row is; it has a colour each."""

    TASK = "task"
    STEP = "step"
    LAYER = "layer"
    ATTEMPT = "attempt"
    FAILED = "failed"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the task. Instants in Unix ms; ``first_ms`` is when its first words came."""

    kind: Kind
    depth: int
    name: str
    start_ms: int
    end_ms: int
    first_ms: int | None = None
    tokens: str = ""
    cost: str = ""
    notes: tuple[str, ...] = ()
    """What there is to say of it, a line each."""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A task; ``facts`` are names with their values."""

    title: str
    story: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


class Axis:
    """Where on the axis an instant lies: 0 is the begin of the task, 1 its end."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Measure the rows."""
        self.start_ms = min((row.start_ms for row in rows), default=0)
        self.end_ms = max((row.end_ms for row in rows), default=0)
        self._waits = [(r.start_ms, r.end_ms) for r in rows if r.kind is Kind.WAIT]
        waited = sum(end - start for start, end in self._waits)
        worked = max(self.end_ms - self.start_ms - waited, 1)
        self.is_bent = waited > worked >= SEEN_MS
        """Waits are drawn shorter than they were."""
        self._pace = worked * WAITS_SHARE / (1 - WAITS_SHARE) / waited if self.is_bent else 1.0
        self._length = max(worked + waited * self._pace, 1.0)

    def at(self, instant_ms: int) -> float:
        """Answer the place of an instant."""
        waited = sum(
            min(max(instant_ms, start), end) - start for start, end in self._waits
        )  # before it
        place = instant_ms - self.start_ms - waited * (1 - self._pace)
        return min(max(place / self._length, 0.0), 1.0)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Name some instants; of an axis that is bent only its ends."""
        steps = 1 if self.is_bent else TICKS
        for step in range(steps + 1):
            instant_ms = self.start_ms + (self.end_ms - self.start_ms) * step // steps
            yield self.at(instant_ms), span(instant_ms - self.start_ms)


def span(ms: int) -> str:
    """Write a span of time with three figures at most."""
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1_000:.2f} s" if ms < 10_000 else f"{ms / 1_000:.1f} s"
    minutes, seconds = divmod(ms // 1_000, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


STYLE = """
body { max-width: 76rem; }
.facts { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: .8rem 0 1.6rem;
  font-size: .85rem; }
.facts b { font-weight: 500; color: var(--dim); margin-right: .4em; }
.fall { min-width: 46rem; }
.row { display: grid; grid-template-columns: 17rem 1fr 5.2rem 7rem 5.2rem; gap: 0 .8rem;
  padding: .22rem 0; border-bottom: 1px solid var(--line); break-inside: avoid;
  font-variant-numeric: tabular-nums; align-items: center; }
.row > span:nth-child(n+3) { text-align: right; white-space: nowrap; }
.row .what { overflow-wrap: anywhere; line-height: 1.3; }
.row p { grid-column: 1 / -1; margin: 0; font-size: .82rem; color: var(--dim); max-width: none;
  overflow-wrap: anywhere; text-align: left; white-space: normal; }
.head { color: var(--dim); font-size: .82rem; }
.track { position: relative; height: 1.15rem; background: var(--card); border-radius: .2rem; }
.track i { position: absolute; top: .15rem; bottom: .15rem; min-width: 3px; border-radius: .2rem; }
.track u { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--ink); }
.head .track { background: none; height: 1.3rem; }
.head .track span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.head .track span:first-child { transform: none; }
.head .track span:last-child { transform: translateX(-100%); }
i.task { background: var(--dim); } i.step { background: var(--dim); }
i.layer { background: var(--soft); } i.attempt { background: var(--good); }
i.failed { background: var(--bad); }
i.wait { background: repeating-linear-gradient(45deg, var(--soft) 0 4px, transparent 4px 8px);
  border: 1px solid var(--soft); }
.row.task .what, .row.layer .what { font-weight: 650; }
@media print { .track i, .track u { print-color-adjust: exact;
  -webkit-print-color-adjust: exact; } }
"""


def as_html(told: Waterfall) -> str:
    """Write the page."""
    axis = Axis(told.rows)
    began = datetime.fromtimestamp(axis.start_ms / 1_000, tz=UTC)
    facts = (*told.facts, ("began", f"{began:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"))
    named = "".join(f"<span><b>{escape(n)}</b>{escape(value)}</span>" for n, value in facts)
    ticks = "".join(
        f'<span style="left:{100 * place:.2f}%">{escape(word)}</span>'
        for place, word in axis.ticks()
    )
    key = (
        '<p class="key"><i class="attempt"></i>answered<i class="failed"></i>failed or void'
        '<i class="wait"></i>waiting<i class="layer"></i>layer; the line in a bar: first words'
        f"{'; waits are drawn shorter than they were' if axis.is_bent else ''}</p>"
    )
    head = (
        f'<div class="row head"><span>part</span><span class="track">{ticks}</span>'
        "<span>time</span><span>tokens</span><span>cost</span></div>"
    )
    rows = "".join(_row(row, axis) for row in told.rows)
    body = [
        f"<h1>{escape(told.title)}</h1>",
        f'<p class="lead">{escape(told.story)}</p>' if told.story else "",
        f'<div class="facts">{named}</div>',
        f'<div class="wide"><div class="fall">{head}{rows}</div></div>',
        key,
    ]
    return page(told.title, body, STYLE)


def _row(row: Row, axis: Axis) -> str:
    left, right = axis.at(row.start_ms), axis.at(row.end_ms)
    shape = f"left:{min(100 * left, 99.6):.2f}%;width:{100 * (right - left):.2f}%"
    first = ""
    if row.first_ms is not None:
        first = f'<u style="left:{100 * axis.at(row.first_ms):.2f}%"></u>'
    cells = (span(row.end_ms - row.start_ms), row.tokens, row.cost)
    indent = f"padding-left:{1.1 * row.depth:.1f}rem"
    return (
        f'<div class="row {row.kind.value}">'
        f'<span class="what" style="{indent}">{escape(row.name)}</span>'
        f'<span class="track"><i class="{row.kind.value}" style="{shape}"></i>{first}</span>'
        + "".join(f"<span>{escape(cell)}</span>" for cell in cells)
        + _notes(row.notes, row.depth)
        + "</div>"
    )


def _notes(notes: Iterable[str], depth: int) -> str:
    indent = f"padding-left:{1.1 * (depth + 1):.1f}rem"
    return "".join(f'<p style="{indent}">{escape(note)}</p>' for note in notes)
