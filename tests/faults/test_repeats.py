"""The same request id again (R27, faults C10 and X3), through the real server (see served.py)."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import RouteRequest
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.api.world import Told, ask, listen
from tests.faults.fleet import CAPPED, FREE, deepseek, openai, strategy
from tests.faults.machine import until
from tests.faults.served import PRICE, Served, served

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
TEXT = "It fails as the fixture is gone."
PAID = strategy(f"{CAPPED} | {deepseek('dear')}", providers=("deepseek",))


def paid(
    folder: Path, script: ModelScript | None = None, more: str = ""
) -> AbstractAsyncContextManager[Served]:
    """Serve one model that costs money."""
    script = script or ModelScript(price=PRICE, text=TEXT)
    return served(folder, PAID + more, {"deepseek": {"dear": script}})


def ending(told: Told) -> e.Finished:
    """Answer how a call ended well: with exactly one ending, which is its last event."""
    assert told.code is grpc.StatusCode.OK
    kinds = [event.WhichOneof("kind") for event in told.events]
    assert kinds.count("finished") == 1
    assert kinds[-1] == "finished"
    return told.events[-1].finished


def refusal(told: Told) -> e.Failed:
    """Answer how a call was refused: one `Failed`, and the status of the same reason."""
    kinds = [event.WhichOneof("kind") for event in told.events]
    assert kinds.count("failed") == 1
    assert kinds[-1] == "failed"
    failed = told.events[-1].failed
    name = error_pb2.ErrorReason.Name(failed.reason).removeprefix("ERROR_REASON_")
    assert told.detail(error_details_pb2.ErrorInfo).reason == name
    return failed


def text_of(finished: e.Finished) -> str:
    return "".join(part.text for part in finished.answer.parts)


async def test_an_answer_is_told_again_and_charged_once(tmp_path: Path) -> None:
    async with paid(tmp_path) as world:
        first = ending(await world.ask(request_id="r-1", delivery=c.DELIVERY_WHOLE))
        booked = world.booked_nanos()
        second = ending(await world.ask(request_id="r-1", delivery=c.DELIVERY_WHOLE))
        after, calls = world.booked_nanos(), world.calls()
    assert (text_of(first), first.replayed) == (TEXT, False)
    assert (text_of(second), second.replayed) == (TEXT, True)
    assert second.report.trace_id != first.report.trace_id  # each call has a trace of its own
    second.report.trace_id = first.report.trace_id
    assert second.report == first.report
    assert second.finish_reason == first.finish_reason
    assert calls == {"dear": 1}
    assert after == booked == first.report.cost.charged_nano_usd > 0


@pytest.mark.parametrize("delivery", [c.DELIVERY_STREAM, c.DELIVERY_WHOLE])
async def test_a_streamed_answer_comes_again_whole(
    tmp_path: Path, delivery: c.Delivery.ValueType
) -> None:
    """How it travels, and by when, is no part of what is asked for."""
    limits = e.Constraints()
    limits.timeout.FromMilliseconds(9_000)
    async with paid(tmp_path) as world:
        first = await world.ask(request_id="r-1")
        again = await world.ask(request_id="r-1", delivery=delivery, constraints=limits)
        calls = world.calls()
    assert not ending(first).HasField("answer")
    assert "".join(event.delta.text for event in first.events) == TEXT
    assert [event.WhichOneof("kind") for event in again.events] == ["finished"]
    assert (text_of(ending(again)), ending(again).replayed) == (TEXT, True)
    assert calls == {"dear": 1}


async def test_fifty_at_once_are_one_call(tmp_path: Path) -> None:
    slow = ModelScript(price=PRICE, text=TEXT, first_token_ms=3_000)
    async with paid(tmp_path, slow) as world:
        told = await asyncio.gather(*(world.ask(request_id="r-1") for _ in range(50)))
        later = await asyncio.gather(*(world.ask(request_id="r-1") for _ in range(49)))
        calls, booked = world.calls(), world.booked_nanos()
    answered = [each for each in told if each.code is grpc.StatusCode.OK]
    refused = [each for each in told if each.code is not grpc.StatusCode.OK]
    assert (len(answered), len(refused)) == (1, 49)
    for each in refused:
        assert each.code is grpc.StatusCode.ABORTED
        assert refusal(each).reason == error_pb2.ERROR_REASON_REQUEST_IN_PROGRESS
        assert each.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert [text_of(ending(each)) for each in later] == [TEXT] * 49
    assert all(ending(each).replayed for each in later)
    assert calls == {"dear": 1}
    assert booked == ending(answered[0]).report.cost.charged_nano_usd


@pytest.mark.fault("C10")
@pytest.mark.parametrize("first_ms", [0, 700], ids=["answered", "running"])
async def test_another_request_under_the_same_id_is_refused(tmp_path: Path, first_ms: int) -> None:
    script = ModelScript(price=PRICE, text=TEXT, first_token_ms=first_ms)
    async with paid(tmp_path, script) as world:
        running = asyncio.ensure_future(world.ask("Parse this.", request_id="r-1"))
        if first_ms:
            await until(lambda: bool(world.calls()))
        else:
            await running
        told = await world.ask("Parse that.", request_id="r-1")
        ending(await running)
        world.leap(11 * MINUTE_MS)  # no answer is kept any more: now the store says it
        later = await world.ask("Parse that.", request_id="r-1")
        calls = world.calls()
    for each in (told, later):
        assert each.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal(each).reason == error_pb2.ERROR_REASON_REQUEST_INVALID
        bad = each.detail(error_details_pb2.BadRequest)
        assert [violation.field for violation in bad.field_violations] == ["request_id"]
    assert calls == {"dear": 1}


@pytest.mark.fault("C10")
async def test_an_id_of_complete_is_no_id_of_route(tmp_path: Path) -> None:
    async with paid(tmp_path) as world:
        await world.ask(request_id="r-1")
        call = world.router.Route()
        await call.write(RouteRequest(task=e.Task(type="parse"), request_id="r-1"))
        told = await listen(call)
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_answer_that_is_not_kept_is_told_by_its_figures(tmp_path: Path) -> None:
    async with paid(tmp_path) as world:
        first = ending(await world.ask(request_id="r-1"))
        world.leap(10 * MINUTE_MS)
        told = await world.ask(request_id="r-1")
        calls, held, booked = world.calls(), world.held(), world.booked_nanos()
    assert told.code is grpc.StatusCode.ALREADY_EXISTS
    failed = refusal(told)
    assert failed.reason == error_pb2.ERROR_REASON_ALREADY_ANSWERED
    report = failed.report
    assert (report.usage, report.cost) == (first.report.usage, first.report.cost)
    assert report.answered == first.report.answered
    assert report.started == first.report.started
    assert report.cost.charged_nano_usd == booked > 0
    assert TEXT not in str(told.events)
    metadata = told.detail(error_details_pb2.ErrorInfo).metadata
    assert metadata["charged_nano_usd"] == str(booked)
    assert calls == {"dear": 1}
    assert held == 0


async def test_after_a_day_an_id_is_new(tmp_path: Path) -> None:
    async with paid(tmp_path) as world:
        await world.ask(request_id="r-1")
        world.leap(24 * HOUR_MS - MINUTE_MS)
        taken = await world.ask("Parse that.", request_id="r-1")
        world.leap(2 * MINUTE_MS)
        free = ending(await world.ask("Parse that.", request_id="r-1"))
        calls = world.calls()
    assert taken.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not free.replayed
    assert calls == {"dear": 2}


async def test_answers_are_kept_as_long_as_the_strategy_says(tmp_path: Path) -> None:
    async with paid(tmp_path, more="idempotency: {keep_answers: 1h}\n") as world:
        ending(await world.ask(request_id="r-1"))
        world.leap(59 * MINUTE_MS)
        again = ending(await world.ask(request_id="r-1"))
    async with paid(tmp_path, more="idempotency: {keep_answers: 0s}\n") as world:
        ending(await world.ask(request_id="r-2"))
        told = await world.ask(request_id="r-2")
    assert again.replayed
    assert refusal(told).reason == error_pb2.ERROR_REASON_ALREADY_ANSWERED


async def test_the_answer_to_a_private_task_is_not_kept(tmp_path: Path) -> None:
    text = strategy(f"{FREE} | {openai('mine', 'data: local')}", providers=("openai",))
    private = e.Task(type="parse", data_demand=e.DATA_DEMAND_PRIVATE)
    async with served(tmp_path, text, {"openai": {"mine": ModelScript(text=TEXT)}}) as world:
        ending(await world.ask(request_id="r-1", task=private))
        told = await world.ask(request_id="r-1", task=private)
        calls = world.calls()
    assert refusal(told).reason == error_pb2.ERROR_REASON_ALREADY_ANSWERED
    assert TEXT not in str(told.events)
    assert calls == {"mine": 1}


async def test_an_id_without_an_answer_runs_again(tmp_path: Path) -> None:
    """Charged for what is new, and every attempt is listed under the same id."""
    script = ModelScript(
        price=PRICE, text=TEXT, faults=(Fault(kind=FaultKind.BAD_REQUEST, on_requests=(1,)),)
    )
    async with paid(tmp_path, script) as world:
        failed = await world.ask(request_id="r-1")
        other = await world.ask("Parse that.", request_id="r-1")
        answered = ending(await world.ask(request_id="r-1"))
        again = ending(await world.ask(request_id="r-1"))
        calls, booked = world.calls(), world.booked_nanos()
    assert refusal(failed).reason == error_pb2.ERROR_REASON_REQUEST_REJECTED
    assert other.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (answered.replayed, again.replayed) == (False, True)
    assert calls == {"dear": 2}
    assert booked == answered.report.cost.charged_nano_usd


async def test_who_leaves_before_an_answer_may_ask_again(tmp_path: Path) -> None:
    slow = ModelScript(price=PRICE, text=TEXT, first_token_ms=400)
    async with paid(tmp_path, slow) as world:
        call = world.router.Complete(ask("Parse this.", request_id="r-1"))
        await call.read()
        call.cancel()
        await world.running.engine.drain()
        answered = ending(await world.ask(request_id="r-1"))
    assert not answered.replayed


async def test_without_an_id_nothing_is_kept_or_claimed(tmp_path: Path) -> None:
    async with paid(tmp_path) as world:
        told = [ending(await world.ask()) for _ in range(2)]
        calls = world.calls()
    assert not any(each.replayed for each in told)
    assert calls == {"dear": 2}
