"""The vendors' own refusals: status, headers and body of each kind, as data.

Bodies are JSON (or HTML) texts with `%(name)s` places, filled by `refusals.render`. A vendor that
has no row of its own for a kind refuses as `COMMON` says, which is OpenAI's wording; kinds in
neither table do not exist at that vendor. Anthropic and Google have words for all they refuse, in
modules of their own; of `COMMON` they share only what the network in front of them says. Rows
follow the vendors' documents as of late 2026.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from escalade_server.provider_simulator.anthropic_errors import ANTHROPIC
from escalade_server.provider_simulator.google_errors import GOOGLE
from escalade_server.provider_simulator.refusals import HTML_TYPE, Headers, VendorError, page
from escalade_server.provider_simulator.scenario import FaultKind as K

DAY_MS = 86_400_000


def openai(message: str, kind: str, code: str | None, param: str | None = None) -> str:
    """OpenAI's error body."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def openrouter(message: str, code: int, metadata: Mapping[str, object]) -> str:
    """OpenRouter's error body: `code` repeats the status as a number."""
    error = {"message": message, "code": code, "metadata": dict(metadata)}
    return json.dumps({"error": error, "user_id": "user_simulated"})


def nano(message: str, kind: str, code: str) -> str:
    """NanoGPT's error body."""
    return json.dumps({"error": {"message": message, "type": kind, "code": code}})


def minimax(message: str, kind: str, status: int) -> str:
    """MiniMax's error body on its compatible API: its own code ends the message."""
    error = {"type": kind, "message": message, "http_code": str(status)}
    return json.dumps({"type": "error", "error": error, "request_id": "simulated"})


RETRY: Headers = (("retry-after", "%(retry_s)d"),)
OPENAI_REQUESTS: Headers = (
    ("retry-after", "%(retry_s)d"),
    ("retry-after-ms", "%(retry_ms)d"),
    ("x-ratelimit-limit-requests", "%(limit)d"),
    ("x-ratelimit-remaining-requests", "0"),
    ("x-ratelimit-reset-requests", "%(retry_duration)s"),
)
OPENAI_TOKENS: Headers = (
    ("retry-after", "%(retry_s)d"),
    ("retry-after-ms", "%(retry_ms)d"),
    ("x-ratelimit-limit-tokens", "%(limit)d"),
    ("x-ratelimit-remaining-tokens", "0"),
    ("x-ratelimit-reset-tokens", "%(retry_duration)s"),
)
OPENROUTER_RATE: Headers = (
    ("X-RateLimit-Limit", "%(limit)d"),
    ("X-RateLimit-Remaining", "0"),
    ("X-RateLimit-Reset", "%(reset_epoch_ms)d"),
)
OPENROUTER_RATE_META = {name: value for name, value in OPENROUTER_RATE}  # noqa: C416 (JSON object)
LIMIT_TEXT = (
    "Rate limit reached for %%(model)s in organization org-simulated on %s: Limit %%(limit)d, "
    "Used %%(used)d, Requested %s. Please try again in %%(retry_duration)s. "
    "Visit https://platform.openai.com/account/rate-limits to learn more."
)
RATE_CODE = "rate_limit_exceeded"
QUOTA = "insufficient_quota"
INVALID = "invalid_request_error"

