"""Waiting through the real server: C1, C11, P9, T11, and a broken road (R22, P8)."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio

from escalade.v1 import error_pb2, router_service_pb2_grpc
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import CompleteResponse, RouteRequest, RouteResponse
from escalade_server.provider_simulator import ModelScript
from tests.api.world import ask, listen
from tests.faults.fleet import strategy
from tests.faults.machine import until
from tests.faults.served import LOCAL, Served, served

MINUTE_MS = 60_000
WINDOW_MS = 70_000
"""A minute that slides by pieces of a twelfth."""
MINI = "provider: openai, model: mini, rate_limit: {requests_per_minute: 3}"
ONE = strategy(f"free cost_per_month: 0 | {MINI}", providers=("openai",))
AGENTS = ONE + "agents: {a: {}, b: {}, c: {}}\n"
SCRIPT = {"openai": {"mini": ModelScript(text="At last.")}}


@asynccontextmanager
async def exhausted(folder: Path, text: str = ONE, calls: int = 3) -> AsyncIterator[Served]:
    """A server whose window of a minute has just been used up."""
    async with served(folder, text, SCRIPT) as world:
        told = await asyncio.gather(*(world.ask() for _ in range(calls)))
        assert {one.code for one in told} == {grpc.StatusCode.OK}
        yield world


class Listening:
    """One call that is read as it comes."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.responses: list[CompleteResponse] = []
        self.work = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for response in self.call:
            self.responses.append(response)

    @property
    def waits(self) -> list[e.Waiting]:
        events = [event for response in self.responses for event in response.events]
        return [event.waiting for event in events if event.HasField("waiting")]

    @property
    def is_answered(self) -> bool:
        last = self.responses[-1].events[-1] if self.responses else e.Event()
        return last.HasField("finished")

    async def waiting(self) -> e.Waiting:
        await until(lambda: bool(self.waits) or self.work.done())
        return self.waits[-1]


def begin(world: Served, **fields: Any) -> Listening:
    return Listening(world.router.Complete(ask("Parse this.", **fields)))


@pytest.mark.fault("C1", "P9")
async def test_a_task_waits_for_a_window_of_a_minute_and_goes_on_by_itself(tmp_path: Path) -> None:
    async with exhausted(tmp_path) as world:
        one = begin(world)
        waiting = await one.waiting()
        earliest_ms, now_ms = waiting.earliest.ToMilliseconds(), world.now_ms
        status, calls, held = await world.status(), world.calls(), world.held()
        world.leap(MINUTE_MS)
        world.running.engine.room.look_again()
        await asyncio.wait_for(one.work, 30)
    assert now_ms < earliest_ms <= now_ms + WINDOW_MS
    assert "3 of 3 requests in this minute" in waiting.rule
    assert waiting.position == 1
    assert waiting.resume_token
    assert (calls, held) == ({"mini": 3}, 0), "a waiter holds nothing and calls nobody"
    [shown] = status.waiters
    assert (shown.position, shown.earliest, status.waiter_count) == (1, waiting.earliest, 1)
    assert one.is_answered
    report = one.responses[-1].events[-1].finished.report
    assert report.waited.ToMilliseconds() > 0
    assert "waited" in report.story


@pytest.mark.fault("C1", "P9")
async def test_a_deadline_before_the_window_fails_at_once_with_its_instant(tmp_path: Path) -> None:
    async with exhausted(tmp_path) as world:
        begun_ms = world.now_ms
        call = world.router.Complete(ask("Parse this."), timeout=20)
        told = await listen(call)
        took_ms = world.now_ms - begun_ms
    assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    delay = told.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds()
    assert 20_000 < delay <= WINDOW_MS
    assert took_ms < 20_000
    assert "waiting" not in told.kinds


async def test_max_wait_and_may_wait_of_the_caller_count(tmp_path: Path) -> None:
    short = e.Constraints()
    short.max_wait.FromMilliseconds(1_000)
    async with exhausted(tmp_path) as world:
        for limits in (short, e.Constraints(may_wait=False)):
            told = await world.ask(waits=True, constraints=limits)
            assert told.reason == "RATE_LIMITED"


