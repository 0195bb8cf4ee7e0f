"""Faults P2-P6, P12, P14: what each vendor's refusal closes, until when, and who gets to know.

One line a signal. The same story for all: the first model of a free layer refuses, with the
vendor's own status, headers and words; a second model of the same account stands beside it, and a
paid one of another vendor above. Whatever is closed gets no further call until its instant, and
exactly one then, by the next real task (R35).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import grpc
import pytest

from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.faults.served import KEY, PRICE, Served, alerts, attempts, failure, served, tried

K = FaultKind
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
SLACK_MS = 20_000
"""A loaded machine may take this long for one task; no instant here is nearer to another."""
STRATEGY = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      cost_per_month: 0
      models:
        - {{provider: {vendor}, model: first, rate_limit: 1000/day}}
        - {{provider: {vendor}, model: second, rate_limit: 1000/day}}
    - name: paid
      priority: 2
      monthly_cap: $5
      models:
        - {{provider: {other}, model: third, price: {{input: 1, output: 2}}}}
providers:
  {vendor}: {{base_url: <{vendor}>, api_key_env: {key}}}
  {other}: {{base_url: <{other}>, api_key_env: {key}}}
"""
PERSONS = frozenset({"AUTH", "BALANCE", "MODEL_GONE"})
"""Alerts of what only a person can mend."""
Until = Callable[[int], int]
"""When what is closed opens again, from the instant of the refusal."""


def after(wait_ms: int) -> Until:
    return lambda now_ms: now_ms + wait_ms


def never(_now_ms: int) -> int:
    return 0


def utc_midnight(now_ms: int) -> int:
    return (now_ms // DAY_MS + 1) * DAY_MS


def pacific_midnight(now_ms: int) -> int:
    zone = ZoneInfo("America/Los_Angeles")
    tomorrow = datetime.fromtimestamp(now_ms / 1_000, zone).date() + timedelta(days=1)
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone)
    return int(midnight.timestamp()) * SECOND_MS


def next_month(now_ms: int) -> int:
    now = datetime.fromtimestamp(now_ms / 1_000, UTC)
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1_000


@dataclass(frozen=True)
class Signal:
    """One refusal: of whom, which, and what it means."""

    vendor: str
    kind: FaultKind
    cls: str
    scope: str
    until: Until
    alert: str = ""
    retry_after_ms: int | None = None


def row(  # the columns of the table
    number: str,
    vendor: str,
    kind: FaultKind,
    cls: str,
    scope: str,
    until: Until,
    alert: str = "",
    retry_after_ms: int | None = None,
) -> object:
    signal = Signal(vendor, kind, cls, scope, until, alert, retry_after_ms)
    marks = [pytest.mark.fault(number)] if number else []
    return pytest.param(signal, marks=marks, id=f"{number or 'B1'}-{vendor}-{kind}")