COMMON: Mapping[K, VendorError] = MappingProxyType(
    {
        K.RATE_LIMIT: VendorError(
            429,
            openai(LIMIT_TEXT % ("requests per min (RPM)", "1"), "requests", RATE_CODE),
            OPENAI_REQUESTS,
        ),
        K.TOKENS_LIMIT: VendorError(
            429,
            openai(LIMIT_TEXT % ("tokens per min (TPM)", "%(tokens)d"), "tokens", RATE_CODE),
            OPENAI_TOKENS,
        ),
        K.DAY_LIMIT: VendorError(
            429,
            openai(LIMIT_TEXT % ("requests per day (RPD)", "1"), "requests", RATE_CODE),
            OPENAI_REQUESTS,
        ),
        K.TOKENS_DAY_LIMIT: VendorError(
            429,
            openai(LIMIT_TEXT % ("tokens per day (TPD)", "%(tokens)d"), "tokens", RATE_CODE),
            OPENAI_TOKENS,
        ),
        K.BALANCE: VendorError(
            429,
            openai(
                "You exceeded your current quota, please check your plan and billing details.",
                QUOTA,
                "credit_balance_exhausted",
            ),
        ),
        K.OVERLOADED: VendorError(
            503,
            openai(
                "The server is currently overloaded with other requests. Please retry later.",
                "service_unavailable_error",
                "server_is_overloaded",
            ),
        ),
        K.BUSY_529: VendorError(529, openai("Overloaded", "overloaded_error", None)),
        K.SERVER_ERROR: VendorError(
            500,
            openai(
                "The server had an error while processing your request. Sorry about that!",
                "server_error",
                None,
            ),
        ),
        K.BAD_GATEWAY: VendorError(502, page("502 Bad Gateway"), (), HTML_TYPE),
        K.GATEWAY_TIMEOUT: VendorError(504, page("504 Gateway Time-out"), (), HTML_TYPE),
        K.REQUEST_TIMEOUT: VendorError(408, openai("Request timed out", "timeout", None)),
        K.UNAUTHORIZED: VendorError(
            401, openai("Incorrect API key provided: %(detail)s.", INVALID, "invalid_api_key")
        ),
        K.FORBIDDEN: VendorError(
            403,
            openai(
                "Country, region, or territory not supported",
                "request_forbidden",
                "unsupported_country_region_territory",
            ),
        ),
        K.MODEL_GONE: VendorError(
            404,
            openai(
                "The model `%(model)s` does not exist or you do not have access to it.",
                INVALID,
                "model_not_found",
            ),
        ),
        K.CONTEXT_LENGTH: VendorError(
            400,
            openai(
                "This model's maximum context length is %(limit)d tokens. However, your messages "
                "resulted in %(tokens)d tokens. Please reduce the length of the messages.",
                INVALID,
                "context_length_exceeded",
                "messages",
            ),
        ),
        K.BAD_REQUEST: VendorError(
            400,
            '{"error": {"message": "%(detail)s", "type": "invalid_request_error", '
            '"param": %(param_json)s, "code": null}}',
        ),
        K.TOO_LARGE: VendorError(413, page("413 Request Entity Too Large"), (), HTML_TYPE),
        K.PROMPT_BLOCKED: VendorError(
            400,
            openai(
                "Your request was rejected as a result of our safety system.",
                INVALID,
                "content_policy_violation",
            ),
        ),
        K.REDIRECT: VendorError(307, "", (("location", "/redirected/v1/chat/completions"),)),
    }
)


def spend(message: str, code: str) -> VendorError:
    """OpenAI's refusal of money that somebody limited."""
    return VendorError(429, openai(message, QUOTA, code))


OPENAI: Mapping[K, VendorError] = MappingProxyType(
    {
        K.SLOW_DOWN: VendorError(
            429,
            openai(
                "Your request rate increased too quickly. Please slow down.",
                "rate_limit_error",
                "slow_down",
            ),
            RETRY,
        ),
        K.BALANCE_LEGACY: spend(
            "You exceeded your current quota, please check your plan and billing details.", QUOTA
        ),
        K.SPEND_LIMIT: spend(
            "Your organization has reached its spend limit.", "organization_spend_limit_exceeded"
        ),
        K.PROJECT_SPEND_LIMIT: spend(
            "Your project has reached its spend limit.", "project_spend_limit_exceeded"
        ),
        K.USAGE_LIMIT: spend(
            "Your organization has reached its usage limit.", "organization_usage_limit_exceeded"
        ),
    }
)

DEEPSEEK: Mapping[K, VendorError] = MappingProxyType(
    {
        K.BALANCE: VendorError(402, openai("Insufficient Balance", "unknown_error", INVALID)),
        K.CONCURRENCY_LIMIT: VendorError(
            429,
            openai("Rate limit reached: too many concurrent requests", "rate_limit_error", None),
        ),
        K.OVERLOADED: VendorError(
            503,
            openai(
                "Service is too busy. We advise users to temporarily switch to alternative LLM "
                "API service providers.",
                "service_unavailable_error",
                "service_unavailable_error",
            ),
        ),
        K.UNAUTHORIZED: VendorError(
            401,
            openai(
                "Authentication Fails, Your api key: %(detail)s is invalid",
                "authentication_error",
                INVALID,
            ),
        ),
        K.MODEL_GONE: VendorError(400, openai("Model Not Exist", INVALID, INVALID)),
        K.UNPROCESSABLE: VendorError(
            422, openai("Invalid parameters: %(detail)s", INVALID, INVALID)
        ),
        K.CONTEXT_LENGTH: VendorError(
            400,
            openai(
                "This model's maximum context length is %(limit)d tokens. However, you requested "
                "%(tokens)d tokens. Please reduce the length of the messages or completion.",
                INVALID,
                INVALID,
            ),
        ),
        K.PROMPT_BLOCKED: VendorError(400, openai("Content Exists Risk", INVALID, INVALID)),
    }
)

