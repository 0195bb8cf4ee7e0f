"""Usage and cost as the vendors of the OpenAI dialect report them, checked before belief (U26)."""

from decimal import ROUND_CEILING, Decimal
from typing import Final

import msgspec

from escalade_server.core.commands import Candidate
from escalade_server.core.money import NANOS_PER_USD
from escalade_server.core.task import Usage
from escalade_server.providers.believed_usage import believed

_COST_USD_MAX: Final = 10_000


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's own name for cached tokens."""


class _Cost(msgspec.Struct):
    cost: Decimal | None = None


_USAGE: Final = msgspec.json.Decoder(_Usage)
_COST: Final = msgspec.json.Decoder(_Cost)


def read_usage(raw: bytes, candidate: Candidate) -> Usage | None:
    """Read a usage object; None if it is missing, malformed, negative or beyond belief."""
    try:
        told = _USAGE.decode(raw)
    except ValueError:
        return None
    inputs = told.prompt_tokens_details or _InputDetails()
    outputs = told.completion_tokens_details or _OutputDetails()
    return believed(
        candidate,
        inputs=told.prompt_tokens,
        outputs=told.completion_tokens,
        cached=inputs.cached_tokens or told.prompt_cache_hit_tokens,
        cache_write=inputs.cache_write_tokens,
        reasoning=outputs.reasoning_tokens,
    )


def read_cost_nanos(raw: bytes) -> int | None:
    """Read ``cost``, in dollars, rounded up to nano-dollars; None if missing or beyond belief."""
    try:
        cost = _COST.decode(raw).cost
    except ValueError:
        return None
    if cost is None or not cost.is_finite() or not 0 <= cost <= _COST_USD_MAX:
        return None
    return int((cost * NANOS_PER_USD).to_integral_value(ROUND_CEILING))
