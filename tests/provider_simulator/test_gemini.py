"""Gemini's generateContent as it comes over the wire, and what is refused in a request."""

import json
from typing import Any

import pytest

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Scenario,
    ScenarioError,
    Simulator,
    ToolCallScript,
)
from tests.provider_simulator.calls import (
    GOOGLE_KEY,
    KEY,
    STREAMING,
    Reply,
    faulty,
    one_model,
    playing,
)

K = FaultKind
TEXT = "one two three four "
SCHEMA = {"type": "OBJECT", "properties": {"path": {"type": "STRING"}}, "required": ["path"]}
TOOLS = [{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}, {"name": "g"}]}]
TOLD = {"thinkingConfig": {"includeThoughts": True}}


def google(script: ModelScript, model: str = "m") -> Simulator:
    return one_model(script, "google", model)


def chunks(reply: Reply) -> list[Any]:
    frames = reply.body.decode().split("\r\n\r\n")
    assert frames.pop() == ""
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def parts(body: Any) -> list[Any]:
    return [
        part
        for candidate in body.get("candidates", ())
        for part in candidate.get("content", {}).get("parts", ())
    ]


def text_of(bodies: list[Any], *, thought: bool = False) -> str:
    found = [part for body in bodies for part in parts(body)]
    return "".join(p.get("text", "") for p in found if bool(p.get("thought")) is thought)


async def test_a_stream_is_of_responses_and_the_last_has_the_reason() -> None:
    async with playing(google(ModelScript(text="It rains."))) as caller:
        reply = await caller.generate(method=STREAMING)
        whole = (await caller.generate()).json

    told = chunks(reply)
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert text_of(told) == "It rains."
    assert [body["candidates"][0].get("finishReason") for body in told] == [None, None, "STOP"]
    assert [body["usageMetadata"]["candidatesTokenCount"] for body in told] == [1, 3, 3]
    assert len({body["responseId"] for body in told}) == 1
    assert whole["candidates"][0]["content"] == {"parts": [{"text": "It rains."}], "role": "model"}
    assert whole["candidates"][0]["finishReason"] == "STOP"
    assert whole["modelVersion"] == "m"
    assert whole["usageMetadata"]["totalTokenCount"] == 4


async def test_without_alt_a_stream_is_one_array() -> None:
    script = ModelScript(text="It rains.")
    async with playing(google(script)) as caller:
        reply = await caller.generate(method="streamGenerateContent")
        caller.simulator.script("google", "m", ModelScript(text=""))
        empty = await caller.generate(method="streamGenerateContent")
        bad = await caller.generate(method="streamGenerateContent", contents=[])
        bad_events = await caller.generate(method=STREAMING, contents=[])

    assert reply.headers["Content-Type"].startswith("application/json")
    assert text_of(reply.json) == "It rains."
    assert len(empty.json) == 1
    assert bad.json[0]["error"]["status"] == "INVALID_ARGUMENT"
    assert bad_events.json["error"] == bad.json[0]["error"]


async def test_usage_has_cached_tokens_in_the_prompt_and_thoughts_beside_the_answer() -> None:
    script = ModelScript(text="1234", reasoning="12345678", cached_input_percent=50)
    contents = [{"role": "user", "parts": [{"text": "x" * 32}]}]
    async with playing(google(script)) as caller:
        hidden = await caller.generate(method=STREAMING, contents=contents)
        shown = await caller.generate(method=STREAMING, contents=contents, generationConfig=TOLD)
        budget = {"thinkingConfig": {"thinkingBudget": 0}}
        none = (await caller.generate(contents=contents, generationConfig=budget)).json
        counted = caller.simulator.ledger().of("google", "m")

    for reply in (hidden, shown):
        usage = chunks(reply)[-1]["usageMetadata"]
        assert usage["promptTokenCount"] == 8
        assert usage["cachedContentTokenCount"] == 4
        assert (usage["candidatesTokenCount"], usage["thoughtsTokenCount"]) == (1, 2)
        assert usage["totalTokenCount"] == 11
    assert text_of(chunks(hidden), thought=True) == ""
    assert text_of(chunks(shown), thought=True) == "12345678"
    assert "thoughtsTokenCount" not in none["usageMetadata"]
    assert counted.output_tokens == 3 + 3 + 1


