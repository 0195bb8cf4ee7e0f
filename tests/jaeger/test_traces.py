"""What an operator sees in a real Jaeger of a real server: `make e2e-jaeger`."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import escalade
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from escalade_server.telemetry import conventions as c
from tests.e2e.world import COMMAND, KEY_NAME, World, failing, reference, world
from tests.jaeger.conftest import AGENT_SERVICE
from tests.jaeger.jaeger import Found, Jaeger

SERVICE = "escalade"
AGENT = "night-agent"
PROMPT, GOOD, BAD = "canary-prompt-51a7", "canary-answer-90be", "canary-refused-77cd"
EDGE_US = 5_000
"""Two processes' clocks; the service's own is in whole ms."""
SCRIPTS = {
    "openai/gpt-4o-mini": failing(FaultKind.DAY_LIMIT),
    "google/gemini-2.0-flash": failing(FaultKind.RATE_LIMIT),
    "deepseek/deepseek-chat": failing(FaultKind.SERVER_ERROR),
    "openrouter/minimax/minimax-v2-pro": ModelScript(text=BAD),
    "anthropic/claude-3-haiku": ModelScript(text=f"Here it is: {GOOD}"),
}
LAYERS = ["free_primary", "budget_subscription", "premium_reserve"]
FIRST_LAYER = reference(1).partition("    - name: budget_fallback")[0]
ONLY_MINI = FIRST_LAYER.partition("        - provider: google")[0] + "      priority: 1\n"


async def token_for(folder: Path, name: str) -> str:
    """Make a bearer token in the ledger that the server will open."""
    process = await asyncio.create_subprocess_exec(
        COMMAND, "token", "create", name, "--state", folder / "state.sqlite3", "--json",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return str(json.loads(out)["token"])


@asynccontextmanager
async def traced(
    folder: Path, jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch, strategy: str, **more: str
) -> AsyncIterator[tuple[World, escalade.AsyncClient]]:
    """Serve with spans to Jaeger, for an agent that shows its token."""
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp, "OTEL_RESOURCE_ATTRIBUTES": "zone=test"}
    for name, value in (own | more).items():
        monkeypatch.setenv(name, value)
    token = await token_for(folder, AGENT)
    scripts = SCRIPTS if strategy == reference(2) else {"openai/gpt-4o-mini": WAITS}
    async with (
        world(folder, strategy, scripts) as made,
        escalade.AsyncClient(made.target, token=token) as client,
    ):
        yield made, client


WAITS = ModelScript(faults=(Fault(kind=FaultKind.RATE_LIMIT, retry_after_ms=100_000),))


def named(spans: list[Found], name: str) -> list[Found]:
    return [span for span in spans if span.name == name]


def children(spans: list[Found], parent: Found) -> list[Found]:
    found = [span for span in spans if span.parent == parent.id]
    return sorted(found, key=lambda span: (span.start_us, span.end_us))


def assert_nested(spans: list[Found]) -> None:
    wrong = [w for span in spans for w in span.warnings if not w.startswith("clock skew")]
    assert not wrong, "two processes may differ by a clock's step; nothing else is odd"
    by_id = {span.id: span for span in spans}
    for span in spans:
        above = by_id.get(span.parent)
        if above is None:
            continue
        slack = EDGE_US if above.service != span.service else 0
        assert above.start_us - slack <= span.start_us, span
        assert span.end_us <= above.end_us + slack, span


async def test_one_trace_tells_a_task_from_the_agent_to_each_attempt(
    tmp_path: Path, jaeger: Jaeger, agent: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate limit, fallback, exhausted, escalation, failed gate, premium: and all of it is there."""
    events: list[escalade.Announcement] = []
    async with traced(tmp_path, jaeger, monkeypatch, reference(2)) as (made, client):
        with trace.get_tracer("the-agent").start_as_current_span("think"):
            answer = await client.complete(
                f"Parse this: {PROMPT}",
                task=escalade.Task("parse", tokens=500, session_id="night-1"),
                quality=escalade.QualityDemands(must_contain=[GOOD]),
                request_id="task-of-the-night",
                on_event=events.append,
            )
        assert GOOD in answer.text
        log = made.log
    agent.force_flush()
    trace_id = answer.report.trace_id
    spans = await jaeger.until(
        lambda: jaeger.trace(trace_id),
        lambda found: bool(named(found, "think") and named(found, c.METHODS + "Complete")[1:]),
    )
    [think], [sdk, root] = named(spans, "think"), named(spans, c.METHODS + "Complete")
    assert (think.service, sdk.service, root.service) == (AGENT_SERVICE, AGENT_SERVICE, SERVICE)
    assert (sdk.parent, root.parent) == (think.id, sdk.id)
    assert [span.tags["span.kind"] for span in (sdk, root)] == ["client", "server"]
    assert_nested(spans)
    below = children(spans, root)
    visited = [f"layer {name}" for name in LAYERS]
    assert [span.name for span in below] == ["assess", *visited, "settle"]
    attempts = [children(spans, layer) for layer in below[1:4]]
    assert [[span.tags[c.MODEL] for span in layer] for layer in attempts] == [
        ["openai/default/gpt-4o-mini", "google/default/gemini-2.0-flash",
         "deepseek/default/deepseek-chat"],
        ["openrouter/default/minimax/minimax-v2-pro"],
        ["anthropic/default/claude-3-haiku"],
    ]  # fmt: skip
    calls = [span for layer in attempts for span in layer]
    assert {span.name for span in calls} == {f"chat {s.tags[c.REQUEST_MODEL]}" for s in calls}
    assert {span.tags["span.kind"] for span in calls} == {"client"}
    assert [span.tags.get(c.ERROR_TYPE) for span in calls] == [
        "quota_window", "rate_short", "outage", None, None,
    ]  # fmt: skip
    assert [span.tags.get("error") for span in calls] == [True, True, True, None, None]
    assert [span.tags[c.ATTEMPT_STATUS] for span in calls] == [
        "failed", "failed", "failed", "rejected", "ok",
    ]  # fmt: skip
    told = [e for e in events if isinstance(e, escalade.Escalated)]
    assert [
        tuple(layer.tags[key] for key in (c.FROM, c.TO, c.REASON, c.DETAIL)) for layer in below[2:4]
    ] == [(e.from_layer, e.to_layer, e.reason.lower(), e.detail) for e in told]
    fallbacks = [e for e in below[1].events if e["event"] == c.EVENT_FALLBACK]
    assert [e[c.TO_MODEL] for e in fallbacks] == [span.tags[c.MODEL] for span in attempts[0][1:]]
    [verdict] = [e for e in attempts[1][0].events if e["event"] == c.EVENT_GATE]
    assert (verdict[c.GATE], verdict[c.GATE_PASSED]) == ("pattern", False)
    assert root.tags[c.STORY] == answer.story
    assert root.tags[c.RPC_STATUS] == "OK"
    usage_is_on_attempts_only(spans, calls, answer)
    for tags in (
        {c.REASON: "quality"}, {c.LAYER: "premium_reserve"}, {c.AGENT: AGENT},
        {c.MODEL: "anthropic/default/claude-3-haiku"}, {c.REQUEST_ID: "task-of-the-night"},
        {c.CONVERSATION: "night-1"},
    ):  # fmt: skip
        assert trace_id in {span.trace_id for span in jaeger.tagged(SERVICE, **tags)}, tags
    seen = jaeger.text(f"/api/traces/{trace_id}") + log.read_text()
    for canary in (PROMPT, GOOD, BAD, "made-up", KEY_NAME):
        assert canary not in seen


