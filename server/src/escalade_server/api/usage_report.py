"""``GetUsageReport``: who may see whose use, and a report as it travels."""

from collections.abc import Iterable

from escalade.v1 import completion_pb2, error_pb2
from escalade.v1 import operations_service_pb2 as wire
from escalade_server.api.callers import OPERATORS_ONLY, Identity
from escalade_server.api.convert_out import ESCALATION_REASONS, time_to_proto, wire_text
from escalade_server.api.status import Refusal, RefusedError, not_built
from escalade_server.core.catalog import Rank
from escalade_server.core.facts import EscalationReason
from escalade_server.engine.ports import StoreError
from escalade_server.engine.usage import Line, NoSuchPeriodError, Reports, UsageReport, Use


async def serve(
    reports: Reports | None, request: wire.GetUsageReportRequest, caller: Identity
) -> wire.GetUsageReportResponse:
    """Make the report that was asked for; an agent's is of its own use only (D3).

    Raises:
        RefusedError: another agent's use, no such period, or the books cannot be read.
    """
    if reports is None:
        raise RefusedError(not_built("OperationsService.GetUsageReport on this kind of state"))
    agent = request.agent or None
    if caller.rank is not Rank.OPERATOR:
        if agent not in {None, caller.agent}:
            raise RefusedError(OPERATORS_ONLY)
        agent = caller.agent
    period = request.WhichOneof("period")
    try:
        asked = getattr(request, period) if period else ""
        if period and not asked:
            raise NoSuchPeriodError(f"the {period} is empty")  # noqa: TRY301 - one mend for all
        return to_proto(await reports.report(asked, agent))
    except NoSuchPeriodError as error:
        wrong = ((period or "month", f"{error}"),)
        reason = error_pb2.ERROR_REASON_REQUEST_INVALID
        raise RefusedError(Refusal(reason, f"{error}", violations=wrong)) from error
    except StoreError as error:
        reason = error_pb2.ERROR_REASON_LEDGER_UNAVAILABLE
        raise RefusedError(Refusal(reason, f"{error}")) from error


def to_proto(report: UsageReport) -> wire.GetUsageReportResponse:
    """Write a report."""
    tokens = report.tracks_tokens
    made = wire.GetUsageReportResponse(
        begins=time_to_proto(report.begins_ms),
        ends=time_to_proto(report.ends_ms),
        time_zone=report.time_zone,
        complete=report.complete,
        total=_row(Line("", report.total), tokens=tokens),
        layers=_rows(report.layers, tokens=tokens),
        models=_rows(report.models, tokens=tokens),
        agents=_rows(report.agents, tokens=tokens),
        task_types=_rows(report.task_types, tokens=tokens),
        days=_rows(report.days, tokens=tokens),
        escalations=[
            wire.EscalationCount(
                from_layer=wire_text(change.from_layer),
                to_layer=wire_text(change.to_layer),
                reason=ESCALATION_REASONS[EscalationReason(change.reason)],
                count=change.times,
            )
            for change in report.changes
        ],
        fallback_count=report.total.fallbacks,
        wait_count=report.total.waits,
        fees_nano_usd=report.fees_nanos,
        baselines=[
            wire.Baseline(model=model, list_nano_usd=nanos) for model, nanos in report.baselines
        ],
        forecast_nano_usd=report.forecast_nanos,
        plan_nano_usd=report.plan_nanos or None,
        agent=wire_text(report.agent or ""),
    )
    made.waited.FromMilliseconds(report.total.waited_ms)
    return made


def _rows(lines: Iterable[Line], *, tokens: bool) -> list[wire.UsageRow]:
    return [_row(line, tokens=tokens) for line in lines]


def _row(line: Line, *, tokens: bool) -> wire.UsageRow:
    use = line.use
    return wire.UsageRow(
        name=wire_text(line.name),
        task_count=use.tasks,
        failed_count=use.failed,
        attempt_count=use.requests,
        usage=_usage(use) if tokens else None,
        cost=completion_pb2.Cost(list_nano_usd=use.list_nanos, charged_nano_usd=use.charged_nanos),
        assumed_token_count=use.assumed_tokens if tokens else 0,
        estimated_nano_usd=use.estimated_nanos,
    )


def _usage(use: Use) -> completion_pb2.Usage:
    return completion_pb2.Usage(
        input_tokens=use.input_tokens,
        cached_input_tokens=use.cached_tokens,
        cache_write_tokens=use.cache_write_tokens,
        output_tokens=use.output_tokens,
        reasoning_tokens=use.reasoning_tokens,
    )
