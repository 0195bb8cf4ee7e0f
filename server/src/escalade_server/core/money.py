"""Money in integers: nano-dollars for amounts, pico-dollars per token for prices (quotas C1)."""

from dataclasses import dataclass, field

from escalade_server.core.task import Usage

NANOS_PER_USD = 1_000_000_000
PICOS_PER_NANO = 1_000
CAP_NANOS_MAX = 9_000_000_000_000_000
"""Largest cap: 2**53 bounds exact comparison in a Lua store (quotas C1, S14)."""


@dataclass(frozen=True, slots=True)
class Price:
    """List price of a model, pico-dollars per token; a long-context tier may replace it.

    ``tier_tokens`` is the input size above which ``tier`` applies to the whole call.
    """

    input_picos: int
    output_picos: int
    cached_picos: int | None = None
    cache_write_picos: int | None = None
    request_nanos: int = 0
    tier_tokens: int | None = None
    tier: "Price | None" = None
    source: str = ""
    dearest_picos: int = field(init=False)
    """The most that a token of input can cost."""

    def __post_init__(self) -> None:
        """Work out once what is needed to bound every call."""
        dearest = max(self.input_picos, self.cached_picos or 0, self.cache_write_picos or 0)
        object.__setattr__(self, "dearest_picos", dearest)

    @property
    def is_zero(self) -> bool:
        """True when nothing is ever charged."""
        return not (self.input_picos or self.output_picos or self.request_nanos)


def _at(price: Price, tier: Price, input_tokens: int) -> Price:
    return tier if input_tokens > (price.tier_tokens or 0) else price


def cost_nanos(usage: Usage, price: Price) -> int:
    """List value of a usage in nano-dollars, rounded up once (quotas C1)."""
    at = price if price.tier is None else _at(price, price.tier, usage.input_tokens)
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    fresh = usage.input_tokens - cached - written
    picos = usage.output_tokens * at.output_picos
    if fresh > 0:
        picos += fresh * at.input_picos
    if cached:
        picos += cached * (at.input_picos if at.cached_picos is None else at.cached_picos)
    if written:
        dear = at.cache_write_picos
        picos += written * (at.input_picos if dear is None else dear)
    return -(-picos // PICOS_PER_NANO) + at.request_nanos


def worst_cost_nanos(input_bound: int, output_bound: int, price: Price) -> int:
    """The most a call within these token bounds can cost, whatever is cached (C2, R13)."""
    picos = input_bound * price.dearest_picos + output_bound * price.output_picos
    worst = -(-picos // PICOS_PER_NANO) + price.request_nanos
    if price.tier is None:
        return worst
    return max(worst, worst_cost_nanos(input_bound, output_bound, price.tier))
