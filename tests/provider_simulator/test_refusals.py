"""What vendors refuse, and in which words: requests, keys, models, quotas."""

import json
from typing import Any

import pytest

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Quota,
    Scenario,
    Simulator,
)
from escalade_server.provider_simulator.refusals import ErrorFacts, duration, render
from escalade_server.provider_simulator.vendor_errors import HTTP_KINDS, error_of
from escalade_server.provider_simulator.vendors import VENDORS
from tests.provider_simulator.calls import Caller, one_model, playing

K = FaultKind
NOON_MS = 1_779_796_800_000  # 2026-05-26T12:00:00Z


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]

BAD_REQUESTS: list[tuple[dict[str, object], str | None]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [user(None)]}, "messages[0].content"),
    ({"messages": [user([{"type": "video", "url": "x"}])]}, "messages[0].content[0].type"),
    (
        {"messages": [user([{"type": "image_url", "image_url": {"url": "file:///x"}}])]},
        "messages[0].content[0].image_url.url",
    ),
    ({"messages": [user("x"), RESULT]}, "messages.[1].role"),
    ({"messages": [user("x"), CALLING, user("y")]}, "messages.[2].role"),
    ({"messages": [user("x"), CALLING]}, "messages.[2].role"),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages.[0].content"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"tools": []}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tool_choice": "auto"}, "tool_choice"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    ({"response_format": {"type": "json_object"}}, "messages"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"n": 2}, "n"),
    ({"model": 7}, "model"),
    ({"frobnicate": 1}, None),
]


@pytest.mark.parametrize(("change", "param"), BAD_REQUESTS)
async def test_bad_requests_are_refused_with_their_place(
    change: dict[str, Any], param: str | None
) -> None:
    async with playing(one_model(ModelScript())) as caller:
        request = {"model": "m", "messages": [user("x")]} | change
        reply = await caller.chat(body=json.dumps(request).encode())

        assert reply.status == 400
        assert reply.json["error"]["type"] == "invalid_request_error"
        assert reply.json["error"]["param"] == param
        counted = caller.simulator.ledger().of("openai", "")
        assert (counted.requests_received, counted.requests_refused) == (1, 1)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=repr)
async def test_bodies_that_are_no_request_are_refused(body: bytes) -> None:
    async with playing(one_model(ModelScript())) as caller:
        assert (await caller.chat(body=body)).status == 400


async def test_a_body_too_large_is_refused_by_the_network_in_front() -> None:
    async with playing(one_model(ModelScript())) as caller:
        reply = await caller.chat(body=b" " * (32 * 1024 * 1024 + 1))

    assert reply.status == 413
    assert reply.headers["Content-Type"].startswith("text/html")


async def test_only_openai_refuses_parameters_it_does_not_know() -> None:
    async with playing(one_model(ModelScript(), "deepseek")) as caller:
        assert (await caller.chat("deepseek", frobnicate=1)).status == 200


async def test_the_longest_good_conversation_is_taken() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    messages = [system, user("x"), CALLING, RESULT, {"role": "assistant", "content": "y"}]
    async with playing(one_model(ModelScript())) as caller:
        reply = await caller.chat(messages=[*messages, user("z")], tools=TOOLS)

    assert reply.status == 200, reply.body


@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic x"}, {"Authorization": "Bearer "}])
async def test_without_a_key_nobody_gets_in(header: dict[str, str]) -> None:
    async with playing(one_model(ModelScript())) as caller:
        reply = await caller.chat(headers=header)

    assert reply.status == 401
    assert reply.json["error"]["code"] == "invalid_api_key"


async def test_stated_keys_are_the_only_ones_and_ollama_needs_none() -> None:
    script = ProviderScript(models={"m": ModelScript()}, api_keys=("right",))
    local = ProviderScript(models={"m": ModelScript()})
    simulator = Simulator(Scenario(providers={"openai": script, "ollama": local}))
    async with playing(simulator) as caller:
        assert (await caller.chat()).status == 401
        assert (await caller.chat(headers={"Authorization": "Bearer right"})).status == 200
        assert (await caller.chat("ollama", headers={})).status == 200


async def test_unknown_models_providers_and_paths() -> None:
    async with playing(one_model(ModelScript())) as caller:
        gone = await caller.chat(model='"no%s')
        assert (gone.status, gone.json["error"]["code"]) == (404, "model_not_found")
        assert '"no%s' in gone.json["error"]["message"]
        assert (await caller.chat("nobody")).status == 404
        assert (await caller.post("/openai/v1/embeddings", b"{}")).status == 400


