"""Several accounts of one provider through the real server: rotation by their state (R18, P14)."""

from pathlib import Path

import pytest

import escalade
from escalade.v1.escalation_pb2 import VerdictClass
from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Quota,
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
        - {provider: openai, model: gpt-4o-mini}
        - {provider: openai, model: gpt-4o, account: spare, billing: free}
providers:
  openai:
    base_url: <openai>
    accounts:
      work: {api_key_env: WORK}
      spare: {api_key_env: SPARE}
"""
MINI = "gpt-4o-mini"
KEYS = {"WORK": "sk-work-canary", "SPARE": "sk-spare-canary"}


def simulator(
    *faults: Fault, keys: tuple[str, ...] = (), quotas: tuple[Quota, ...] = ()
) -> Simulator:
    models = {
        "gpt-4o-mini": ModelScript(faults=faults, quotas=quotas),
        "gpt-4o": ModelScript(),
    }
    return Simulator(Scenario(providers={"openai": ProviderScript(models=models, api_keys=keys)}))


@pytest.mark.parametrize(
    ("faults", "keys", "cls"),
    [
        ((Fault(kind=FaultKind.RATE_LIMIT, on_requests=(1,)),), (), "RATE_SHORT"),
        ((Fault(kind=FaultKind.DAY_LIMIT, on_requests=(1,)),), (), "QUOTA_WINDOW"),
        ((Fault(kind=FaultKind.BALANCE, on_requests=(1,)),), (), "BALANCE"),
        ((), (KEYS["SPARE"],), "AUTH"),
    ],
)
async def test_what_one_account_suffers_leaves_the_other_usable(
    tmp_path: Path, faults: tuple[Fault, ...], keys: tuple[str, ...], cls: str
) -> None:
    told: list[escalade.Announcement] = []
    async with (
        serving(tmp_path, STRATEGY, simulator(*faults, keys=keys), KEYS) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        first = await client.complete("Parse this.", on_event=told.append)
        again = await client.complete("Parse this too.")
        status = by_account(await client.status(), MINI)
    fallback = next(event for event in told if isinstance(event, escalade.Fallback))
    assert (fallback.from_model.account, fallback.to_model.account) == ("work", "spare")
    assert fallback.failure_class == cls
    assert "openai/gpt-4o-mini (work) → openai/gpt-4o-mini (spare)" in str(fallback)
    selected = [event.model.account for event in told if isinstance(event, escalade.Selected)]
    assert selected == ["work", "spare"]
    assert "gpt-4o-mini (work) failed" in first.story
    assert "answered by gpt-4o-mini (spare)" in first.story
    assert [attempt.model.account for attempt in again.attempts] == ["spare"]
    assert status["work"].verdict != VerdictClass.VERDICT_CLASS_OK
    assert status["work"].HasField("cooldown")
    assert status["spare"].verdict == VerdictClass.VERDICT_CLASS_OK
    assert "canary" not in f"{told}{first}{status}"


async def test_the_key_of_one_account_missing(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, STRATEGY, simulator(), {"SPARE": "sk"}) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        answer = await client.complete("Parse this.")
        status = by_account(await client.status(), MINI)
    assert answer.attempts[0].model.account == "spare"
    assert (status["work"].reason, status["work"].detail) == ("no_key", "set WORK")


async def test_p14_the_last_of_a_limit_sets_its_account_aside_before_it_refuses(
    tmp_path: Path,
) -> None:
    provider = simulator(quotas=(Quota(limit=2, per="day"),))
    async with (
        serving(tmp_path, STRATEGY, provider, KEYS) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        first = await client.complete("Parse 1.")
        second = await client.complete("Parse 2.")
        status = by_account(await client.status(), MINI)
        third = await client.complete("Parse 3.")
        asked = provider.ledger().of("openai", MINI)
    assert [a.model.account for a in (*first.attempts, *second.attempts)] == ["work", "work"]
    work = status["work"]
    assert (work.verdict, work.reason) == (VerdictClass.VERDICT_CLASS_RATE, "cooldown")
    assert "nothing is left" in work.detail
    midnight = work.until.ToDatetime()
    assert (midnight.hour, midnight.minute) == (0, 0)
    assert status["spare"].verdict == VerdictClass.VERDICT_CLASS_OK
    # The simulator counts both keys as one, so spare is refused; work was not even asked.
    assert [str(a.model) for a in third.attempts] == [
        "openai/gpt-4o-mini (spare)",
        "openai/gpt-4o (spare)",
    ]
    assert (asked.requests_received, asked.requests_refused) == (3, 1)