async def test_functions_are_called_and_the_loop_ends_with_text() -> None:
    async with playing(google(ModelScript(calls_first_tool=True))) as caller:
        asked = {"role": "user", "parts": [{"text": "Why?"}]}
        first = await caller.generate(method=STREAMING, contents=[asked], tools=TOOLS)
        turn = (await caller.generate(contents=[asked], tools=TOOLS)).json["candidates"][0]
        response = {"functionResponse": {"name": "f", "response": {"result": "text"}}}
        contents = [asked, turn["content"], {"role": "user", "parts": [response]}]
        done = await caller.generate(contents=contents, tools=TOOLS)
        forced = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["g"]}}
        other = (await caller.generate(tools=TOOLS, toolConfig=forced)).json

    calls = [part["functionCall"] for part in parts(chunks(first)[0])]
    assert calls[0] == turn["content"]["parts"][0]["functionCall"]
    assert calls[0] == {"name": "f", "args": {"path": "m"}}
    assert turn["finishReason"] == "STOP"
    assert done.json["candidates"][0]["content"]["parts"][0]["text"], done.body
    assert parts(other)[0]["functionCall"]["name"] == "g"


def signed_call(model: str) -> tuple[ModelScript, dict[str, Any]]:
    script = ModelScript(
        reasoning="Hm. ", tool_calls=(ToolCallScript(name="f", arguments='{"b": 1, "a": [2]}'),)
    )
    return script, {"contents": [{"role": "user", "parts": [{"text": model}]}], "tools": TOOLS}


def answered(request: dict[str, Any], part: dict[str, object]) -> dict[str, Any]:
    response = {"functionResponse": {"name": "f", "response": {"result": 1}}}
    turns = [{"role": "model", "parts": [part]}, {"role": "user", "parts": [response]}]
    return request | {"contents": [*request["contents"], *turns]}


@pytest.mark.parametrize(("model", "unsigned"), [("gemini-2.5-pro", 200), ("gemini-3-pro", 400)])
async def test_state_comes_back_as_it_was_given_or_is_refused(model: str, unsigned: int) -> None:
    script, request = signed_call(model)
    provider = ProviderScript(models={model: script, "n": script})
    async with playing(Simulator(Scenario(providers={"google": provider}))) as caller:
        part = parts((await caller.generate(model=model, **request)).json)[0]

        async def status(changed: dict[str, Any], to: str = model) -> int:
            reply = await caller.generate(model=to, **answered(request, changed))
            assert reply.status == 200 or "thought" in reply.json["error"]["message"]
            return reply.status

        signature = part["thoughtSignature"]
        reordered = {"name": "f", "args": {"a": [2], "b": 1}}
        assert await status(part) == 200
        assert await status({"functionCall": reordered, "thoughtSignature": signature}) == 200
        assert await status(part | {"thoughtSignature": "AAAA"}) == 400
        other = part["functionCall"] | {"args": {"a": [3], "b": 1}}
        assert await status(part | {"functionCall": other}) == 400
        assert await status(part, "n") == 400
        assert await status({"functionCall": part["functionCall"]}) == unsigned
        skip = "skip_thought_signature_validator"
        assert await status(part | {"thoughtSignature": skip}) == 200
    assert ("id" in part["functionCall"]) is model.startswith("gemini-3")