SIGNALS: list[tuple[str, FaultKind, int, str | int | None, str]] = [
    ("openai", K.RATE_LIMIT, 429, "rate_limit_exceeded", "requests per min"),
    ("openai", K.TOKENS_LIMIT, 429, "rate_limit_exceeded", "tokens per min"),
    ("openai", K.DAY_LIMIT, 429, "rate_limit_exceeded", "requests per day"),
    ("openai", K.SLOW_DOWN, 429, "slow_down", ""),
    ("openai", K.BALANCE, 429, "credit_balance_exhausted", ""),
    ("openai", K.BALANCE_LEGACY, 429, "insufficient_quota", ""),
    ("openai", K.SPEND_LIMIT, 429, "organization_spend_limit_exceeded", ""),
    ("openai", K.PROJECT_SPEND_LIMIT, 429, "project_spend_limit_exceeded", ""),
    ("openai", K.USAGE_LIMIT, 429, "organization_usage_limit_exceeded", ""),
    ("openai", K.OVERLOADED, 503, "server_is_overloaded", ""),
    ("openai", K.SERVER_ERROR, 500, None, "Sorry"),
    ("openai", K.CONTEXT_LENGTH, 400, "context_length_exceeded", "maximum context length"),
    ("openai", K.FORBIDDEN, 403, "unsupported_country_region_territory", ""),
    ("openai", K.MODEL_GONE, 404, "model_not_found", ""),
    ("deepseek", K.BALANCE, 402, "invalid_request_error", "Insufficient Balance"),
    ("deepseek", K.CONCURRENCY_LIMIT, 429, None, ""),
    ("deepseek", K.UNPROCESSABLE, 422, "invalid_request_error", ""),
    ("deepseek", K.PROMPT_BLOCKED, 400, "invalid_request_error", "Content Exists Risk"),
    ("openrouter", K.RATE_LIMIT, 429, 429, "free-models-per-min"),
    ("openrouter", K.DAY_LIMIT, 429, 429, "free-models-per-day"),
    ("openrouter", K.UPSTREAM_RATE_LIMIT, 429, 429, "Provider returned error"),
    ("openrouter", K.BALANCE, 402, 402, "credits"),
    ("openrouter", K.KEY_LIMIT, 402, 402, "Key limit"),
    ("nano-gpt", K.DAY_LIMIT, 429, "daily_rpd_limit_exceeded", ""),
    ("nano-gpt", K.USD_DAY_LIMIT, 429, "daily_usd_limit_exceeded", ""),
    ("nano-gpt", K.BALANCE, 402, "insufficient_quota", ""),
    ("minimax", K.RATE_LIMIT, 429, None, "(1002)"),
    ("minimax", K.PLAN_WINDOW, 429, None, "resets at 2026-05-26T17:00:00Z (2056)"),
    ("minimax", K.BALANCE, 429, None, "(1008)"),
    ("minimax", K.CONTEXT_LENGTH, 400, None, "(2013)"),
    ("minimax", K.BUSY_529, 529, None, ""),
    ("ollama", K.MODEL_GONE, 404, None, "not found"),
]


@pytest.mark.parametrize(("provider", "kind", "status", "code", "words"), SIGNALS, ids=str)
async def test_each_vendor_refuses_in_its_own_words(
    provider: str, kind: FaultKind, status: int, code: str | int | None, words: str
) -> None:
    script = ProviderScript(models={"m": ModelScript(faults=(Fault(kind=kind),))})
    simulator = Simulator(Scenario(providers={provider: script}), now_ms=lambda: NOON_MS)
    async with playing(simulator) as caller:
        reply = await caller.chat(provider, stream=True)

        assert reply.status == status
        assert reply.json["error"].get("code") == code
        assert words in reply.json["error"]["message"]
        counted = simulator.ledger().of(provider, "m")
        assert (counted.requests_refused, counted.requests_billed) == (1, 0)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_row_can_be_filled(vendor: str) -> None:
    facts = ErrorFacts(model='m"%', now_ms=NOON_MS, retry_after_ms=1_500, detail='a "b" %s')
    for kind in HTTP_KINDS:
        row = error_of(vendor, kind)
        if row is not None:
            refusal = render(row, facts)
            assert b"%(" not in refusal.body
            assert all("%(" not in value for _, value in refusal.headers)
            if refusal.body and refusal.content_type == "application/json":
                body = json.loads(refusal.body)
                assert (body[0] if isinstance(body, list) else body)["error"]