OPENROUTER: Mapping[K, VendorError] = MappingProxyType(
    {
        K.RATE_LIMIT: VendorError(
            429,
            openrouter(
                "Rate limit exceeded: free-models-per-min. ",
                429,
                {"error_type": RATE_CODE, "headers": OPENROUTER_RATE_META},
            ),
            OPENROUTER_RATE,
        ),
        K.DAY_LIMIT: VendorError(
            429,
            openrouter(
                "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free "
                "model requests per day",
                429,
                {
                    "error_type": RATE_CODE,
                    "limit_source": "openrouter_free_tier_daily",
                    "headers": OPENROUTER_RATE_META,
                },
            ),
            OPENROUTER_RATE,
        ),
        K.UPSTREAM_RATE_LIMIT: VendorError(
            429,
            openrouter(
                "Provider returned error",
                429,
                {
                    "error_type": RATE_CODE,
                    "provider_code": "429",
                    "provider_name": "Simulated",
                    "availability": {"code": "capacity_exhausted"},
                    "raw": "%(model)s is temporarily rate-limited upstream.",
                },
            ),
            RETRY,
        ),
        K.BALANCE: VendorError(
            402,
            openrouter(
                "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
                402,
                {"error_type": "payment_required", "limit_source": "openrouter_credits"},
            ),
        ),
        K.KEY_LIMIT: VendorError(
            402,
            openrouter(
                "Key limit exceeded (daily limit).",
                402,
                {"error_type": "payment_required", "limit_source": "openrouter_key_limit"},
            ),
            RETRY,
        ),
        K.OVERLOADED: VendorError(
            503,
            openrouter("Provider overloaded", 503, {"error_type": "provider_overloaded"}),
            RETRY,
        ),
        K.BAD_GATEWAY: VendorError(
            502, openrouter("Provider unavailable", 502, {"error_type": "provider_unavailable"})
        ),
        K.SERVER_ERROR: VendorError(
            500, openrouter("Internal Server Error", 500, {"error_type": "server"})
        ),
        K.REQUEST_TIMEOUT: VendorError(
            408, openrouter("Request timed out", 408, {"error_type": "timeout"})
        ),
        K.UNAUTHORIZED: VendorError(
            401, openrouter("No auth credentials found", 401, {"error_type": "unauthenticated"})
        ),
        K.MODEL_GONE: VendorError(
            404,
            openrouter(
                "No endpoints found for %(model)s.",
                404,
                {"error_type": "not_found", "availability": {"code": "no_endpoints"}},
            ),
        ),
        K.CONTEXT_LENGTH: VendorError(
            400,
            openrouter(
                "This endpoint's maximum context length is %(limit)d tokens. However, you "
                "requested about %(tokens)d tokens.",
                400,
                {"error_type": "context_length_exceeded"},
            ),
        ),
        K.PROMPT_BLOCKED: VendorError(
            403,
            openrouter(
                "%(model)s requires moderation. Your input was flagged.",
                403,
                {"error_type": "content_policy_violation", "reasons": ["simulated"]},
            ),
        ),
    }
)

NANO_GPT: Mapping[K, VendorError] = MappingProxyType(
    {
        K.RATE_LIMIT: VendorError(
            429, nano("Rate limit exceeded", "rate_limit_error", RATE_CODE), RETRY
        ),
        K.DAY_LIMIT: VendorError(
            429,
            nano(
                "Daily request limit of %(limit)d reached for this API key",
                "rate_limit_error",
                "daily_rpd_limit_exceeded",
            ),
            RETRY,
        ),
        K.USD_DAY_LIMIT: VendorError(
            429,
            nano(
                "Daily USD limit reached for this API key",
                "rate_limit_error",
                "daily_usd_limit_exceeded",
            ),
            RETRY,
        ),
        K.BALANCE: VendorError(
            402,
            '{"error": {"message": "Insufficient balance", "type": "insufficient_quota", '
            '"code": "insufficient_quota"}, "payment": {"x402Version": 1, "accepts": []}}',
        ),
        K.BALANCE_LEGACY: VendorError(
            402, '{"error": "Insufficient balance", "requiredBalance": 0.1, "status": 402}'
        ),
        K.OVERLOADED: VendorError(
            503, nano("Service unavailable", "service_unavailable", "service_unavailable")
        ),
        K.MODEL_GONE: VendorError(
            404, nano("Model %(model)s not found", INVALID, "model_not_found")
        ),
        K.CONTEXT_LENGTH: VendorError(
            400,
            nano("Input of %(tokens)d tokens is too long", INVALID, "context_length_exceeded"),
        ),
    }
)

