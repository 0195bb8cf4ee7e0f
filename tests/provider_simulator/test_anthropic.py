"""Anthropic Messages as they come over the wire, and what is refused in a request."""

import json
from typing import Any

import pytest

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    Price,
    ProviderScript,
    Scenario,
    ScenarioError,
    Simulator,
    ToolCallScript,
)
from tests.provider_simulator.calls import (
    ANTHROPIC_KEY,
    ASKED,
    KEY,
    QUIET_S,
    Reply,
    faulty,
    one_model,
    playing,
)

K = FaultKind
TEXT = "one two three four "
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOL = {"name": "read_file", "input_schema": SCHEMA}
OTHER = {"name": "list_files", "input_schema": {"type": "object"}}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def anthropic(script: ModelScript) -> Simulator:
    return one_model(script, "anthropic")


def names(reply: Reply) -> list[str]:
    return [name for name, _ in reply.events]


def deltas(reply: Reply, kind: str) -> str:
    found = [data["delta"] for name, data in reply.events if name == "content_block_delta"]
    field = {"input_json_delta": "partial_json"}.get(kind, kind.removesuffix("_delta"))
    return "".join(delta[field] for delta in found if delta["type"] == kind)


def ends(reply: Reply) -> dict[str, Any]:
    return next(data for name, data in reply.events if name == "message_delta")


async def test_a_stream_has_its_events_in_order() -> None:
    async with playing(anthropic(ModelScript(text="It rains."))) as caller:
        reply = await caller.message(stream=True)
        whole = await caller.message()

    assert reply.headers["Content-Type"] == "text/event-stream"
    assert names(reply) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in reply.events)
    start = reply.events[0][1]["message"]
    assert (start["role"], start["content"], start["stop_reason"]) == ("assistant", [], None)
    assert start["id"].startswith("msg_")
    assert deltas(reply, "text_delta") == "It rains."
    assert ends(reply)["delta"]["stop_reason"] == "end_turn"
    assert whole.json["content"] == [{"type": "text", "text": "It rains."}]
    assert whole.json["stop_reason"] == "end_turn"
    assert reply.headers["request-id"] != whole.headers["request-id"]


async def test_usage_has_cached_tokens_beside_the_input_and_reasoning_in_the_output() -> None:
    price = Price(input_pico=1_000, cached_input_pico=100, cache_write_pico=1_250, output_pico=10)
    script = ModelScript(
        text="1234",
        reasoning="12345678",
        price=price,
        cached_input_percent=50,
        cache_write_percent=50,
    )
    asked = [{"role": "user", "content": "x" * 32}]
    async with playing(anthropic(script)) as caller:
        reply = await caller.message(stream=True, thinking=THINKING, messages=asked)
        counted = caller.simulator.ledger().of("anthropic", "m")

    first, last = reply.events[0][1]["message"]["usage"], ends(reply)["usage"]
    assert (first["output_tokens"], last["output_tokens"]) == (1, 3)
    for usage in (first, last):
        assert usage["input_tokens"] == 2
        assert usage["cache_read_input_tokens"] == 4
        assert usage["cache_creation_input_tokens"] == 2
        assert usage["cache_creation"]["ephemeral_5m_input_tokens"] == 2
    assert counted.cost_pico == 2 * 1_000 + 4 * 100 + 2 * 1_250 + 3 * 10
    assert (counted.input_tokens, counted.cache_write_tokens) == (8, 2)


