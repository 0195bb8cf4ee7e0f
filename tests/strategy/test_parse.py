"""The small languages: rates, money, durations, percents, triggers (DESIGN 3)."""

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.money import CAP_NANOS_MAX, NANOS_PER_USD
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from escalade_server.strategy import parse
from escalade_server.strategy.parse import ValueParseError

LAYERS = ["free_primary", "budget.fallback", "premium"]
PERIODS = st.sampled_from(list(Period))
anything = st.one_of(
    st.text(max_size=30),
    st.integers(),
    st.booleans(),
    st.decimals(),
    st.none(),
    st.lists(st.integers(), max_size=2),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50/day", (Unit.REQUESTS, Period.DAY, 50)),
        ("50 / day", (Unit.REQUESTS, Period.DAY, 50)),
        ("50 per day", (Unit.REQUESTS, Period.DAY, 50)),
        ("50 requests/day", (Unit.REQUESTS, Period.DAY, 50)),
        ("1000 tokens/minute", (Unit.TOKENS, Period.MINUTE, 1000)),
        ("3/s", (Unit.REQUESTS, Period.SECOND, 3)),
        ("3/hours", (Unit.REQUESTS, Period.HOUR, 3)),
        ("7/WEEK", (Unit.REQUESTS, Period.WEEK, 7)),
        ("0/month", (Unit.REQUESTS, Period.MONTH, 0)),
        ("unlimited", None),
        (" Unlimited ", None),
    ],
)
def test_rates(text: str, expected: tuple[Unit, Period, int] | None) -> None:
    assert parse.rate(text) == expected


@given(st.integers(0, parse.COUNT_MAX), PERIODS, st.sampled_from(list(Unit)[:2]))
def test_every_rate_is_read_back(amount: int, period: Period, unit: Unit) -> None:
    assert parse.rate(f"{amount} {unit.value}/{period.value}") == (unit, period, amount)


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("50/dya", 'did you mean "day"?'),
        ("50/m", "write 50/minute or /month"),
        ("unlimted", 'did you mean "unlimited"?'),
        ("none", 'did you mean "unlimited"?'),
        ("-1", 'did you mean "unlimited"?'),
        ("-5/day", ""),
        ("50", ""),
        ("5.5/day", ""),
        ("1e3/day", ""),
        ("", ""),
    ],
)
def test_what_is_no_rate_is_refused_with_the_mend(text: str, mend: str) -> None:
    with pytest.raises(ValueParseError) as caught:
        parse.rate(text)

    assert caught.value.mend == mend
    assert "unlimited" in caught.value.allowed


@pytest.mark.parametrize(
    ("value", "nanos"),
    [
        ("8_usd", 8 * NANOS_PER_USD),
        ("8 USD", 8 * NANOS_PER_USD),
        ("$8", 8 * NANOS_PER_USD),
        ("$ 8.50", 8_500_000_000),
        ("8", 8 * NANOS_PER_USD),
        (8, 8 * NANOS_PER_USD),
        (Decimal("0.1"), 100_000_000),
        ("0.000000001", 1),
        ("8 dollars", 8 * NANOS_PER_USD),
        (0, 0),
        ("$0", 0),
        (9_000_000, CAP_NANOS_MAX),
        ("unlimited", None),
    ],
)
def test_money(value: object, nanos: int | None) -> None:
    assert parse.money(value) == nanos


@given(st.integers(0, CAP_NANOS_MAX))
def test_money_is_exact_in_every_form(nanos: int) -> None:
    usd = Decimal(nanos) / NANOS_PER_USD
    text = f"{usd:f}"

    forms = [usd, text, f"${text}", f"{text}_usd", f"{text} USD"]
    assert [parse.money(form) for form in forms] == [nanos] * 5


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("8_eur", "not an amount of dollars"),
        ("$8 USD", "not an amount of dollars"),
        ("8,5", "not an amount of dollars"),
        ("", "not an amount of dollars"),
        ("1e3", "not an amount of dollars"),
        ("-8", "the amount must not be negative"),
        ("$-8", "the amount must not be negative"),
        (-8, "the number must not be negative"),
        (Decimal("Infinity"), "the number must be finite"),
        (Decimal("NaN"), "the number must be finite"),
        (True, "not a number"),
        ([8], "not a number"),
        (9_000_001, "the amount is too large"),
        (Decimal("0.0000000001"), "finer than a nano-dollar"),
    ],
)
def test_what_is_no_money_is_refused(value: object, problem: str) -> None:
    with pytest.raises(ValueParseError, match=f"^{problem}$"):
        parse.money(value)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("24h", 86_400_000),
        ("90s", 90_000),
        ("1d", 86_400_000),
        ("500ms", 500),
        ("15m", 900_000),
        ("15min", 900_000),
        ("2w", 1_209_600_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("0s", 0),
    ],
)
def test_durations(text: str, ms: int) -> None:
    assert parse.duration(text) == ms


