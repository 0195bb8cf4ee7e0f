from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.money import Price, cost_nanos, worst_cost_nanos
from escalade_server.core.task import Usage

picos = st.integers(0, 10**9)
counts = st.integers(0, 2_000_000)
plain = st.builds(Price, picos, picos, st.none() | picos, st.none() | picos, st.integers(0, 10**9))
prices = plain | st.builds(
    Price, picos, picos, st.none() | picos, st.none() | picos, st.integers(0, 10**9),
    counts, plain,
)  # fmt: skip


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Draw any split of any number of tokens."""
    total, output = draw(counts), draw(counts)
    cached = draw(st.integers(0, total))
    written = draw(st.integers(0, total - cached))
    return Usage(total, output, cached, written)


@given(usages(), prices, counts, counts)
def test_r13_what_is_reserved_covers_every_split_of_the_tokens(
    usage: Usage, price: Price, more_in: int, more_out: int
) -> None:
    reserve = worst_cost_nanos(usage.input_tokens + more_in, usage.output_tokens + more_out, price)

    assert reserve >= cost_nanos(usage, price)


@given(usages(), plain)
def test_r15_rounding_costs_at_most_one_nano(usage: Usage, price: Price) -> None:
    cached = price.input_picos if price.cached_picos is None else price.cached_picos
    written = price.input_picos if price.cache_write_picos is None else price.cache_write_picos
    fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    exact = price.request_nanos + Fraction(
        fresh * price.input_picos
        + usage.cached_tokens * cached
        + usage.cache_write_tokens * written
        + usage.output_tokens * price.output_picos,
        1_000,
    )

    assert 0 <= cost_nanos(usage, price) - exact < 1


def test_a_long_context_tier_prices_the_whole_call() -> None:
    price = Price(1_000, 2_000, tier_tokens=100, tier=Price(10_000, 20_000, request_nanos=5))

    assert cost_nanos(Usage(100, 10), price) == 100 + 20
    assert cost_nanos(Usage(101, 10), price) == 1_010 + 200 + 5
    assert worst_cost_nanos(100, 10, price) == 1_000 + 200 + 5


def test_cached_tokens_have_their_own_price() -> None:
    price = Price(1_000, 0, cached_picos=100, cache_write_picos=1_250)

    assert cost_nanos(Usage(100, 0, 40, 20), price) == 40 + 4 + 25


def test_a_price_of_zero_says_so() -> None:
    assert Price(0, 0).is_zero
    assert not Price(0, 0, request_nanos=1).is_zero
    assert not Price(0, 1).is_zero