async def test_text_after_thoughts_is_signed_at_its_end() -> None:
    script = ModelScript(text="Yes.", reasoning="Hm. ")
    async with playing(google(script)) as caller:
        asked = {"role": "user", "parts": [{"text": "Why?"}]}
        streamed = chunks(await caller.generate(method=STREAMING))
        turn = (await caller.generate()).json["candidates"][0]["content"]
        good = await caller.generate(contents=[asked, turn, asked])
        turn["parts"][0]["thoughtSignature"] += "A"
        bad = await caller.generate(contents=[asked, turn, asked])

    assert parts(streamed[-1])[0]["text"] == ""
    assert turn["parts"][0]["text"] == "Yes."
    assert (good.status, bad.status) == (200, 400)
    assert bad.json["error"]["message"] == "Corrupted thought signature."


async def test_json_of_both_kinds_of_schema() -> None:
    plain = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    base = {"responseMimeType": "application/json"}
    async with playing(google(ModelScript())) as caller:
        replies = [
            await caller.generate(generationConfig=base | {"responseSchema": SCHEMA}),
            await caller.generate(generationConfig=base | {"responseJsonSchema": plain}),
            await caller.generate(generationConfig=base),
        ]

    found = [json.loads(text_of([reply.json])) for reply in replies]
    assert found == [{"path": "m"}, {"n": 0}, {"answer": "m"}]


async def test_names_may_have_underscores() -> None:
    request: dict[str, Any] = {
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {"max_output_tokens": 2, "response_mime_type": "text/plain"},
        "contents": [
            {"parts": [{"inline_data": {"mime_type": "image/png", "data": "AAAA"}}]},
            {"role": "user", "parts": [{"text": "x"}]},
        ],
    }
    async with playing(google(ModelScript())) as caller:
        reply = await caller.generate(**request)

    assert reply.json["candidates"][0]["finishReason"] == "MAX_TOKENS", reply.body
    assert reply.json["usageMetadata"]["promptTokenCount"] == 85 + 3


def turns(*found: tuple[str | None, dict[str, object]]) -> dict[str, object]:
    return {"contents": [{"role": role, "parts": [part]} for role, part in found]}


def config(**fields: object) -> dict[str, object]:
    return {"generationConfig": fields}


WORD: tuple[str, dict[str, object]] = ("user", {"text": "x"})
CALL: tuple[str, dict[str, object]] = ("model", {"functionCall": {"name": "f", "args": {}}})
RESPONSE: dict[str, object] = {"functionResponse": {"name": "f", "response": {}}}
JSON = "application/json"
ANY = {"mode": "ANY"}
ONLY_F = {"allowedFunctionNames": ["f"]}
ONLY_H = {"allowedFunctionNames": ["h"]}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"contents": []}, "contents is not specified"),
    ({"contents": [{"role": "user", "parts": []}]}, "contents[0].parts"),
    (turns(("user", {})), "required oneof field 'data'"),
    (turns(("system", {"text": "x"})), "Please use a valid role: user, model."),
    (turns(WORD, ("model", {"text": "x"})), "multiturn requests end with a user turn"),
    (turns(WORD, ("user", RESPONSE)), "response turn comes immediately after"),
    (turns(WORD, CALL, WORD), "the number of function response parts is equal"),
    (turns(("user", CALL[1])), "function calls have the role model"),
    (
        turns(WORD, ("model", {"text": "x"}), CALL, ("user", RESPONSE)),
        "call turn comes immediately",
    ),
    (
        turns(WORD, CALL, ("user", {"functionResponse": {"name": "g", "response": {}}})),
        "have the names of their calls",
    ),
    (turns(WORD, CALL, ("user", {"functionResponse": {"name": "f", "response": 1}})), "response"),
    (config(responseSchema=SCHEMA), "response mime type: 'application/json'"),
    (
        config(responseMimeType=JSON, responseSchema={"type": "OBJECT", "$ref": "x"}),
        "Unknown name \"$ref\" at 'generationConfig.responseSchema': Cannot find field.",
    ),
    (config(responseMimeType=JSON) | {"tools": TOOLS}, "Function calling with a response mime"),
    (config(temperature=3), "Invalid value at 'generationConfig.temperature'"),
    (config(candidateCount=2), "candidateCount"),
    ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "without function_declarations"),
    (
        {"tools": [{"functionDeclarations": [{"name": "f"}, {"name": "f"}]}]},
        "Duplicate function declaration",
    ),
    (
        config(responseMimeType=JSON, responseSchema=SCHEMA, responseJsonSchema={}),
        "only one of response_schema and response_json_schema",
    ),
    (
        {"tools": TOOLS, "toolConfig": {"functionCallingConfig": ANY | ONLY_H}},
        "should be a subset of the declared functions",
    ),
    (
        {"tools": TOOLS, "toolConfig": {"functionCallingConfig": ONLY_F}},
        "only be set when the mode is ANY or VALIDATED",
    ),
    (turns(WORD, CALL, ("model", RESPONSE), WORD), "function responses have the role user"),
    ({"frobnicate": 1}, 'Unknown name "frobnicate": Cannot find field.'),
]


