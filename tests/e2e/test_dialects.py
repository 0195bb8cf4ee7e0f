"""Every provider and model of the reference files, in its own dialect, through the real server."""

import json
from pathlib import Path

import pytest

import escalade
from escalade_server.core.task import Feature
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript, ToolCallScript
from tests.e2e.world import reference, world

PAIRS = [
    (1, "openai/gpt-4o-mini"),
    (1, "google/gemini-flash"),
    (1, "deepseek/deepseek-chat"),
    (1, "nano-gpt/glm-5"),
    (1, "minimax/minimax-v2-pro"),
    (1, "anthropic/claude-3-haiku"),
    (1, "openai/gpt-4o"),
    (2, "google/gemini-2.0-flash"),
    (2, "openrouter/minimax/minimax-v2-pro"),
]
WEATHER = escalade.Tool(
    "weather",
    "Tells the weather of a town.",
    {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
)
TOWN = escalade.JsonSchema(
    {
        "type": "object",
        "properties": {"town": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["town", "people"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize("version", [1, 2])
async def test_every_pair_answers_streams_calls_a_tool_and_obeys_a_schema(
    tmp_path: Path, version: int
) -> None:
    scripts = {name: ModelScript(calls_first_tool=True) for v, name in PAIRS if v == version}
    async with (
        world(tmp_path, reference(version), scripts) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        for name in scripts:
            only = escalade.Constraints(allowed_models=[name])
            model = name.partition("/")[2]

            whole = await client.complete("Say something.", constraints=only)
            assert whole.text, name
            assert whole.model == model

            async with client.stream("Say something.", constraints=only) as stream:
                pieces = [text async for text in stream.text]
                told = await stream.answer()
            assert "".join(pieces) == told.text == whole.text, name

            called = await client.complete("Weather?", tools=[WEATHER], constraints=only)
            assert [call.name for call in called.tool_calls] == ["weather"], name
            assert "town" in called.tool_calls[0].arguments()

            if Feature.JSON_SCHEMA in made.model(*name.split("/", 1)).features:
                formed = await client.complete("A town.", response_format=TOWN, constraints=only)
                assert set(json.loads(formed.text)) == {"town", "people"}, name


async def test_a_two_step_tool_task_escalates_between_dialects(tmp_path: Path) -> None:
    """Step one is gpt-4o-mini's; then it is used up, and Gemini goes on with its tool call."""
    call = ToolCallScript(name="weather", arguments='{"town": "Bern"}')
    scripts = {
        "openai/gpt-4o-mini": ModelScript(
            tool_calls=(call,), faults=(Fault(kind=FaultKind.DAY_LIMIT, on_requests=(2,)),)
        ),
        "google/gemini-2.0-flash": ModelScript(text="It is sunny in Bern."),
    }
    async with (
        world(tmp_path, reference(2), scripts) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        question = escalade.Message.user("What is the weather in Bern?")
        first = await client.complete([question], task="parse", tools=[WEATHER])
        assert first.model == "gpt-4o-mini"
        (asked,) = first.tool_calls

        result = escalade.Message.tool(escalade.ToolResult(asked.id, "sunny"))
        second = await client.complete(
            [question, first.message, result], task="parse", tools=[WEATHER]
        )

        assert [a.model.model for a in second.attempts] == ["gpt-4o-mini", "gemini-2.0-flash"]
        assert second.text == "It is sunny in Bern."