@given(st.integers(0, parse.DURATION_MS_MAX))
def test_every_duration_is_read_back(ms: int) -> None:
    seconds, rest = divmod(ms, 1000)

    assert parse.duration(f"{ms}ms") == ms
    assert parse.duration(f"{seconds}s{rest}ms") == ms


@pytest.mark.parametrize("value", [90, "90", "", "h", "-1s", "1y", "0.1ms", "400d", True, "1e3s"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueParseError):
        parse.duration(value)


def test_a_number_without_a_unit_gets_its_mend() -> None:
    with pytest.raises(ValueParseError) as caught:
        parse.duration(90)

    assert caught.value.mend == "write 90s or 90ms"


def test_percents_and_reset_days_and_scores() -> None:
    assert [parse.percent(v) for v in ("70%", 70, "0 %", 100)] == [70, 70, 0, 100]
    assert [parse.reset_day(v) for v in ("day 14", "Day 1", 31)] == [14, 1, 31]
    assert parse.micro(Decimal("0.3"), 10) == 300_000
    assert parse.picos(Decimal("0.003625")) == 3_625
    for parser, value in (
        (parse.percent, 101),
        (parse.percent, "half"),
        (parse.reset_day, 32),
        (parse.reset_day, 0),
        (parse.reset_day, "monday"),
    ):
        with pytest.raises(ValueParseError):
            parser(value)


@given(st.sampled_from(LAYERS), st.sampled_from(list(Condition)), st.sampled_from(["", " ", "  "]))
def test_every_layer_trigger_is_read_back(layer: str, condition: Condition, blank: str) -> None:
    text = f"{layer}.{condition.value}"

    assert parse.trigger(f"{blank}{text}{blank}", LAYERS) == LayerTrigger(layer, condition, text)


@given(
    st.sampled_from(list(Comparison)),
    st.integers(0, 10_000_000),
    st.sampled_from(["complexity", "complexity_score"]),
    st.sampled_from(["", " "]),
)
def test_every_complexity_trigger_is_exact(
    comparison: Comparison, micro: int, name: str, blank: str
) -> None:
    text = f"task.{name}{blank}{comparison.value}{blank}{Decimal(micro) / 1_000_000:f}"

    assert parse.trigger(text, LAYERS) == ComplexityTrigger(comparison, micro, text)


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("free_primry.exhausted", 'did you mean "free_primary"?'),
        ("free_primary.exausted", 'did you mean "exhausted"?'),
        ("free_primary exhausted", 'did you mean "free_primary.exhausted"?'),
        ("task.complexty > 8", 'did you mean "complexity"?'),
        ("task.complexity = 8", 'write "=="'),
        ("task.complexity", "write task.complexity > 8"),
        ("task.complexity > high", ""),
        ("task.complexity > 11", ""),
        ("task.complexity > 1e1", ""),
        ("__import__('os').system('true')", ""),
        ("", ""),
    ],
)
def test_what_is_no_trigger_is_refused_with_the_nearest(text: str, mend: str) -> None:
    with pytest.raises(ValueParseError) as caught:
        parse.trigger(text, LAYERS)

    assert caught.value.mend == mend


@given(anything)
def test_parsers_are_total(value: object) -> None:
    for parser in (parse.money, parse.duration, parse.percent, parse.limit, parse.reset_day):
        try:
            result = parser(value)
        except ValueParseError:
            continue
        assert result is None or result >= 0
    with contextlib.suppress(ValueParseError):
        parse.trigger(value, LAYERS)


def test_digits_beyond_the_usual_precision_are_not_rounded_away() -> None:
    fine = f"{'0' * 29}1"
    with pytest.raises(ValueParseError):
        parse.money(f"8.{fine}")
    with pytest.raises(ValueParseError):
        parse.money(Decimal(f"8.{fine}"))
    with pytest.raises(ValueParseError):
        parse.micro(Decimal(f"8.{fine}"), 10)
    with pytest.raises(ValueParseError):
        parse.duration(f"1.{fine}ms")
