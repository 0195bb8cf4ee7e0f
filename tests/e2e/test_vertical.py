"""One whole vertical: SDK, gRPC, engine, store, HTTP, provider. What issue 3 calls done."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

import escalade
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.e2e.world import World, failing, reference, world

GEMINI = {1: "gemini-flash", 2: "gemini-2.0-flash"}
BUDGET = {1: "budget_fallback", 2: "budget_subscription"}
HARD = escalade.Task("architecture", file_count=10, tokens=50_000)


class Told:
    """Keeps what a call announced."""

    def __init__(self) -> None:
        self.events: list[escalade.Announcement] = []

    def __call__(self, event: escalade.Announcement) -> None:
        self.events.append(event)

    def fallbacks(self) -> list[tuple[str, str, str]]:
        return [
            (e.from_model.model, e.to_model.model, e.failure_class)
            for e in self.events
            if isinstance(e, escalade.Fallback)
        ]

    def escalations(self) -> list[tuple[str, str, str, str]]:
        return [
            (e.from_layer, e.to_layer, e.reason, e.kind)
            for e in self.events
            if isinstance(e, escalade.Escalated)
        ]


@pytest.mark.parametrize("version", [1, 2])
async def test_a_429_is_answered_by_a_sibling(tmp_path: Path, version: int) -> None:
    told = Told()
    scripts = {"openai/gpt-4o-mini": failing(FaultKind.DAY_LIMIT)}
    async with (
        world(tmp_path, reference(version), scripts) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        answer = await client.complete("Parse this.", task="parse", on_event=told)
        assert answer.model == GEMINI[version]
        assert answer.layer == "free_primary"
        assert told.fallbacks() == [("gpt-4o-mini", GEMINI[version], "QUOTA_WINDOW")]
        assert told.escalations() == []
        assert answer.text
        assert answer.cost_nanos == 0
        # The refusal was believed: the next task does not ask that model at all.
        again = await client.complete("Parse this too.", task="parse")
        assert [a.model.model for a in again.attempts] == [GEMINI[version]]
        assert made.account("openai", "gpt-4o-mini").requests_received == 1


@pytest.mark.parametrize("version", [1, 2])
async def test_an_exhausted_layer_escalates(tmp_path: Path, version: int) -> None:
    told = Told()
    scripts = {
        "openai/gpt-4o-mini": failing(FaultKind.DAY_LIMIT),
        f"google/{GEMINI[version]}": failing(FaultKind.DAY_LIMIT),
        "deepseek/deepseek-chat": failing(FaultKind.DAY_LIMIT),
    }
    async with (
        world(tmp_path, reference(version), scripts) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        answer = await client.complete("Parse this.", task="parse", on_event=told)
        assert answer.layer == BUDGET[version]
        assert len(told.fallbacks()) == 2
        assert told.escalations() == [("free_primary", BUDGET[version], "RATE_LIMIT", "FAILURE")]
        kinds = [type(event).__name__ for event in told.events]
        assert kinds.index("Escalated") < kinds.index("Finished")
        assert BUDGET[version] in answer.story
        assert answer.list_nanos > 0
        assert await made.stop() == 0
        logged = made.logged("task.escalated")
        assert [(line["from_layer"], line["to_layer"]) for line in logged] == [
            ("free_primary", BUDGET[version])
        ]
        assert logged[0]["request_id"] == answer.request_id


@pytest.mark.parametrize("version", [1, 2])
async def test_a_score_above_8_jumps(tmp_path: Path, version: int) -> None:
    told = Told()
    async with (
        world(tmp_path, reference(version)) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        answer = await client.complete("Design it.", task=HARD, on_event=told)
        assert answer.layer == "premium_reserve"
        assert answer.model == "claude-3-haiku"
        assert told.escalations() == [("free_primary", "premium_reserve", "COMPLEXITY", "INITIAL")]
        assessed = next(e for e in told.events if isinstance(e, escalade.Assessed))
        assert assessed.score == pytest.approx({1: 9.6, 2: 10}[version])
        # What we charge is what the provider bills.
        assert answer.cost_nanos == made.account("anthropic", "claude-3-haiku").cost_nanos > 0


async def test_a_daily_limit_is_never_overrun(tmp_path: Path) -> None:
    async with (
        world(tmp_path, reference(1)) as made,
        escalade.AsyncClient(made.target, timeout=60) as client,
    ):
        answers = await asyncio.gather(
            *(client.complete(f"Parse {number}.", task="parse") for number in range(200))
        )
        by_model = Counter(answer.model for answer in answers)
        assert by_model == {"gpt-4o-mini": 50, "gemini-flash": 100, "deepseek-chat": 50}
        assert made.account("openai", "gpt-4o-mini").requests_received == 50
        assert made.account("google", "gemini-flash").requests_received == 100
        status = await client.status()
        quota = status.layers[0].models[0].quotas[0]
        assert (quota.spent, quota.held, quota.limit) == (50, 0, 50)


def dying(kind: FaultKind) -> ModelScript:
    """Script a model that dies after 20 of its 64 chunks."""
    return ModelScript(chunks=64, chunk_interval_ms=2, faults=(Fault(kind=kind, after_chunks=20),))


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.HANG_UP, FaultKind.BARE_END])
async def test_a_broken_stream_restarts_with_the_second_models_text_alone(
    tmp_path: Path, kind: FaultKind
) -> None:
    told = Told()
    retracted: list[escalade.Retracted] = []
    text = " ".join(f"second{number}" for number in range(30))
    scripts = {
        "openai/gpt-4o-mini": dying(kind),
        "google/gemini-flash": ModelScript(text=text, chunk_interval_ms=1),
    }
    async with (
        world(tmp_path, reference(1), scripts) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        shown = ""
        async with client.stream(
            "Parse this.", task="parse", on_event=told, on_restart=retracted.append
        ) as stream:
            async for event in stream:
                if isinstance(event, escalade.Retracted):
                    assert shown, "something was delivered before it was taken back"
                    shown = ""
                elif isinstance(event, escalade.TextDelta):
                    shown += event.text
            answer = await stream.answer()
        assert answer.text == text
        assert shown == text
        assert len(retracted) == 1
        assert [attempt.status for attempt in answer.attempts] == ["RETRACTED", "OK"]
        kinds = [type(event).__name__ for event in told.events]
        assert kinds.index("Retracted") < kinds.index("Fallback")


async def test_a_broken_stream_fails_with_what_was_paid(tmp_path: Path) -> None:
    async with (
        world(tmp_path, reference(1), {"anthropic/claude-3-haiku": dying(FaultKind.CUT)}) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        shown: list[str] = []
        async with client.stream("Design it.", task=HARD) as stream:
            with pytest.raises(escalade.Interrupted) as caught:
                await read(stream, shown)
        assert shown, "the text up to the break was delivered"
        error = caught.value
        assert error.reason == "INTERRUPTED"
        assert [attempt.model.model for attempt in error.attempts] == ["claude-3-haiku"]
        # Paid, and never less than what the provider bills.
        assert error.cost_nanos >= made.account("anthropic", "claude-3-haiku").cost_nanos > 0
        assert "claude-3-haiku" in error.message or "anthropic" in error.message


async def read(stream: escalade.AsyncStream, shown: list[str]) -> None:
    """Read a stream to its end, keeping what came."""
    async for text in stream.text:
        shown.append(text)  # noqa: PERF401 - what came before the break must be kept


CAPPED = """\
fallback_strategy:
  layers:
    - name: premium
      models:
        - provider: openai
          model: gpt-4o
          price: {input: 2.5, output: 100}
      priority: 1
      monthly_cap: 1_usd
  failure_handling:
    on_all_layers_exhausted: fail
