"""Anthropic's refusals, as rows of `vendor_errors.BY_VENDOR`.

`details.error_code` tells apart what the type alone does not; who has no code is known by its
message only (the spend limits a customer set himself).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from escalade_server.provider_simulator.refusals import Headers, VendorError
from escalade_server.provider_simulator.scenario import FaultKind as K

INVALID = "invalid_request_error"
RATE = "rate_limit_error"
BILLING = "billing_error"
RETRY: Headers = (("retry-after", "%(retry_s)d"),)


def body(kind: str, message: str, code: str | None = None) -> str:
    """Anthropic's error body."""
    details = None if code is None else {"error_code": code}
    error = {"type": kind, "message": message, "details": details}
    return json.dumps({"type": "error", "error": error, "request_id": "%(request_id)s"})


def rate_headers(*names: str) -> Headers:
    """What a rate limit says of each count that is used up."""
    found = RETRY
    for name in names:
        found += (
            (f"anthropic-ratelimit-{name}-limit", "%(limit)d"),
            (f"anthropic-ratelimit-{name}-remaining", "0"),
            (f"anthropic-ratelimit-{name}-reset", "%(reset_iso)s"),
        )
    return found


RATE_TEXT = (
    "This request would exceed your organization's rate limit of %%(limit)d %s. For details, "
    "refer to: https://docs.claude.com/en/api/rate-limits."
)
DAILY_TEXT = "Number of %s has exceeded your daily rate limit of %%(limit)d; see the headers."
REGAIN = "You will regain access on %(month_date)s at 00:00 UTC."

ANTHROPIC: Mapping[K, VendorError] = MappingProxyType(
    {
        K.RATE_LIMIT: VendorError(
            429, body(RATE, RATE_TEXT % "requests per minute"), rate_headers("requests")
        ),
        K.TOKENS_LIMIT: VendorError(
            429,
            body(RATE, RATE_TEXT % "input tokens per minute"),
            rate_headers("tokens", "input-tokens"),
        ),
        K.DAY_LIMIT: VendorError(
            429, body(RATE, DAILY_TEXT % "requests"), rate_headers("requests")
        ),
        K.TOKENS_DAY_LIMIT: VendorError(
            429, body(RATE, DAILY_TEXT % "request tokens"), rate_headers("tokens")
        ),
        K.CONCURRENCY_LIMIT: VendorError(
            429,
            body(RATE, "Number of concurrent connections has exceeded your rate limit."),
        ),
        K.SLOW_DOWN: VendorError(
            429,
            body(
                RATE,
                "This request would exceed your organization's acceleration limit. Please ramp "
                "up your usage gradually.",
                "ramp_limit_exceeded",
            ),
            RETRY,
        ),
        K.SPEND_LIMIT: VendorError(
            429,
            body(
                RATE,
                "Your organization has reached the monthly spend limit of its usage tier. "
                + REGAIN,
                "enforced_spend_limit_reached",
            ),
        ),
        K.CONTRACT_LIMIT: VendorError(
            429,
            body(
                RATE,
                "Your organization has reached the spend limit of its contract.",
                "contract_spend_limit_reached",
            ),
        ),
        K.USAGE_LIMIT: VendorError(
            400, body(INVALID, f"You have reached your specified API usage limits. {REGAIN}")
        ),
        K.PROJECT_SPEND_LIMIT: VendorError(
            400,
            body(INVALID, f"You have reached your specified workspace API usage limits. {REGAIN}"),
        ),
        K.BALANCE: VendorError(
            402, body(BILLING, "Your credit balance is too low to access the Claude API.")
        ),
        K.BALANCE_LEGACY: VendorError(
            400,
            body(
                INVALID,
                "Your credit balance is too low to access the Anthropic API. Please go to Plans "
                "& Billing to upgrade or purchase credits.",
            ),
        ),
        K.LINKED_BILLING: VendorError(
            402,
            body(
                BILLING,
                "Billing of the linked organization is unavailable.",
                "linked_organization_billing_unavailable",
            ),
        ),
        K.LINKED_SPEND_LIMIT: VendorError(
            402,
            body(
                BILLING,
                "The linked organization has reached its spend limit.",
                "linked_organization_spend_limit_reached",
            ),
        ),
        K.OVERLOADED: VendorError(529, body("overloaded_error", "Overloaded")),
        K.BUSY_529: VendorError(529, body("overloaded_error", "Overloaded"), RETRY),
        K.SERVER_ERROR: VendorError(500, body("api_error", "Internal server error")),
        K.GATEWAY_TIMEOUT: VendorError(504, body("timeout_error", "Request timed out")),
        K.UNAUTHORIZED: VendorError(401, body("authentication_error", "invalid x-api-key")),
        K.FORBIDDEN: VendorError(
            403,
            body(
                "permission_error",
                "Your API key does not have permission to use the specified resource.",
            ),
        ),
        K.ON_HOLD: VendorError(
            400,
            body(
                INVALID,
                "This organization is on hold. Please contact support.",
                "organization_on_hold",
            ),
        ),
        K.MODEL_GONE: VendorError(404, body("not_found_error", "model: %(model)s")),
        K.CONTEXT_LENGTH: VendorError(
            400, body(INVALID, "prompt is too long: %(tokens)d tokens > %(limit)d maximum")
        ),
        K.BAD_REQUEST: VendorError(400, body(INVALID, "%(detail)s")),
        K.PROMPT_BLOCKED: VendorError(
            400, body(INVALID, "Output blocked by content filtering policy")
        ),
    }
)
