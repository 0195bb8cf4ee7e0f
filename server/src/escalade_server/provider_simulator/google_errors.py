"""Refusals of Google's Gemini API, as rows of `vendor_errors.BY_VENDOR`.

Many things are 429 RESOURCE_EXHAUSTED; the quota's id tells them apart. The retry delay of a day's
requests is a few seconds, as it was seen in the wild, and useless; that of a day's tokens is true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from escalade_server.provider_simulator.refusals import VendorError
from escalade_server.provider_simulator.scenario import FaultKind as K

RPC = "type.googleapis.com/google.rpc."
API = "generativelanguage.googleapis.com"
EXHAUSTED = "RESOURCE_EXHAUSTED"
INVALID = "INVALID_ARGUMENT"
USELESS_DELAY = "22s"


def body(code: int, status: str, message: str, *details: Mapping[str, object]) -> str:
    """Google's error body."""
    error: dict[str, object] = {"code": code, "message": message, "status": status}
    if details:
        error["details"] = list(details)
    return json.dumps({"error": error}, indent=2)


def error_info(reason: str) -> Mapping[str, object]:
    """The detail that names a reason."""
    return {
        "@type": f"{RPC}ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": API},
    }


def quota(
    metric: str, quota_id: str, *, limit: str = "%(limit)d", delay: str = "%(retry_s)ds"
) -> VendorError:
    """The refusal of a quota: its name, its size and when to come back."""
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n"
        f"* Quota exceeded for metric: {API}/{metric}, limit: {limit}, model: %(model)s\n"
        f"Please retry in {delay}."
    )
    violation = {
        "quotaMetric": f"{API}/{metric}",
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": "%(model)s"},
        "quotaValue": limit,
    }
    links = [
        {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
    ]
    return VendorError(
        429,
        body(
            429,
            EXHAUSTED,
            message,
            {"@type": f"{RPC}QuotaFailure", "violations": [violation]},
            {"@type": f"{RPC}Help", "links": links},
            {"@type": f"{RPC}RetryInfo", "retryDelay": delay},
        ),
    )


REQUESTS = "generate_content_free_tier_requests"
TOKENS = "generate_content_free_tier_input_token_count"
PREPAY = (
    "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects "
    "to manage your project and billing."
)
OVERLOADED_TEXT = "The model is overloaded. Please try again later."

GOOGLE: Mapping[K, VendorError] = MappingProxyType(
    {
        K.RATE_LIMIT: quota(REQUESTS, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
        K.TOKENS_LIMIT: quota(TOKENS, "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
        K.DAY_LIMIT: quota(
            REQUESTS, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", delay=USELESS_DELAY
        ),
        K.TOKENS_DAY_LIMIT: quota(TOKENS, "GenerateContentInputTokensPerModelPerDay-FreeTier"),
        K.NOT_IN_TIER: quota(
            REQUESTS,
            "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
            limit="0",
            delay=USELESS_DELAY,
        ),
        K.SPEND_WINDOW: VendorError(
            429,
            body(
                429,
                EXHAUSTED,
                "Your project has exceeded its spend-based rate limit over a rolling 10 minute "
                "window. Please try again later.",
            ),
        ),
        K.BALANCE: VendorError(429, body(429, EXHAUSTED, PREPAY)),
        K.BALANCE_LEGACY: VendorError(402, body(402, EXHAUSTED, PREPAY)),
        K.OVERLOADED: VendorError(503, body(503, "UNAVAILABLE", OVERLOADED_TEXT)),
        K.ARRAY_BODY: VendorError(503, f"[{body(503, 'UNAVAILABLE', OVERLOADED_TEXT)}]"),
        K.SERVER_ERROR: VendorError(
            500,
            body(
                500,
                "INTERNAL",
                "An internal error has occurred. Please retry or report in "
                "https://developers.generativeai.google/guide/troubleshooting",
            ),
        ),
        K.GATEWAY_TIMEOUT: VendorError(
            504,
            body(
                504,
                "DEADLINE_EXCEEDED",
                "Deadline expired before operation could complete.",
            ),
        ),
        K.UNAUTHORIZED: VendorError(
            400,
            body(
                400,
                INVALID,
                "API key not valid. Please pass a valid API key.",
                error_info("API_KEY_INVALID"),
            ),
        ),
        K.PERMISSION_DENIED: VendorError(
            403,
            body(
                403,
                "PERMISSION_DENIED",
                "Method doesn't allow unregistered callers (callers without established "
                "identity). Please use API Key or other form of API consumer identity to call "
                "this API.",
            ),
        ),
        K.FORBIDDEN: VendorError(
            400,
            body(
                400,
                "FAILED_PRECONDITION",
                "Gemini API free tier is not available in your country. Please enable billing on "
                "your project in Google AI Studio.",
            ),
        ),
        K.MODEL_GONE: VendorError(
            404,
            body(
                404,
                "NOT_FOUND",
                "models/%(model)s is not found for API version v1beta, or is not supported for "
                "generateContent. Call ListModels to see the list of available models and their "
                "supported methods.",
            ),
        ),
        K.CONTEXT_LENGTH: VendorError(
            400,
            body(
                400,
                INVALID,
                "The input token count (%(tokens)d) exceeds the maximum number of tokens allowed "
                "(%(limit)d).",
            ),
        ),
        K.BAD_REQUEST: VendorError(400, body(400, INVALID, "%(detail)s")),
    }
)
