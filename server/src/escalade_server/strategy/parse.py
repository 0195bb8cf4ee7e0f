"""Parsers of the strategy's small languages: rates, money, durations, percents, triggers.

Each takes a plain value and raises ``ValueParseError`` with what is allowed and a mend. Numbers are
exact: whole numbers or ``Decimal``, never floats. Unlimited is the word, and nothing else (G7).
"""

import re
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.money import CAP_NANOS_MAX, NANOS_PER_USD
from escalade_server.core.task import MICRO
from escalade_server.core.triggers import (
    Comparison,
    ComplexityTrigger,
    Condition,
    LayerTrigger,
    Trigger,
)
from escalade_server.strategy.errors import did_you_mean, nearest

UNLIMITED = "unlimited"
COUNT_MAX = 9_000_000_000_000_000
DURATION_MS_MAX = 366 * 86_400_000
SCORE_MAX = 10
PICOS_PER_USD_PER_MILLION = 1_000_000
"""One dollar per million tokens is 10^12 / 10^6 pico-dollars per token."""

MONEY_FORMS = "8_usd, 8 USD, $8 or 8 (dollars, 0 or more), or unlimited"
DURATION_FORMS = "a number with a unit: 500ms, 90s, 15m, 24h, 1d, 2w, 1h30m"
RATE_FORMS = "50/day (second, minute, hour, day, week, month), unlimited, or requests_per_day: 50"
TRIGGER_FORMS = "<layer>.<condition>, or task.complexity with > >= < <= == and a number"

_EXACT = Context(prec=100)
"""A number has at most 40 digits in a file: so no product of it with a unit is ever rounded."""
_MONEY = re.compile(r"(\$)?\s*(-?(?:\d+(?:\.\d+)?|\.\d+))(?:[\s_]*(usd|dollars?))?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|m|min|h|d|w)", re.IGNORECASE)
_DURATIONS = re.compile(rf"(?:{_DURATION.pattern}\s*)+", re.IGNORECASE)
_RATE = re.compile(r"(\d+)\s*(requests|tokens)?\s*(?:/|\s+per\s+)\s*([a-z]+)", re.IGNORECASE)
_COMPLEXITY = re.compile(r"task\.(\w+)\s*(>=|<=|==|>|<|=)\s*(\S+)")
_LAYER_CONDITION = re.compile(r"(.+)\.([\w-]+)")
_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "sec": 1_000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
}
_PERIODS = {
    "s": Period.SECOND,
    "sec": Period.SECOND,
    "min": Period.MINUTE,
    "h": Period.HOUR,
    "hr": Period.HOUR,
    "d": Period.DAY,
    "w": Period.WEEK,
} | {period.value: period for period in Period}


class ValueParseError(Exception):
    """A value that does not parse: what is wrong, what is allowed, how to mend it."""

    def __init__(self, problem: str, allowed: str = "", mend: str = "") -> None:
        """Keep the three parts."""
        super().__init__(problem)
        self.problem, self.allowed, self.mend = problem, allowed, mend


