"""What the API makes of a wait: its limits, its status, and the tokens that come with requests."""

from collections.abc import Sequence
from dataclasses import replace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from escalade.v1 import escalation_pb2 as e
from escalade.v1 import operations_service_pb2 as o
from escalade.v1 import operations_service_pb2_grpc
from escalade_server.api.calls import Calls
from escalade_server.api.convert_in import request_from_proto
from escalade_server.api.operations_servicer import waiters_to_proto
from escalade_server.api.server import ServerOptions, build_server
from escalade_server.core.catalog import Agent
from escalade_server.core.facts import Alert, AlertKind, Waiting
from escalade_server.core.failure import NEVER_MS
from escalade_server.core.standing import VerdictClass
from escalade_server.engine.others import Figures, Queued
from escalade_server.engine.waiting import Waiter
from tests.api.world import (
    ASSESSED,
    CATALOG,
    NOW_MS,
    FakeEngine,
    FakeRun,
    ask,
    finished,
    listen,
    selected,
    world,
)

QUEUED = Waiting(
    VerdictClass.RATE, NOW_MS + 60_000, "50 a day", "all is used up", 1, resume_token="t"
)
ME = Agent("me", calls_max=1)


def waiter(agent: str, name: str, since: int) -> Waiter:
    return Waiter(
        agent, name, NOW_MS - since, 0, lambda: None, NOW_MS + 5, VerdictClass.RATE, "rule"
    )


def test_a_caller_without_a_deadline_may_wait_as_long_as_the_strategy_says() -> None:
    limits = e.Constraints(may_wait=True, max_wait=Duration(seconds=90))

    def made(left_ms: int | None) -> tuple[int, int]:
        request = request_from_proto(
            ask(constraints=limits), CATALOG, request_id="r", now_ms=NOW_MS, left_ms=left_ms
        ).request
        assert (request.constraints.may_wait, request.constraints.max_wait_ms) == (True, 90_000)
        return request.deadline_ms - NOW_MS, request.ends_ms

    assert made(None) == (300_000, NEVER_MS)
    assert made(1_000) == (1_000, NOW_MS + 1_000)
    assert made(900_000) == (300_000, NOW_MS + 900_000)


async def test_waiting_calls_do_not_count_as_calls_in_flight() -> None:
    calls = Calls(calls_max=1, bytes_max=100, stall_s=60)
    call = calls.open(80, "me")
    assert calls.refusal(80, ME) is not None
    for _ in range(2):
        calls.park(call, waits=True)
    assert calls.refusal(80, ME) is None
    assert (len(calls), calls.of("me")) == (1, 0)
    calls.park(call, waits=False)
    assert calls.refusal(80, ME) is not None
    calls.park(call, waits=True)
    calls.close(call)
    calls.park(call, waits=False)
    assert (len(calls), calls.of("me")) == (0, 0)
    assert calls.refusal(80, ME) is None


async def test_a_call_that_waits_makes_room_for_another_until_it_has_a_model() -> None:
    async def script(run: FakeRun) -> None:
        run.caller.announce(ASSESSED)
        if run.request.id == "first":
            run.caller.announce(QUEUED)
            run.caller.announce(Alert(AlertKind.QUOTA, "80 %"))
            await run.left.wait()
        run.caller.announce(selected())
        run.caller.end(finished())

    async with world(script, options=ServerOptions(port=0, calls_max=1)) as w:
        first = w.router.Complete(ask(request_id="first"))
        async for response in first:
            if any(event.HasField("waiting") for event in response.events):
                break
        [event] = [event for event in response.events if event.HasField("waiting")]
        assert (event.waiting.resume_token, event.waiting.position) == ("t", 1)
        second = await listen(w.router.Complete(ask()))
        first.cancel()
    assert second.code is grpc.StatusCode.OK


async def test_a_token_of_another_request_is_refused_before_anything_starts() -> None:
    async with world() as w:
        told = await listen(w.router.Complete(ask(resume_token="foreign")))
        assert w.engine.runs == []
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
    assert told.kinds == ["failed"]


@pytest.mark.parametrize(
    ("agent", "names"), [(None, ["z", "y", "x"]), ("a", ["y", "x"]), ("c", [])]
)
def test_an_agent_sees_its_own_waiters_oldest_first_and_with_their_places(
    agent: str | None, names: list[str]
) -> None:
    crowd = (waiter("a", "y", 20), waiter("b", "z", 30), waiter("a", "x", 10))
    shown = waiters_to_proto([crowd], agent)

    assert [one.request_id for one in shown] == names
    assert {one.request_id: one.position for one in shown} == {
        name: {"y": 1, "z": 2, "x": 3}[name] for name in names
    }
    assert all(one.reason == e.VERDICT_CLASS_RATE and one.rule == "rule" for one in shown)


async def test_the_status_counts_all_who_wait() -> None:
    async with world() as w:
        w.engine.waiters = (waiter("a", "y", 20), waiter("b", "z", 30))
        shown = await w.operations.GetStatus(o.GetStatusRequest(), timeout=20)
    assert (shown.waiter_count, len(shown.waiters)) == (2, 2)
    assert replace(w.engine.waiters[0]).since_ms == shown.waiters[1].since.ToMilliseconds()


class Elsewhere:
    """Two other workers."""

    async def figures(self) -> Sequence[Figures]:
        one = Queued("c", "w", NOW_MS, NOW_MS + 5, VerdictClass.RATE, "rule")
        return [Figures(3, {"": 2}, {}, [one]), Figures(1, {}, {}, [])]


async def test_a_workers_status_is_that_of_all() -> None:
    engine = FakeEngine()
    engine.waiters = (waiter("a", "y", 20), waiter("b", "z", 30))
    api = build_server(engine, ServerOptions(port=0), others=Elsewhere())
    port = await api.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = operations_service_pb2_grpc.OperationsServiceStub(channel)
        shown = await stub.GetStatus(o.GetStatusRequest(), timeout=20)
    await api.stop(0)
    assert shown.in_flight_count == 4
    assert shown.waiter_count == 3
    assert {one.request_id: one.position for one in shown.waiters} == {"y": 1, "z": 2, "w": 1}