MINIMAX: Mapping[K, VendorError] = MappingProxyType(
    {
        K.RATE_LIMIT: VendorError(429, minimax("rate limit (1002)", "rate_limit_error", 429)),
        K.PLAN_WINDOW: VendorError(
            429,
            minimax(
                "5-hour usage limit reached for Token Plan, resets at %(reset_iso)s (2056)",
                "rate_limit_error",
                429,
            ),
        ),
        K.BALANCE: VendorError(
            429, minimax("insufficient balance (1008)", "insufficient_balance_error", 429)
        ),
        K.UNAUTHORIZED: VendorError(401, minimax("login fail (1004)", "authorized_error", 401)),
        K.CONTEXT_LENGTH: VendorError(
            400,
            minimax(
                "invalid params, context window exceeds limit (2013)", "bad_request_error", 400
            ),
        ),
        K.SERVER_ERROR: VendorError(500, minimax("unknown error, 999 (1000)", "api_error", 500)),
        K.BUSY_529: VendorError(529, minimax("overloaded (529)", "overloaded_error", 529)),
    }
)

OLLAMA: Mapping[K, VendorError] = MappingProxyType(
    {
        K.MODEL_GONE: VendorError(
            404,
            openai('model "%(model)s" not found, try pulling it first', "not_found_error", None),
        ),
        K.OVERLOADED: VendorError(
            503,
            openai(
                "server busy, please try again.  maximum pending requests exceeded",
                "api_error",
                None,
            ),
        ),
    }
)

BY_VENDOR: Mapping[str, Mapping[K, VendorError]] = MappingProxyType(
    {
        "openai": OPENAI,
        "deepseek": DEEPSEEK,
        "openrouter": OPENROUTER,
        "nano-gpt": NANO_GPT,
        "minimax": MINIMAX,
        "ollama": OLLAMA,
        "anthropic": ANTHROPIC,
        "google": GOOGLE,
    }
)
"""Only what differs from `COMMON`."""

OWN_WORDS = frozenset({"anthropic", "google"})
NETWORK = frozenset({K.BAD_GATEWAY, K.TOO_LARGE, K.REDIRECT})
"""What no vendor says itself, but a proxy before it."""

LACKING: Mapping[str, frozenset[K]] = MappingProxyType(
    {
        "openai": frozenset(
            {K.PROMPT_FILTERED, K.MALFORMED_CALL, K.ACCOUNT_LIMITED, K.WINDOW_EXCEEDED}
        ),
        "anthropic": frozenset(
            {K.PROMPT_FILTERED, K.MALFORMED_CALL, K.ACCOUNT_LIMITED, K.CUT_SHORT}
        ),
        "gemini": frozenset({K.REFUSAL, K.WINDOW_EXCEEDED, K.CUT_SHORT, K.NO_DONE}),
    }
)
"""Kinds of answers that a dialect has no way to tell."""

HTTP_KINDS = frozenset(COMMON).union(*BY_VENDOR.values())
"""Every kind that is an HTTP refusal at some vendor."""

RETRY_AFTER_MS: Mapping[K, int] = MappingProxyType(
    {
        K.RATE_LIMIT: 20_000,
        K.TOKENS_LIMIT: 6_000,
        K.SLOW_DOWN: 5_000,
        K.UPSTREAM_RATE_LIMIT: 10_000,
        K.OVERLOADED: 2_000,
        K.PLAN_WINDOW: 5 * 3_600_000,
        K.SPEND_WINDOW: 600_000,
    }
)
"""What vendors typically say; kinds that are not here open at the next midnight UTC."""


def error_of(vendor: str, kind: K) -> VendorError | None:
    """The row of a vendor and kind, or None when the vendor has no such refusal."""
    found = BY_VENDOR[vendor].get(kind)
    if found is None and (vendor not in OWN_WORDS or kind in NETWORK):
        found = COMMON.get(kind)
    return found


def retry_after_ms(kind: K, now_ms: int) -> int:
    """How long a refusal of this kind lasts, when the scenario does not say."""
    return RETRY_AFTER_MS.get(kind, DAY_MS - now_ms % DAY_MS)
