"""A conversation with tools that moves from dialect to dialect: ids fit, state stays at home."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from escalade_server.core.answer import Fold
from escalade_server.core.commands import Candidate
from escalade_server.core.events import ChunkArrived
from escalade_server.core.task import (
    Effort,
    Message,
    Part,
    ProviderState,
    Request,
    Role,
    Task,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.registry import CODECS
from tests.providers.candidates import candidate
from tests.providers.golden_cases import GOLDEN, decode

NOW_MS = 1_795_586_400_000
ENDPOINT = Endpoint("v", "default", "https://api.example.test", "sk-key")
QUESTION = Message(Role.USER, (Text("Go"),))

# A model of each dialect, and a golden answer of its that holds calls and what it wants back.
MODELS = {
    "openai": ("deepseek", "deepseek-reasoner", "deepseek-reasoning-and-calls"),
    "anthropic": ("anthropic", "claude-sonnet-4-6", "thinking"),
    "gemini": ("google", "gemini-3-flash-preview", "thoughts-and-signatures"),
}
KEPT = {
    "openai": b'"reasoning_content":"',
    "anthropic": b'"signature":"EqQBCg=="',
    "gemini": b'"thoughtSignature":"c2lnMg=="',
}
CHARSETS = {
    "openai": re.compile(r"[A-Za-z0-9_-]{1,40}"),
    "anthropic": re.compile(r"[A-Za-z0-9_-]{1,64}"),
    "gemini": re.compile(r"[A-Za-z0-9_-]{1,64}"),
}


def model(dialect: str) -> Candidate:
    provider, wire_id, _ = MODELS[dialect]
    return candidate(provider, wire_id, dialect=dialect)


def answer(dialect: str) -> tuple[Part, ...]:
    """What a model of the dialect answered, as a caller gives it back."""
    fold = Fold(keep=True)
    made = CODECS[dialect].decoder(
        model(dialect), 1, streamed=True, content_type="text/event-stream", now_ms=NOW_MS
    )
    for event in decode(
        made, [(GOLDEN / dialect / MODELS[dialect][2] / "response.sse").read_bytes()]
    ):
        assert isinstance(event, ChunkArrived)
        fold.add(event.deltas)
    return fold.parts()


def step(dialect: str) -> tuple[Message, Message]:
    """A turn of a model, and the results of its calls."""
    parts = answer(dialect)
    results = [ToolResult(part.id, f"result of {part.id}") for part in parts if _is_call(part)]  # type: ignore[union-attr]
    assert results
    assert any(isinstance(part, ProviderState) for part in parts)
    return Message(Role.ASSISTANT, parts), Message(Role.TOOL, tuple(results))


def _is_call(part: Part) -> bool:
    return isinstance(part, ToolCall)


def encoded(dialect: str, *messages: Message) -> bytes:
    request = Request("r", Task(), messages, tools=(Tool("now", "", ""),), effort=Effort.HIGH)
    return CODECS[dialect].encode(request, model(dialect), ENDPOINT).body


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from walk(inner)


def ids(body: bytes) -> tuple[list[str], list[str]]:
    """Ids of calls and of results, in any dialect."""
    calls, results = [], []
    for found in walk(json.loads(body)):
        if "functionCall" in found:
            calls.append(found["functionCall"]["id"])
        elif "functionResponse" in found:
            results.append(found["functionResponse"]["id"])
        elif found.get("type") in {"tool_use", "function"} and "id" in found:
            calls.append(found["id"])
        elif "tool_use_id" in found or "tool_call_id" in found:
            results.append(found.get("tool_use_id") or found["tool_call_id"])
    return calls, results


@pytest.mark.parametrize("dialect", MODELS)
def test_a_model_gets_its_own_state_back(dialect: str) -> None:
    assert KEPT[dialect] in encoded(dialect, QUESTION, *step(dialect))


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(MODELS, 2)))
def test_another_dialect_gets_the_words_and_not_the_state(before: str, after: str) -> None:
    messages = (QUESTION, *step(before))
    body = encoded(after, *messages)
    state = next(p.data for p in messages[1].parts if isinstance(p, ProviderState))
    assert KEPT[before] not in body
    for secret in re.findall(rb'"([A-Za-z0-9=]{6,})"', state):
        if secret not in {b"blocks", b"signed", b"signature", b"thinking", b"reasoning_content"}:
            assert secret not in body
    calls, results = ids(body)
    assert calls == results
    assert len(set(calls)) == len(calls) > 0
    assert all(CHARSETS[after].fullmatch(given) for given in calls)


@pytest.mark.parametrize("order", list(itertools.permutations(MODELS)))
def test_three_dialects_in_a_row_keep_calls_and_results_together(order: tuple[str, ...]) -> None:
    messages = [QUESTION, *(message for dialect in order for message in step(dialect))]
    for dialect in MODELS:
        body = encoded(dialect, *messages)
        calls, results = ids(body)
        assert calls == results
        assert len(set(calls)) == len(calls)
        assert all(CHARSETS[dialect].fullmatch(given) for given in calls)
        assert KEPT[dialect] in body
        assert all(KEPT[other] not in body for other in MODELS if other != dialect)


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_an_id_that_does_not_fit_is_translated_the_same_every_time(dialect: str) -> None:
    call = ToolCall("call|with:signs/" + "x" * 80, "now", "{}")
    turn = Message(Role.ASSISTANT, (call,))
    result = Message(Role.TOOL, (ToolResult(call.id, "12"),))
    body = encoded(dialect, QUESTION, turn, result)
    calls, results = ids(body)
    assert calls == results == ids(encoded(dialect, QUESTION, turn, result))[0]
    assert CHARSETS[dialect].fullmatch(calls[0])
