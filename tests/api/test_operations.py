"""``GetStatus``, and every RPC that is not built yet."""

import asyncio

import grpc
import pytest

from escalade.v1 import escalation_pb2 as e
from escalade.v1 import operations_service_pb2 as o
from escalade_server.api.operations_servicer import ServiceInfo
from escalade_server.api.server import ServerOptions
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.standing import Balance, Bench, Circuit, CircuitState, Standing
from escalade_server.engine.ports import Spend
from tests.api.world import (
    CANARY,
    MODELS,
    NOW_MS,
    FakeRun,
    World,
    ask,
    listen,
    selected,
    told,
    world,
)

SOON_MS = NOW_MS + 60_000
DAY = MODELS[0].counters[0]
FULL = Balance("today", 50, 0, SOON_MS)


async def status(w: World) -> o.GetStatusResponse:
    return await w.operations.GetStatus(o.GetStatusRequest(), timeout=20)


async def test_a_fresh_server_shows_everything_ready() -> None:
    info = ServiceInfo("0.1.0", NOW_MS - 5)
    async with world(options=ServerOptions(port=0, info=info)) as w:
        shown = await status(w)

    assert [layer.name for layer in shown.layers] == ["free", "plan"]
    assert [m.target.model for layer in shown.layers for m in layer.models] == [
        "mini", "flash", "glm",
    ]  # fmt: skip
    assert {m.verdict for layer in shown.layers for m in layer.models} == {e.VERDICT_CLASS_OK}
    assert [layer.exhausted for layer in shown.layers] == [False, False]
    assert [layer.billing for layer in shown.layers] == [o.BILLING_FREE, o.BILLING_METERED]
    assert [layer.consent_required for layer in shown.layers] == [False, True]
    assert [q.name for q in shown.quotas] == ["all/cap label"]
    assert [q.name for q in shown.layers[1].quotas] == ["layer1/cap label"]
    assert [q.name for q in shown.layers[0].models[0].quotas] == ["mini/day label"]
    assert shown.now.ToMilliseconds() == NOW_MS
    assert shown.version == "0.1.0"
    assert not shown.draining


async def test_a_server_without_a_file_reloads_and_checks_nothing() -> None:
    async with world() as w:
        reloaded = await w.operations.ReloadStrategy(o.ReloadStrategyRequest())
        checked = await w.operations.CheckStrategy(o.CheckStrategyRequest(yaml="x: 1"))
    assert not reloaded.applied
    assert not checked.valid
    assert [f.code for f in (*reloaded.findings, *checked.findings)] == ["no_file"] * 2


async def test_an_exhausted_layer_says_why_and_until_when() -> None:
    async with world() as w:
        w.engine.standing_now = Standing(
            balances={DAY.key: FULL},
            benches={
                MODELS[1].provider: Bench(SOON_MS - 30_000, FailureClass.RATE_SHORT, "429: slow")
            },
        )
        w.engine.spends_now = (Spend(DAY, 50, 0, SOON_MS),)
        shown = await status(w)
    layer = shown.layers[0]
    mini, flash = layer.models

    assert layer.exhausted
    assert layer.until.ToMilliseconds() == SOON_MS - 30_000
    assert (mini.verdict, mini.reason) == (e.VERDICT_CLASS_RATE, "window_full")
    assert "50 of 50" in mini.detail
    assert mini.until.ToMilliseconds() == SOON_MS
    assert (mini.quotas[0].spent, mini.quotas[0].limit) == (50, 50)
    assert mini.quotas[0].resets.ToMilliseconds() == SOON_MS
    assert (flash.reason, flash.cooldown.scope, flash.cooldown.reason) == (
        "cooldown", "provider", "429: slow",
    )  # fmt: skip
    assert not shown.layers[1].exhausted


