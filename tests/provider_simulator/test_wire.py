"""The OpenAI dialect as it comes over the wire, with the habits of the vendors that speak it."""

import asyncio
import json

import aiohttp
import pytest

from escalade_server.provider_simulator import ModelScript, Price, ToolCallScript
from escalade_server.provider_simulator.answer import default_text
from tests.provider_simulator.calls import Caller, one_model, playing

TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "lines": {"type": "integer", "minimum": 3}},
            "required": ["path", "lines"],
        },
    },
}
USAGE = {"include_usage": True}


async def test_a_stream_has_role_text_finish_and_done() -> None:
    async with playing(one_model(ModelScript(text="Because it rains."))) as caller:
        reply = await caller.chat(stream=True)

        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert reply.frames[-1] == "[DONE]"
        assert reply.chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert reply.of_deltas("content") == ["", "Because ", "it ", "rains.", ""]
        assert reply.finish == ["stop"]
        assert {chunk["object"] for chunk in reply.chunks} == {"chat.completion.chunk"}
        assert {chunk["model"] for chunk in reply.chunks} == {"m"}
        assert len({chunk["id"] for chunk in reply.chunks}) == 1
        assert all("usage" not in chunk for chunk in reply.chunks)


async def test_usage_comes_in_a_chunk_of_its_own_when_asked() -> None:
    script = ModelScript(text="four " * 4, reasoning="hmm ", cached_input_percent=50)
    async with playing(one_model(script)) as caller:
        messages = [{"role": "user", "content": "12345678"}]
        reply = await caller.chat(stream=True, stream_options=USAGE, messages=messages)

    assert reply.chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in reply.chunks[:-1])
    usage = reply.chunks[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2, 6)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 1
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 1


async def test_a_whole_answer_is_the_stream_in_one_body() -> None:
    async with playing(one_model(ModelScript(chunks=5))) as caller:
        streamed = await caller.chat(stream=True)
        whole = (await caller.chat()).json

    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == streamed.text
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["completion_tokens"] == -(-len(streamed.text) // 4)


async def test_the_default_text_names_its_model_and_its_request() -> None:
    async with playing(one_model(ModelScript(chunks=64))) as caller:
        first = await caller.chat(stream=True)
        again = await caller.chat(stream=True)
        other = await caller.chat(stream=True, messages=[{"role": "user", "content": "Else?"}])

    digest = first.text.split(":")[1]
    assert first.text == again.text == default_text("m", digest, 64)
    assert first.text != other.text
    assert len(first.chunks) == 64 + 2


async def test_replies_go_by_the_last_message() -> None:
    script = ModelScript(text="no idea", replies={"rain": "It is wet.", "sun": "It is dry."})
    async with playing(one_model(script)) as caller:
        texts = [
            (await caller.chat(messages=[{"role": "user", "content": asked}])).json["choices"][0][
                "message"
            ]["content"]
            for asked in ("sun?", "rain?", "snow?")
        ]

    assert texts == ["It is dry.", "It is wet.", "no idea"]


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("deepseek", "reasoning_content"),
        ("openrouter", "reasoning"),
        ("minimax", "reasoning_content"),
    ],
)
async def test_reasoning_comes_before_the_text_in_the_vendors_field(
    provider: str, name: str
) -> None:
    script = ModelScript(text="Yes.", reasoning="Let me think.")
    async with playing(one_model(script, provider)) as caller:
        reply = await caller.chat(provider, stream=True)
        whole = (await caller.chat(provider)).json

    assert "".join(reply.of_deltas(name)) == "Let me think."
    fields = [next(iter(c["choices"][0]["delta"]), "") for c in reply.chunks if c["choices"]]
    assert fields.index(name) < fields.index("content")
    assert whole["choices"][0]["message"][name] == "Let me think."


async def test_deepseek_tells_usage_unasked_with_the_finish_reason() -> None:
    script = ModelScript(text="Yes.", cached_input_percent=100)
    async with playing(one_model(script, "deepseek")) as caller:
        reply = await caller.chat("deepseek", stream=True)

    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert reply.chunks[-1]["usage"]["prompt_cache_hit_tokens"] == 1
    assert reply.chunks[-1]["usage"]["prompt_cache_miss_tokens"] == 0


async def test_openrouter_tells_an_exact_cost() -> None:
    script = ModelScript(text="12345678", price=Price(input_pico=3, output_pico=150_000))
    async with playing(one_model(script, "openrouter")) as caller:
        reply = await caller.chat("openrouter", stream=True)

        assert b'"cost":0.000000300003' in reply.body
        assert caller.simulator.ledger().of("openrouter", "m").cost_pico == 300_003


async def test_tools_are_called_as_scripted_with_split_arguments() -> None:
    calls = (
        ToolCallScript(name="read_file", arguments='{"path": "a\\n.py"}'),
        ToolCallScript(name="not_offered"),
    )
    async with playing(one_model(ModelScript(tool_calls=calls))) as caller:
        reply = await caller.chat(stream=True, tools=[TOOL])
        whole = (await caller.chat(tools=[TOOL])).json["choices"][0]
        refused = (await caller.chat(tools=[TOOL], tool_choice="none")).json["choices"][0]

    parts = [part for c in reply.chunks for part in c["choices"][0]["delta"].get("tool_calls", ())]
    assert len(parts) > 2
    assert [part["function"].get("name") for part in parts if "id" in part] == ["read_file"]
    assert "".join(part["function"]["arguments"] for part in parts) == '{"path": "a\\n.py"}'
    assert reply.finish == ["tool_calls"]
    assert whole["message"]["tool_calls"][0]["function"]["arguments"] == '{"path": "a\\n.py"}'
    assert whole["message"]["content"] is None
    assert refused["finish_reason"] == "stop"


