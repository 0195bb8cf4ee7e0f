"""Targets: what people write. The strategy file, its small languages, and when a limit resets."""

import re
import zlib
from datetime import UTC, date, datetime
from decimal import Decimal
from email.utils import format_datetime
from fractions import Fraction

from escalade_server.core.money import CAP_NANOS_MAX, NANOS_PER_USD
from escalade_server.core.task import MICRO
from escalade_server.core.triggers import ComplexityTrigger, LayerTrigger
from escalade_server.providers import resets
from escalade_server.strategy import parse, yaml_nodes
from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.load import loads
from escalade_server.strategy.parse import ValueParseError
from tests.fuzz.pieces import NOW_MS, said_to_people

TODAY = date(2026, 11, 25)
SECRET = "sk-never-to-be-shown-0123456789"
ENVIRONMENT = {"OPENAI_API_KEY": SECRET, "KEY": SECRET}
LAYERS = ("free", "paid", "premium.reserve")
PLAIN = re.compile(r"[0-9]+(\.[0-9]+)?")
ERROR_CHARS_MAX = 2_000
ERRORS_CHARS_MAX = 200_000

# ---------------------------------------------------------------------------- strategy files


def strategy(data: bytes) -> None:
    """A file loads, or every mistake is told by its line; no key is ever shown."""
    try:
        loaded = loads(data, environ=ENVIRONMENT, today=TODAY)
    except StrategyErrors as refused:
        lines = 1 + data.count(b"\n") + data.count(b"\r") + data.count(b"\xc2\x85")
        lines += data.count(b"\xe2\x80")  # line and paragraph separators end a line, too
        assert refused.errors
        for error in refused:
            assert 1 <= error.line <= lines + 1, error
            assert error.column >= 1
            assert error.problem
            said_to_people(str(error), ERROR_CHARS_MAX)
        assert len(str(refused)) <= ERRORS_CHARS_MAX
        assert SECRET not in str(refused)
        return
    catalog = loaded.catalog
    assert catalog.layers
    assert all(layer.models for layer in catalog.layers)
    for notice in loaded.notices:
        said_to_people(str(notice), ERROR_CHARS_MAX)
        assert SECRET not in str(notice)
    if zlib.crc32(data) % 16 == 0:
        assert loads(data, environ=ENVIRONMENT, today=TODAY).catalog == catalog


# --------------------------------------------------------------------------- small languages


def small_languages(data: bytes) -> None:
    """Each value is refused by its one exception, or lies in bounds and can be written again."""
    text = data.decode(errors="replace")
    refusals = 0
    for check in (money, duration, percent, rate, day, trigger, numbers):
        try:
            check(text)
        except ValueParseError as refused:
            refusals += 1
            assert refused.problem
            for part in (refused.problem, refused.allowed, refused.mend):
                assert len(part) <= 2 * len(text) + 400
    assert refusals, "no text is a value of all of them"


def money(text: str) -> None:
    """Dollars are exact, in bounds, and can be written again."""
    nanos = parse.money(text)
    if nanos is None:
        assert text.strip().lower() == "unlimited"
        return
    assert 0 <= nanos <= CAP_NANOS_MAX
    assert parse.money(f"{Decimal(nanos).scaleb(-9):f}") == nanos
    plain = text.strip().strip("$").strip()
    if PLAIN.fullmatch(plain):
        assert Fraction(plain) * NANOS_PER_USD == nanos


def duration(text: str) -> None:
    """Durations lie in bounds and can be written again."""
    span_ms = parse.duration(text)
    if PLAIN.fullmatch(text.strip().removesuffix("ms")):
        assert Fraction(text.strip().removesuffix("ms")) == span_ms
    assert 0 <= span_ms <= parse.DURATION_MS_MAX
    assert parse.duration(f"{span_ms}ms") == span_ms


def percent(text: str) -> None:
    """Percents likewise."""
    whole = parse.percent(text)
    assert 0 <= whole <= 100
    assert parse.percent(f"{whole}%") == whole == parse.percent(whole)


def rate(text: str) -> None:
    """Rates likewise; unlimited is the word and nothing else."""
    limit = parse.rate(text)
    if limit is None:
        assert text.strip().lower() == "unlimited"
        return
    unit, period, count = limit
    assert 0 <= count <= parse.COUNT_MAX
    assert parse.rate(f"{count} {unit.value}/{period.value}") == limit


