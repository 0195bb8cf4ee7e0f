"""Usage and cost as the vendors of the OpenAI dialect report them, checked before belief (U26)."""

from decimal import ROUND_CEILING, Decimal
from typing import Final

import msgspec

from escalade_server.core.commands import Candidate
from escalade_server.core.money import NANOS_PER_USD
from escalade_server.core.task import Usage

_ABSURD_FACTOR: Final = 10
_TOKENS_FLOOR: Final = 4_096
"""Vendors add prompts and templates of their own, so a tiny bound does not make a count absurd."""
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
    """Read a usage object; None if it is missing, malformed, negative or beyond belief.

    An explicit zero is zero. Parts larger than their whole are cut down to it.
    """
    try:
        told = _USAGE.decode(raw)
    except ValueError:
        return None
    bound = candidate.output_tokens_max + candidate.model.reasoning_bound_tokens
    if not (
        0 <= told.prompt_tokens <= _limit(candidate.tokens)
        and 0 <= told.completion_tokens <= _limit(bound)
    ):
        return None
    inputs = told.prompt_tokens_details or _InputDetails()
    outputs = told.completion_tokens_details or _OutputDetails()
    cached = _part(inputs.cached_tokens or told.prompt_cache_hit_tokens, told.prompt_tokens)
    return Usage(
        input_tokens=told.prompt_tokens,
        output_tokens=told.completion_tokens,
        cached_tokens=cached,
        cache_write_tokens=_part(inputs.cache_write_tokens, told.prompt_tokens - cached),
        reasoning_tokens=_part(outputs.reasoning_tokens, told.completion_tokens),
    )


def read_cost_nanos(raw: bytes) -> int | None:
    """Read ``cost``, in dollars, rounded up to nano-dollars; None if missing or beyond belief."""
    try:
        cost = _COST.decode(raw).cost
    except ValueError:
        return None
    if cost is None or not 0 <= cost <= _COST_USD_MAX:
        return None
    return int((cost * NANOS_PER_USD).to_integral_value(ROUND_CEILING))


def _limit(bound: int) -> int:
    return _ABSURD_FACTOR * max(bound, _TOKENS_FLOOR)


def _part(count: int | None, whole: int) -> int:
    return min(max(count or 0, 0), whole)
