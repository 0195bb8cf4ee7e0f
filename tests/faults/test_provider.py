"""Faults P1-P14 that are a story rather than a signal, through the real server."""

import asyncio
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from escalade.v1 import escalation_pb2 as e
from escalade_server.core.standing import Circuit, CircuitState
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript, Quota
from tests.faults.fleet import CAPPED, FREE, PAID, deepseek, failing, openai, strategy
from tests.faults.machine import until
from tests.faults.served import alerts, attempts, failure, served, tried

K = FaultKind
SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000

# ------------------------------------------------------------------------------- P1: a short wait


@pytest.mark.fault("P1")
@pytest.mark.parametrize(
    ("wait_ms", "refusals", "deadline_ms", "models"),
    [
        (300, (1,), 60_000, ["first", "first"]),  # sat out once, and answered
        (300, (1, 2), 60_000, ["first", "first", "dear"]),  # and not twice
        (1_900, (1,), 1_000, ["first", "dear"]),  # no time to sit it out
        (20_000, (1,), 60_000, ["first", "dear"]),  # too long to be a short one
    ],
)
async def test_a_short_429_is_sat_out_once_inside_the_deadline(
    tmp_path: Path, wait_ms: int, refusals: tuple[int, ...], deadline_ms: int, models: list[str]
) -> None:
    text = strategy(f"{FREE} | {openai('first')}", f"{CAPPED} | {deepseek('dear')}")
    first = failing(K.RATE_LIMIT, *refusals, wait_ms=wait_ms)
    providers = {"openai": {"first": first}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        limits = e.Constraints()
        limits.timeout.FromMilliseconds(deadline_ms)
        begun_ms = world.now_ms
        told = await world.ask(constraints=limits)
        took_ms = world.now_ms - begun_ms
        calls, held = world.calls(), world.held()
    sat_out = models[:2] == ["first", "first"]
    assert told.code is grpc.StatusCode.OK
    assert tried(told) == models
    assert [failure(a) for a in attempts(told)[:-1]] == ["RATE_SHORT"] * (len(models) - 1)
    assert calls == {name: models.count(name) for name in models}
    assert told.kinds.count("waiting") == sat_out, "who waits is told"
    assert took_ms >= wait_ms if sat_out else True
    assert held == 0


# -------------------------------------------------------------------------- P4: told once an hour


@pytest.mark.fault("P4")
async def test_an_empty_balance_is_told_once_an_hour_and_probed_each_quarter(
    tmp_path: Path,
) -> None:
    text = strategy(f"{FREE} | {openai('first')}", f"{CAPPED} | {deepseek('dear')}")
    providers = {"openai": {"first": failing(K.BALANCE)}, "deepseek": {"dear": PAID}}
    heard: list[list[str]] = []
    async with served(tmp_path, text, providers) as world:
        for _ in range(9):  # two hours
            together = await asyncio.gather(*(world.ask() for _ in range(4)))
            heard.append([kind for told in together for kind in alerts(told)])
            assert all(told.code is grpc.StatusCode.OK for told in together)
            world.leap(15 * MINUTE_MS + SECOND_MS)
        calls = world.calls()
    # Four tasks that come at the same instant may all be on their way when the first is refused.
    assert 9 <= calls["first"] <= 9 * 4
    assert heard == [["BALANCE"] if at % 4 == 0 else [] for at in range(9)]


# --------------------------------------------------------------------------- P7: a storm of 529s


@pytest.mark.fault("P7")
@pytest.mark.parametrize(
    ("rule", "calls_of_one"), [("skip_to_next_provider", 1), ("retry_then_skip", 2)]
)
async def test_an_overloaded_model_is_retried_once_at_most(
    tmp_path: Path, rule: str, calls_of_one: int
) -> None:
    rules = f"failure_handling: {{on_provider_outage: {rule}}}"
    text = strategy(
        f"{FREE} | provider: anthropic, model: first | provider: anthropic, model: second",
        f"{CAPPED} | {deepseek('dear')}",
        rules=rules, providers=("anthropic", "deepseek"),
    )  # fmt: skip
    overloaded = ModelScript(faults=(Fault(kind=K.OVERLOADED),))
    providers = {
        "anthropic": {"first": overloaded, "second": ModelScript()},
        "deepseek": {"dear": PAID},
    }
    async with served(tmp_path, text, providers) as world:
        told = await world.ask()
        calls = world.calls()
        first, second = await world.model("first"), await world.model("second")
        circuits = set(world.running.engine.standing().circuits)
    assert tried(told) == ["first"] * calls_of_one + ["second"]
    assert circuits == {"anthropic/default/first"}, "its own, not its provider's"
    assert {failure(a) for a in attempts(told)[:-1]} == {"OVERLOADED"}
    assert calls == {"first": calls_of_one, "second": 1}
    assert first.verdict == e.VERDICT_CLASS_DOWN, "the model alone is out, not its siblings"
    assert second.verdict == e.VERDICT_CLASS_OK


@pytest.mark.fault("P7")
async def test_a_storm_of_529_is_met_with_ever_fewer_probes(tmp_path: Path) -> None:
    text = strategy(
        f"{FREE} | provider: anthropic, model: first", f"{CAPPED} | {deepseek('dear')}",
        providers=("anthropic", "deepseek"),
    )  # fmt: skip
    storm = ModelScript(faults=(Fault(kind=K.OVERLOADED),))
    providers = {"anthropic": {"first": storm}, "deepseek": {"dear": PAID}}
    probes: list[int] = []
    async with served(tmp_path, text, providers) as world:
        for at_s in range(200):  # a task every second, for 200 s
            told = await world.ask()
            assert told.code is grpc.StatusCode.OK
            if tried(told)[0] == "first":
                probes.append(at_s)
            world.leap(SECOND_MS)
        calls = world.calls()["first"]
        world.simulator.script("anthropic", "first", ModelScript())
        world.leap(MINUTE_MS)
        healed = await world.ask()
        again = await world.ask()
    gaps = [after - before for before, after in pairwise(probes)]
    assert calls == len(probes)
    assert len(probes) <= 24, "doubling from 1 s up to 10 s"
    assert gaps == sorted(gaps)
    assert 9 <= gaps[-1] <= 11
    assert (tried(healed), tried(again)) == (["first"], ["first"])


@pytest.mark.fault("P7", "P8")
@pytest.mark.parametrize("kind", [K.OVERLOADED, K.SERVER_ERROR])
async def test_of_twenty_tasks_that_come_together_one_probes(
    tmp_path: Path, kind: FaultKind
) -> None:
    text = strategy(f"{FREE} | {openai('first')}", f"{CAPPED} | {deepseek('dear')}")
    providers = {"openai": {"first": failing(kind)}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        while not world.running.engine.standing().circuits:
            await world.ask()
        for _ in range(3):
            world.leap(HOUR_MS)
            before = world.calls()["first"]
            together = await asyncio.gather(*(world.ask() for _ in range(20)))
            assert {told.code for told in together} == {grpc.StatusCode.OK}
            assert world.calls()["first"] == before + 1


# ------------------------------------------------------------------------------------ P8: flapping


@pytest.mark.fault("P8")
async def test_a_flapping_provider_neither_thrashes_the_breaker_nor_multiplies_calls(
    tmp_path: Path,
) -> None:
    text = strategy(
        f"{FREE} | {openai('first')}", f"{CAPPED} | {deepseek('dear')}",
        rules="failure_handling: {on_provider_outage: retry_then_skip}",
    )  # fmt: skip
    one_of_three = ModelScript(faults=(Fault(kind=K.SERVER_ERROR, every=3),))
    providers = {"openai": {"first": one_of_three}, "deepseek": {"dear": PAID}}
    seen: list[Circuit] = []
    async with served(tmp_path, text, providers) as world:
        for _ in range(60):
            told = await world.ask()
            assert told.code is grpc.StatusCode.OK
            assert len(attempts(told)) <= 2
            seen += world.running.engine.standing().circuits.values()
        calls = world.calls()
    # 60 answers need 90 calls of which each third fails; one retry each, and not one more.
    assert calls == {"first": 89}
    assert [circuit for circuit in seen if circuit.state is not CircuitState.CLOSED] == []


@pytest.mark.fault("P8")
async def test_a_circuit_that_opens_stays_open_for_ten_seconds_at_least(tmp_path: Path) -> None:
    text = strategy(f"{FREE} | {openai('first')}", f"{CAPPED} | {deepseek('dear')}")
    down, up = failing(K.SERVER_ERROR), ModelScript()
    providers = {"openai": {"first": down}, "deepseek": {"dear": PAID}}
    opened_ms: list[int] = []
    async with served(tmp_path, text, providers) as world:
        for at_s in range(90):  # it fails for 3 s, is well for 3 s, and so on
            world.simulator.script("openai", "first", down if at_s // 3 % 2 == 0 else up)
            for _ in range(3):
                told = await world.ask()
                assert told.code is grpc.StatusCode.OK
                circuits = world.running.engine.standing().circuits
                circuit = circuits.get("openai")
                is_open = circuit is not None and circuit.state is CircuitState.OPEN
                if is_open and circuit is not None and circuit.until_ms not in opened_ms:
                    opened_ms.append(circuit.until_ms)
                    assert circuit.until_ms - world.now_ms > 9 * SECOND_MS
            world.leap(SECOND_MS)
        calls = world.calls()["first"]
    gaps = [b - a for a, b in pairwise(opened_ms)]
    assert len(opened_ms) >= 2
    assert all(gap >= 10 * SECOND_MS for gap in gaps)
    assert calls < 90 * 3 / 2


# ------------------------------------------------------------------- P9: everything is closed


@pytest.mark.fault("P9")
async def test_all_closed_names_the_earliest_reopening(tmp_path: Path) -> None:
    text = strategy(
        f"{FREE} | {openai('first')} | {openai('second')}",
        f"plan monthly_cap: $5 | {deepseek('third')}",
        f"dear monthly_cap: $0.004 | {deepseek('fourth')}",
        rules="failure_handling: {on_all_layers_exhausted: fail}",
    )
    providers = {
        "openai": {
            "first": failing(K.DAY_LIMIT, wait_ms=5 * HOUR_MS),
            "second": failing(K.DAY_LIMIT, wait_ms=3 * HOUR_MS),
        },
        "deepseek": {"third": failing(K.BALANCE), "fourth": PAID},
    }
    async with served(tmp_path, text, providers) as world:
        first = await world.ask(max_output_tokens=10)
        calls = world.calls()
        engine = world.running.engine
        await until(lambda: "deepseek/default" in engine.standing().benches)  # in the background
        again = await world.ask(max_output_tokens=10)
        repeated = world.calls()
        await until(lambda: engine.running == 0)
        held = world.held()
        until_ms = (await world.model("third")).until.ToMilliseconds()
        now_ms = world.now_ms
    # 15 minutes of an empty balance come before 3 and 5 hours, and before the cap's month.
    for told in (first, again):
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        delay = told.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds()
        assert now_ms + delay == pytest.approx(until_ms, abs=20_000)
        assert told.events[-1].failed.report.earliest.ToMilliseconds() == pytest.approx(
            until_ms, abs=20_000
        )
        assert told.trailers["grpc-retry-pushback-ms"]
    assert tried(first) == ["first", "second", "third"]
    assert calls == repeated == {"first": 1, "second": 1, "third": 1}, "a closed one is not asked"
    assert tried(again) == []
    assert held == 0


@pytest.mark.fault("P9")
async def test_a_closed_layer_escalates_as_far_as_caps_allow(tmp_path: Path) -> None:
    text = strategy(
        f"{FREE} | {openai('first')}",
        f"plan monthly_cap: $0.0000001 | {deepseek('third')}",
        f"dear monthly_cap: $5 | {deepseek('fourth')}",
    )
    providers = {
        "openai": {"first": failing(K.DAY_LIMIT)},
        "deepseek": {"third": PAID, "fourth": PAID},
    }
    async with served(tmp_path, text, providers) as world:
        told = await world.ask()
        billed = world.account("deepseek", "fourth").cost_nanos
        calls, booked = world.calls(), world.booked_nanos()
    assert tried(told) == ["first", "fourth"]
    assert calls == {"first": 1, "fourth": 1}, "the capped layer is passed without a call"
    assert told.kinds.count("escalated") == 1
    assert booked >= billed > 0


# ------------------------------------------------------------------- P13, P14: whose quota binds


@pytest.mark.fault("P13")
async def test_our_own_quota_binds_though_the_provider_grants_more(tmp_path: Path) -> None:
    text = strategy(
        f"{FREE} | {openai('first', 'rate_limit: 2/day')} | {openai('second')}",
        f"{CAPPED} | {deepseek('dear')}",
    )
    providers = {
        "openai": {"first": ModelScript(quotas=(Quota(limit=1_000),)), "second": ModelScript()},
        "deepseek": {"dear": PAID},
    }
    async with served(tmp_path, text, providers) as world:
        together = await asyncio.gather(*(world.ask() for _ in range(20)))
        calls, first = world.calls(), await world.model("first")
        spent = world.spent("openai/default/first")
    assert all(told.code is grpc.StatusCode.OK for told in together)
    assert calls == {"first": 2, "second": 18}
    assert (spent, first.verdict, first.reason) == (2, e.VERDICT_CLASS_RATE, "window_full")


@pytest.mark.fault("P14")
@pytest.mark.parametrize("per", ["minute", "day"])
async def test_the_providers_smaller_count_closes_our_window(tmp_path: Path, per: str) -> None:
    text = strategy(
        f"{FREE} | provider: anthropic, model: first, rate_limit: 1000/day",
        f"{CAPPED} | {deepseek('dear')}",
        providers=("anthropic", "deepseek"),
    )  # fmt: skip
    quota = Quota(limit=1, per="minute" if per == "minute" else "day")
    providers = {"anthropic": {"first": ModelScript(quotas=(quota,))}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        used = world.simulator.providers["anthropic"].models["first"].counters
        used.add("requests", 1, world.now_ms)  # somebody else's, of which we know nothing
        refused = await world.ask()
        first = await world.model("first")
        after = [await world.ask() for _ in range(3)]
        calls, spent = world.calls(), world.spent("anthropic/default/first")
        world.leap(first.cooldown.until.ToMilliseconds() - world.now_ms + SECOND_MS)
        reopened = await world.ask()
    assert tried(refused) == ["first", "dear"]
    assert [tried(told) for told in after] == [["dear"]] * 3
    assert calls == {"first": 1, "dear": 4}
    assert spent < 1_000, "although by our own count nearly all is left"
    assert first.reason == "cooldown"
    assert tried(reopened) == ["first"]
