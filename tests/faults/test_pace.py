"""What a provider's section says of its calls, and what a layer keeps for hard tasks (R11, R14)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from escalade.v1 import escalation_pb2 as e
from escalade_server.core.catalog import CounterScope
from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Scenario,
    Simulator,
)
from escalade_server.strategy.model import CallTimeouts
from tests.api.world import Told
from tests.e2e.accounts import serving
from tests.faults.served import LOCAL, PRICE, Served, attempts, failure, served, tried

TWO = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models:
        - {provider: openai, model: first, billing: free}
        - {provider: glm, model: second, billing: free}
providers:
  openai: {base_url: <openai>, api_key_env: PROVIDER_KEY%s}
  glm: {base_url: <glm>, dialect: openai, api_key_env: PROVIDER_KEY}
%s"""
ONE = TWO.replace("        - {provider: glm, model: second, billing: free}\n", "").replace(
    "  glm: {base_url: <glm>, dialect: openai, api_key_env: PROVIDER_KEY}\n", ""
)
SECOND = {"glm": {"second": ModelScript()}}

SLOW = ModelScript(first_token_ms=900)
STALLED = ModelScript(faults=(Fault(kind=FaultKind.STALL, after_chunks=2),), chunk_interval_ms=1)
LONG = ModelScript(chunk_interval_ms=60, chunks=20)
SAYS = {
    "first_token": ("first_token: 200ms", SLOW, "gave no token"),
    "idle": ("idle: 200ms", STALLED, "stalled for 0.2 s"),
    "total": ("total: 300ms", LONG, "was not done"),
}


@pytest.mark.parametrize("key", list(SAYS))
async def test_a_providers_own_time_holds_for_its_calls_alone(tmp_path: Path, key: str) -> None:
    said, script, words = SAYS[key]
    text = TWO % (f", timeouts: {{{said}}}", "timeouts: {idle: 5s}\n")
    async with served(tmp_path, text, {"openai": {"first": script}, **SECOND}) as made:
        told = await made.ask()
    first, second = attempts(told)
    assert (first.target.model, failure(first)) == ("first", "TIMEOUT")
    assert words in first.detail
    assert second.target.model == "second"


@pytest.mark.parametrize("script", [SLOW, LONG])
async def test_without_it_the_strategys_time_holds(tmp_path: Path, script: ModelScript) -> None:
    async with served(tmp_path, TWO % ("", ""), {"openai": {"first": script}, **SECOND}) as made:
        assert tried(await made.ask()) == ["first"]


async def test_the_time_to_connect_is_each_providers_own(tmp_path: Path) -> None:
    text = TWO % (", timeouts: {connect: 123ms}", "timeouts: {connect: 4s}\n")
    async with served(tmp_path, text, {"openai": {"first": SLOW}, **SECOND}) as made:
        engine = made.running.engine
        found = [engine.providers.of(model) for model in engine.catalog.models]
        assert [one._connect_ms for one in found] == [123, 4_000]  # type: ignore[attr-defined]


def test_every_time_of_a_provider_has_a_test() -> None:
    assert set(CallTimeouts.model_fields) == {*SAYS, "connect"}


# ------------------------------------------------------------------------------------ concurrency


async def both(made: Served) -> tuple[Told, Told]:
    """Ask twice at once: the second while the first is being answered."""
    first = asyncio.create_task(made.ask())
    async with asyncio.timeout(10):
        while "first" not in made.calls():  # noqa: ASYNC110 - a simulator has no event
            await asyncio.sleep(0.01)
    return await made.ask(), await first


def waits(told: Told) -> list[e.Waiting]:
    return [event.waiting for event in told.events if event.HasField("waiting")]