@pytest.mark.parametrize(("change", "words"), BAD)
async def test_bad_requests_are_refused_in_googles_words(
    change: dict[str, Any], words: str
) -> None:
    async with playing(google(ModelScript())) as caller:
        reply = await caller.generate(**change)

    assert reply.status == 400
    assert reply.json["error"]["status"] == "INVALID_ARGUMENT"
    assert reply.json["error"]["code"] == 400
    assert words in reply.json["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=repr)
async def test_bodies_that_are_no_request_are_refused(body: bytes) -> None:
    async with playing(google(ModelScript())) as caller:
        path = "/google/v1beta/models/m:generateContent"
        assert (await caller.post(path, body, GOOGLE_KEY)).status == 400


async def test_keys_and_paths() -> None:
    script = ProviderScript(models={"m": ModelScript(text="Yes.")}, api_keys=("right",))
    async with playing(Simulator(Scenario(providers={"google": script}))) as caller:
        wrong = await caller.generate()
        right = await caller.generate(headers={"x-goog-api-key": "right"})
        in_query = await caller.generate(method="generateContent?key=right", headers={})
        as_openai = await caller.chat("google", headers={"Authorization": "Bearer right"})
        gone = await caller.generate(model="none", headers={"x-goog-api-key": "right"})
        listed = await caller.get("/google/v1beta/models", {"x-goog-api-key": "right"})
        method = await caller.generate(method="count", headers={"x-goog-api-key": "right"})

        assert caller.simulator.provider_url("google").endswith("/google/v1beta")
    assert wrong.status == 400
    assert wrong.json["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert right.status == in_query.status == 200
    assert as_openai.json["choices"][0]["message"]["content"] == "Yes."
    assert (gone.status, gone.json["error"]["status"]) == (404, "NOT_FOUND")
    assert [model["name"] for model in listed["models"]] == ["models/m"]
    assert method.status == 400


async def told(kind: FaultKind, method: str = STREAMING, **fault: Any) -> Reply:
    script = ModelScript(text=TEXT, faults=(Fault(kind=kind, after_chunks=2, **fault),))
    async with playing(google(script)) as caller:
        return await caller.generate(method=method)


async def test_streams_break_in_googles_way() -> None:
    error = chunks(await told(K.ERROR_FRAME))
    other = chunks(await told(K.ERROR_FRAME, reason="INTERNAL"))
    bare = chunks(await told(K.BARE_END))
    unfinished = chunks(await told(K.NO_FINISH_REASON))
    array = (await told(K.ERROR_FRAME, "streamGenerateContent")).json
    cut = await told(K.CUT)

    assert error[-1]["error"]["code"] == 503
    assert error[-1]["error"]["status"] == "UNAVAILABLE"
    assert other[-1]["error"]["code"] == 500
    assert text_of(error) == text_of(bare) == text_of(array) == "one two "
    assert array[-1] == error[-1]
    assert cut.end == "reset"
    assert not any(body["candidates"][0].get("finishReason") for body in [*bare, *unfinished])
    assert text_of(unfinished) == TEXT


@pytest.mark.parametrize("reason", [None, "RECITATION", "SPII", "IMAGE_SAFETY", "ESCALATION"])
async def test_filters_of_the_answer(reason: str | None) -> None:
    streamed = chunks(await told(K.CONTENT_FILTER, reason=reason))
    whole = (await told(K.CONTENT_FILTER, "generateContent", reason=reason)).json

    assert text_of(streamed) == text_of([whole]) == "one two "
    for body in (streamed[-1], whole):
        assert body["candidates"][0]["finishReason"] == (reason or "SAFETY")


@pytest.mark.parametrize("reason", [None, "BLOCKLIST", "PROHIBITED_CONTENT", "JAILBREAK"])
async def test_filters_of_the_prompt(reason: str | None) -> None:
    streamed = chunks(await told(K.PROMPT_FILTERED, reason=reason))
    whole = (await told(K.PROMPT_FILTERED, "generateContent", reason=reason)).json

    assert len(streamed) == 1
    for body in (streamed[0], whole):
        assert body["promptFeedback"]["blockReason"] == (reason or "SAFETY")
        assert "candidates" not in body
        assert body["usageMetadata"]["totalTokenCount"] == 1


@pytest.mark.parametrize(
    ("kind", "reason", "told_reason"),
    [
        (K.MALFORMED_CALL, None, "MALFORMED_FUNCTION_CALL"),
        (K.MALFORMED_CALL, "TOO_MANY_TOOL_CALLS", "TOO_MANY_TOOL_CALLS"),
        (K.MALFORMED_CALL, "MISSING_THOUGHT_SIGNATURE", "MISSING_THOUGHT_SIGNATURE"),
        (K.ACCOUNT_LIMITED, None, "PUP_LIMITED_DISABLED"),
    ],
)
async def test_answers_that_are_none(kind: FaultKind, reason: str | None, told_reason: str) -> None:
    body = chunks(await told(kind, reason=reason))[-1]

    assert body["candidates"][0]["finishReason"] == told_reason
    assert text_of([body]) == ""


async def test_broken_arguments_cannot_be_told() -> None:
    call = ToolCallScript(name="f", arguments='{"path": ')
    async with playing(google(ModelScript(tool_calls=(call,)))) as caller:
        body = (await caller.generate(tools=TOOLS)).json

    assert parts(body) == []
    assert body["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert body["candidates"][0]["finishMessage"].endswith('f({"path": )')


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [(K.ZERO_USAGE, 0, 0), (K.NEGATIVE_USAGE, -1, -5), (K.HUGE_USAGE, 10**12, 10**12)],
)
async def test_usage_that_cannot_be(kind: FaultKind, asked: int, said: int) -> None:
    usage = chunks(await told(kind))[-1]["usageMetadata"]

    assert (usage["promptTokenCount"], usage["candidatesTokenCount"]) == (asked, said)


async def test_usage_that_is_missing_and_lines_that_end_otherwise() -> None:
    missing = chunks(await told(K.MISSING_USAGE))
    crlf = await told(K.CRLF_FRAMES)

    assert not any("usageMetadata" in body for body in missing)
    assert text_of(chunks(crlf)) == TEXT


@pytest.mark.parametrize("kind", [K.REFUSAL, K.CUT_SHORT, K.NO_DONE, K.BUSY_529])
def test_what_google_has_not_is_refused_in_a_scenario(kind: FaultKind) -> None:
    with pytest.raises(ScenarioError, match=f"google has no '{kind.value}'"):
        faulty(kind, "google")


async def test_any_provider_answers_in_the_dialect_of_the_path() -> None:
    async with playing(one_model(ModelScript(text="Yes."))) as caller:
        gemini = await caller.generate("openai")
        message = await caller.message("openai")
        chat = await caller.chat("openai", headers=KEY)

    assert text_of([gemini.json]) == message.json["content"][0]["text"] == "Yes."
    assert chat.json["choices"][0]["message"]["content"] == "Yes."