QUARTER = after(15 * MINUTE_MS)
ROWS = [
    # A wait of a day is a used-up window, whatever it calls itself.
    row("P2", "openai", K.RATE_LIMIT, "QUOTA_WINDOW", "model", after(DAY_MS), "", DAY_MS),
    row("P2", "anthropic", K.RATE_LIMIT, "QUOTA_WINDOW", "model", after(DAY_MS), "", DAY_MS),
    # The quota's id wins over a `retryDelay` of 22 s.
    row("P3", "google", K.DAY_LIMIT, "QUOTA_WINDOW", "model", pacific_midnight),
    row("P3", "google", K.TOKENS_DAY_LIMIT, "QUOTA_WINDOW", "model", pacific_midnight),
    # No wait helps: somebody must pay.
    row("P4", "openai", K.BALANCE, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "openai", K.BALANCE_LEGACY, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "minimax", K.BALANCE, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "google", K.BALANCE, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "deepseek", K.BALANCE, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "nano-gpt", K.BALANCE, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "nano-gpt", K.BALANCE_LEGACY, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "anthropic", K.BALANCE, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P4", "anthropic", K.BALANCE_LEGACY, "BALANCE", "account", QUARTER, "BALANCE"),
    # A limit that the customer set is a 400 with words; the others are 429s with a code.
    row("P5", "anthropic", K.USAGE_LIMIT, "SPEND_CAP", "account", next_month),
    row("P5", "anthropic", K.PROJECT_SPEND_LIMIT, "SPEND_CAP", "account", next_month),
    row("P5", "anthropic", K.SPEND_LIMIT, "SPEND_CAP", "account", next_month),
    row("P5", "openai", K.SPEND_LIMIT, "SPEND_CAP", "account", next_month),
    row("P5", "openai", K.PROJECT_SPEND_LIMIT, "SPEND_CAP", "account", next_month),
    # A negative balance closes free models, too.
    row("P6", "openrouter", K.BALANCE, "BALANCE", "account", QUARTER, "BALANCE"),
    row("P6", "openrouter", K.KEY_LIMIT, "QUOTA_WINDOW", "account", utc_midnight),
    # The layer goes on without the model.
    row("P12", "openai", K.MODEL_GONE, "MODEL_GONE", "model", after(HOUR_MS), "MODEL_GONE"),
    row("P12", "anthropic", K.MODEL_GONE, "MODEL_GONE", "model", after(HOUR_MS), "MODEL_GONE"),
    row("P12", "google", K.MODEL_GONE, "MODEL_GONE", "model", after(HOUR_MS), "MODEL_GONE"),
    row("P12", "google", K.NOT_IN_TIER, "MODEL_GONE", "model", after(HOUR_MS), "MODEL_GONE"),
    row("P12", "openrouter", K.MODEL_GONE, "MODEL_GONE", "model", after(HOUR_MS), "MODEL_GONE"),
    # Others use the key as well: the provider says empty, our own window has 999 of 1,000 left.
    row("P14", "openai", K.DAY_LIMIT, "QUOTA_WINDOW", "model", utc_midnight),
    row("P14", "anthropic", K.DAY_LIMIT, "QUOTA_WINDOW", "model", utc_midnight),
    row("P14", "openrouter", K.DAY_LIMIT, "QUOTA_WINDOW", "model", utc_midnight),
    row("P14", "nano-gpt", K.DAY_LIMIT, "QUOTA_WINDOW", "account", utc_midnight),
    row("P14", "minimax", K.PLAN_WINDOW, "QUOTA_WINDOW", "account", after(5 * HOUR_MS)),
    # Keys: nothing but a human mends them.
    row("", "openai", K.UNAUTHORIZED, "AUTH", "account", never, "AUTH"),
    row("", "google", K.UNAUTHORIZED, "AUTH", "account", never, "AUTH"),
    row("", "anthropic", K.ON_HOLD, "FORBIDDEN", "account", never, "AUTH"),
]  # fmt: skip


def other_of(vendor: str) -> str:
    return "deepseek" if vendor != "deepseek" else "openai"


def strategy_of(vendor: str) -> str:
    return STRATEGY.format(vendor=vendor, other=other_of(vendor), key=KEY)


async def check_closed(world: Served, signal: Signal, refused_ms: int) -> None:
    """What status shows is what was closed, until its instant."""
    first, second = await world.model("first"), await world.model("second")
    assert first.cooldown.scope == signal.scope
    assert second.HasField("cooldown") is (signal.scope == "account")
    until_ms = signal.until(refused_ms)
    if until_ms:
        assert first.cooldown.until.ToMilliseconds() == pytest.approx(until_ms, abs=SLACK_MS)
    else:
        assert not first.cooldown.HasField("until")


@pytest.mark.parametrize("signal", ROWS)
async def test_a_refusal_closes_what_it_means_and_until_when(
    tmp_path: Path, signal: Signal
) -> None:
    fault = Fault(kind=signal.kind, retry_after_ms=signal.retry_after_ms)
    other, is_wide = other_of(signal.vendor), signal.scope == "account"
    providers = {
        signal.vendor: {"first": ModelScript(faults=(fault,)), "second": ModelScript()},
        other: {"third": ModelScript(price=PRICE)},
    }
    next_one = "third" if is_wide else "second"
    async with served(tmp_path, strategy_of(signal.vendor), providers) as world:
        refused_ms = world.now_ms
        told = await world.ask()
        await check_closed(world, signal, refused_ms)
        again = [await world.ask() for _ in range(3)]
        calls, booked = world.calls(), world.booked_nanos()
        billed = world.account(other, "third").cost_nanos
        until_ms = signal.until(refused_ms)
        if until_ms:
            world.leap(until_ms - world.now_ms - 2 * SLACK_MS)
            again.append(await world.ask())
            assert world.calls()["first"] == 1, "it stays closed to the end"
            world.leap(3 * SLACK_MS)
            probed = await world.ask()
            again.append(probed)
            assert tried(probed)[0] == "first", "the next real task probes it"
        held, requests = world.held(), sum(world.calls().values())
    # One call, no retry, the next in order, and the caller has its answer.
    assert told.code is grpc.StatusCode.OK
    assert tried(told) == ["first", next_one]
    refused = attempts(told)[0]
    assert failure(refused) == signal.cls
    assert (refused.cost.list_nano_usd, refused.cost.charged_nano_usd) == (0, 0)
    assert ("escalated" if is_wide else "fallback") in told.kinds
    assert all(each.code is grpc.StatusCode.OK for each in again)
    assert [tried(each) for each in again[:3]] == [[next_one]] * 3
    assert calls == {"first": 1, next_one: 4}
    # People are told once, whoever asks how often.
    heard = [kind for each in (told, *again[:3]) for kind in alerts(each) if kind in PERSONS]
    assert heard == [signal.alert] * bool(signal.alert)
    # The books: nothing is held, nothing is called twice, the money on them covers the bill.
    assert held == 0
    assert requests == sum(len(attempts(each)) for each in (told, *again))
    assert booked >= billed
    assert (billed > 0) is is_wide