async def test_an_agents_loop_of_tools_ends_with_text() -> None:
    async with playing(one_model(ModelScript(calls_first_tool=True))) as caller:
        asked = [{"role": "user", "content": "Read it."}]
        message = (await caller.chat(messages=asked, tools=[TOOL])).json["choices"][0]["message"]
        call = message["tool_calls"][0]
        result = {"role": "tool", "tool_call_id": call["id"], "content": "text"}
        done = await caller.chat(messages=[*asked, message, result], tools=[TOOL])

    assert json.loads(call["function"]["arguments"]) == {"path": "m", "lines": 3}
    assert done.status == 200, done.body
    assert done.json["choices"][0]["finish_reason"] == "stop"


async def test_a_forced_tool_is_called_without_a_script() -> None:
    async with playing(one_model(ModelScript())) as caller:
        choice = {"type": "function", "function": {"name": "read_file"}}
        reply = await caller.chat(tools=[TOOL], tool_choice=choice)

    assert reply.json["choices"][0]["finish_reason"] == "tool_calls"


async def test_json_of_a_schema_and_any_json() -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["bug", "idea"]},
            "items": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/item"}},
        },
        "required": ["kind", "items"],
        "$defs": {"item": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "report", "schema": schema}}
    messages = [{"role": "user", "content": "As JSON."}]
    async with playing(one_model(ModelScript())) as caller:
        shaped = await caller.chat(stream=True, response_format=form)
        free = await caller.chat(
            stream=True, response_format={"type": "json_object"}, messages=messages
        )

    assert json.loads(shaped.text) == {"kind": "bug", "items": [{}, {}]}
    assert json.loads(free.text) == {"answer": "m"}


async def test_images_are_taken_and_counted() -> None:
    url = {"url": "data:image/png;base64,AAAA"}
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
    async with playing(one_model(ModelScript())) as caller:
        reply = await caller.chat(messages=[{"role": "user", "content": parts}])

    assert reply.json["usage"]["prompt_tokens"] == 85 + 2


async def test_the_output_limit_holds_for_reasoning_and_text() -> None:
    script = ModelScript(reasoning="think ", text="word " * 50)
    async with playing(one_model(script)) as caller:
        older = await caller.chat(stream=True, stream_options=USAGE, max_tokens=4)
        reply = await caller.chat(stream=True, stream_options=USAGE, max_completion_tokens=4)

    assert older.text == reply.text
    assert reply.finish == ["length"]
    assert reply.chunks[-1]["usage"]["completion_tokens"] == 4
    assert reply.text == "word word "


async def test_the_output_limit_cuts_tool_calls() -> None:
    calls = (ToolCallScript(name="read_file", arguments='{"path": "a"}'),) * 2
    async with playing(one_model(ModelScript(tool_calls=calls))) as caller:
        reply = await caller.chat(tools=[TOOL], max_tokens=4)
        nothing = await caller.chat(tools=[TOOL], max_tokens=1)

    choice = reply.json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert [c["function"]["arguments"] for c in choice["message"]["tool_calls"]] == ['{"path"']
    assert reply.json["usage"]["completion_tokens"] == 4
    assert "tool_calls" not in nothing.json["choices"][0]["message"]


async def test_an_empty_answer_is_an_answer() -> None:
    async with playing(one_model(ModelScript(text="", chunk_interval_ms=5))) as caller:
        reply = await caller.chat(stream=True)
        whole = (await caller.chat()).json

    assert (reply.text, reply.finish, reply.frames[-1]) == ("", ["stop"], "[DONE]")
    assert whole["choices"][0]["message"]["content"] == ""


async def models_of(caller: Caller, provider: str) -> list[str]:
    return [model["id"] for model in (await caller.get(f"/{provider}/v1/models"))["data"]]


async def test_models_are_listed() -> None:
    async with playing(one_model(ModelScript(), model="a/b")) as caller:
        assert await models_of(caller, "openai") == ["a/b"]
        assert (await caller.get("/openai/v1/models", {}))["error"]["code"] == "invalid_api_key"
        caller.simulator.break_provider("openai")
        with pytest.raises(aiohttp.ClientOSError):
            await models_of(caller, "openai")


async def test_the_rhythm_is_kept() -> None:
    script = ModelScript(first_token_ms=60, chunk_interval_ms=20, text="a b c d")
    fast = ModelScript(tokens_per_second=100, text="1234 567 890")
    async with playing(one_model(script)) as caller:
        loop_s = asyncio.get_running_loop().time
        started_s = loop_s()
        await caller.chat(stream=True)
        paced_s = loop_s() - started_s
        caller.simulator.script("openai", "m", fast)
        started_s = loop_s()
        await caller.chat()
        whole_s = loop_s() - started_s

    assert paced_s >= 0.12
    assert whole_s >= 0.02
