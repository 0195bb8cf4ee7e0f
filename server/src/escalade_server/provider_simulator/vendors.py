"""Habits of the vendors, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

DialectName = Literal["openai", "anthropic", "gemini"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """How one vendor speaks; fields about streams and usage are of the OpenAI dialect."""

    name: str
    dialect: DialectName = "openai"
    needs_key: bool = True
    strict_parameters: bool = False
    """Refuses parameters it does not know, instead of ignoring them."""
    id_prefix: str = "chatcmpl-"
    reasoning_field: str = "reasoning_content"
    keep_alive: bytes = b": keep-alive\n\n"
    usage_unasked: bool = False
    """Sends usage at the end of every stream, asked or not."""
    usage_in_last_choice: bool = False
    """Usage rides on the chunk with the finish reason, not in a chunk of its own."""
    cache_hit_fields: bool = False
    """Usage has `prompt_cache_hit_tokens` and `..._miss_tokens` (DeepSeek)."""
    cost_in_usage: bool = False
    """Usage has `cost` in dollars (OpenRouter)."""
    broken_code: int | str | None = None
    """A broken stream's error frame is a chunk with `finish_reason: "error"` and this code; None:
    a bare error object, as at OpenAI."""
    base_resp: bool = False
    """Whole answers carry `base_resp` with MiniMax's own code."""
    rate_headers: Literal["openai", "anthropic"] | None = None
    """Good answers tell what is left of quotas too, in these headers."""
    request_id_header: str | None = "x-request-id"


VENDORS: Mapping[str, Vendor] = MappingProxyType(
    {
        vendor.name: vendor
        for vendor in (
            Vendor(name="openai", strict_parameters=True, rate_headers="openai"),
            Vendor(
                name="deepseek",
                id_prefix="",
                usage_unasked=True,
                usage_in_last_choice=True,
                cache_hit_fields=True,
            ),
            Vendor(
                name="openrouter",
                id_prefix="gen-",
                reasoning_field="reasoning",
                keep_alive=b": OPENROUTER PROCESSING\n\n",
                usage_unasked=True,
                cost_in_usage=True,
                broken_code=502,
            ),
            Vendor(name="nano-gpt", reasoning_field="reasoning", broken_code="service_unavailable"),
            Vendor(name="minimax", id_prefix="", base_resp=True),
            Vendor(name="ollama", needs_key=False, reasoning_field="reasoning"),
            Vendor(
                name="anthropic",
                dialect="anthropic",
                id_prefix="msg_",
                keep_alive=b'event: ping\ndata: {"type": "ping"}\n\n',
                rate_headers="anthropic",
                request_id_header="request-id",
            ),
            Vendor(
                name="google",
                dialect="gemini",
                id_prefix="",
                keep_alive=b": keep-alive\r\n\r\n",
                request_id_header=None,
            ),
        )
    }
)


HOME: Mapping[DialectName, Vendor] = MappingProxyType(
    {
        "openai": VENDORS["openai"],
        "anthropic": VENDORS["anthropic"],
        "gemini": VENDORS["google"],
    }
)
"""Whose dialect each is."""


def vendor_of(provider: str, vendor: str | None, dialect: DialectName | None = None) -> Vendor:
    """The stated vendor, else the one of the provider's name, else the dialect's own.

    Raises:
        KeyError: a stated vendor is not known.
    """
    if vendor is not None:
        return VENDORS[vendor]
    named = VENDORS.get(provider)
    if named is None or dialect not in {None, named.dialect}:
        return HOME[dialect or "openai"]
    return named
