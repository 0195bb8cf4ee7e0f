import pytest

from escalade_server.core import words
from escalade_server.core.catalog import Counter, CounterScope, Period, Unit


@pytest.mark.parametrize(
    ("nanos", "said"),
    [
        (0, "$0.00"),
        (1, "$0.0000000"),
        (21_000, "$0.0000210"),
        (49_999, "$0.0000500"),
        (50_000, "$0.0001"),
        (2_100_000, "$0.0021"),
        (1_000_000_000, "$1.00"),
        (12_345_600_000_000, "$12,345.60"),
    ],
)
def test_money_in_words(nanos: int, said: str) -> None:
    assert words.usd(nanos) == said


@pytest.mark.parametrize(
    ("micro", "said"), [(0, "0.0"), (700_000, "0.7"), (4_949_999, "4.9"), (10_000_000, "10.0")]
)
def test_points_in_words(micro: int, said: str) -> None:
    assert words.points(micro) == said


@pytest.mark.parametrize("period", Period)
def test_a_counter_in_words(period: Period) -> None:
    when = "today" if period is Period.DAY else f"this {period.value}"

    def said(unit: Unit, limit: int) -> str:
        return words.used(Counter("k", unit, period, limit, CounterScope.MODEL, ""), limit)

    assert said(Unit.REQUESTS, 50).startswith("50 of 50 requests ")
    assert said(Unit.TOKENS, 40_000).startswith("40,000 of 40,000 tokens ")
    assert said(Unit.NANOS, 8 * 10**9).startswith("$8.00 of $8.00 ")
    assert said(Unit.REQUESTS, 50).endswith(when)
