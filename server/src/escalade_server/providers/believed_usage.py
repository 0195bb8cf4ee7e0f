"""Usage as a provider reports it, checked before belief (U26)."""

from typing import Final

from escalade_server.core.commands import Candidate
from escalade_server.core.task import Usage

_ABSURD_FACTOR: Final = 10
_TOKENS_FLOOR: Final = 4_096
"""Vendors add prompts and templates of their own, so a tiny bound does not make a count absurd."""


def believed(
    candidate: Candidate,
    *,
    inputs: int,
    outputs: int,
    cached: int | None = None,
    cache_write: int | None = None,
    reasoning: int | None = None,
) -> Usage | None:
    """Usage from counts that include their parts; None if negative or beyond belief.

    An explicit zero is zero. Parts larger than their whole are cut down to it.
    """
    bound = candidate.output_tokens_max + candidate.model.reasoning_bound_tokens
    if not (0 <= inputs <= _limit(candidate.tokens) and 0 <= outputs <= _limit(bound)):
        return None
    cached_tokens = _part(cached, inputs)
    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cached_tokens=cached_tokens,
        cache_write_tokens=_part(cache_write, inputs - cached_tokens),
        reasoning_tokens=_part(reasoning, outputs),
    )


def _limit(bound: int) -> int:
    return _ABSURD_FACTOR * max(bound, _TOKENS_FLOOR)


def _part(count: int | None, whole: int) -> int:
    return min(max(count or 0, 0), whole)
