"""`escalade report`: what a day or a month took and cost, for people, programs and managers."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from rich.console import Console

import escalade
from escalade.v1 import operations_service_pb2 as wire
from escalade.v1.escalation_pb2 import EscalationReason
from escalade_server.cli import output
from escalade_server.cli.client import DEFAULT_TARGET, connect, refused
from escalade_server.engine.usage import ChangeCount, Line, UsageReport, Use
from escalade_server.report import text
from escalade_server.report.html import NOBODY, as_html, named
from escalade_server.report.text import as_csv, cost_nanos, saving

TIMEOUT_S = 30.0
NARROW = 100
"""Columns of a terminal below which a table has no room for ``DETAILS``."""
DETAILS = ("cached", "reasoning")


@click.command("report")
@click.option("--day", default="", metavar="YYYY-MM-DD", help="A day.")
@click.option("--month", default="", metavar="YYYY-MM", help="A month; default is this one.")
@click.option("--agent", default="", help="One agent's use only.")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@output.json_option
@click.option("--csv", "csv_wanted", is_flag=True, help="Print CSV.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with charts."
)
def command(
    *,
    day: str,
    month: str,
    agent: str,
    target: str,
    as_json: bool,
    csv_wanted: bool,
    html: Path | None,
) -> None:
    """Report what a day or a month took and cost, by layer, model, agent and type of task."""
    if bool(day) + bool(month) > 1 or as_json + csv_wanted + bool(html) > 1:
        raise click.UsageError("give one of --day and --month, and one of --json, --csv and --html")
    try:
        with connect(target) as client:
            told = client.usage_report(day=day, month=month, agent=agent, timeout=TIMEOUT_S)
    except escalade.EscaladeError as error:
        raise refused(error, target) from error
    report = from_proto(told)
    if as_json:
        output.print_json(text.as_json(report))
    elif csv_wanted:
        click.echo(as_csv(report), nl=False)
    elif html is not None:
        output.write_page(html, as_html(report, int(datetime.now(tz=UTC).timestamp() * 1_000)))
    else:
        _say(report, output.console())


def _say(report: UsageReport, out: Console) -> None:
    state = "final" if report.complete else "figures may still change"
    output.say(out, f"{named(report.period)}, days in {report.time_zone}: {state}", "bold")
    tables = (
        ("layer", report.layers),
        ("model", report.models),
        ("agent", report.agents),
        ("task type", report.task_types),
    )
    hidden = DETAILS if out.is_terminal and out.width < NARROW else ()
    for word, lines in tables:
        if lines:
            heads = [word, "tasks", "failed", "requests"]
            heads += ["input", "cached", "output", "reasoning"] if report.tracks_tokens else []
            heads += ["list value", "charged"]
            shown = [place for place, head in enumerate(heads) if head not in hidden]
            rows = [[_cells(line, report)[place] for place in shown] for line in lines]
            out.print(output.table([heads[place] for place in shown], rows, out))
    if hidden and report.tracks_tokens:
        output.say(out, f"Left out for want of room: {', '.join(hidden)}; --csv has them.", "dim")
    if report.changes:
        changes = [
            (change.from_layer, change.to_layer, change.reason, f"{change.times:,}")
            for change in report.changes
        ]
        out.print(output.table(("from", "to", "reason", "escalations"), changes, out))
    for sentence in _sentences(report):
        output.say(out, sentence)


def _cells(line: Line, report: UsageReport) -> list[str]:
    use = line.use
    cells = [line.name or NOBODY, f"{use.tasks:,}", f"{use.failed:,}", f"{use.requests:,}"]
    if report.tracks_tokens:
        tokens = (use.input_tokens, use.cached_tokens, use.output_tokens, use.reasoning_tokens)
        cells += [f"{count:,}" for count in tokens]
    return [*cells, output.usd(use.list_nanos), output.usd(use.charged_nanos)]


def _sentences(report: UsageReport) -> Iterable[str]:
    total = report.total
    yield (
        f"{total.tasks:,} tasks, {total.failed:,} failed; {total.fallbacks:,} fallbacks,"
        f" {total.waits:,} waits of {total.waited_ms / 60_000:,.0f} minutes in all."
    )
    fees = f" ({output.usd(report.fees_nanos)} of it fees)" if report.fees_nanos else ""
    compared = saving(report)
    yield f"Cost: {output.usd(cost_nanos(report))}{fees}.{f' {compared}.' if compared else ''}"
    if total.estimated_nanos:
        yield f"{output.usd(total.estimated_nanos)} of the list value is estimated."
    if report.forecast_nanos is not None:
        plan = f", planned {output.usd(report.plan_nanos)}" if report.plan_nanos else ""
        yield f"Forecast to the month's end: {output.usd(report.forecast_nanos)}{plan}."


def from_proto(told: wire.GetUsageReportResponse) -> UsageReport:
    """Read a report as it travelled."""
    zone = ZoneInfo(told.time_zone)
    begins = told.begins.ToDatetime(tzinfo=UTC).astimezone(zone)
    total = _line(told.total).use._replace(
        fallbacks=told.fallback_count,
        waits=told.wait_count,
        waited_ms=told.waited.ToMilliseconds(),
    )
    forecast = told.forecast_nano_usd if told.HasField("forecast_nano_usd") else None
    return UsageReport(
        period=f"{begins:%Y-%m}" if told.days else f"{begins:%Y-%m-%d}",
        begins_ms=told.begins.ToMilliseconds(),
        ends_ms=told.ends.ToMilliseconds(),
        time_zone=told.time_zone,
        complete=told.complete,
        total=total,
        layers=_lines(told.layers),
        models=_lines(told.models),
        agents=_lines(told.agents),
        task_types=_lines(told.task_types),
        days=_lines(told.days),
        changes=tuple(
            ChangeCount(c.from_layer, c.to_layer, _reason(c.reason), c.count)
            for c in told.escalations
        ),
        fees_nanos=told.fees_nano_usd,
        baselines=tuple((each.model, each.list_nano_usd) for each in told.baselines),
        forecast_nanos=forecast,
        plan_nanos=told.plan_nano_usd,
        tracks_tokens=told.total.HasField("usage"),
        agent=told.agent or None,
    )


def _reason(reason: EscalationReason.ValueType) -> str:
    return EscalationReason.Name(reason).removeprefix("ESCALATION_REASON_").lower()


def _lines(rows: Iterable[wire.UsageRow]) -> tuple[Line, ...]:
    return tuple(_line(row) for row in rows)


def _line(row: wire.UsageRow) -> Line:
    used = row.usage
    use = Use(
        requests=row.attempt_count,
        input_tokens=used.input_tokens,
        cached_tokens=used.cached_input_tokens,
        cache_write_tokens=used.cache_write_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
        assumed_tokens=row.assumed_token_count,
        list_nanos=row.cost.list_nano_usd,
        charged_nanos=row.cost.charged_nano_usd,
        estimated_nanos=row.estimated_nano_usd,
        tasks=row.task_count,
        failed=row.failed_count,
    )
    return Line(row.name, use)
