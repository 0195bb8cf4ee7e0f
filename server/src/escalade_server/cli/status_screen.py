"""What `escalade status --watch` shows: one screen that is drawn anew in place, nothing scrolls.

From top to bottom: what serves and what it cost; a bar for every quota and cap, as many as there
is room for; what is out, why and until when; who waits; and, in the rest, events as they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from escalade.v1.escalation_pb2 import VerdictClass
from escalade.v1.operations_service_pb2 import (
    FeedEntry,
    GetStatusResponse,
    ModelStatus,
    Waiter,
)
from escalade_server.cli import feed, output, panel

EVENTS_KEPT = 200
EVENTS_LEAST = 4
OUT_LEAST, OUT_MOST, WAITERS_LEAST, WAITERS_MOST = 3, 8, 2, 3
HEAD_ROWS = 3
RULES = 2
"""Lines above the bars, and above the events."""


class Money(NamedTuple):
    """What a day or a month cost, and what one premium model would have cost more."""

    cost_nanos: int
    saved_nanos: int | None
    """None without a model to measure by."""


class Screen:
    """Keeps the last that was heard of everything, and draws it."""

    def __init__(self, target: str) -> None:
        """Begin with nothing."""
        self._target = target
        self.status: GetStatusResponse | None = None
        self.today: Money | None = None
        self.month: Money | None = None
        self.trouble = ""
        """Why the picture is old; empty while it is new."""
        self.quiet = ""
        """Why there are no events."""
        self._events: deque[Text] = deque(maxlen=EVENTS_KEPT)

    def add(self, entry: FeedEntry) -> None:
        """Take an event."""
        self._events.append(feed.short(entry))

    def say(self, sentence: str) -> None:
        """Take a sentence among the events."""
        self._events.append(Text(f"{sentence}.", "dim italic"))

    def draw(self, out: Console) -> RenderableType:
        """Lay everything out in the lines that the terminal has."""
        status = self.status
        if status is None:
            return Text(self.trouble or f"asking {self._target} ...", "yellow")
        room = out.height - HEAD_ROWS - RULES - EVENTS_LEAST
        outs, waits = list(_outs(status)), list(_waits(status))
        least = min(len(outs), OUT_LEAST) + min(len(waits), WAITERS_LEAST)
        rows = _rows(status, out, room, least, len(outs) + len(waits))
        most = max(room - len(rows), 1)
        notes = _first(outs, max(most - min(len(waits), WAITERS_LEAST), 1))
        notes += waits[: max(most - len(notes), 0)]
        left = max(room - len(rows) - len(notes), 0) + EVENTS_LEAST
        events = list(self._events)[-left:] or [Text(self.quiet or "nothing yet", "dim")]
        lines: list[RenderableType] = [
            *self._head(status),
            Rule(style="dim"),
            panel.grid(rows, out),
            *(_one_line(note) for note in notes),
            Rule(Text("events", "dim"), align="left", style="dim"),
            *(_one_line(event) for event in events),
        ]
        return Group(*lines)

    def _head(self, status: GetStatusResponse) -> Iterator[Text]:
        now = status.now.ToDatetime()
        up = _span(now - status.started.ToDatetime())
        name = status.strategy.version or status.strategy.sha256[:8]
        first = Text.assemble(
            (f" escalade {status.version}", "bold"), f" at {self._target}, up {up}, strategy {name}"
        )
        if status.draining:
            first.append(", draining", "bold yellow")
        if status.strategy.refused_why:
            first.append(", a newer file is refused", "bold red")
        yield _one_line(first)
        second = Text(f" {now:%m-%d %H:%M:%S} UTC, {_tasks(status.in_flight_count, 'in flight')}")
        second.append(", ")
        waits = _tasks(status.waiter_count, "waiting")
        second.append(waits, "bold yellow" if status.waiter_count else "")
        yield _one_line(second)
        if self.trouble:
            yield _one_line(Text(f" {self.trouble}", "bold red"))
            return
        third = Text(" ")
        third.append_text(_money("today", self.today))
        third.append("   ").append_text(_money("month", self.month))
        yield _one_line(third)


def _rows(
    status: GetStatusResponse, out: Console, room: int, least: int, notes: int
) -> list[panel.Row]:
    """Draw every quota if there is room beside the notes, else the tightest of each model."""
    most, room = room - min(notes, OUT_MOST), room - least
    whole = [quota for quota in status.quotas if quota.scope == "strategy"]
    agents = [quota for quota in status.quotas if quota.scope == "agent"]
    overall = [
        *panel.quota_rows(whole, "all layers", "cyan", out),
        *panel.agent_rows(agents, "cyan", out),
    ]
    every = [row for layer in status.layers for row in panel.all_rows(status, layer, out)]
    if len(every) + len(overall) <= most:
        return every + overall
    tight = [row for layer in status.layers for row in panel.tight_rows(status, layer, out)]
    if len(tight) + len(overall) <= room:
        return tight + overall
    if len(tight) <= room:
        return tight
    missing = len(tight) - room + 1
    more = Text(f"and {missing} more", "dim")
    return [*tight[: max(room - 1, 1)], (more, Text(""), Text(""), Text(""), Text(""))]


def _outs(status: GetStatusResponse) -> Iterator[Text]:
    """Say of each model that is out why, and until when."""
    for layer in status.layers:
        for model in layer.models:
            half = panel.probed(model)
            if model.verdict == panel.OK and not half:
                continue
            until, detail = _until(status, model), model.detail
            word = f" {panel.STATES.get(model.reason, model.reason.replace('_', ' '))}"
            if half:
                word = " to be probed"
            elif model.reason == "cooldown" and until and detail:
                word = ""  # the bar above says it, and the line is short for the reason
            elif model.reason == "disabled":
                detail = detail.removeprefix("set aside ")
            yield Text.assemble(
                (" ! ", "bold red"),
                (panel.short(model.target.model), "bold"),
                f"{word}{until}",
                (f": {detail}" if detail else "", "dim"),
            )


def _until(status: GetStatusResponse, model: ModelStatus) -> str:
    if model.HasField("until"):
        at = model.until.ToDatetime()
        return f" until {_instant(at, status)} (in {_span(at - status.now.ToDatetime())})"
    never = model.reason in {"cooldown", "disabled", "no_key"}
    return " until somebody acts" if never else ""


def _instant(at: datetime, status: GetStatusResponse) -> str:
    """Write the time of day, and the date if it is another."""
    now = status.now.ToDatetime()
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%m-%d %H:%M}"


def _waits(status: GetStatusResponse) -> Iterator[Text]:
    shown: list[Waiter] = list(status.waiters[:WAITERS_MOST])
    for one in shown:
        whose = " ".join(part for part in (one.agent, one.request_id) if part)
        reason = VerdictClass.Name(one.reason).removeprefix("VERDICT_CLASS_").lower()
        earliest = ""
        if one.HasField("earliest"):
            earliest = f", not before {_instant(one.earliest.ToDatetime(), status)}"
        yield Text.assemble(
            (f" {one.position:>2} ", "bold yellow"),
            f"{whose} waits {_span(status.now.ToDatetime() - one.since.ToDatetime())}",
            f"{earliest} ({reason}: {one.rule})",
        )
    if status.waiter_count > len(shown):
        yield Text(f"    and {status.waiter_count - len(shown)} more wait", "yellow")


def _first(notes: list[Text], most: int) -> list[Text]:
    if len(notes) <= most:
        return notes
    left = len(notes) - most + 1
    return [*notes[: most - 1], Text(f"   and {left} more: `escalade status` lists them", "dim")]


def _money(what: str, money: Money | None) -> Text:
    if money is None:
        return Text(f"{what}: not known", "dim")
    made = Text.assemble((f"{what} ", "dim"), (output.usd(money.cost_nanos), "bold"))
    saved = money.saved_nanos
    if saved is not None and saved > 0:
        share = 100 * saved // (saved + money.cost_nanos)
        made.append(f", saved {output.usd(saved)} ({share} %)", "green")
    elif saved is not None and saved < 0:
        made.append(f", {output.usd(-saved)} over one model", "yellow")
    return made


def _tasks(count: int, what: str) -> str:
    return f"{count:,} task{'' if count == 1 else 's'} {what}"


def _span(span: timedelta) -> str:
    """Write a span of time in its two largest units."""
    seconds = max(int(span.total_seconds()), 0)
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {below}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