"""


async def ask(client: escalade.AsyncClient, number: int) -> str:
    """One caller; every other one leaves at the first word."""
    try:
        async with client.stream(f"Say {number}.", task="parse", max_output_tokens=256) as stream:
            async for _ in stream.text:
                if number % 2:
                    return "left"
    except escalade.StatusError as error:
        return error.reason
    return "answered"


async def test_a_cap_holds_against_callers_who_leave(tmp_path: Path) -> None:
    scripts = {"openai/gpt-4o": ModelScript(chunks=120, chunk_interval_ms=4)}
    async with (
        world(tmp_path, CAPPED, scripts) as made,
        escalade.AsyncClient(made.target, timeout=60) as client,
    ):
        ends = await asyncio.gather(*(ask(client, number) for number in range(200)))
        await settled(made, client)
        billed = made.simulator.ledger().cost_nanos
        assert billed <= 1_000_000_000
        assert billed > 300_000_000, "the test must come near the cap to say anything"
        assert ends.count("left") > 10
        assert ends.count("answered") > 10
        assert ends.count("BUDGET_EXHAUSTED") > 10
        assert set(ends) <= {"left", "answered", "BUDGET_EXHAUSTED"}
        cap = (await client.status()).layers[0].quotas[0]
        assert billed <= cap.spent + cap.held <= cap.limit == 1_000_000_000


async def settled(made: World, client: escalade.AsyncClient) -> None:
    """Wait until no task runs, and no provider still tells an answer."""
    for _ in range(400):
        open_streams = [a.streams_open for a in made.simulator.ledger().accounts.values()]
        if not any(open_streams) and not (await client.status()).in_flight_count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("something still runs")
