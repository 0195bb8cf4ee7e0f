"""Reports of a real server: their figures are those of the ledger, and of the callers."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import escalade
from escalade.v1.escalation_pb2 import QuotaUnit
from escalade_server.provider_simulator import FaultKind
from tests.e2e.test_commands import command
from tests.e2e.world import failing, reference, world

COUNTED = {
    QuotaUnit.QUOTA_UNIT_REQUESTS: ("requests",),
    QuotaUnit.QUOTA_UNIT_TOKENS: ("input_tokens", "output_tokens", "assumed_tokens"),
}
TASKS = ("parse", "parse", "debug", "refactor", "architecture", "architecture")


async def test_a_report_adds_up_to_what_callers_and_ledger_were_told(tmp_path: Path) -> None:
    strategy = reference(2)
    broken = {"openai/gpt-4o-mini": failing(FaultKind.SERVER_ERROR)}
    async with world(tmp_path, strategy, broken) as made:
        async with escalade.AsyncClient(made.target) as client:
            answers = await asyncio.gather(
                *(client.complete(f"Task {n}", task=kind) for n, kind in enumerate(TASKS))
            )
            status = await client.status()
        day = f"{datetime.now(tz=UTC):%Y-%m-%d}"
        code, out, err = await command("report", "--target", made.target, "--day", day, "--json")
        assert code == 0, err
        told = json.loads(out)
        total, reports = told["total"], [answer.report for answer in answers]
        assert (total["tasks"], total["failed"]) == (len(TASKS), 0)
        assert total["list_nano_usd"] == sum(r.cost.list_nano_usd for r in reports)
        assert total["charged_nano_usd"] == sum(r.cost.charged_nano_usd for r in reports)
        assert total["input_tokens"] == sum(r.usage.input_tokens for r in reports)
        assert total["requests"] == sum(len(r.attempts) for r in reports)
        baseline = told["baselines"][0]
        assert baseline["model"].endswith(f"/{reports[0].baseline_model}")
        assert baseline["list_nano_usd"] == sum(r.baseline_nano_usd for r in reports)
        changes = sum(len(r.layer_path) - 1 for r in reports)
        assert sum(change["times"] for change in told["escalations"]) == changes > 0
        assert told["fallbacks"] > 0
        for by in ("by_layer", "by_model", "by_agent", "by_task_type"):
            for name in ("requests", "list_nano_usd", "charged_nano_usd", "output_tokens"):
                assert sum(line[name] for line in told[by]) == total[name], (by, name)
        models = {line["name"]: line for line in told["by_model"]}
        daily = [
            (f"{model.target.provider}/{model.target.model}", quota)
            for layer in status.layers
            for model in layer.models
            for quota in model.quotas
            if quota.scope == "model" and quota.period == "day"
        ]
        assert {quota.unit for _, quota in daily} >= set(COUNTED)
        for name, quota in daily:
            line = models.get(name, {})
            used = sum(line.get(figure, 0) for figure in COUNTED[quota.unit])
            assert quota.spent == used, (name, quota)
        code, out, err = await command("report", "--target", made.target, "--day", day, "--csv")
        lines = list(csv.DictReader(io.StringIO(out)))
        assert lines[0]["by"] == "total"
        assert int(lines[0]["charged_nano_usd"]) == total["charged_nano_usd"]
        code, out, err = await command("report", "--target", made.target)
        assert code == 0, err
        assert "Forecast to the month's end" in out
        page = tmp_path / "report.html"
        code, out, err = await command("report", "--target", made.target, "--html", page)
        assert code == 0, err
        assert "<svg" in page.read_text()
        code, out, err = await command("report", "--target", made.target, "--day", "2026-13-01")
        assert code == 1
        assert "no day or month" in err