async def test_tools_are_called_in_pieces_of_json_and_the_loop_ends_with_text() -> None:
    async with playing(anthropic(ModelScript(calls_first_tool=True))) as caller:
        reply = await caller.message(stream=True, tools=[TOOL])
        whole = (await caller.message(tools=[TOOL])).json
        call = whole["content"][0]
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": "text"}
        messages = [
            *ASKED,
            {"role": "assistant", "content": whole["content"]},
            {"role": "user", "content": [result]},
        ]
        done = await caller.message(messages=messages, tools=[TOOL])

    start = next(data for name, data in reply.events if name == "content_block_start")
    assert start["content_block"]["name"] == "read_file"
    assert start["content_block"]["id"].startswith("toolu_")
    assert start["content_block"]["input"] == {}
    assert json.loads(deltas(reply, "input_json_delta")) == {"path": "m"}
    assert names(reply).count("content_block_delta") > 1
    assert ends(reply)["delta"]["stop_reason"] == whole["stop_reason"] == "tool_use"
    assert call["input"] == {"path": "m"}
    assert done.json["stop_reason"] == "end_turn", done.body


async def test_calls_come_one_after_the_other_or_mixed() -> None:
    calls = (
        ToolCallScript(name="read_file", arguments='{"path": "abcdef"}'),
        ToolCallScript(name="list_files", arguments='{"deep": true, "all": 1}'),
    )
    mixed = Fault(kind=K.INTERLEAVED_CALLS, on_requests=(2,))
    script = ModelScript(tool_calls=calls, faults=(mixed,))
    indexes = []
    async with playing(anthropic(script)) as caller:
        for _ in range(2):
            reply = await caller.message(stream=True, tools=[TOOL, OTHER])
            indexes.append([d["index"] for n, d in reply.events if n == "content_block_delta"])
            for index, call in enumerate(calls):
                parts = [
                    data["delta"]["partial_json"]
                    for name, data in reply.events
                    if name == "content_block_delta" and data["index"] == index
                ]
                assert "".join(parts) == call.arguments

    assert indexes[0] == sorted(indexes[0])
    assert indexes[1][:4] == [0, 1, 0, 1]


async def test_openai_calls_are_mixed_with_gaps_between_their_indexes() -> None:
    calls = tuple(ToolCallScript(name=name, arguments='{"a": "bcdef"}') for name in ("f", "g"))
    script = ModelScript(tool_calls=calls, faults=(Fault(kind=K.INTERLEAVED_CALLS),))
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    async with playing(one_model(script)) as caller:
        reply = await caller.chat(stream=True, tools=tools)

    parts = [part for c in reply.chunks for part in c["choices"][0]["delta"].get("tool_calls", ())]
    assert [part["index"] for part in parts[:4]] == [0, 2, 0, 2]
    for index in (0, 2):
        texts = [part["function"]["arguments"] for part in parts if part["index"] == index]
        assert "".join(texts) == '{"a": "bcdef"}'


async def test_broken_arguments_are_told_as_they_are() -> None:
    call = ToolCallScript(name="read_file", arguments='{"path": ')
    async with playing(anthropic(ModelScript(tool_calls=(call,)))) as caller:
        reply = await caller.message(stream=True, tools=[TOOL])
        whole = (await caller.message(tools=[TOOL])).json

    assert deltas(reply, "input_json_delta") == '{"path": '
    assert whole["content"][0]["input"] == {"INVALID_JSON": '{"path": '}


async def test_json_of_a_schema() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    async with playing(anthropic(ModelScript())) as caller:
        newer = await caller.message(output_config={"format": form})
        older = await caller.message(output_format=form)

    assert json.loads(newer.json["content"][0]["text"]) == {"path": "m"}
    assert older.json["content"] == newer.json["content"]


async def test_reasoning_is_told_when_asked_for_and_signed() -> None:
    script = ModelScript(text="Yes.", reasoning="Let me think.")
    async with playing(anthropic(script)) as caller:
        plain = (await caller.message()).json
        reply = await caller.message(stream=True, thinking=THINKING)
        whole = (await caller.message(thinking={"type": "adaptive"})).json

    assert [block["type"] for block in plain["content"]] == ["text"]
    assert plain["usage"]["output_tokens"] == 1
    assert [block["type"] for block in whole["content"]] == ["thinking", "text"]
    assert deltas(reply, "thinking_delta") == whole["content"][0]["thinking"] == "Let me think."
    assert deltas(reply, "signature_delta") == whole["content"][0]["signature"] != ""