@pytest.mark.fault("C11")
async def test_a_tenant_may_have_a_thousand_waiters_and_one_connection_a_quarter(
    tmp_path: Path,
) -> None:
    async with exhausted(tmp_path) as world:
        some = [begin(world) for _ in range(250)]
        room = world.running.engine.room
        await until(lambda: len(room) == 250)
        near = await listen(world.router.Complete(ask("Parse this.")))
        async with AsyncExitStack() as stack:
            for _ in range(3):
                channel = await stack.enter_async_context(
                    aio.insecure_channel(world.running.target, options=LOCAL)
                )
                router = router_service_pb2_grpc.RouterServiceStub(channel)
                some += [Listening(router.Complete(ask("Parse this."))) for _ in range(250)]
            await until(lambda: len(room) == 1_000)
            channel = await stack.enter_async_context(
                aio.insecure_channel(world.running.target, options=LOCAL)
            )
            far = await listen(
                router_service_pb2_grpc.RouterServiceStub(channel).Complete(ask("Parse this."))
            )
            for one in some:
                one.work.cancel()
                one.call.cancel()
            await until(lambda: not room)
        calls, held = world.calls(), world.held()
    for told, words in ((near, "250 tasks of this connection"), (far, "1000 tasks of this agent")):
        assert (told.code, told.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WAITERS",
        )  # fmt: skip
        assert words in told.message
        assert told.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        assert int(told.trailers["grpc-retry-pushback-ms"]) > 0
    assert (calls, held) == ({"mini": 3}, 0)


async def test_p7_beside_150_waiters_the_status_comes_under_a_second(tmp_path: Path) -> None:
    async with exhausted(tmp_path) as world:
        some = [begin(world, request_id=f"w{n:03}") for n in range(150)]
        await until(lambda: len(world.running.engine.room) == 150)
        begun = time.process_time()  # what others have of the machine is not its doing
        status = await world.status()
        took = time.process_time() - begun
        for one in some:
            one.work.cancel()
            one.call.cancel()
        await until(lambda: not world.running.engine.room)
    assert took < 1
    assert status.waiter_count == len(status.waiters) == 150
    assert sorted(one.position for one in status.waiters) == list(range(1, 151))
    since = [one.since.ToMilliseconds() for one in status.waiters]
    assert since == sorted(since)


async def test_p8_a_cut_stream_takes_its_place_up_again(tmp_path: Path) -> None:
    async with exhausted(tmp_path) as world:
        old = begin(world, request_id="old")
        token = (await old.waiting()).resume_token
        young = begin(world, request_id="young")
        assert (await young.waiting()).position == 2
        old.call.cancel()
        await until(lambda: len(world.running.engine.room) == 1)
        again = begin(world, request_id="old", resume_token=token)
        assert (await again.waiting()).position == 1
        foreign = await listen(
            world.router.Complete(ask("Parse this.", request_id="x", resume_token=token))
        )
        other = await listen(
            world.router.Complete(ask("Else.", request_id="old", resume_token=token))
        )
        world.leap(MINUTE_MS)
        world.running.engine.room.look_again()
        await asyncio.wait_for(asyncio.gather(again.work, young.work), 30)
        calls = world.calls()
    for told in (foreign, other):
        assert (told.code, told.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID",
        )  # fmt: skip
    assert again.is_answered
    assert young.is_answered
    assert calls == {"mini": 5}


async def test_route_waits_too(tmp_path: Path) -> None:
    async with exhausted(tmp_path) as world:
        call = world.router.Route()
        await call.write(RouteRequest(task=e.Task(type="parse"), input_tokens=10))
        told: list[e.Event] = []

        async def hear(kind: str) -> None:
            while kind not in {event.WhichOneof("kind") for event in told}:
                response = await call.read()
                assert isinstance(response, RouteResponse)
                told.extend(response.events)

        await hear("waiting")
        world.leap(MINUTE_MS)
        world.running.engine.room.look_again()
        await hear("selected")
        call.cancel()
        await until(lambda: world.running.engine.running == 0)


@pytest.mark.fault("T11")
async def test_a_crowd_that_waits_is_woken_bit_by_bit_and_meets_the_limit(tmp_path: Path) -> None:
    async with exhausted(tmp_path) as world:
        crowd, room = list[Listening](), world.running.engine.room
        for number in range(60):  # the order in which they come is theirs
            crowd.append(begin(world, request_id=f"w{number:02}"))
            await until(lambda: len(room) == len(crowd))
        world.leap(MINUTE_MS)
        room.look_again()
        await until(lambda: sum(one.is_answered for one in crowd) == 3)
        await until(lambda: len(room) == 57)  # some have waited for what the three held
        answered = [n for n, one in enumerate(crowd) if one.is_answered]
        calls, waiting, held = world.calls(), len(room), world.held()
        for one in crowd:
            one.work.cancel()
            one.call.cancel()
        await until(lambda: not room)
    assert answered == [0, 1, 2], "the oldest go first"
    assert (calls, waiting, held) == ({"mini": 6}, 57, 0)


async def test_p4_a_server_that_stops_hands_its_waiters_over(tmp_path: Path) -> None:
    async with exhausted(tmp_path) as world:
        one = begin(world)
        await one.waiting()
        stopping = asyncio.ensure_future(world.running.stop())
        with pytest.raises(aio.AioRpcError) as ended:
            await asyncio.wait_for(one.work, 10)
        await stopping
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    last = one.responses[-1].events[-1]
    assert last.failed.reason == error_pb2.ERROR_REASON_DRAINING
    assert one.waits[-1].resume_token != one.waits[0].resume_token
