"""Refusals of vendors: what they are made of, and how one is filled for a request."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal ready to be sent."""

    status: int
    body: bytes
    headers: Headers
    content_type: str


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
    }
    # HTML bodies and redirects have no places, and may hold a bare percent sign.
    body = error.body % values if error.content_type == JSON_TYPE else error.body
    headers = tuple((name, value % values) for name, value in error.headers)
    return Refusal(error.status, body.encode(), headers, error.content_type)


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
