"""Refusals of vendors: what they are made of, and how one is filled for a request.

Also the headers in which good answers tell what is left of a quota.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from escalade_server.provider_simulator.quota import Counter

JSON_TYPE = "application/json"
HTML_TYPE = "text/html; charset=utf-8"

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class VendorError:
    """A refusal before its places are filled."""

    status: int
    body: str
    headers: Headers = ()
    content_type: str = JSON_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFacts:
    """What the places of a refusal are filled from."""

    model: str
    now_ms: int
    retry_after_ms: int
    limit: int = 50
    used: int = 50
    tokens: int = 0
    """Of the refused request."""
    detail: str = ""
    """Names what is wrong with a bad request."""
    param: str | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal ready to be sent."""

    status: int
    body: bytes
    headers: Headers
    content_type: str
    request_id: str


def render(error: VendorError, facts: ErrorFacts) -> Refusal:
    """Fills the places of a refusal."""
    reset_ms = facts.now_ms + facts.retry_after_ms
    values: dict[str, str | int] = {
        "model": json.dumps(facts.model)[1:-1],
        "detail": json.dumps(facts.detail)[1:-1],
        "param_json": json.dumps(facts.param),
        "limit": facts.limit,
        "used": facts.used,
        "tokens": facts.tokens,
        "retry_s": -(-facts.retry_after_ms // 1000),
        "retry_ms": facts.retry_after_ms,
        "retry_duration": duration(facts.retry_after_ms),
        "reset_epoch_ms": reset_ms,
        "reset_iso": iso(reset_ms),
        "month_date": next_month(facts.now_ms),
        "request_id": facts.request_id,
    }
    # HTML bodies and redirects have no places, and may hold a bare percent sign.
    body = error.body % values if error.content_type == JSON_TYPE else error.body
    headers = tuple((name, value % values) for name, value in error.headers)
    return Refusal(error.status, body.encode(), headers, error.content_type, facts.request_id)


def page(title: str) -> str:
    """What a content network in front of a vendor answers."""
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>cloudflare</center>\r\n"
        "</body>\r\n</html>\r\n"
    )


def duration(ms: int) -> str:
    """Milliseconds as OpenAI writes them in its reset headers: `12ms`, `1s`, `6m0s`, `7h12m0s`."""
    if ms < 1000:
        return f"{ms}ms"
    seconds = -(-ms // 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def iso(ms: int) -> str:
    """Unix ms as RFC 3339 in UTC, whole seconds."""
    instant = datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC)
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def next_month(ms: int) -> str:
    """The first day of the next month in UTC, as `2026-06-01`."""
    day = datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC).date()
    return (day.replace(day=1) + datetime.timedelta(days=32)).replace(day=1).isoformat()


def remaining_headers(
    spelling: Literal["openai", "anthropic"], counters: Iterable[Counter], now_ms: int
) -> dict[str, str]:
    """What is left of each quota: OpenAI resets in a duration, Anthropic at an instant."""
    headers: dict[str, str] = {}
    for counter in counters:
        of, limit = counter.quota.of, counter.quota.limit
        told = {"limit": str(limit), "remaining": str(max(0, limit - counter.used))}
        if spelling == "openai":
            told["reset"] = duration(counter.end_ms - now_ms)
            headers |= {f"x-ratelimit-{name}-{of}": value for name, value in told.items()}
        else:
            told["reset"] = iso(counter.end_ms)
            headers |= {f"anthropic-ratelimit-{of}-{name}": value for name, value in told.items()}
    return headers
