"""Retry-After in all its forms, from the provider's header to what the next task finds (R8, R9)."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

import escalade
from escalade.v1.operations_service_pb2 import ModelStatus
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
        - provider: nano-gpt
          model: glm
          rate_limit: {requests_per_day: 1000, cooldown_on_limit: 5h}
          price: {input: 0, output: 0}
        - provider: openai
          model: gpt-4o
          rate_limit: {requests_per_day: 1000, cooldown_on_limit: 5h}
        - {provider: deepseek, model: sibling, price: {input: 0, output: 0}}
    - name: paid
      priority: 2
      models:
        - {provider: deepseek, model: dear, price: {input: 1, output: 1}}
providers:
  nano-gpt: {base_url: <nano-gpt>}
  openai: {base_url: <openai>}
  deepseek: {base_url: <deepseek>}
"""
KEYS = {name: "made-up" for name in ("NANO_GPT_API_KEY", "OPENAI_API_KEY", "DEEPSEEK_API_KEY")}
HOUR_S, DAY_S = 3_600, 86_400
SLACK_S = 5
RATE, DAY = FaultKind.RATE_LIMIT, FaultKind.DAY_LIMIT


def refusing(kind: FaultKind, written: str, *, siblings: bool = True) -> Simulator:
    """Providers that refuse the first request, and say when to come again."""
    names = {"nano-gpt": "glm", "openai": "gpt-4o"}
    at = "nano-gpt" if kind is RATE else "openai"
    fault = Fault(kind=kind, retry_after=written, retry_after_ms=0, on_requests=(1,))
    providers = {
        name: ProviderScript(
            models={model: ModelScript(faults=(fault,) if name == at else (FULL,))}
        )
        for name, model in names.items()
    }
    sibling = ModelScript(faults=() if siblings else (FULL,))
    models = {"sibling": sibling, "dear": ModelScript()}
    return Simulator(Scenario(providers=providers | {"deepseek": ProviderScript(models=models)}))


FULL = Fault(kind=FaultKind.OVERLOADED)


def date(ahead: timedelta) -> Callable[[], str]:
    return lambda: format_datetime(datetime.now(UTC) + ahead, usegmt=True)


def text(written: str) -> Callable[[], str]:
    return lambda: written


@pytest.mark.parametrize(
    ("kind", "written", "cls", "seconds"),
    [
        # A limit of seconds keeps what the provider says, and has 2 s of our own otherwise.
        (RATE, text("20"), "RATE_SHORT", 20),
        (RATE, text("7.5"), "RATE_SHORT", 7.5),
        (RATE, date(timedelta(seconds=40)), "RATE_SHORT", 40),
        (RATE, date(timedelta(days=-9)), "RATE_SHORT", 0),
        (RATE, text("-3"), "RATE_SHORT", 0),
        (RATE, text("nan"), "RATE_SHORT", 2),
        (RATE, text("soon"), "RATE_SHORT", 2),
        (RATE, text(""), "RATE_SHORT", 2),
        # More than an hour is a used-up window, whatever it calls itself; 32 days are the most.
        (RATE, text("7200"), "QUOTA_WINDOW", 2 * HOUR_S),
        (RATE, text("1e12"), "QUOTA_WINDOW", 32 * DAY_S),
        (RATE, text("1000000000000"), "QUOTA_WINDOW", 32 * DAY_S),
        (RATE, text("inf"), "QUOTA_WINDOW", 32 * DAY_S),
        # A used-up quota without an instant to come rests as `cooldown_on_limit` says (R9).
        (DAY, text("600"), "QUOTA_WINDOW", 600),
        (DAY, date(timedelta(hours=3)), "QUOTA_WINDOW", 3 * HOUR_S),
        (DAY, text("-3"), "QUOTA_WINDOW", 5 * HOUR_S),
        (DAY, text("nan"), "QUOTA_WINDOW", 5 * HOUR_S),
        (DAY, text(""), "QUOTA_WINDOW", 5 * HOUR_S),
    ],
)
async def test_r9_what_retry_after_says_is_what_is_kept(
    tmp_path: Path, kind: FaultKind, written: Callable[[], str], cls: str, seconds: float
) -> None:
    told: list[escalade.Announcement] = []
    model = "glm" if kind is RATE else "gpt-4o"
    strategy = STRATEGY if kind is RATE else without_first(STRATEGY)
    async with (
        serving(tmp_path, strategy, refusing(kind, written()), KEYS) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        answer = await client.complete("Parse this.", task="parse", on_event=told.append)
        answered = datetime.now(UTC)
        status = by_account(await client.status(), model)["default"]
    fallback = next(event for event in told if isinstance(event, escalade.Fallback))
    assert (fallback.from_model.model, fallback.failure_class) == (model, cls)
    assert answer.layer == "free", "a sibling comes before another layer (R8)"
    if seconds <= SLACK_S:
        assert_over_soon(status, answered, seconds)
    else:
        until = status.until.ToDatetime(UTC)
        assert abs((until - answered).total_seconds() - seconds) < SLACK_S
        assert (status.reason, status.cooldown.until) == ("cooldown", status.until)
