"""Sessions over real processes: evidence raises the next steps, and clean ones lower them (R29)."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

import escalade
from escalade_server.provider_simulator import ModelScript
from tests.e2e.test_sdk_route import asked
from tests.e2e.world import reference, world

LAYERS = FREE, BUDGET, PREMIUM = "free_primary", "budget_fallback", "premium_reserve"
STRATEGY = f"{reference(1)}\nquality: {{gates: [invalid_json]}}\n"
PROSE = ModelScript(text="Here is your JSON!", obeys_format=False)
SCRIPTS = {
    "openai/gpt-4o-mini": PROSE,
    "google/gemini-flash": PROSE,
    "deepseek/deepseek-chat": PROSE,
}
NOTE = "3 clean steps in the session: one layer lower again"


def step(name: str, *signals: str) -> escalade.Task:
    evidence = [escalade.Evidence("failed_check", signal) for signal in signals]
    return escalade.Task("parse", tokens=100, session_id=name, evidence=evidence)


def written(folder: Path, words: bytes) -> list[str]:
    """Name the files of the state that hold these words."""
    return [file.name for file in folder.glob("state.*") if words in file.read_bytes()]


class Steps:
    """The steps of one session, and what was told of them."""

    def __init__(self, client: escalade.AsyncClient, name: str) -> None:
        self.client, self.name = client, name
        self.told: list[escalade.Assessed] = []
        self.answers: list[escalade.Answer] = []

    async def ask(self, *signals: str, text: str = "Go.") -> str:
        """Answer in which layer a step started."""
        task, told = step(self.name, *signals), list[escalade.Announcement]()
        self.answers.append(await self.client.complete(text, task=task, on_event=told.append))
        [seen] = [event for event in told if isinstance(event, escalade.Assessed)]
        self.told.append(seen)
        assert self.answers[-1].layer == seen.start_layer
        return seen.start_layer


async def test_a_cheap_models_invalid_json_escalates_and_raises_the_next_steps(
    tmp_path: Path,
) -> None:
    """Issue 6: charged and listed, no delta of it seen; three clean steps lower it again."""
    async with (
        world(tmp_path, STRATEGY, SCRIPTS) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        events: list[escalade.Announcement] = []
        async with client.stream(
            "List it as JSON.", task=step("run"), response_format="json", on_event=events.append
        ) as stream:
            text = "".join([piece async for piece in stream.text])
            answer = await stream.answer()
        assert "Here is" not in text
        assert text == answer.text
        assert answer.layer == BUDGET
        [change] = answer.escalations
        assert (change.to_layer, change.reason) == (BUDGET, "QUALITY")
        rejected, good = answer.attempts
        assert (rejected.status, good.status) == ("REJECTED", "OK")
        assert rejected.list_nanos > 0
        assert made.account("openai", "gpt-4o-mini").requests_finished == 1

        steps = Steps(client, "run")
        assert [await steps.ask() for _ in range(3)] == [BUDGET] * 3
        first = steps.answers[0]
        assert [(e.to_layer, e.reason, e.kind) for e in first.escalations] == [
            (BUDGET, "EVIDENCE", "INITIAL")
        ]
        assert steps.told[0].raised_by == 1
        assert "an answer failed its gate in the session" in first.story
        assert await steps.ask() == FREE
        assert steps.told[-1].session_note == NOTE
        assert NOTE in steps.answers[-1].story
        assert await steps.ask() == FREE
        assert not steps.told[-1].session_note


async def test_evidence_raises_at_most_to_the_limits_and_outlives_a_restart(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, STRATEGY) as made:
        async with escalade.AsyncClient(made.target) as client:
            steps, other = Steps(client, "run"), Steps(client, "other")
            assert await steps.ask() == FREE
            assert await steps.ask("test_a") == BUDGET
            assert await steps.ask("test_a", "test_b") == PREMIUM
            assert await steps.ask("test_a", "test_b") == PREMIUM, "never twice for one signal"
            assert await other.ask() == FREE
            kept_cheap = await client.complete(
                "Go.", task=step("run", "test_c"), constraints=escalade.Constraints(free_only=True)
            )
            assert kept_cheap.layer == FREE
        assert await made.stop() == 0
        await made.start_again()
        async with escalade.AsyncClient(made.target) as client:
            steps = Steps(client, "run")
            started = [await steps.ask() for _ in range(6)]
        assert started == [PREMIUM, PREMIUM, BUDGET, BUDGET, BUDGET, FREE]
    assert not written(tmp_path, b"test_a"), "no signal is kept in words"


async def test_the_model_of_a_session_is_asked_first_in_its_layer(tmp_path: Path) -> None:
    async with (
        world(tmp_path, reference(1)) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        there = escalade.Constraints(allowed_models=["gemini-flash"])
        await client.complete("Go.", task=step("run"), constraints=there)
        steps, other = Steps(client, "run"), Steps(client, "other")
        await steps.ask()
        await other.ask()
    assert steps.answers[0].model == "gemini-flash"
    assert other.answers[0].model == "gpt-4o-mini"


@pytest.mark.parametrize("says", ["rejected", "evidence"])
async def test_route_steps_belong_to_the_same_session(tmp_path: Path, says: str) -> None:
    async with (
        world(tmp_path, reference(1)) as made,
        escalade.AsyncClient(made.target) as client,
        httpx.AsyncClient() as http,
    ):

        async def routed(task: escalade.Task, *, reject: bool = False) -> Sequence[str]:
            layers = []
            async with client.route(task, max_output_tokens=500, timeout=20) as route:
                async for choice in route:
                    layers.append(choice.layer)
                    async with choice.attempt() as attempt:
                        response = await http.send(asked(made, choice))
                        if reject and choice.layer == FREE:
                            attempt.rejected("empty")
                        else:
                            attempt.ok(response.json())
            return layers

        signals = ["test_a"] if says == "evidence" else []
        if says == "rejected":
            assert await routed(step("run"), reject=True) == [FREE, BUDGET]
        assert await routed(step("run", *signals)) == [BUDGET]
        plan = await client.plan(step("run"))
        assert plan.selected is not None
        assert plan.selected.layer == BUDGET
        steps = Steps(client, "run")
        assert [await steps.ask() for _ in range(3)] == [BUDGET, BUDGET, FREE]
        assert steps.told[-1].session_note == NOTE
