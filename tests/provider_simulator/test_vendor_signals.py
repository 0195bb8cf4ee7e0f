"""How Anthropic and Google say no: status, body and headers of each of their refusals."""

import json
from datetime import UTC, datetime
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
from escalade_server.provider_simulator.anthropic_errors import ANTHROPIC
from escalade_server.provider_simulator.google_errors import GOOGLE
from tests.provider_simulator.calls import STREAMING, Reply, faulty, one_model, playing

K = FaultKind
NOON_MS = 1_779_796_800_000  # 2026-05-26T12:00:00Z
INVALID = "invalid_request_error"
RATE = "rate_limit_error"
BILLING = "billing_error"
RESUMES = "You will regain access on 2026-06-01 at 00:00 UTC."

ANTHROPIC_SAYS: list[tuple[FaultKind, int, str, str | None, str]] = [
    (K.RATE_LIMIT, 429, RATE, None, "requests per minute"),
    (K.TOKENS_LIMIT, 429, RATE, None, "input tokens per minute"),
    (K.DAY_LIMIT, 429, RATE, None, "daily rate limit"),
    (K.TOKENS_DAY_LIMIT, 429, RATE, None, "daily rate limit"),
    (K.CONCURRENCY_LIMIT, 429, RATE, None, "concurrent connections"),
    (K.SLOW_DOWN, 429, RATE, "ramp_limit_exceeded", ""),
    (K.SPEND_LIMIT, 429, RATE, "enforced_spend_limit_reached", RESUMES),
    (K.CONTRACT_LIMIT, 429, RATE, "contract_spend_limit_reached", ""),
    (K.USAGE_LIMIT, 400, INVALID, None, "You have reached your specified API usage limits"),
    (K.PROJECT_SPEND_LIMIT, 400, INVALID, None, "You have reached your specified workspace API"),
    (K.BALANCE, 402, BILLING, None, ""),
    (K.BALANCE_LEGACY, 400, INVALID, None, "credit balance is too low"),
    (K.LINKED_BILLING, 402, BILLING, "linked_organization_billing_unavailable", ""),
    (K.LINKED_SPEND_LIMIT, 402, BILLING, "linked_organization_spend_limit_reached", ""),
    (K.OVERLOADED, 529, "overloaded_error", None, "Overloaded"),
    (K.BUSY_529, 529, "overloaded_error", None, "Overloaded"),
    (K.SERVER_ERROR, 500, "api_error", None, ""),
    (K.GATEWAY_TIMEOUT, 504, "timeout_error", None, ""),
    (K.UNAUTHORIZED, 401, "authentication_error", None, "invalid x-api-key"),
    (K.FORBIDDEN, 403, "permission_error", None, ""),
    (K.ON_HOLD, 400, INVALID, "organization_on_hold", ""),
    (K.MODEL_GONE, 404, "not_found_error", None, "model: m"),
    (K.CONTEXT_LENGTH, 400, INVALID, None, "prompt is too long: 1 tokens > 50 maximum"),
    (K.BAD_REQUEST, 400, INVALID, None, ""),
    (K.PROMPT_BLOCKED, 400, INVALID, None, "content filtering policy"),
]


async def refused(provider: str, fault: Fault, *, stream: bool = True) -> Reply:
    script = ProviderScript(models={"m": ModelScript(faults=(fault,))})
    simulator = Simulator(Scenario(providers={provider: script}), now_ms=lambda: NOON_MS)
    async with playing(simulator) as caller:
        reply = await caller.home(provider, stream=stream)
        counted = simulator.ledger().of(provider, "m")
    assert (counted.requests_refused, counted.requests_billed) == (1, 0)
    return reply


def test_every_row_has_its_line_here() -> None:
    assert {kind for kind, *_ in ANTHROPIC_SAYS} == set(ANTHROPIC)
    assert {kind for kind, *_ in GOOGLE_SAYS} | {K.ARRAY_BODY} == set(GOOGLE)


@pytest.mark.parametrize(("kind", "status", "type_", "code", "words"), ANTHROPIC_SAYS, ids=str)
async def test_anthropic_refuses_in_its_own_words(
    kind: FaultKind, status: int, type_: str, code: str | None, words: str
) -> None:
    reply = await refused("anthropic", Fault(kind=kind))

    error = reply.json["error"]
    assert (reply.status, reply.json["type"], error["type"]) == (status, "error", type_)
    assert (error["details"] or {}).get("error_code") == code
    assert words in error["message"]
    assert reply.json["request_id"] == reply.headers["request-id"] != ""