def steps(thought: dict[str, Any] | None) -> list[Any]:
    """A tool's result, handed in with or without the thought that led to the call."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "read_file", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "text"}
    return [
        *ASKED,
        {"role": "assistant", "content": [*([thought] if thought else ()), call]},
        {"role": "user", "content": [result]},
    ]


async def test_state_comes_back_as_it_was_given_or_is_refused() -> None:
    script = ModelScript(text="Yes.", reasoning="Let me think.")
    models = {"m": script, "n": script}
    scenario = Scenario(providers={"anthropic": ProviderScript(models=models)})
    async with playing(Simulator(scenario)) as caller:
        thought = (await caller.message(thinking=THINKING)).json["content"][0]
        altered = [
            thought | {"signature": thought["signature"][:-4] + "AAA="},
            thought | {"signature": ""},
            thought | {"thinking": "Let me think!"},
        ]
        options: dict[str, Any] = {"thinking": THINKING, "tools": [TOOL]}
        good = await caller.message(messages=steps(thought), **options)
        bad = [await caller.message(messages=steps(one), **options) for one in altered]
        foreign = await caller.message(model="n", messages=steps(thought), **options)
        dropped = await caller.message(messages=steps(None), **options)
        without = await caller.message(messages=steps(None), tools=[TOOL])

    assert (good.status, without.status) == (200, 200)
    for reply in (*bad, foreign):
        assert reply.status == 400
        assert "Invalid `signature` in `thinking` block" in reply.json["error"]["message"]
    assert dropped.status == 400
    assert "must start with a thinking block" in dropped.json["error"]["message"]


def user(*blocks: object) -> dict[str, object]:
    return {"role": "user", "content": list(blocks)}


CALL = {"type": "tool_use", "id": "t1", "name": "read_file", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}
CALLING = {"role": "assistant", "content": [CALL]}
WORD = {"type": "text", "text": "x"}
REDACTED = {"type": "redacted_thinking", "data": "made up"}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
MARKED = WORD | {"cache_control": {"type": "ephemeral"}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens: Expected `int`"),
    ({"max_tokens": 0}, "max_tokens: Expected `int` >= 1"),
    ({"messages": []}, "messages: Expected"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role: Invalid enum value"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 'must use the "user" role'),
    ({"messages": [{"role": "user", "content": ""}, *ASKED]}, "must have non-empty content"),
    ({"messages": [user({"type": "text", "text": ""})]}, "messages.0.content.0.text: Expected"),
    ({"messages": [user({"type": "audio"})]}, "messages.0.content.0.type: Invalid value 'audio'"),
    ({"messages": [*ASKED, CALLING]}, "without `tool_result` blocks immediately after: t1"),
    ({"messages": [*ASKED, CALLING, *ASKED]}, "messages.1: `tool_use` ids were found without"),
    ({"messages": [*ASKED, CALLING, user(WORD, RESULT)]}, "without `tool_result` blocks"),
    ({"messages": [user(RESULT)]}, "unexpected `tool_use_id` found in `tool_result` blocks: t1"),
    ({"messages": [user(CALL)]}, "can only be in `assistant` messages"),
    (
        {"messages": [*ASKED, {"role": "assistant", "content": "So "}]},
        "cannot end with trailing whitespace",
    ),
    ({"messages": [user(*[MARKED] * 5)]}, "A maximum of 4 blocks with cache_control"),
    ({"messages": [*ASKED, CALLING, user(RESULT)], "tools": []}, "must define tools"),
    ({"tools": [TOOL, TOOL]}, "tools: Tool names must be unique."),
    ({"tool_choice": {"type": "auto"}}, "only be specified while providing tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "Tool 'f' not found"),
    ({"temperature": 1.5}, "temperature: Expected `float` <= 1.0"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "thinking.budget_tokens: Expected"),
    ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "`max_tokens` must be greater"),
    ({"thinking": THINKING, "temperature": 0.5}, "`temperature` may only be set to 1"),
    (
        {"thinking": THINKING, "tools": [TOOL], "tool_choice": {"type": "any"}},
        "Thinking may not be enabled when tool_choice forces tool use.",
    ),
    ({"thinking": {"type": "enabled"}}, "thinking.enabled.budget_tokens: Field required"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.tool.name: Field required"),
    ({"messages": [*ASKED, {"role": "assistant", "content": [IMAGE]}]}, "in `user` messages"),
    (
        {"messages": [*ASKED, {"role": "assistant", "content": [REDACTED]}]},
        "Invalid `data` in `redacted_thinking` block",
    ),
    (
        {"messages": [*ASKED, {"role": "assistant", "content": "So"}], "thinking": THINKING},
        "cannot be prefilled when thinking",
    ),
    (
        {"messages": [*ASKED, CALLING, user(RESULT), CALLING, user(RESULT)], "tools": [TOOL]},
        "`tool_use` ids must be unique",
    ),
    ({"frobnicate": 1}, "frobnicate: Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
async def test_bad_requests_are_refused_in_anthropics_words(
    change: dict[str, Any], words: str
) -> None:
    async with playing(anthropic(ModelScript())) as caller:
        reply = await caller.message(**change)

    assert reply.status == 400
    assert reply.json["type"] == "error"
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert words in reply.json["error"]["message"]
    assert reply.json["request_id"] == reply.headers["request-id"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=repr)
async def test_bodies_that_are_no_request_are_refused(body: bytes) -> None:
    async with playing(anthropic(ModelScript())) as caller:
        reply = await caller.post("/anthropic/v1/messages", body, ANTHROPIC_KEY)

    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")


async def test_max_tokens_is_a_must() -> None:
    async with playing(anthropic(ModelScript())) as caller:
        body = json.dumps({"model": "m", "messages": ASKED}).encode()
        reply = await caller.post("/anthropic/v1/messages", body, ANTHROPIC_KEY)

    assert reply.json["error"]["message"] == "max_tokens: Field required"


async def test_the_longest_good_conversation_is_taken() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A"}}
    messages = [user(WORD), user(MARKED, image), CALLING, user(RESULT | {"content": [WORD, image]})]
    begun = {"role": "assistant", "content": "So"}
    async with playing(anthropic(ModelScript())) as caller:
        reply = await caller.message(
            messages=[*messages, begun], tools=[TOOL], system=[MARKED], stop_sequences=["x"]
        )

    assert reply.status == 200, reply.body
    assert reply.json["usage"]["input_tokens"] > 2 * 85


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({}, 401, "authentication_error"),
        ({"x-api-key": "k"}, 400, "invalid_request_error"),
        ({"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
        (ANTHROPIC_KEY, 200, None),
    ],
)
async def test_key_and_version_are_needed(
    headers: dict[str, str], status: int, kind: str | None
) -> None:
    async with playing(anthropic(ModelScript())) as caller:
        reply = await caller.message(headers=headers)

    assert reply.status == status
    assert kind is None or reply.json["error"]["type"] == kind


async def test_the_path_decides_on_the_dialect() -> None:
    async with playing(anthropic(ModelScript(text="Yes."))) as caller:
        as_openai = await caller.chat("anthropic", headers=KEY)
        refused = await caller.chat("anthropic", model="none")
        unknown = await caller.message(model="none")
        listed = await caller.get("/anthropic/v1/models", ANTHROPIC_KEY)
        listed_openai = await caller.get("/anthropic/v1/models", KEY)

        assert caller.simulator.provider_url("anthropic").endswith("/anthropic/v1")
    assert as_openai.json["choices"][0]["message"]["content"] == "Yes."
    assert refused.json["error"]["code"] == "model_not_found"
    assert unknown.json["error"] == {
        "type": "not_found_error",
        "message": "model: none",
        "details": None,
    }
    assert listed["data"][0]["type"] == "model"
    assert listed_openai["object"] == "list"


async def broken(kind: FaultKind, **fault: Any) -> Reply:
    script = ModelScript(text=TEXT, faults=(Fault(kind=kind, after_chunks=2, **fault),))
    quiet_s = QUIET_S if kind is K.STALL else 20.0
    async with playing(anthropic(script)) as caller:
        return await caller.message(stream=True, quiet_s=quiet_s)


async def test_streams_break_in_anthropics_way() -> None:
    error = await broken(K.ERROR_FRAME)
    other = await broken(K.ERROR_FRAME, reason="api_error")
    bare = await broken(K.BARE_END)
    stalled = await broken(K.STALL)
    unfinished = await broken(K.NO_FINISH_REASON)
    undone = await broken(K.NO_DONE)

    assert error.events[-1][0] == "error"
    assert error.events[-1][1]["type"] == "error"
    assert error.events[-1][1]["error"]["type"] == "overloaded_error"
    assert other.events[-1][1]["error"]["type"] == "api_error"
    assert deltas(error, "text_delta") == deltas(bare, "text_delta") == "one two "
    assert names(bare)[-1] == names(stalled)[-1] == "content_block_delta"
    assert (stalled.end, bare.end) == ("silent", "eof")
    assert "message_delta" not in names(unfinished)
    assert names(unfinished)[-1] == "message_stop"
    assert names(undone)[-1] == "message_delta"


async def test_silence_is_filled_with_pings() -> None:
    async with playing(faulty(K.ONLY_COMMENTS, "anthropic")) as caller:
        path, body = "/anthropic/v1/messages", b'{"model":"m","max_tokens":9,"messages":'
        body += json.dumps(ASKED).encode() + b"}"
        reply = await caller.post(path, body, ANTHROPIC_KEY, bytes_max=100)

    assert set(reply.body.split(b"\n\n")) == {b'event: ping\ndata: {"type": "ping"}', b""}


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [(K.ZERO_USAGE, 0, 0), (K.NEGATIVE_USAGE, -1, -5), (K.HUGE_USAGE, 10**12, 10**12)],
)
async def test_usage_that_cannot_be(kind: FaultKind, asked: int, said: int) -> None:
    reply = await broken(kind)

    assert ends(reply)["usage"]["input_tokens"] == asked
    assert ends(reply)["usage"]["output_tokens"] == said


async def test_usage_that_is_missing() -> None:
    reply = await broken(K.MISSING_USAGE)

    assert "usage" not in ends(reply)
    assert "usage" not in reply.events[0][1]["message"]


async def test_refusals_and_windows_are_answers() -> None:
    refused = await broken(K.REFUSAL, reason="cyber")
    filtered = await broken(K.CONTENT_FILTER)
    full = await broken(K.WINDOW_EXCEEDED)
    async with playing(anthropic(ModelScript(text="word " * 9))) as caller:
        short = (await caller.message(max_tokens=3)).json

    assert ends(refused)["delta"]["stop_reason"] == "refusal"
    assert ends(refused)["delta"]["stop_details"]["category"] == "cyber"
    assert deltas(refused, "text_delta") == ""
    assert ends(filtered)["delta"]["stop_details"]["category"] == "general_harms"
    assert deltas(filtered, "text_delta") == deltas(full, "text_delta") == "one two "
    assert ends(full)["delta"]["stop_reason"] == "model_context_window_exceeded"
    assert short["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("kind", [K.CUT_SHORT, K.PROMPT_FILTERED, K.REQUEST_TIMEOUT, K.NOT_IN_TIER])
def test_what_anthropic_has_not_is_refused_in_a_scenario(kind: FaultKind) -> None:
    with pytest.raises(ScenarioError, match=f"anthropic has no '{kind.value}'"):
        faulty(kind, "anthropic")
