"""Faults P10-P12, P15, P16: what a provider answers, or must never be asked."""

from pathlib import Path

import grpc
import pytest

from escalade.v1 import completion_pb2 as c
from escalade.v1 import escalation_pb2 as e
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.api.world import Told
from tests.faults.fleet import CAPPED, FREE, PAID, PRICED, deepseek, failing, openai, strategy
from tests.faults.machine import until
from tests.faults.served import PRICE, attempts, served, tried

K = FaultKind

# --------------------------------------------------------------------------- P10: context too long


@pytest.mark.fault("P10")
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "found out"])
async def test_too_long_a_context_jumps_to_the_first_window_that_fits(
    tmp_path: Path,
    is_declared: bool,  # noqa: FBT001 - a table's column
) -> None:
    small = "context_tokens: 1000" if is_declared else ""
    text = strategy(
        f"{FREE} | {openai('first', small)}",
        f"plan monthly_cap: $5 | {deepseek('third', f'{PRICED}, context_tokens: 900')}",
        f"dear monthly_cap: $5 | {deepseek('fourth', f'{PRICED}, context_tokens: 900000')}",
    )
    providers = {
        "openai": {"first": ModelScript(context_window_tokens=1_000)},
        "deepseek": {"third": PAID, "fourth": PAID},
    }
    async with served(tmp_path, text, providers) as world:
        long = await world.ask("word " * 4_000)
        calls = world.calls()
        circuits = world.running.engine.standing().circuits
        first = await world.model("first")
        short = await world.ask("word")
    assert tried(long) == ["fourth"] if is_declared else ["first", "fourth"]
    assert calls.get("third") is None
    (escalated,) = [ev.escalated for ev in long.events if ev.HasField("escalated")]
    assert escalated.reason == e.ESCALATION_REASON_CONTEXT
    assert (escalated.from_layer, escalated.to_layer) == ("free", "dear")
    assert not circuits, "no failure of the provider"
    assert not first.HasField("cooldown")
    assert tried(short) == ["first"], "nor of the model"


# ------------------------------------------------------------------------------ P11: withheld


WITHHELD = {
    "finish_reason content_filter": ("openai", K.CONTENT_FILTER, c.FINISH_REASON_CONTENT_FILTER),
    "400 content_policy_violation": ("openai", K.PROMPT_BLOCKED, c.FINISH_REASON_CONTENT_FILTER),
    "message.refusal": ("openai", K.REFUSAL, c.FINISH_REASON_REFUSAL),
    "stop_reason refusal": ("anthropic", K.REFUSAL, c.FINISH_REASON_REFUSAL),
    "promptFeedback.blockReason": ("google", K.PROMPT_FILTERED, c.FINISH_REASON_CONTENT_FILTER),
    "finishReason SAFETY": ("google", K.CONTENT_FILTER, c.FINISH_REASON_CONTENT_FILTER),
}


