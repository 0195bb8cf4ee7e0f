"""How the vendors tell trouble, dialect by dialect, as rows (provider-signals B1).

Each row has fixtures in tests/providers/signals; a test takes out every row, and every word of
it, and sees a fixture fail. Within a rank the rows are asked from top to bottom.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from escalade_server.core.failure import FailureClass, Scope
from escalade_server.providers.resets import ResetHeader, Unit, Window
from escalade_server.providers.signals import Rule, Vendor

_C = FailureClass


def _any(*words: str) -> frozenset[str]:
    return frozenset(words)


def _is(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def _says(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_TOO_LONG: Final = _says(
    r"maximum context length|context window exceeds|exceeds? the (?:available )?context|"
    r"prompt is too long|input is too long"
)
_RATE: Final = _says(r"rate.?limit|too many requests")

_BARE: Final = (
    # Where an answer says no more than its status.
    Rule(_C.FORBIDDEN, statuses=_is(*range(300, 400))),  # U24: never followed
    Rule(_C.BAD_REQUEST, statuses=_is(400, 405, 415, 422)),
    Rule(_C.AUTH, statuses=_is(401)),
    Rule(_C.BALANCE, statuses=_is(402)),
    Rule(_C.FORBIDDEN, statuses=_is(403)),
    Rule(_C.MODEL_GONE, statuses=_is(404, 410)),
    Rule(_C.TIMEOUT, statuses=_is(408, 504, 524)),
    Rule(_C.TOO_LARGE, statuses=_is(413)),
    Rule(_C.RATE_SHORT, statuses=_is(429)),
    Rule(_C.OVERLOADED, statuses=_is(503, 529)),
    Rule(_C.OUTAGE, statuses=_is(*range(500, 600))),
)

OPENAI_DIALECT: Final = (
    # Money: the same 429 as a rate limit, told apart by the code.
    Rule(_C.BALANCE, codes=_any("credit_balance_exhausted", "insufficient_quota")),
    Rule(
        _C.SPEND_CAP,
        codes=_any(
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        ),
        window=Window.MONTH,
    ),
    # "Per day" stands in the text alone; a reset over an hour away says so as well (P2).
    Rule(_C.QUOTA_WINDOW, codes=_any("rate_limit_exceeded"), text=_says(r"per day|\b[RT]PD\b")),
    Rule(_C.RATE_SHORT, codes=_any("rate_limit_exceeded", "slow_down")),
    Rule(_C.OVERLOADED, codes=_any("server_is_overloaded", "service_unavailable")),
    Rule(_C.CONTEXT, codes=_any("context_length_exceeded")),
    Rule(
        _C.CONTENT,
        codes=_any(
            "content_policy_violation",
            "content_filter",
            "invalid_prompt",
            "bio_policy",
            "misalignment_policy_violation",
        ),
    ),
    Rule(_C.AUTH, codes=_any("invalid_api_key")),
    Rule(
        _C.FORBIDDEN,
        codes=_any("unsupported_country_region_territory", "data_residency_mismatch"),
    ),
    Rule(_C.MODEL_GONE, codes=_any("model_not_found")),
    # "finish_error" is ours: an answer that finished with "error" and said no more.
    Rule(_C.OUTAGE, codes=_any("server_error", "finish_error")),
    # Text that narrows a status. 0 is an error inside an answer.
    Rule(_C.CONTEXT, statuses=_is(0, 400, 413, 422), text=_TOO_LONG),
    Rule(_C.QUOTA_WINDOW, statuses=_is(0, 429), text=_says(r"(?:requests|tokens) per day")),
    # Types that mean one thing only, or do where the status is no better.
    Rule(_C.BALANCE, types=_any("insufficient_quota")),
    Rule(_C.RATE_SHORT, types=_any("rate_limit_error", "requests", "tokens")),
    Rule(_C.OVERLOADED, types=_any("service_unavailable_error", "overloaded_error")),
    Rule(_C.TIMEOUT, types=_any("timeout", "timeout_error")),
    Rule(_C.AUTH, types=_any("authentication_error")),
    Rule(_C.FORBIDDEN, types=_any("permission_error")),
    Rule(_C.MODEL_GONE, types=_any("not_found_error")),
    Rule(_C.OUTAGE, types=_any("server_error"), statuses=_is(0)),
    Rule(_C.OUTAGE, types=_any("api_error"), statuses=_is(0)),
    Rule(_C.BAD_REQUEST, types=_any("invalid_request_error"), statuses=_is(0)),
    *_BARE,
    # Text alone: an error inside an answer that has neither code, type nor status.
    Rule(_C.RATE_SHORT, text=_RATE),
    Rule(_C.OVERLOADED, text=_says(r"overloaded|server busy|at capacity")),
    Rule(_C.TIMEOUT, text=_says(r"timed? ?out")),
)

ANTHROPIC_DIALECT: Final = (
    # The finer code, which the vendor's own rule prefers to every message.
    Rule(_C.RATE_SHORT, codes=_any("ramp_limit_exceeded")),
    Rule(_C.SPEND_CAP, codes=_any("enforced_spend_limit_reached"), window=Window.MONTH),
    Rule(
        _C.SPEND_CAP,
        codes=_any("contract_spend_limit_reached", "linked_organization_spend_limit_reached"),
    ),
    Rule(_C.BALANCE, codes=_any("linked_organization_billing_unavailable")),
    Rule(_C.FORBIDDEN, codes=_any("organization_on_hold")),
    # A stop reason of its own.
    Rule(_C.CONTEXT, codes=_any("model_context_window_exceeded")),
    # A limit that the customer set is a bad request by type and status (P5).
    Rule(
        _C.SPEND_CAP,
        statuses=_is(0, 400),
        text=_says(r"^you have reached your specified (?:workspace )?api usage limits"),
    ),
    Rule(_C.BALANCE, statuses=_is(0, 400), text=_says(r"credit balance is too low")),
    Rule(
        _C.CONTEXT,
        statuses=_is(0, 400, 413),
        text=_says(r"prompt is too long|exceed context limit|context window exceeds"),
    ),
    Rule(_C.RATE_SHORT, types=_any("rate_limit_error")),
    Rule(_C.OVERLOADED, types=_any("overloaded_error")),
    Rule(_C.TIMEOUT, types=_any("timeout_error")),
    Rule(_C.TOO_LARGE, types=_any("request_too_large")),
    Rule(_C.BALANCE, types=_any("billing_error")),
    Rule(_C.AUTH, types=_any("authentication_error")),
    Rule(_C.FORBIDDEN, types=_any("permission_error")),
    Rule(_C.MODEL_GONE, types=_any("not_found_error")),
    Rule(_C.OUTAGE, types=_any("api_error"), statuses=_is(0)),
    Rule(_C.BAD_REQUEST, types=_any("invalid_request_error"), statuses=_is(0)),
    *_BARE,
)

GEMINI_DIALECT: Final = (
    Rule(_C.AUTH, codes=_any("api_key_invalid")),
    # No quota at all: waiting never helps. Then the longer window, whatever wait is named (P3).
    Rule(_C.MODEL_GONE, codes=_any("quota_zero")),
    Rule(_C.QUOTA_WINDOW, codes=_any("quota_per_day"), window=Window.PACIFIC_DAY),
    Rule(_C.RATE_SHORT, codes=_any("quota_per_minute")),
    # Ours, beside a server error: what was sent fills the window almost, which it fails on too.
    Rule(_C.CONTEXT, codes=_any("input_near_window"), types=_any("internal")),
    # Finish reasons that are no answer.
    Rule(
        _C.PROTOCOL,
        codes=_any(
            "malformed_function_call",
            "unexpected_tool_call",
            "too_many_tool_calls",
            "missing_thought_signature",
            "malformed_response",
        ),
    ),
    Rule(_C.FORBIDDEN, codes=_any("pup_limited_disabled")),
    # The same word for a minute, a day, ten minutes of spending, and an empty purse.
    Rule(
        _C.BALANCE,
        types=_any("resource_exhausted"),
        text=_says(r"prepayment credits are depleted"),
    ),
    Rule(_C.MODEL_GONE, types=_any("resource_exhausted"), text=_says(r"\blimit: 0(?![\d.])")),
    Rule(
        _C.QUOTA_WINDOW,
        types=_any("resource_exhausted"),
        text=_says(r"per ?day"),
        window=Window.PACIFIC_DAY,
    ),
    Rule(
        _C.RATE_SHORT,
        types=_any("resource_exhausted"),
        text=_says(r"spend"),
        window=Window.TEN_MINUTES,
    ),
    Rule(_C.CONTEXT, types=_any("invalid_argument"), text=_says(r"input token count")),
    Rule(_C.RATE_SHORT, types=_any("resource_exhausted")),
    Rule(_C.OVERLOADED, types=_any("unavailable")),
    Rule(_C.TIMEOUT, types=_any("deadline_exceeded")),
    Rule(_C.OUTAGE, types=_any("internal")),
    Rule(_C.FORBIDDEN, types=_any("failed_precondition")),
    # "Permission denied" is about the key there (a wrong one is a 400, by its reason).
    Rule(_C.AUTH, types=_any("permission_denied", "unauthenticated")),
    Rule(_C.MODEL_GONE, types=_any("not_found")),
    Rule(_C.BAD_REQUEST, types=_any("invalid_argument")),
    *_BARE,
)

_OPENAI_RESETS: Final = tuple(
    ResetHeader(f"x-ratelimit-reset-{what}", f"x-ratelimit-remaining-{what}", Unit.DURATION)
    for what in ("requests", "tokens")
)
_UNKNOWN_RESETS: Final = tuple(
    ResetHeader(f"x-ratelimit-reset{what}", f"x-ratelimit-remaining{what}", Unit.ANY)
    for what in ("", "-requests", "-tokens")
)

_ANTHROPIC_RESETS: Final = tuple(
    ResetHeader(
        f"anthropic-ratelimit-{what}-reset",
        f"anthropic-ratelimit-{what}-remaining",
        Unit.RFC_3339,
    )
    for what in ("requests", "tokens", "input-tokens", "output-tokens")
)

_DEEPSEEK: Final = (
    # Its code repeats the type, so the text decides.
    Rule(_C.CONTENT, statuses=_is(0, 400), text=_says(r"content exists risk")),
    Rule(_C.MODEL_GONE, statuses=_is(0, 400), text=_says(r"model not exist")),
    # A finish reason of its own: cut off for want of machines.
    Rule(_C.OVERLOADED, codes=_any("insufficient_system_resource")),
)

_OPENROUTER: Final = (
    Rule(_C.QUOTA_WINDOW, codes=_any("openrouter_free_tier_daily"), window=Window.DAY),
    Rule(
        _C.QUOTA_WINDOW,
        codes=_any("rate_limit_exceeded"),
        text=_says(r"free-models-per-day"),
        window=Window.DAY,
    ),
    Rule(
        _C.QUOTA_WINDOW, statuses=_is(0, 429), text=_says(r"free-models-per-day"), window=Window.DAY
    ),
    Rule(_C.RATE_SHORT, codes=_any("capacity_exhausted")),
    # Caps of a key reset by the UTC calendar; which, only the text says. A total never does.
    *(
        Rule(
            _C.QUOTA_WINDOW,
            codes=_any("openrouter_key_limit"),
            text=_says(word),
            scope=Scope.ACCOUNT,
            window=window,
        )
        for word, window in (
            (r"daily limit", Window.DAY),
            (r"weekly limit", Window.WEEK),
            (r"monthly limit", Window.MONTH),
        )
    ),
    Rule(_C.BALANCE, codes=_any("openrouter_key_limit"), text=_says(r"total limit")),
    Rule(_C.QUOTA_WINDOW, codes=_any("openrouter_key_limit"), scope=Scope.ACCOUNT),
    # A negative balance closes the account, its free models too (P6): BALANCE always does.
    Rule(_C.BALANCE, codes=_any("openrouter_credits", "payment_required")),
    Rule(
        _C.MODEL_GONE,
        codes=_any(
            "model_deprecated",
            "no_endpoints",
            "free_variant_ended",
            "model_unavailable_upstream",
            "privacy_restricted",
            "constraint_filtered",
        ),
    ),
    Rule(
        _C.CONTEXT,
        codes=_any("max_tokens_exceeded", "token_limit_exceeded", "string_too_long"),
    ),
    Rule(_C.CONTENT, codes=_any("refusal", "moderation_flagged")),
    Rule(_C.FORBIDDEN, codes=_any("permission_denied")),
    Rule(_C.OVERLOADED, codes=_any("provider_overloaded", "temporarily_unavailable")),
    Rule(_C.OUTAGE, codes=_any("provider_unavailable", "server", "unmapped")),
    Rule(_C.TIMEOUT, codes=_any("timeout")),
    Rule(_C.AUTH, codes=_any("unauthenticated")),
)

_NANO_GPT: Final = (
    # Seconds to 00:00 UTC stand in Retry-After; the limits are the key's.
    Rule(
        _C.QUOTA_WINDOW,
        codes=_any("daily_rpd_limit_exceeded", "daily_usd_limit_exceeded"),
        scope=Scope.ACCOUNT,
        window=Window.DAY,
    ),
    Rule(
        _C.BAD_REQUEST,
        codes=_any(
            "memory_balance_required", "websearch_balance_required", "both_balance_required"
        ),
    ),
    # A challenge to pay by itself: never followed.
    Rule(_C.BALANCE, codes=_any("x402_payment")),
    Rule(_C.RATE_SHORT, codes=_any("rate_limit_exceeded"), scope=Scope.ACCOUNT),
    Rule(_C.PROTOCOL, codes=_any("empty_response")),
    Rule(
        _C.MODEL_GONE,
        codes=_any(
            "model_not_allowed",
            "model_not_available",
            "all_fallbacks_failed",
            "no_fallback_available",
        ),
    ),
)

_AMBIGUOUS: Final = _any("1002", "1039")
_MINIMAX: Final = (
    # Its documents take 1002 and 1039 for limits, its own tool for content: status and text first.
    Rule(_C.CONTENT, codes=_AMBIGUOUS, text=_says(r"sensitive|content (?:filter|policy)")),
    Rule(_C.CONTEXT, codes=_any("1039", "2013"), text=_says(r"context (?:window|length)")),
    Rule(_C.RATE_SHORT, codes=_AMBIGUOUS, statuses=_is(0, 429)),
    # The window rolls over five hours or a week; its end stands in the text only (T9).
    Rule(_C.QUOTA_WINDOW, codes=_any("2056"), scope=Scope.ACCOUNT),
    Rule(_C.BALANCE, codes=_any("1008")),
    Rule(_C.MODEL_GONE, codes=_any("2061")),
    Rule(_C.AUTH, codes=_any("1004", "2049")),
    Rule(_C.BAD_REQUEST, codes=_any("2013")),
    Rule(_C.CONTENT, codes=_any("1026", "1027")),
    Rule(_C.TIMEOUT, codes=_any("1001")),
    Rule(_C.OUTAGE, codes=_any("1000", "1024")),
    Rule(_C.BALANCE, types=_any("insufficient_balance_error")),
)

_OLLAMA: Final = (
    Rule(_C.MODEL_GONE, statuses=_is(0, 400), text=_says(r"model .{0,200}not found")),
)

COMPATIBLE: Final = Vendor(
    "compatible", "openai", shared=OPENAI_DIALECT, reset_headers=_UNKNOWN_RESETS
)
"""Any server of the OpenAI dialect that we have no rows for."""

_ANTHROPIC: Final = Vendor(
    "anthropic", "anthropic", shared=ANTHROPIC_DIALECT, reset_headers=_ANTHROPIC_RESETS
)
_GOOGLE: Final = Vendor("google", "gemini", shared=GEMINI_DIALECT)

VENDORS: Final[Mapping[str, Vendor]] = MappingProxyType(
    {
        vendor.name: vendor
        for vendor in (
            COMPATIBLE,
            _ANTHROPIC,
            _GOOGLE,
            Vendor("openai", "openai", shared=OPENAI_DIALECT, reset_headers=_OPENAI_RESETS),
            Vendor("deepseek", "openai", _DEEPSEEK, OPENAI_DIALECT),
            Vendor(
                "openrouter",
                "openai",
                _OPENROUTER,
                OPENAI_DIALECT,
                (ResetHeader("x-ratelimit-reset", "x-ratelimit-remaining", Unit.EPOCH_MS),),
            ),
            Vendor("nano-gpt", "openai", _NANO_GPT, OPENAI_DIALECT),
            Vendor(
                "minimax",
                "openai",
                _MINIMAX,
                OPENAI_DIALECT,
                code_in_text=re.compile(r"\((\d{4})\)\s*$"),
            ),
            Vendor("ollama", "openai", _OLLAMA, OPENAI_DIALECT),
        )
    }
)

_BY_DIALECT: Final[Mapping[str, Vendor]] = MappingProxyType(
    {vendor.dialect: vendor for vendor in (COMPATIBLE, _ANTHROPIC, _GOOGLE)}
)


def vendor_of(provider: str, dialect: str) -> Vendor:
    """The rows for a provider of a strategy, by its name; else those of the dialect it speaks."""
    vendor = VENDORS.get(provider)
    return vendor if vendor is not None and vendor.dialect == dialect else _BY_DIALECT[dialect]