def number(value: object, allowed: str) -> Decimal:
    """Take a finite number that is not negative; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueParseError("not a number", allowed)
    exact = Decimal(value)
    if not exact.is_finite():
        raise ValueParseError("the number must be finite", allowed, f'write "{UNLIMITED}"')
    if exact < 0:
        raise ValueParseError("the number must not be negative", allowed)
    return exact


def count(value: object) -> int:
    """Take a whole number, 0 or more; 0 means nothing is allowed (R18)."""
    allowed = f"a whole number from 0 to {COUNT_MAX}"
    exact = number(value, allowed)
    if exact != exact.to_integral_value():
        raise ValueParseError("not a whole number", allowed)
    if exact > COUNT_MAX:
        raise ValueParseError("the number is too large", allowed, f'write "{UNLIMITED}"')
    return int(exact)


def limit(value: object) -> int | None:
    """Take a whole number, or the word ``unlimited``, which is None."""
    return None if _is_unlimited(value) else count(value)


def _is_unlimited(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() == UNLIMITED


def rate(text: str) -> tuple[Unit, Period, int] | None:
    """Parse ``50/day`` or ``1000 tokens/minute``; ``unlimited`` is None."""
    if _is_unlimited(text):
        return None
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ValueParseError("not a rate limit", RATE_FORMS, _unlimited_meant(text))
    amount, unit, word = found.groups()
    if word == "m":
        raise ValueParseError('"m" is not clear', RATE_FORMS, f"write {amount}/minute or /month")
    period = _PERIODS.get(word.lower()) or _PERIODS.get(word.lower().removesuffix("s"))
    if period is None:
        mend = did_you_mean(word, [p.value for p in Period])
        raise ValueParseError(f'"{word}" is not a period', RATE_FORMS, mend)
    return Unit((unit or "requests").lower()), period, count(int(amount))


def _unlimited_meant(text: str) -> str:
    same = {"none", "no", "infinite", "infinity", "inf", "unlimted", "never", "∞", "-1", "max"}
    meant = text.strip().lower() in same or nearest(text, [UNLIMITED]) is not None
    return f'did you mean "{UNLIMITED}"?' if meant else ""


def money(value: object) -> int | None:
    """Parse dollars into nano-dollars; ``unlimited`` is None, 0 means nothing is allowed (G7)."""
    if _is_unlimited(value):
        return None
    exact = _dollars(value) if isinstance(value, str) else number(value, MONEY_FORMS)
    if exact < 0:
        raise ValueParseError("the amount must not be negative", MONEY_FORMS)
    nanos = _EXACT.multiply(exact, NANOS_PER_USD)
    if nanos != nanos.to_integral_value():
        raise ValueParseError("finer than a nano-dollar", "at most 9 decimals")
    if nanos > CAP_NANOS_MAX:
        largest = CAP_NANOS_MAX // NANOS_PER_USD
        raise ValueParseError("the amount is too large", f"at most {largest} dollars")
    return int(nanos)


def _dollars(text: str) -> Decimal:
    found = _MONEY.fullmatch(text.strip())
    if found is None or len(text) > 40 or (found[1] and found[3]):
        raise ValueParseError("not an amount of dollars", MONEY_FORMS, _unlimited_meant(text))
    return Decimal(found[2])


def duration(value: object) -> int:
    """Parse ``24h``, ``90s``, ``1d``, ``500ms`` or ``1h30m`` into milliseconds."""
    if not isinstance(value, str):
        mend = f"write {value}s or {value}ms" if type(value) is int and value >= 0 else ""
        raise ValueParseError("a duration needs a unit", DURATION_FORMS, mend)
    text = value.strip()
    if len(text) > 40 or not _DURATIONS.fullmatch(text):
        raise ValueParseError("not a duration", DURATION_FORMS)
    total = Decimal(0)
    for amount, unit in _DURATION.findall(text):
        span = _EXACT.multiply(Decimal(amount), _UNITS_MS[unit.lower()])
        total = _EXACT.add(total, span)
    if total != total.to_integral_value():
        raise ValueParseError("finer than a millisecond", DURATION_FORMS)
    if total > DURATION_MS_MAX:
        raise ValueParseError("the duration is too long", "at most 366d")
    return int(total)


def percent(value: object) -> int:
    """Parse ``70%`` or ``70`` into a whole percent from 0 to 100."""
    allowed = "a whole percent from 0 to 100"
    if isinstance(value, str):
        found = re.fullmatch(r"(\d{1,3})\s*%", value.strip())
        if found is None:
            raise ValueParseError("not a percent", allowed)
        value = int(found[1])
    whole = count(value)
    if whole > 100:
        raise ValueParseError("more than 100 percent", allowed)
    return whole


def micro(value: object, most: int) -> int:
    """Take a number from 0 to ``most`` into millionths, exactly (R3)."""
    allowed = f"a number from 0 to {most}, at most 6 decimals"
    exact = number(value, allowed)
    if exact > most:
        raise ValueParseError("the number is too large", allowed)
    scaled = _EXACT.multiply(exact, MICRO)
    if scaled != scaled.to_integral_value():
        raise ValueParseError("more than 6 decimals", allowed)
    return int(scaled)


def picos(usd_per_million: Decimal) -> int:
    """Turn dollars per million tokens into pico-dollars per token, rounded up."""
    return int((usd_per_million * PICOS_PER_USD_PER_MILLION).to_integral_value(ROUND_CEILING))


def reset_day(value: object) -> int:
    """Parse ``day 14`` (or 14): the day of the month on which a billing month begins (R18).

    In a month without that day it begins on the last (T7).
    """
    allowed = "day 1 to day 31"
    if isinstance(value, str):
        found = re.fullmatch(r"day\s+(\d{1,2})", value.strip(), re.IGNORECASE)
        if found is None:
            raise ValueParseError("not a day of the month", allowed)
        value = int(found[1])
    day = count(value)
    if not 1 <= day <= 31:
        raise ValueParseError("not a day of the month", allowed)
    return day


def trigger(text: object, layers: Sequence[str]) -> Trigger:
    """Parse one trigger; it is never evaluated as code (DESIGN 3)."""
    if not isinstance(text, str):
        raise ValueParseError("not a trigger", TRIGGER_FORMS)
    words = text.strip()
    if words.startswith("task."):
        return _complexity_trigger(words)
    found = _LAYER_CONDITION.fullmatch(words)
    if found is None:
        raise ValueParseError("not a trigger", TRIGGER_FORMS, _condition_meant(words, layers))
    name, word = found.groups()
    if name not in layers:
        mend = did_you_mean(name, layers)
        raise ValueParseError(f'no layer is named "{name}"', ", ".join(layers), mend)
    conditions = [condition.value for condition in Condition]
    if word not in conditions:
        problem = f'"{word}" is not a condition of a layer'
        raise ValueParseError(problem, ", ".join(conditions), did_you_mean(word, conditions))
    return LayerTrigger(name, Condition(word), words)


def _condition_meant(words: str, layers: Sequence[str]) -> str:
    known = [f"{layer}.{condition.value}" for layer in layers for condition in Condition]
    return did_you_mean(words, known)


def _complexity_trigger(words: str) -> ComplexityTrigger:
    found = _COMPLEXITY.fullmatch(words)
    if found is None:
        raise ValueParseError("not a trigger", TRIGGER_FORMS, "write task.complexity > 8")
    name, sign, text = found.groups()
    if name not in {"complexity", "complexity_score"}:
        mend = did_you_mean(name, ["complexity", "complexity_score"])
        raise ValueParseError(f'a task has no "{name}"', "complexity, complexity_score", mend)
    if sign == "=":
        raise ValueParseError('"=" is not a comparison', "> >= < <= ==", 'write "=="')
    if not re.fullmatch(r"\d{1,6}(?:\.\d{1,20})?", text):
        raise ValueParseError(f'"{text}" is not a score', f"a number from 0 to {SCORE_MAX}")
    return ComplexityTrigger(Comparison(sign), micro(Decimal(text), SCORE_MAX), words)
