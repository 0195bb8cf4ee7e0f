"""A report as one page that stands alone: style and charts inside, no script, nothing fetched."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from html import escape
from zoneinfo import ZoneInfo

from escalade_server.core.words import usd
from escalade_server.engine.usage import Line, UsageReport, Use
from escalade_server.report.charts import Bar, Column, bars, columns
from escalade_server.report.page import page
from escalade_server.report.text import cost_nanos

_TABLES = (
    ("Layers", "layer", "layers"),
    ("Models", "model", "models"),
    ("Agents", "agent", "agents"),
    ("Types of task", "type", "task_types"),
)
NOBODY = "(no agent)"


def as_html(report: UsageReport, now_ms: int) -> str:
    """Write the page; ``now_ms`` is when it is made, which stands in its foot."""
    title = f"Model usage, {named(report.period)}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">{escape(_whose(report))}</p>',
        f'<p class="lead">{_lead(report)}</p>',
        _tiles(report),
        *_charts(report),
        *(
            _table(heading, word, getattr(report, lines), report)
            for heading, word, lines in _TABLES
        ),
        _changes(report),
        f"<footer>{_foot(report, now_ms)}</footer>",
    ]
    return page(title, body)


def named(period: str) -> str:
    """Name a day or a month as people do."""
    if len(period) == len("2026-11"):
        return f"{date.fromisoformat(f'{period}-01'):%B %Y}"
    day = date.fromisoformat(period)
    return f"{day.day} {day:%B %Y}"


def _whose(report: UsageReport) -> str:
    of = "all agents" if report.agent is None else f"agent {report.agent or NOBODY}"
    ending = "final" if report.complete else "figures may still change"
    return f"Escalade, {of}; days in {report.time_zone}; {ending}"


def _lead(report: UsageReport) -> str:
    """Say the most important in one or two sentences."""
    total, cost = report.total, cost_nanos(report)
    if not total.tasks and not total.requests:
        return "Nothing was asked in this period."
    said = f"{total.tasks - total.failed:,} of {total.tasks:,} tasks were answered for "
    said += f"<b>{usd(cost)}</b>"
    if report.baselines:
        model, instead = report.baselines[0]
        less = instead - cost
        side = "less" if less >= 0 else "more"
        share = f" ({less * 100 // instead}&#8239;%)" if instead and less >= 0 else ""
        kind = "good" if less >= 0 else "bad"
        said += f': <b class="{kind}">{usd(abs(less))}{share} {side}</b> than the same answers'
        said += f" from {escape(model)} alone"
    return f"{said}."


def _tiles(report: UsageReport) -> str:
    total, cost = report.total, cost_nanos(report)
    fees = f"with {usd(report.fees_nanos)} of fees" if report.fees_nanos else "charged"
    tiles = [
        (usd(cost), f"cost, {fees}"),
        (usd(total.list_nanos), "value at list prices"),
        (f"{total.tasks:,}", f"tasks, {total.failed:,} failed"),
        (f"{total.requests:,}", "requests to models"),
    ]
    if report.tracks_tokens:
        tiles.append((_large(total.tokens), "tokens"))
    if report.forecast_nanos is not None:
        plan = f", planned {usd(report.plan_nanos)}" if report.plan_nanos else ""
        tiles.append((usd(report.forecast_nanos), f"forecast to the month’s end{plan}"))
    cells = "".join(
        f'<div class="tile"><b>{value}</b><span>{escape(what)}</span></div>'
        for value, what in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _charts(report: UsageReport) -> list[str]:
    charts = []
    if report.days:
        days = [
            Column(
                str(date.fromisoformat(day).day),
                use.list_nanos,
                min(use.charged_nanos, use.list_nanos),
                f"{day}: {use.tasks:,} tasks, charged {usd(use.charged_nanos)} of"
                f" {usd(use.list_nanos)}",
            )
            for day, use in report.days
        ]
        key = '<i class="main"></i>charged<i class="soft"></i>free or in a subscription'
        charts += [
            "<h2>Value at list prices, day by day</h2>",
            f'<p class="key">{key}</p>',
            _wide(columns(days, "Value at list prices, day by day")),
        ]
    if report.baselines:
        cost = cost_nanos(report)
        compared = [Bar("Escalade", cost, usd(cost))]
        compared += [
            Bar(f"only {model}", nanos, usd(nanos), "soft") for model, nanos in report.baselines
        ]
        title = "Cost of the answers, against one model for everything"
        charts += [f"<h2>{title}</h2>", _wide(bars(compared, title))]
    if report.layers:
        answered = sum(line.use.tasks for line in report.layers) or 1
        shares = [
            Bar(name, use.tasks, f"{use.tasks:,} ({round(use.tasks * 100 / answered)} %)")
            for name, use in sorted(report.layers, key=lambda line: -line.use.tasks)
        ]
        title = "Tasks by the layer that answered"
        charts += [f"<h2>{title}</h2>", _wide(bars(shares, title))]
    if report.changes:
        reasons: dict[str, int] = {}
        for change in report.changes:
            reasons[change.reason] = reasons.get(change.reason, 0) + change.times
        ordered = sorted(reasons.items(), key=lambda reason: -reason[1])
        title = "Escalations by reason"
        found = [Bar(name.replace("_", " "), times, f"{times:,}") for name, times in ordered]
        charts += [f"<h2>{title}</h2>", _wide(bars(found, title))]
    return charts


def _table(heading: str, word: str, lines: Sequence[Line], report: UsageReport) -> str:
    if not lines:
        return ""
    heads = [word, "tasks", "requests"]
    heads += ["input", "cached", "output", "reasoning"] if report.tracks_tokens else []
    heads += ["list value", "charged"]
    rows = [_row(line.name or NOBODY, line.use, report) for line in lines]
    return f"<h2>{heading}</h2>{_rows(heads, rows)}"


def _row(name: str, use: Use, report: UsageReport) -> list[str]:
    cells = [name, f"{use.tasks:,}", f"{use.requests:,}"]
    if report.tracks_tokens:
        tokens = (use.input_tokens, use.cached_tokens, use.output_tokens, use.reasoning_tokens)
        cells += [f"{count:,}" for count in tokens]
    return [*cells, usd(use.list_nanos), usd(use.charged_nanos)]


def _changes(report: UsageReport) -> str:
    if not report.changes:
        return ""
    rows = [[f"{c.from_layer} → {c.to_layer}", c.reason.replace("_", " "), f"{c.times:,}"]
            for c in report.changes]  # fmt: skip
    return f"<h2>Escalations</h2>{_rows(['from → to', 'reason', 'times'], rows)}"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return _wide(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def _foot(report: UsageReport, now_ms: int) -> str:
    total = report.total
    made = datetime.fromtimestamp(now_ms / 1000, tz=UTC).astimezone(ZoneInfo(report.time_zone))
    said = [
        f"{total.fallbacks:,} fallbacks within a layer.",
        f"{total.waits:,} tasks waited, {total.waited_ms / 60_000:,.0f} minutes in all.",
        "Charged is what metered models cost; free models and subscriptions are charged nothing.",
        "Fees stand once for each calendar month.",
    ]
    if total.estimated_nanos:
        said.append(
            f"{usd(total.estimated_nanos)} of the list value is estimated or assumed, because no"
            " provider reported it."
        )
    if report.forecast_nanos is not None:
        said.append(
            "Forecast: fees, what is charged so far, and the mean of the last seven days for each"
            " day that is left."
        )
    said.append(f"Made {made:%Y-%m-%d %H:%M %Z}.")
    return escape(" ".join(said))


def _wide(inside: str) -> str:
    return f'<div class="wide">{inside}</div>'


def _large(count: int) -> str:
    for size, word in ((1_000_000_000, " B"), (1_000_000, " M"), (10_000, " k")):
        if count >= size:
            unit = 1_000 if word == " k" else size
            return f"{count / unit:,.1f}{word}"
    return f"{count:,}"