async def test_anthropic_tells_when_to_come_back_in_two_ways_or_not_at_all() -> None:
    short = await refused("anthropic", Fault(kind=K.RATE_LIMIT, retry_after_ms=90_000))
    tokens = await refused("anthropic", Fault(kind=K.TOKENS_LIMIT, retry_after_ms=90_000))
    month = await refused("anthropic", Fault(kind=K.SPEND_LIMIT))

    assert short.headers["retry-after"] == "90"
    assert short.headers["anthropic-ratelimit-requests-limit"] == "50"
    assert short.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert short.headers["anthropic-ratelimit-requests-reset"] == "2026-05-26T12:01:30Z"
    assert tokens.headers["anthropic-ratelimit-input-tokens-reset"] == "2026-05-26T12:01:30Z"
    assert not any("retry" in name.lower() or "ratelimit" in name for name in month.headers)


async def test_good_answers_of_anthropic_tell_what_is_left() -> None:
    quotas = (Quota(limit=50, per="minute"), Quota(limit=9, per="minute", of="tokens"))
    async with playing(one_model(ModelScript(quotas=quotas), "anthropic")) as caller:
        reply = await caller.message()
        over = await caller.message()

    assert reply.headers["anthropic-ratelimit-requests-remaining"] == "49"
    assert reply.headers["anthropic-ratelimit-tokens-limit"] == "9"
    reset = datetime.fromisoformat(reply.headers["anthropic-ratelimit-requests-reset"])
    assert (reset.tzinfo, reset.second) == (UTC, 0)
    assert over.status == 429
    assert "input tokens per minute" in over.json["error"]["message"]


@pytest.mark.parametrize("provider", ["anthropic", "google"])
async def test_a_body_too_large_never_gets_to_the_vendor(provider: str) -> None:
    reply = await refused(provider, Fault(kind=K.TOO_LARGE))
    gateway = await refused(provider, Fault(kind=K.BAD_GATEWAY))
    moved = await refused(provider, Fault(kind=K.REDIRECT))

    assert (reply.status, gateway.status, moved.status) == (413, 502, 307)
    for page in (reply, gateway):
        with pytest.raises(json.JSONDecodeError):
            assert page.json


EXHAUSTED = "RESOURCE_EXHAUSTED"
ARGUMENT = "INVALID_ARGUMENT"
GOOGLE_SAYS: list[tuple[FaultKind, int, str, str]] = [
    (K.RATE_LIMIT, 429, EXHAUSTED, "limit: 50, model: m"),
    (K.TOKENS_LIMIT, 429, EXHAUSTED, "input_token_count"),
    (K.DAY_LIMIT, 429, EXHAUSTED, "Please retry in 22s."),
    (K.TOKENS_DAY_LIMIT, 429, EXHAUSTED, "Please retry in 43200s."),
    (K.NOT_IN_TIER, 429, EXHAUSTED, "limit: 0, model: m"),
    (K.SPEND_WINDOW, 429, EXHAUSTED, "spend-based"),
    (K.BALANCE, 429, EXHAUSTED, "prepayment credits are depleted"),
    (K.BALANCE_LEGACY, 402, EXHAUSTED, "prepayment credits are depleted"),
    (K.OVERLOADED, 503, "UNAVAILABLE", "The model is overloaded"),
    (K.SERVER_ERROR, 500, "INTERNAL", "internal error"),
    (K.GATEWAY_TIMEOUT, 504, "DEADLINE_EXCEEDED", "Deadline"),
    (K.UNAUTHORIZED, 400, ARGUMENT, "API key not valid"),
    (K.PERMISSION_DENIED, 403, "PERMISSION_DENIED", ""),
    (K.FORBIDDEN, 400, "FAILED_PRECONDITION", "not available in your country"),
    (K.MODEL_GONE, 404, "NOT_FOUND", "models/m is not found"),
    (
        K.CONTEXT_LENGTH,
        400,
        ARGUMENT,
        "The input token count (1) exceeds the maximum number of tokens allowed (50)",
    ),
    (K.BAD_REQUEST, 400, ARGUMENT, ""),
]


def detail(reply: Reply, name: str) -> Any:
    found = [one for one in reply.json["error"].get("details", ()) if one["@type"].endswith(name)]
    return found[0] if found else None