def day(text: str) -> None:
    """Days of a month likewise."""
    found = parse.reset_day(text)
    assert 1 <= found <= 31
    assert parse.reset_day(f"day {found}") == found == parse.reset_day(found)


def trigger(text: str) -> None:
    """A trigger names a layer that there is, or a score; it can be written again."""
    found = parse.trigger(text, LAYERS)
    assert parse.trigger(found.text, LAYERS) == found
    if isinstance(found, LayerTrigger):
        assert found.layer in LAYERS
        assert found.text == f"{found.layer}.{found.condition.value}"
    else:
        assert isinstance(found, ComplexityTrigger)
        assert 0 <= found.value_micro <= parse.SCORE_MAX * MICRO
        again = f"task.complexity{found.comparison.value}{Decimal(found.value_micro).scaleb(-6):f}"
        rewritten = parse.trigger(again, LAYERS)
        assert isinstance(rewritten, ComplexityTrigger)
        assert rewritten.value_micro == found.value_micro
        assert rewritten.comparison is found.comparison


def numbers(text: str) -> None:
    """Any decimal of a file is taken exactly, or refused."""
    try:
        value = yaml_nodes.typed(text, yaml_nodes.TAG + "float")
    except ValueError as error:
        raise ValueParseError(str(error)) from None
    assert isinstance(value, Decimal)
    for take in (parse.count, lambda number: parse.micro(number, 10), parse.money):
        try:
            taken = take(value)
        except ValueParseError:
            continue
        assert taken is not None
        scale = {parse.count: 1, parse.money: NANOS_PER_USD}.get(take, MICRO)
        assert Fraction(value) * scale == taken
    raise ValueParseError("a number is none of the languages")


# ------------------------------------------------------------------------------------ resets

HEADERS = tuple(
    resets.ResetHeader(f"reset-{unit.value}", f"remaining-{unit.value}", unit)
    for unit in resets.Unit
)


def reset_times(data: bytes) -> None:
    """Whatever headers and texts say, an instant lies between now and 32 days from now."""
    text = data.decode("latin-1")
    lines = text.split("\n")
    now_ms = NOW_MS + zlib.crc32(data) * 100  # any time of about fourteen years
    headers = {"retry-after": lines[0], "retry-after-ms": lines[-1] if len(lines) > 1 else ""}
    for header, line in zip(HEADERS, lines * len(HEADERS), strict=False):
        headers |= {header.reset: line, header.remaining: "0"}
    for instant in (
        resets.retry_after_ms(headers, now_ms),
        resets.retry_after_ms({"retry-after": text}, now_ms),
        resets.stated_ms(text, now_ms),
        resets.again_in_ms(text, now_ms),
        resets.header_ms(headers, HEADERS, now_ms),
        resets.used_up_ms(headers, HEADERS, now_ms),
        *(resets.header_ms({h.reset: text}, (h,), now_ms) for h in HEADERS),
    ):
        assert instant is None or now_ms <= instant <= now_ms + resets.AHEAD_MS_MAX
        assert instant is None or isinstance(instant, int)
    for window in resets.Window:
        end_ms = resets.window_end_ms(window, now_ms)
        assert end_ms is None or now_ms < end_ms <= now_ms + 31 * resets.DAY_MS
    written_again(zlib.crc32(data) % (resets.AHEAD_MS_MAX // 1_000), now_ms // 1_000 * 1_000)


def written_again(wait_s: int, now_ms: int) -> None:
    """One instant, in every way in which it can be written."""
    instant_ms = now_ms + wait_s * 1_000
    moment = datetime.fromtimestamp(instant_ms // 1_000, UTC)
    minutes, seconds = divmod(wait_s, 60)
    for wait in (str(wait_s), f"{minutes}m{seconds}s", format_datetime(moment, usegmt=True)):
        assert resets.retry_after_ms({"retry-after": wait}, now_ms) == instant_ms, wait
    assert resets.retry_after_ms({"retry-after-ms": f"{wait_s}000"}, now_ms) == instant_ms
    assert resets.stated_ms(f"It resets at {moment.isoformat()}.", now_ms) == instant_ms
    assert resets.again_in_ms(f"Please try again in {wait_s}s.", now_ms) == instant_ms
