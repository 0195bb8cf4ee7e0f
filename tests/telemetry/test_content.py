"""What agents ask and are answered: told only where an operator says so, and only so much of it."""

import json
from dataclasses import replace

import pytest

from escalade_server.core.task import (
    DataDemand,
    Delivery,
    Image,
    Message,
    ProviderState,
    Reasoning,
    Request,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry.content import Capture, told
from escalade_server.telemetry.otel import settings_of
from escalade_server.telemetry.redact import Redactor
from escalade_server.telemetry.spans import spans_of
from tests.core.builders import request
from tests.telemetry.journeys import AROUND, Recorder, bumpy, watched

ALL = Capture(frozenset("*"), 1_000)
CONVERSATION = (
    Message(Role.SYSTEM, (Text("Be brief."),)),
    Message(Role.USER, (Text("Look."), Image("image/png", b"bytes"))),
    Message(Role.ASSISTANT, (Reasoning("Hm."), ToolCall("1", "look", "{}"))),
    Message(Role.TOOL, (ToolResult("1", "A cat."), ProviderState("openai", "m", b"opaque"))),
)


def shown(messages: tuple[Message, ...], chars: int = 1_000) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(told(messages, Capture(ALL.agents, chars), str))
    return found


async def attributes(asked: Request, capture: Capture) -> dict[str, object]:
    """Of the one attempt of a task that is answered at once."""
    world, seen = bumpy(), Recorder()
    world.providers.scripts.clear()
    await watched(world, seen).ask(asked)
    [journey] = seen.journeys.values()
    spans = spans_of(journey, replace(AROUND, capture=capture))
    [attempt] = [span for span in spans if c.OPERATION in dict(span.attributes)]
    words = {c.INPUT_MESSAGES, c.OUTPUT_MESSAGES}
    assert not [s for s in spans if s is not attempt and words & set(dict(s.attributes))]
    return dict(attempt.attributes)


def test_messages_are_told_as_the_conventions_have_them() -> None:
    assert shown(CONVERSATION) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "Look."},
                {"type": "blob", "mime_type": "image/png"},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "1", "name": "look", "arguments": "{}"},
            ],
        },
        {
            "role": "tool",
            "parts": [
                {"type": "tool_call_response", "id": "1", "response": "A cat."},
                {"type": "opaque"},
            ],
        },
    ]


def test_the_last_message_is_cut_and_what_stands_before_it_left_out() -> None:
    long = Message(Role.USER, (Text("x" * 2_000),))
    [last] = shown((*CONVERSATION, long), 100)

    assert last["role"] == "user"
    assert 50 < len(str(last)) < 250
    assert [each["role"] for each in shown(CONVERSATION, 50)] == ["tool"]


def test_keys_are_taken_out_and_nothing_is_sent_that_no_proto_holds() -> None:
    words = told(
        (Message(Role.USER, (Text("sk-canary0123456789abcdef \ud800"),)),), ALL, Redactor().text
    )

    assert "canary" not in words
    assert json.loads(words)[0]["parts"][0]["content"] == "[redacted] ?"


@pytest.mark.looptime
async def test_of_an_agent_that_is_named_and_of_no_other() -> None:
    asked = replace(request(), agent="bot", delivery=Delivery.WHOLE)
    capture = Capture(frozenset({"bot"}))
    found = await attributes(asked, capture)
    assert "Hello there." in str(found[c.INPUT_MESSAGES])
    assert "Hello there" in str(found[c.OUTPUT_MESSAGES])

    private = replace(asked, task=replace(asked.task, data_demand=DataDemand.PRIVATE))
    for other in (replace(asked, agent="other"), replace(asked, agent="")):
        assert c.INPUT_MESSAGES not in await attributes(other, capture)
    assert c.INPUT_MESSAGES not in await attributes(asked, Capture())
    world, seen = bumpy(), Recorder()
    await watched(world, seen).ask(private)
    [journey] = seen.journeys.values()
    assert "Hello there" not in str(spans_of(journey, replace(AROUND, capture=ALL)))


def test_it_is_off_unless_the_environment_names_agents() -> None:
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1"}
    off, _ = settings_of(collector)
    on, _ = settings_of(
        collector
        | {"ESCALADE_TRACES_CONTENT_AGENTS": "bot, ci", "ESCALADE_TRACES_CONTENT_CHARS": "9"}
    )

    assert off is not None
    assert on is not None
    assert not off.capture.of("bot")
    assert on.capture == Capture(frozenset({"bot", "ci"}), 9)