async def test_a_provider_at_its_limit_is_passed_over_for_a_sibling(tmp_path: Path) -> None:
    text = TWO % (", concurrency: 1", "")
    async with served(tmp_path, text, {"openai": {"first": SLOW}, **SECOND}) as made:
        second, first = await both(made)
        assert (tried(first), tried(second)) == (["first"], ["second"])
        [chosen] = [event.selected for event in second.events if event.HasField("selected")]
        [skip] = chosen.skips
        assert skip.verdict == e.VERDICT_CLASS_HELD
        assert skip.detail == "1 of 1 calls of openai at once are running"
        assert not made.running.engine.occupancy.calls
        assert tried(await made.ask()) == ["first"]


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_call_waits_a_moment_for_the_only_provider(tmp_path: Path, limit: int) -> None:
    text = ONE % (f", concurrency: {limit}", "")
    async with served(tmp_path, text, {"openai": {"first": SLOW}}) as made:
        told = await both(made)
        assert [tried(each) for each in told] == [["first"], ["first"]]
        assert bool(waits(told[0])) is (limit == 1)
        assert all(w.reason == e.VERDICT_CLASS_HELD for w in waits(told[0]))


async def test_a_limit_holds_for_callers_who_come_all_at_once(tmp_path: Path) -> None:
    script = ModelScript(first_token_ms=30, concurrent_max=3)
    async with served(tmp_path, ONE % (", concurrency: 3", ""), {"openai": {"first": script}}) as m:
        told = await asyncio.gather(*(m.ask() for _ in range(20)))
        assert [tried(each) for each in told] == [["first"]] * 20  # nobody was refused
        assert m.held() == 0
        assert not m.running.engine.occupancy.calls


async def test_accounts_have_limits_of_their_own(tmp_path: Path) -> None:
    accounts = "accounts: {work: {api_key_env: ONE, concurrency: 1}, spare: {api_key_env: OTHER}}"
    text = (ONE % ("", "")).replace("api_key_env: PROVIDER_KEY", accounts)
    simulator = Simulator(Scenario(providers={"openai": ProviderScript(models={"first": SLOW})}))
    async with (
        serving(tmp_path, text, simulator, {"ONE": "sk-1", "OTHER": "sk-2"}) as running,
        aio.insecure_channel(running.target, options=LOCAL) as channel,
    ):
        told = await both(Served(running, simulator, channel))
    assert [attempts(each)[0].target.account for each in told] == ["spare", "work"]


# --------------------------------------------------------------------------------------- reserved

KEPT = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models: [{provider: openai, model: small, billing: free, rate_limit: 1/day}]
    - name: premium
      priority: 2
      billing: metered
      %s
      models:
        - {provider: glm, model: large, price: {input: 1, output: 2}%s}
  complexity_scoring: {threshold_for_premium: 8}
  failure_handling: {on_all_layers_exhausted: fail}
providers:
  openai: {base_url: <openai>, api_key_env: PROVIDER_KEY}
  glm: {base_url: <glm>, dialect: openai, api_key_env: PROVIDER_KEY}
"""
HARD = e.Task(complexity=9.5)


@pytest.mark.parametrize("place", ["layer", "model"])
@pytest.mark.parametrize("percent", [0, 70, 100])
async def test_a_share_is_kept_for_tasks_that_jump(
    tmp_path: Path, place: str, percent: int
) -> None:
    kept, cap = f"reserved_for_complexity: {percent}%", "monthly_cap: $0.002"
    text = KEPT % (f"{kept}\n      {cap}", "") if place == "layer" else KEPT % (kept, f", {cap}")
    scripts = {
        "openai": {"small": ModelScript()},
        "glm": {"large": ModelScript(price=PRICE, chunks=40, text="word " * 40)},
    }
    async with served(tmp_path, text, scripts) as made:
        assert tried(await made.ask()) == ["small"]

        async def answered(**fields: Any) -> bool:
            told = await made.ask(max_output_tokens=60, **fields)
            return told.events[-1].HasField("finished")

        ordinary = 0
        while ordinary < 60 and await answered():
            ordinary += 1
        spent = made.account("glm", "large").cost_nanos
        assert spent <= 2_000_000 * (100 - percent) // 100
        assert bool(ordinary) is (percent < 100)
        assert await answered(task=HARD) is (percent > 0)
        while await answered(task=HARD):
            pass
        assert made.account("glm", "large").cost_nanos <= 2_000_000
        scope = CounterScope.LAYER if place == "layer" else CounterScope.MODEL
        shares = [s for s in made.running.engine.spends() if "ordinary" in s.counter.key]
        assert [s.counter.scope for s in shares] == ([scope] if percent else [])
        assert all(s.spent == spent for s in shares)
