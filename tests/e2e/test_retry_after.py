"""Retry-After in all its forms, from the provider's header to what the next task finds (R8, R9)."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

import escalade
from escalade_server.core.commands import SetBench
from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Scenario,
    Simulator,
)
from tests.e2e.accounts import by_account, serving

STRATEGY = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models:
        - provider: <first>
          model: limited
          rate_limit: {requests_per_day: 1000, cooldown_on_limit: 5h}
        - {provider: deepseek, model: sibling}
    - name: paid
      priority: 2
      models:
        - {provider: deepseek, model: dear}
providers:
  <first>: {base_url: <address>}
  deepseek: {base_url: <deepseek>}
"""
KEYS = dict.fromkeys(("NANO_GPT_API_KEY", "OPENAI_API_KEY", "DEEPSEEK_API_KEY"), "made-up")
HOUR_S, DAY_S = 3_600, 86_400
SLACK_S = 1.5
"""An HTTP date has whole seconds."""
RATE, DAY = FaultKind.RATE_LIMIT, FaultKind.DAY_LIMIT
FIRST = {RATE: "nano-gpt", DAY: "openai"}
"""Vendors whose refusal of this kind says nothing of an instant but in its headers."""


def refusing(kind: FaultKind, written: str, *, sibling: ModelScript) -> tuple[str, Simulator]:
    """A strategy, and providers whose first model refuses its first request in these words."""
    name = FIRST[kind]
    fault = Fault(kind=kind, retry_after=written, retry_after_ms=0, on_requests=(1,))
    others = {"sibling": sibling, "dear": ModelScript()}
    providers = {
        name: ProviderScript(models={"limited": ModelScript(faults=(fault,))}),
        "deepseek": ProviderScript(models=others),
    }
    strategy = STRATEGY.replace("<first>", name).replace("<address>", f"<{name}>")
    return strategy, Simulator(Scenario(providers=providers))


def date(ahead: timedelta) -> Callable[[], str]:
    return lambda: format_datetime(datetime.now(UTC) + ahead, usegmt=True)


@pytest.mark.parametrize(
    ("kind", "written", "cls", "seconds"),
    [
        # A limit of seconds keeps what the provider says, and 2 s where it says nothing.
        (RATE, "20", "RATE_SHORT", 20),
        (RATE, "7.5", "RATE_SHORT", 7.5),
        (RATE, date(timedelta(seconds=40)), "RATE_SHORT", 40),
        (RATE, date(timedelta(days=-9)), "RATE_SHORT", 0),
        (RATE, "-3", "RATE_SHORT", 0),
        (RATE, "nan", "RATE_SHORT", 2),
        (RATE, "soon", "RATE_SHORT", 2),
        (RATE, "", "RATE_SHORT", 2),
        # More than an hour is a used-up window, whatever it calls itself; 32 days are the most.
        (RATE, "7200", "QUOTA_WINDOW", 2 * HOUR_S),
        (RATE, "1e12", "QUOTA_WINDOW", 32 * DAY_S),
        (RATE, "1000000000000", "QUOTA_WINDOW", 32 * DAY_S),
        (RATE, "inf", "QUOTA_WINDOW", 32 * DAY_S),
        # A used-up quota without an instant to come rests as `cooldown_on_limit` says (R9).
        (DAY, "600", "QUOTA_WINDOW", 600),
        (DAY, date(timedelta(hours=3)), "QUOTA_WINDOW", 3 * HOUR_S),
        (DAY, "-3", "QUOTA_WINDOW", 5 * HOUR_S),
        (DAY, "nan", "QUOTA_WINDOW", 5 * HOUR_S),
        (DAY, "", "QUOTA_WINDOW", 5 * HOUR_S),
    ],
)
async def test_r9_what_retry_after_says_is_what_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: FaultKind,
    written: str | Callable[[], str],
    cls: str,
    seconds: float,
) -> None:
    told: list[escalade.Announcement] = []
    kept: list[float] = []
    begun_s = time.monotonic()
    text = written if isinstance(written, str) else written()
    strategy, simulator = refusing(kind, text, sibling=ModelScript())
    async with (
        serving(tmp_path, strategy, simulator, KEYS) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        keep = running.engine.store.bench

        def bench(order: SetBench, now_ms: int) -> Awaitable[None]:
            ahead_s = (order.bench.until_ms - now_ms) / 1_000
            is_date = callable(written) and ahead_s > 0  # it was written before the server started
            kept.append(ahead_s + (time.monotonic() - begun_s if is_date else 0))
            return keep(order, now_ms)

        monkeypatch.setattr(running.engine.store, "bench", bench)
        answer = await client.complete("Parse this.", task="parse", on_event=told.append)
        shown = by_account(await client.status(), "limited")["default"]
    fallback = next(event for event in told if isinstance(event, escalade.Fallback))
    assert (fallback.from_model.model, fallback.failure_class) == ("limited", cls)
    assert answer.model == "sibling", "a sibling comes before another layer (R8)"
    assert kept == [pytest.approx(seconds, abs=SLACK_S)]
    assert seconds == 0 or kept[0] > 0
    if seconds > 2:  # shorter ones may be over by now
        assert shown.reason == "cooldown"
        until = shown.until.ToDatetime(UTC)
        assert until - datetime.now(UTC) <= timedelta(seconds=seconds)


@pytest.mark.parametrize(("written", "third"), [("1", "limited"), ("30", "dear")])
async def test_r8_a_short_wait_is_sat_out_before_the_layer_is_left(
    tmp_path: Path, written: str, third: str
) -> None:
    full = ModelScript(faults=(Fault(kind=FaultKind.OVERLOADED),))
    strategy, simulator = refusing(RATE, written, sibling=full)
    async with (
        serving(tmp_path, strategy, simulator, KEYS) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        answer = await client.complete("Parse this.", task="parse")
    assert [a.model.model for a in answer.attempts] == ["limited", "sibling", third]
