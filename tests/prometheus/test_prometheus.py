"""Dashboard and rules against a real Prometheus that scrapes a real server under real traffic."""

import asyncio
import json
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import escalade
from escalade.v1.escalation_pb2 import ModelRef
from escalade.v1.operations_service_pb2 import MODEL_ACTION_DISABLE
from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    Price,
    ProviderScript,
    Scenario,
    Simulator,
)
from tests.e2e.world import KEY_NAME, STOP_S, launch
from tests.prometheus.server import DEPLOY, running, wait_for
from tools import dashboard

FREE = ("cut", "failing", "liar", "limited", "fine", "idle")
STRATEGY = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models:
{free}
        - {{provider: odd, model: teapot, rate_limit: 500/day}}
    - name: paid
      priority: 2
      models:
        - {{provider: deepseek, model: sound, price: {{input: 1, output: 2}}, monthly_cap: 5_usd}}
      trigger: [free.exhausted, free.rate_limit_exceeded, free.all_models_unavailable]
    - name: premium
      priority: 3
      models:
        - {{provider: deepseek, model: slow, price: {{input: 5, output: 20}}}}
      trigger: [paid.exhausted, task.complexity > 8]
      monthly_cap: 5_usd
  failure_handling: {{on_all_layers_exhausted: wait}}
providers:
  deepseek: {{base_url: {deepseek}, api_key_env: {key}}}
  odd: {{base_url: {odd}, dialect: openai, api_key_env: {key}}}
circuit_breaker: {{failures: 2, open_for: 1h}}
"""
LIMITED = Fault(kind=FaultKind.RATE_LIMIT, on_requests=(1, 3), retry_after_ms=4_000)
SCRIPTS = {
    "fine": ModelScript(text="An answer of six short words."),
    "idle": ModelScript(),
    "failing": ModelScript(faults=(Fault(kind=FaultKind.SERVER_ERROR),)),
    "cut": ModelScript(faults=(Fault(kind=FaultKind.CUT, after_chunks=2),)),
    "liar": ModelScript(faults=(Fault(kind=FaultKind.NEGATIVE_USAGE),)),
    "limited": ModelScript(faults=(LIMITED,)),
    "sound": ModelScript(text="A sound answer.", price=Price(input_pico=1, output_pico=2)),
    "slow": ModelScript(text="Slow but sure.", first_token_ms=4_000),
}
ASKS_MUCH = escalade.QualityDemands(must_contain=["zebra"], on_unmet="deliver")


def only(*models: str) -> escalade.Constraints:
    """Choose what happens by who may answer."""
    return escalade.Constraints(allowed_models=models, may_wait=True)


class Teapot(BaseHTTPRequestHandler):
    """A provider that refuses in a way that no table knows."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error": {"message": "short and stout"}}'
        self.send_response(418)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return


@dataclass(frozen=True, slots=True)
class World:
    """A server of its own process, with its metrics."""

    target: str
    metrics: str
    log: Path


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Serve that strategy over providers that do what is scripted."""
    odd = ThreadingHTTPServer(("127.0.0.1", 0), Teapot)
    threading.Thread(target=odd.serve_forever, daemon=True).start()
    simulator = Simulator(Scenario(providers={"deepseek": ProviderScript(models=SCRIPTS)}))
    await simulator.start()
    process = None
    try:
        free = "\n".join(
            f"        - {{provider: deepseek, model: {name}, price: {{input: 0, output: 0}}}}"
            for name in FREE
        )
        text = STRATEGY.format(
            free=free,
            deepseek=simulator.provider_url("deepseek"), key=KEY_NAME,
            odd=f"http://127.0.0.1:{odd.server_port}/v1",
        )  # fmt: skip
        (folder / "strategy.yaml").write_text(text)
        process, started = await launch(folder, "5s", options=("--metrics", "127.0.0.1:0"))
        yield World(str(started["target"]), str(started["metrics"]), folder / "log.jsonl")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), STOP_S) == 0
    finally:
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        await simulator.stop()
        odd.shutdown()
        odd.server_close()


CALLS = 6


async def traffic(client: escalade.AsyncClient) -> None:
    """Let happen what can; twice, each counter goes up while Prometheus looks."""
    await client.complete("Go.", task="parse", constraints=only("fine"))
    # An outage, then a teapot, then the paid layer.
    await client.complete("Go.", task="parse", constraints=only("failing", "teapot", "sound"))
    await client.complete("Go.", task="parse", constraints=only("fine"), quality=ASKS_MUCH)
    with suppress(escalade.Interrupted):
        async with client.stream("Go.", task="parse", constraints=only("cut")) as stream:
            await stream.answer()
    await client.complete("Go.", task="parse", constraints=only("liar"))
    await client.complete("Go.", task="parse", constraints=only("limited"))


async def test_every_panel_and_every_rule_has_data(tmp_path: Path) -> None:
    since = time.time()
    async with world(tmp_path) as made, escalade.AsyncClient(made.target, timeout=60) as client:
        with running(tmp_path, made.metrics) as prometheus:

            def scraped(least: int) -> bool:
                found = prometheus.now("sum(escalade_requests_total)")
                return bool(found) and found[0][1] >= least

            idle = ModelRef(model="idle")
            await client.set_model_state(MODEL_ACTION_DISABLE, idle, note="until somebody acts")
            await traffic(client)
            slow = asyncio.ensure_future(client.complete("Go.", constraints=only("slow")))
            await asyncio.to_thread(wait_for, lambda: scraped(CALLS), "the first round")
            await slow
            await traffic(client)
            await asyncio.to_thread(wait_for, lambda: scraped(2 * CALLS + 1), "the second round")

            def missing() -> list[str]:
                return [
                    f"{panel['title']}: {expression}"
                    for _, row in dashboard.rows()
                    for panel in row
                    for expression, _ in dashboard.queries(panel)
                    if not any(
                        value == value  # noqa: PLR0124 - a quantile of nothing is no number
                        for series in prometheus.seen(
                            expression.replace("$__rate_interval", "20s"), since
                        )
                        for value in series
                    )
                ]

            try:
                await asyncio.to_thread(wait_for, lambda: not missing(), "every panel has data")
            except AssertionError as error:
                raise AssertionError(missing()) from error

            groups = prometheus.ask("rules")["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert len(rules) > 10
            assert [(rule["name"], rule.get("lastError")) for rule in rules] == [
                (rule["name"], None) for rule in rules
            ]
            for record in (rule["name"] for rule in rules if rule["type"] == "recording"):
                await asyncio.to_thread(wait_for, lambda: prometheus.now(record), record)  # noqa: B023 - at once
            firing = {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}
            assert {"EscaladeUnclassifiedSignal", "EscaladePriceUnknown"} <= firing

            shown = prometheus.ask(
                "query_exemplars", query="escalade_escalations_total", start=since, end=time.time()
            )
    lines = [json.loads(line) for line in made.log.read_text().splitlines()]
    escalated = {line["trace_id"] for line in lines if line["event"] == "task.escalated"}
    traces = {one["labels"]["trace_id"] for series in shown for one in series["exemplars"]}
    assert traces
    assert traces <= escalated


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool") or "promtool"
    told = subprocess.run(
        [program, *arguments], cwd=DEPLOY, check=False, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "FAILED" not in told.stdout + told.stderr


def test_the_rules_do_what_they_say() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml")
    promtool("test", "rules", "rules_test.yml")