@pytest.mark.fault("P11")
@pytest.mark.parametrize(("vendor", "kind", "finish"), WITHHELD.values(), ids=WITHHELD)
async def test_a_filter_is_an_answer_and_goes_to_no_other_vendor(
    tmp_path: Path, vendor: str, kind: FaultKind, finish: c.FinishReason.ValueType
) -> None:
    text = strategy(
        f"{FREE} | provider: {vendor}, model: first | provider: {vendor}, model: second",
        f"{CAPPED} | {deepseek('dear')}",
        providers=(vendor, "deepseek"),
    )  # fmt: skip
    first = ModelScript(faults=(Fault(kind=kind, on_requests=(1,)),))
    providers = {vendor: {"first": first, "second": ModelScript()}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        told = await world.ask()
        calls = world.calls()
        circuits = world.running.engine.standing().circuits
        status = await world.model("first")
        again = await world.ask()
    assert told.code is grpc.StatusCode.OK
    assert told.events[-1].finished.finish_reason == finish
    assert calls == {"first": 1}
    assert not {"escalated", "fallback", "alert", "retracted"} & set(told.kinds)
    assert not circuits
    assert status.verdict == e.VERDICT_CLASS_OK
    assert tried(again) == ["first"]


# ------------------------------------------------------------------------- P12: another model


@pytest.mark.fault("P12")
async def test_a_silently_changed_model_is_in_the_record(tmp_path: Path) -> None:
    text = strategy(f"{FREE} | {openai('first')}", f"{CAPPED} | {deepseek('dear')}")
    providers = {"openai": {"first": failing(K.OTHER_MODEL)}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        told = await world.ask()
    (attempt,) = attempts(told)
    assert attempt.target.model == "first"
    assert attempt.reported_model not in ("", "first")


# ------------------------------------------------------------------------------ P15: bad answers


@pytest.mark.fault("P15")
async def test_empty_answers_escalate_twice_at_most_and_each_is_charged(tmp_path: Path) -> None:
    layers = [f"l{at} monthly_cap: $5; billing: metered | {deepseek(f'm{at}')}" for at in range(4)]
    empty = ModelScript(text="", price=PRICE)
    text = strategy(*layers, providers=("deepseek",))
    async with served(tmp_path, text, {"deepseek": {f"m{at}": empty for at in range(4)}}) as world:
        told = await world.ask()
        await until(lambda: world.running.engine.running == 0)
        calls, booked, held = world.calls(), world.booked_nanos(), world.held()
        billed = sum(a.cost_nanos for a in world.simulator.ledger().accounts.values())
    assert told.code is grpc.StatusCode.FAILED_PRECONDITION
    assert told.reason == "QUALITY_NOT_MET"
    assert calls == {"m0": 1, "m1": 1, "m2": 1}, "the first, and two escalations"
    reasons = [ev.escalated.reason for ev in told.events if ev.HasField("escalated")]
    assert reasons == [e.ESCALATION_REASON_QUALITY] * 2
    assert [a.status for a in attempts(told)] == [e.ATTEMPT_STATUS_REJECTED] * 3
    assert all(a.cost.charged_nano_usd > 0 for a in attempts(told))
    assert booked == sum(a.cost.list_nano_usd for a in attempts(told)) >= billed > 0
    assert held == 0


@pytest.mark.fault("P15")
@pytest.mark.parametrize("words", ["I can't help with that.", "asdf ;;; \x00 lorem", "{broken"])
async def test_what_no_gate_asks_for_is_passed_on(tmp_path: Path, words: str) -> None:
    text = strategy(f"{FREE} | {openai('first')}", f"{CAPPED} | {deepseek('dear')}")
    providers = {"openai": {"first": ModelScript(text=words)}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        told = await world.ask(delivery=c.DELIVERY_WHOLE)
        calls = world.calls()
    assert told.code is grpc.StatusCode.OK
    assert told.events[-1].finished.answer.parts[0].text == words
    assert calls == {"first": 1}


# ----------------------------------------------------------------------------- P16: private tasks


def trains(name: str) -> str:
    return openai(name, "data: trains")


@pytest.mark.fault("P16")
@pytest.mark.parametrize("demand", ["PRIVATE", "NO_TRAINING"])
@pytest.mark.parametrize("local_fails", [False, True])
async def test_a_private_task_never_reaches_a_model_that_trains(
    tmp_path: Path,
    demand: str,
    local_fails: bool,  # noqa: FBT001 - a table's column
) -> None:
    text = strategy(
        f"{FREE} | {trains('first')} | {trains('second')} | {openai('unsaid', 'data: unknown')}",
        f"home cost_per_month: 0 | {openai('local', 'data: local')}",
        f"{CAPPED} | {deepseek('dear', f'{PRICED}, data: trains')}",
    )
    local = failing(K.SERVER_ERROR) if local_fails else ModelScript()
    ready = {"first": ModelScript(), "second": ModelScript(), "unsaid": ModelScript()}
    providers = {"openai": {**ready, "local": local}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        wanted = e.DataDemand.Value(f"DATA_DEMAND_{demand}")
        told = await world.ask(task=e.Task(data_demand=wanted))
        calls = world.calls()
    assert calls == {"local": 1}
    assert (told.code is grpc.StatusCode.OK) is not local_fails
    assert {s.reason for s in skipped(told) if s.target.model != "local"} <= {"data_policy"}


def skipped(told: Told) -> list[e.Skip]:
    last = told.events[-1]
    ending = last.finished if last.HasField("finished") else last.failed
    return list(ending.report.skips)


@pytest.mark.fault("P16")
async def test_where_every_model_trains_a_private_task_ends_without_a_call(tmp_path: Path) -> None:
    text = strategy(f"{FREE} | {trains('first')}", f"{CAPPED} | {deepseek('dear')}")
    providers = {"openai": {"first": ModelScript()}, "deepseek": {"dear": PAID}}
    async with served(tmp_path, text, providers) as world:
        told = await world.ask(task=e.Task(data_demand=e.DATA_DEMAND_PRIVATE))
        calls = world.calls()
    assert (told.code, told.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NO_ELIGIBLE_MODEL",
    )
    assert calls == {}