async def test_models_whose_calls_cannot_be_booked_are_not_shown_as_ready() -> None:
    async with world() as w:
        w.engine.ledger_wrong = "no answer in time"
        closed = await status(w)
        w.engine.free_goes_on = True
        shown = await status(w)
    found = [model for layer in closed.layers for model in layer.models]
    assert {model.verdict for model in found} == {e.VERDICT_CLASS_DOWN}
    assert {model.reason for model in found} == {"ledger_unavailable"}
    assert {model.detail for model in found} == {"the ledger takes no entry: no answer in time"}
    assert [layer.exhausted for layer in closed.layers] == [True, True]
    assert [layer.exhausted for layer in shown.layers] == [False, True]
    assert {model.reason for model in shown.layers[0].models} == {""}


async def test_an_open_circuit_and_a_bench_for_good_are_shown() -> None:
    async with world() as w:
        w.engine.standing_now = Standing(
            circuits={MODELS[0].provider: Circuit(CircuitState.OPEN, SOON_MS)},
            benches={MODELS[1].account_key: Bench(NEVER_MS, FailureClass.AUTH, "401")},
        )
        shown = await status(w)
    mini, flash = shown.layers[0].models

    assert mini.circuit == o.CIRCUIT_STATE_OPEN
    assert mini.probe.ToMilliseconds() == SOON_MS
    assert (mini.verdict, mini.reason) == (e.VERDICT_CLASS_DOWN, "circuit_open")
    assert flash.circuit == o.CIRCUIT_STATE_CLOSED
    assert flash.cooldown.scope == "account"
    assert not flash.cooldown.HasField("until")
    assert not flash.HasField("until")


async def test_a_giant_tasks_verdict_is_no_alarm() -> None:
    """R5: judged for one request and one token, so a nearly full cap is not exhausted."""
    cap = MODELS[2].counters[1]
    async with world() as w:
        w.engine.standing_now = Standing(
            balances={cap.key: Balance("month", cap.limit - 10, 0, SOON_MS)}
        )
        shown = await status(w)

    assert shown.layers[1].models[0].verdict == e.VERDICT_CLASS_OK


async def test_attempts_in_flight_are_counted_by_model() -> None:
    async def call(run: FakeRun) -> None:
        run.caller.announce(selected(1, MODELS[1]))

    async with world(call) as w:
        calls = [w.router.Complete(ask()) for _ in range(3)]
        for one in calls:
            await one.read()
        shown = await status(w)
        for one in calls:
            one.cancel()
        await asyncio.wait_for(w.api.calls.idle(), 20)
        after = await status(w)

    assert [m.in_flight_count for m in shown.layers[0].models] == [0, 3]
    assert shown.in_flight_count == 3
    assert [m.in_flight_count for m in after.layers[0].models] == [0, 0]


async def test_status_answers_while_the_server_drains() -> None:
    async with world() as w:
        await w.api.drain()
        shown = await status(w)

    assert shown.draining


async def test_a_mistake_in_a_unary_call_leaks_nothing() -> None:
    async with world() as w:
        w.engine.standing = _raise_canary  # type: ignore[method-assign]
        call = w.operations.GetStatus(o.GetStatusRequest())
        ended = await told(call, [])

    assert ended.code is grpc.StatusCode.INTERNAL
    assert ended.reason == "BUG"
    assert CANARY not in repr(ended)
    assert CANARY in str(w.mistakes[0])


UNARY = {
    "GetUsageReport": o.GetUsageReportRequest(),
    "SetModelState": o.SetModelStateRequest(),
    "GetTrace": o.GetTraceRequest(request_id="r"),
}


@pytest.mark.parametrize("name", list(UNARY))
async def test_methods_that_are_not_built_are_refused_by_name(name: str) -> None:
    async with world() as w:
        ended = await told(getattr(w.operations, name)(UNARY[name]), [])

    assert ended.code is grpc.StatusCode.UNIMPLEMENTED
    assert ended.reason == "NOT_YET_BUILT"
    assert f"OperationsService.{name}" in ended.message


async def test_streams_that_are_not_built_are_refused_by_name() -> None:
    async with world() as w:
        watch = await listen(w.operations.WatchEvents(o.WatchEventsRequest()))

    assert "OperationsService.WatchEvents" in watch.message
    assert watch.code is grpc.StatusCode.UNIMPLEMENTED


def _raise_canary() -> Standing:
    raise KeyError(CANARY)
