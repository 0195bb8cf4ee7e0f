"""``GetUsageReport``: whose use one may see, which periods there are, and how it travels."""

from dataclasses import replace

import grpc
import pytest

from escalade.v1 import operations_service_pb2 as wire
from escalade_server.api.callers import ANYONE, Identity
from escalade_server.api.status import RefusedError
from escalade_server.api.usage_report import serve, to_proto
from escalade_server.cli.report import from_proto
from escalade_server.core.catalog import Agent, Rank
from escalade_server.engine.ports import StoreError
from escalade_server.engine.usage import NoSuchPeriodError, UsageReport
from tests.report import sample

OPERATOR = Identity("ops", Rank.OPERATOR, Agent("ops"))
ALICE = Identity("alice", Rank.AGENT, Agent("alice"))


class FakeReports:
    """Answers from the sample, and remembers what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.error = error

    async def report(self, period: str, agent: str | None) -> UsageReport:
        self.asked.append((period, agent))
        if self.error is not None:
            raise self.error
        return sample.report(period or "2026-11", agent)


async def refusal(
    reports: FakeReports | None,
    request: wire.GetUsageReportRequest,
    caller: Identity = OPERATOR,
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(RefusedError) as raised:
        await serve(reports, request, caller)
    return raised.value.refusal.code, raised.value.refusal.message


@pytest.mark.parametrize(
    ("caller", "wanted", "agent"),
    [
        (ANYONE, "", None),
        (OPERATOR, "", None),
        (OPERATOR, "bob", "bob"),
        (ALICE, "", "alice"),
        (ALICE, "alice", "alice"),
    ],
)
async def test_an_agent_sees_its_own_use_and_an_operator_all(
    caller: Identity, wanted: str, agent: str | None
) -> None:
    """D3."""
    reports = FakeReports()
    told = await serve(reports, wire.GetUsageReportRequest(agent=wanted), caller)
    assert reports.asked == [("", agent)]
    assert told.agent == (agent or "")
    assert bool(told.fees_nano_usd) == (agent is None)


async def test_anothers_use_is_refused_before_it_is_looked_at() -> None:
    reports = FakeReports()
    code, _ = await refusal(reports, wire.GetUsageReportRequest(agent="bob"), ALICE)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert not reports.asked


@pytest.mark.parametrize(
    ("request_", "period"),
    [
        (wire.GetUsageReportRequest(), ""),
        (wire.GetUsageReportRequest(day="2026-11-20"), "2026-11-20"),
        (wire.GetUsageReportRequest(month="2026-10"), "2026-10"),
    ],
)
async def test_the_period_is_passed_on(request_: wire.GetUsageReportRequest, period: str) -> None:
    reports = FakeReports()
    await serve(reports, request_, OPERATOR)
    assert reports.asked == [(period, None)]


async def test_what_cannot_be_told_is_refused_with_the_reason() -> None:
    ask = wire.GetUsageReportRequest(day="x")
    wrong = FakeReports(NoSuchPeriodError("'x' is no day or month"))
    assert await refusal(wrong, ask) == (
        grpc.StatusCode.INVALID_ARGUMENT, "'x' is no day or month",
    )  # fmt: skip
    code, _ = await refusal(FakeReports(), wire.GetUsageReportRequest(day=""))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, _ = await refusal(FakeReports(StoreError("disk")), ask)
    assert code is grpc.StatusCode.UNAVAILABLE
    code, _ = await refusal(None, ask)
    assert code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "report",
    [
        sample.report(),
        sample.report("2026-11-20"),
        sample.report(agent="ci-bot"),
        replace(sample.report(), forecast_nanos=None, plan_nanos=0, complete=True),
    ],
)
def test_a_report_travels_whole(report: UsageReport) -> None:
    """What the command line reads is what the server made; lines have no waits of their own."""
    told = from_proto(wire.GetUsageReportResponse.FromString(to_proto(report).SerializeToString()))
    plain = {"fallbacks": 0, "waits": 0, "waited_ms": 0}
    names = ("layers", "models", "agents", "task_types", "days")
    lines = {
        name: tuple(line._replace(use=line.use._replace(**plain)) for line in getattr(report, name))
        for name in names
    }
    assert told == replace(
        report,
        layers=lines["layers"],
        models=lines["models"],
        agents=lines["agents"],
        task_types=lines["task_types"],
        days=lines["days"],
    )


def test_tokens_that_are_not_tracked_do_not_travel() -> None:
    """R7."""
    told = to_proto(replace(sample.report(), tracks_tokens=False))
    rows = [told.total, *told.layers, *told.models, *told.agents, *told.task_types, *told.days]
    assert not any(row.HasField("usage") or row.assumed_token_count for row in rows)
    assert all(row.HasField("cost") for row in rows)