@pytest.mark.parametrize(("kind", "status", "word", "words"), GOOGLE_SAYS, ids=str)
async def test_google_refuses_in_its_own_words(
    kind: FaultKind, status: int, word: str, words: str
) -> None:
    reply = await refused("google", Fault(kind=kind))

    error = reply.json["error"]
    assert (reply.status, error["code"], error["status"]) == (status, status, word)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("kind", "quota", "value", "delay"),
    [
        (K.RATE_LIMIT, "PerMinute", "50", "46s"),
        (K.TOKENS_LIMIT, "PerMinute", "50", "46s"),
        (K.DAY_LIMIT, "PerDay", "50", "22s"),
        (K.TOKENS_DAY_LIMIT, "PerDay", "50", "46s"),
        (K.NOT_IN_TIER, "PerDay", "0", "22s"),
    ],
)
async def test_googles_quotas_are_told_apart_by_their_ids(
    kind: FaultKind, quota: str, value: str, delay: str
) -> None:
    reply = await refused("google", Fault(kind=kind, retry_after_ms=46_000))

    violation = detail(reply, "google.rpc.QuotaFailure")["violations"][0]
    assert quota in violation["quotaId"]
    assert violation["quotaValue"] == value
    assert violation["quotaDimensions"]["model"] == "m"
    assert detail(reply, "google.rpc.RetryInfo")["retryDelay"] == delay


async def test_money_and_keys_of_google() -> None:
    for kind in (K.BALANCE, K.BALANCE_LEGACY, K.SPEND_WINDOW):
        assert detail(await refused("google", Fault(kind=kind)), "QuotaFailure") is None
    key = await refused("google", Fault(kind=K.UNAUTHORIZED))
    assert detail(key, "google.rpc.ErrorInfo")["reason"] == "API_KEY_INVALID"


async def test_googles_errors_in_an_array() -> None:
    always = await refused("google", Fault(kind=K.ARRAY_BODY))
    async with playing(faulty(K.RATE_LIMIT, "google")) as caller:
        array = await caller.generate(method="streamGenerateContent")
        events = await caller.generate(method=STREAMING)
    async with playing(faulty(K.ARRAY_BODY, "google")) as caller:
        once = await caller.generate(method="streamGenerateContent")

    assert always.json[0]["error"]["status"] == "UNAVAILABLE"
    assert array.json[0]["error"]["status"] == events.json["error"]["status"] == EXHAUSTED
    assert once.json == always.json


async def test_a_day_of_gemini_ends_with_a_refusal_that_misleads() -> None:
    quota = Quota(limit=1, zone="America/Los_Angeles")
    async with playing(one_model(ModelScript(quotas=(quota,)), "google")) as caller:
        first, over = await caller.generate(), await caller.generate()

    assert (first.status, over.status) == (200, 429)
    assert detail(over, "RetryInfo")["retryDelay"] == "22s"
    assert detail(over, "QuotaFailure")["violations"][0]["quotaValue"] == "1"


async def test_prompts_too_long_for_the_window() -> None:
    script = ModelScript(context_window_tokens=1)
    long = "x" * 9
    providers = {name: ProviderScript(models={"m": script}) for name in ("anthropic", "google")}
    async with playing(Simulator(Scenario(providers=providers))) as caller:
        message = await caller.message(messages=[{"role": "user", "content": long}])
        generated = await caller.generate(contents=[{"parts": [{"text": long}]}])

    assert "prompt is too long: 3 tokens > 1 maximum" in message.json["error"]["message"]
    assert "count (3) exceeds" in generated.json["error"]["message"]


async def test_faults_meet_foreign_dialects_in_their_nearest_words() -> None:
    async with playing(faulty(K.NOT_IN_TIER, "google")) as caller:
        chat = await caller.chat("google")
        message = await caller.message("google")

    assert (chat.status, chat.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (message.status, message.json["error"]["type"]) == (429, RATE)


@pytest.mark.parametrize("provider", ["anthropic", "google"])
async def test_errors_under_200_are_the_vendors(provider: str) -> None:
    async with playing(faulty(K.JSON_ERROR_200, provider)) as caller:
        reply = await caller.home(provider, stream=True)

    assert reply.status == 200
    word = reply.json["error"]["type" if provider == "anthropic" else "status"]
    assert word in {"overloaded_error", "UNAVAILABLE"}
