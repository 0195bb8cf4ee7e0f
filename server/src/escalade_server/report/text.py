"""A report for programs: as plain data for JSON, and as CSV with one line a name."""

import csv
import io
from datetime import UTC, datetime

from escalade_server.core.words import usd
from escalade_server.engine.usage import Line, UsageReport, Use

COLUMNS = ("by", "name", "tasks", "failed", "requests")
TOKENS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens",
          "reasoning_tokens", "assumed_tokens")  # fmt: skip
MONEY = ("list_nano_usd", "charged_nano_usd", "estimated_nano_usd")


def as_json(report: UsageReport) -> dict[str, object]:
    """Turn a report into plain data. Money in nano-dollars, instants in ISO 8601."""
    tracked = report.tracks_tokens
    return {
        "period": report.period,
        "begins": _instant(report.begins_ms),
        "ends": _instant(report.ends_ms),
        "time_zone": report.time_zone,
        "complete": report.complete,
        "agent": report.agent,
        "total": _use(report.total, tokens=tracked),
        **{
            f"by_{name}": [{"name": line.name, **_use(line.use, tokens=tracked)} for line in lines]
            for name, lines in sections(report)
        },
        "escalations": [change._asdict() for change in report.changes],
        "fallbacks": report.total.fallbacks,
        "waits": report.total.waits,
        "waited_ms": report.total.waited_ms,
        "fees_nano_usd": report.fees_nanos,
        "cost_nano_usd": cost_nanos(report),
        "baselines": [
            {"model": model, "list_nano_usd": nanos, "saved_nano_usd": nanos - cost_nanos(report)}
            for model, nanos in report.baselines
        ],
        "forecast_nano_usd": report.forecast_nanos,
        "plan_nano_usd": report.plan_nanos or None,
    }


def as_csv(report: UsageReport) -> str:
    """Write one line for the total and for each name; ``by`` says what kind of name it is."""
    tokens = TOKENS if report.tracks_tokens else ()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*COLUMNS, *tokens, *MONEY))
    for by, lines in (("total", (Line(report.period, report.total),)), *sections(report)):
        for name, use in lines:
            row = _use(use, tokens=report.tracks_tokens)
            cells = [row[column] for column in (*COLUMNS[2:], *tokens, *MONEY)]
            writer.writerow((by, _harmless(name), *cells))
    return out.getvalue()


def sections(report: UsageReport) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    """Answer the tables of a report with what their names are of."""
    return (
        ("layer", report.layers),
        ("model", report.models),
        ("agent", report.agents),
        ("task_type", report.task_types),
        ("day", report.days),
    )


def cost_nanos(report: UsageReport) -> int:
    """What the period cost: what was charged, and the fees that fall into it."""
    return report.total.charged_nanos + report.fees_nanos


def saving(report: UsageReport) -> str:
    """Say in words how the cost compares with each single model; nothing without any."""
    parts = []
    for model, nanos in report.baselines:
        less = nanos - cost_nanos(report)
        share = f" ({less * 100 // nanos} %)" if nanos and less >= 0 else ""
        word = "less" if less >= 0 else "more"
        parts.append(f"{usd(abs(less))}{share} {word} than {model} alone ({usd(nanos)})")
    return "; ".join(parts)


def _use(use: Use, *, tokens: bool) -> dict[str, int]:
    known = use._asdict()
    counted = {name: known[name] for name in TOKENS} if tokens else {}
    return {
        "tasks": use.tasks,
        "failed": use.failed,
        "requests": use.requests,
        **counted,
        "list_nano_usd": use.list_nanos,
        "charged_nano_usd": use.charged_nanos,
        "estimated_nano_usd": use.estimated_nanos,
    }


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat().replace("+00:00", "Z")


def _harmless(name: str) -> str:
    """Keep a name that a caller chose from being read as a formula by a spreadsheet."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