def usage_is_on_attempts_only(
    spans: list[Found], calls: list[Found], answer: escalade.Answer
) -> None:
    """Jaeger adds up every span's usage: the sum must be what the ledger has."""
    spent = (c.INPUT_TOKENS, c.OUTPUT_TOKENS, c.LIST_COST, c.CHARGED_COST)
    report, ids = answer.report, {span.id for span in calls}
    booked = (
        report.usage.input_tokens, report.usage.output_tokens,
        report.cost.list_nano_usd, report.cost.charged_nano_usd,
    )  # fmt: skip
    for key, total in zip(spent, booked, strict=True):
        assert sum(int(str(span.tags.get(key, 0))) for span in spans) == total, key
        assert not [span for span in spans if key in span.tags and span.id not in ids]
    assert booked[0] > 0
    assert booked[2] > 0


async def test_a_waiting_task_is_seen_while_it_waits(
    tmp_path: Path, jaeger: Jaeger, agent: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio_0 = {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    asked = "task-that-waits"
    async with traced(tmp_path, jaeger, monkeypatch, ONLY_MINI, **ratio_0) as (_, client):
        work = asyncio.ensure_future(
            client.complete(PROMPT, task="parse", request_id=asked, timeout=600)
        )
        waiting = await jaeger.until(
            lambda: jaeger.tagged(SERVICE, **{c.REQUEST_ID: asked}),
            lambda found: bool(named(found, c.SPAN_QUEUED)),
        )
        assert not work.done()
        [mark] = named(waiting, c.SPAN_QUEUED)
        assert mark.tags[c.WAIT_REASON] == "rate"
        assert mark.tags[c.AGENT] == AGENT
        assert {span.name for span in waiting} >= {
            "assess",
            "layer free_primary",
            "chat gpt-4o-mini",
        }
        assert not named(waiting, c.METHODS + "Complete"), "it has not ended"
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        over = await jaeger.until(
            lambda: jaeger.trace(mark.trace_id),
            lambda found: bool(named(found, c.METHODS + "Complete") and named(found, c.SPAN_WAIT)),
        )
    [wait] = named(over, c.SPAN_WAIT)
    assert wait.start_us == mark.start_us
    served = [span for span in over if span.service == SERVICE]
    assert len({span.id for span in served}) == len(served), "each span is sent once"
    assert_nested(over)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_at_a_ratio_of_nothing_no_eventful_task_is_lost(
    tmp_path: Path,
    jaeger: Jaeger,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    endpoint = jaeger.otlp if protocol == "grpc" else jaeger.otlp_http
    environ = {
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
    }
    ids: dict[bool, set[str]] = {True: set(), False: set()}
    async with traced(tmp_path, jaeger, monkeypatch, reference(2), **environ) as (_, client):
        for number in range(12):
            name = f"{protocol[:4]}-{number}"
            demands = escalade.QualityDemands(must_contain=[GOOD]) if number % 2 else None
            answer = await client.complete(
                f"Number {number}",
                task="parse",
                quality=demands,
                request_id=name,
            )
            eventful = len(answer.report.layer_path) > 1 or len(answer.attempts) > 1
            ids[eventful].add(answer.report.trace_id)
        assert ids[True]

        def roots() -> set[str]:
            found = jaeger.tagged(SERVICE, **{c.OUTCOME: "answered"})
            return {span.trace_id for span in found}

        await jaeger.until(
            lambda: jaeger.tagged(SERVICE, **{c.OUTCOME: "answered"}),
            lambda found: ids[True] <= {span.trace_id for span in found},
        )
        assert not ids[False] & roots()