async def test_instants_are_told_as_each_vendor_tells_them() -> None:
    fault = Fault(kind=K.DAY_LIMIT, retry_after_ms=3_725_000)
    providers = {
        name: ProviderScript(models={"m": ModelScript(faults=(fault,))})
        for name in ("openai", "openrouter", "nano-gpt")
    }
    simulator = Simulator(Scenario(providers=providers), now_ms=lambda: NOON_MS)
    async with playing(simulator) as caller:
        openai, openrouter, nano = [await caller.chat(name) for name in providers]

    assert openai.headers["Retry-After"] == "3725"
    assert openai.headers["retry-after-ms"] == "3725000"
    assert openai.headers["x-ratelimit-reset-requests"] == "1h2m5s"
    assert openrouter.headers["X-RateLimit-Reset"] == str(NOON_MS + 3_725_000)
    assert "Retry-After" not in openrouter.headers
    inside = openrouter.json["error"]["metadata"]["headers"]
    assert inside["X-RateLimit-Reset"] == str(NOON_MS + 3_725_000)
    assert nano.headers["Retry-After"] == "3725"


def test_durations_are_spelt_as_openai_spells_them() -> None:
    spelt = [duration(ms) for ms in (12, 1_000, 360_000, 25_920_000)]

    assert spelt == ["12ms", "1s", "6m0s", "7h12m0s"]


class Hand:
    """A clock that is set by hand."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


async def statuses(caller: Caller, provider: str, times: int) -> list[int]:
    return [(await caller.chat(provider)).status for _ in range(times)]


async def test_a_day_of_requests_ends_and_begins_again_at_the_vendors_midnight() -> None:
    quota = Quota(limit=2, zone="America/Los_Angeles")
    clock = Hand(NOON_MS)
    provider = ProviderScript(models={"m": ModelScript(quotas=(quota,))})
    simulator = Simulator(Scenario(providers={"openai": provider}), now_ms=clock)
    async with playing(simulator) as caller:
        assert await statuses(caller, "openai", 3) == [200, 200, 429]
        reply = await caller.chat()
        assert reply.headers["x-ratelimit-reset-requests"] == "19h0m0s"
        clock.now_ms += 19 * 3_600_000 - 1
        assert await statuses(caller, "openai", 1) == [429]
        clock.now_ms += 1
        assert await statuses(caller, "openai", 1) == [200]


async def test_quotas_of_minutes_months_tokens_and_accounts() -> None:
    clock = Hand(NOON_MS)
    tokens = ModelScript(quotas=(Quota(limit=5, of="tokens", per="minute"),), text="1234" * 5)
    month = ModelScript(quotas=(Quota(limit=1, per="month", refusal=K.SPEND_LIMIT),))
    shared = ProviderScript(
        models={"a": ModelScript(), "m": ModelScript()}, quotas=(Quota(limit=1),)
    )
    simulator = Simulator(
        Scenario(
            providers={
                "tokens": ProviderScript(models={"m": tokens}),
                "month": ProviderScript(models={"m": month}),
                "openrouter": shared,
            }
        ),
        now_ms=clock,
    )
    async with playing(simulator) as caller:
        assert await statuses(caller, "tokens", 2) == [200, 429]
        clock.now_ms += 60_000
        assert await statuses(caller, "tokens", 1) == [200]
        assert await statuses(caller, "month", 2) == [200, 429]
        clock.now_ms += 86_400_000
        over = await caller.chat("month")
        assert over.json["error"]["code"] == "organization_spend_limit_exceeded"
        clock.now_ms += 6 * 86_400_000
        assert await statuses(caller, "month", 1) == [200]
        assert (await caller.chat("openrouter", "a")).status == 200
        refused = await caller.chat("openrouter", "m")
        assert "free-models-per-day" in refused.json["error"]["message"]


async def test_good_answers_of_openai_tell_what_is_left() -> None:
    async with playing(one_model(ModelScript(quotas=(Quota(limit=50),)))) as caller:
        reply = await caller.chat()

    assert reply.headers["x-ratelimit-limit-requests"] == "50"
    assert reply.headers["x-ratelimit-remaining-requests"] == "49"


async def test_too_long_a_prompt_is_refused_by_the_window() -> None:
    async with playing(one_model(ModelScript(context_window_tokens=10))) as caller:
        fits = await caller.chat(messages=[user("x" * 40)])
        over = await caller.chat(messages=[user("x" * 41)])

    assert fits.status == 200
    assert over.json["error"]["code"] == "context_length_exceeded"
    assert "is 10 tokens" in over.json["error"]["message"]
    assert "11 tokens" in over.json["error"]["message"]
