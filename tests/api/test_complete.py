"""``Complete`` over a real gRPC server: one ending, its status, order, delivery, leaving."""

import asyncio
import os
import signal
import sys
import textwrap
from contextlib import suppress

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio

from escalade.v1 import error_pb2
from escalade.v1.completion_pb2 import DELIVERY_WHOLE
from escalade.v1.router_service_pb2 import CompleteResponse
from escalade_server.api.router_servicer import REQUEST_ID_KEY, left_ms
from escalade_server.api.server import ServerOptions
from escalade_server.core.events import TextDelta
from escalade_server.core.facts import ErrorReason, Fallback, Retracted
from escalade_server.core.failure import FailureClass
from escalade_server.core.task import Delivery
from tests.api.world import (
    ASSESSED,
    CANARY,
    ESCALATED,
    MODELS,
    NOW_MS,
    FakeRun,
    World,
    answer_hello,
    ask,
    failed,
    finished,
    listen,
    selected,
    told,
    world,
)


async def test_an_answer_ends_with_one_finished_and_ok() -> None:
    async with world(answer_hello) as w:
        told = await listen(w.router.Complete(ask(request_id="r-1")))

    assert told.code is grpc.StatusCode.OK
    assert told.kinds == ["assessed", "selected", "delta", "finished"]
    assert [event.sequence for event in told.events] == [1, 2, 3, 4]
    assert told.events[2].delta.text == "Hello"
    assert told.events[3].finished.report.request_id == "r-1"
    assert not told.events[3].finished.HasField("answer")
    assert w.engine.runs[0].left_count == 0


async def test_whole_delivery_costs_one_message_and_carries_the_answer() -> None:
    async with world(answer_hello) as w:
        told = await listen(w.router.Complete(ask(delivery=DELIVERY_WHOLE)))

    assert len(told.responses) == 1
    assert told.kinds == ["assessed", "selected", "finished"]
    assert told.events[-1].finished.answer.parts[0].text == "Hello"
    assert w.engine.runs[0].request.delivery is Delivery.WHOLE


async def test_whole_delivery_announces_live_and_needs_two_messages_when_slow() -> None:
    go_on = asyncio.Event()

    async def slow(run: FakeRun) -> None:
        run.caller.announce(ASSESSED)
        run.caller.announce(selected())
        await go_on.wait()
        run.caller.deliver(1, (TextDelta("x"),))
        run.caller.announce(Retracted(1, FailureClass.OUTAGE, "cut"))
        run.caller.end(finished("y"))

    async with world(slow) as w:
        call = w.router.Complete(ask(delivery=DELIVERY_WHOLE))
        responses: list[CompleteResponse] = []
        while isinstance(response := await call.read(), CompleteResponse):
            responses.append(response)
            go_on.set()
        ended = await told(call, responses)

    assert [len(response.events) for response in responses] == [2, 1]
    assert ended.code is grpc.StatusCode.OK
    assert ended.kinds == ["assessed", "selected", "finished"]


async def test_a_restart_tells_retracted_then_escalated_then_the_new_text() -> None:
    async def restart(run: FakeRun) -> None:
        run.caller.announce(ASSESSED)
        run.caller.announce(selected(1))
        run.caller.deliver(1, (TextDelta("half an ans"),))
        await asyncio.sleep(0.03)
        run.caller.announce(Retracted(1, FailureClass.PROTOCOL, "ended without a finish reason"))
        run.caller.announce(ESCALATED)
        run.caller.announce(selected(2, MODELS[2]))
        run.caller.deliver(2, (TextDelta("whole"),))
        run.caller.end(finished("whole"))

    async with world(restart) as w:
        told = await listen(w.router.Complete(ask()))

    assert told.kinds == [
        "assessed", "selected", "delta", "retracted", "escalated", "selected", "delta", "finished",
    ]  # fmt: skip
    assert [e.delta.attempt for e in told.events if e.WhichOneof("kind") == "delta"] == [1, 2]
    escalated = told.events[4].escalated
    assert (escalated.from_layer, escalated.to_layer, escalated.failed_attempt) == (
        "free", "plan", 1,
    )  # fmt: skip
    assert [event.sequence for event in told.events] == list(range(1, 9))


async def test_a_failure_ends_with_one_failed_and_the_status_of_its_reason() -> None:
    async def fail(run: FakeRun) -> None:
        run.caller.announce(ASSESSED)
        run.caller.announce(Fallback(1, MODELS[0], MODELS[1], FailureClass.RATE_SHORT, "50 of 50"))
        run.caller.end(failed(ErrorReason.RATE_LIMITED, retry_at_ms=NOW_MS + 90_000))

    async with world(fail) as w:
        told = await listen(w.router.Complete(ask()))

    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told.kinds == ["assessed", "fallback", "failed"]
    assert told.events[-1].failed.reason == error_pb2.ERROR_REASON_RATE_LIMITED
    assert told.reason == "RATE_LIMITED"
    assert told.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 90
    assert told.trailers["grpc-retry-pushback-ms"] == "90000"
    assert told.detail(error_details_pb2.ErrorInfo).metadata["limit"] == "50"


async def test_interrupted_is_unavailable_and_never_retried_by_a_channel() -> None:
    async def fail(run: FakeRun) -> None:
        run.caller.end(failed(ErrorReason.INTERRUPTED))

    async with world(fail) as w:
        told = await listen(w.router.Complete(ask()))

    assert told.code is grpc.StatusCode.UNAVAILABLE
    assert told.trailers["grpc-retry-pushback-ms"] == "-1"


async def test_a_bad_request_ends_with_failed_and_field_violations() -> None:
    async with world() as w:
        told = await listen(w.router.Complete(ask(max_output_tokens=0, request_id="a\r\nb")))

    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.kinds == ["failed"]
    assert told.events[0].sequence == 1
    bad = told.detail(error_details_pb2.BadRequest)
    assert {v.field for v in bad.field_violations} == {"max_output_tokens", "request_id"}
    assert w.engine.runs == []


def raw_complete(w: World, data: bytes) -> aio.UnaryStreamCall[bytes, bytes]:
    """Call with bytes as they are."""
    method: aio.UnaryStreamMultiCallable[bytes, bytes] = w.channel.unary_stream(
        "/escalade.v1.RouterService/Complete"
    )
    return method(data)


async def test_bytes_that_are_no_message_are_invalid_and_leak_nothing() -> None:
    async with world() as w:
        call = raw_complete(w, b"\xff\xff\xff")
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no valid message" in (caught.value.details() or "")


async def test_text_that_is_not_utf8_is_invalid() -> None:
    wrong = ask("??").SerializeToString().replace(b"??", b"\xff\xfe")
    async with world() as w:
        call = raw_complete(w, wrong)
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_initial_metadata_comes_at_acceptance() -> None:
    """P12: with the request id, long before the first event."""
    async with world() as w:
        call = w.router.Complete(ask(request_id="r-7"))
        metadata = dict(await asyncio.wait_for(call.initial_metadata(), 20) or ())
        call.cancel()

    assert metadata[REQUEST_ID_KEY] == "r-7"


async def test_the_service_makes_an_id_when_the_caller_gives_none() -> None:
    async with world(answer_hello) as w:
        call = w.router.Complete(ask())
        metadata = dict(await call.initial_metadata() or ())
        told = await listen(call)

    assert metadata[REQUEST_ID_KEY] == told.events[-1].finished.report.request_id != ""


async def test_cancel_reaches_the_run_in_milliseconds() -> None:
    async with world() as w:
        call = w.router.Complete(ask())
        await asyncio.wait_for(w.engine.started.wait(), 20)
        await call.initial_metadata()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        call.cancel()
        await asyncio.wait_for(w.engine.runs[0].left.wait(), 20)
        took = loop.time() - begun
        await asyncio.wait_for(w.api.calls.idle(), 20)

    assert took < 5, "an idle connection is looked at only later"
    assert w.engine.runs[0].left_count == 1
    assert w.mistakes == []


async def test_the_callers_deadline_reaches_the_core_with_a_margin_and_then_the_run() -> None:
    async with world() as w:
        told = await listen(w.router.Complete(ask(), timeout=1.0))
        await asyncio.wait_for(w.engine.runs[0].left.wait(), 20)

    assert told.code is grpc.StatusCode.DEADLINE_EXCEEDED
    # On the wire a timeout of a second may be a hundredth longer; the margin is more than that.
    assert 0 < w.engine.runs[0].request.deadline_ms - NOW_MS < 1_000


def test_the_margin_is_50_ms_or_2_percent() -> None:
    assert left_ms(None) is None
    assert left_ms(1.0) == 950
    assert left_ms(10.0) == 9_800
    assert left_ms(0.04) == -10


async def test_a_deadline_without_time_to_work_starts_nothing() -> None:
    async with world() as w:
        told = await listen(w.router.Complete(ask(), timeout=0.04))

    assert told.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert w.engine.runs == []


async def test_a_refusal_says_the_same_on_the_stream_and_in_its_status_with_the_mend() -> None:
    async with world() as w:
        told = await listen(w.router.Complete(ask(text="")))

    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.events[-1].failed.message == told.message
    assert told.message.endswith("; mend the field and call again")


async def test_a_reader_that_leaves_in_mid_stream_is_noticed_in_write() -> None:
    """P3: blocked in ``write``, the end of a call is another exception."""

    async def flood(run: FakeRun) -> None:
        while not run.left.is_set():
            run.caller.deliver(1, (TextDelta("x" * 10_000),))
            await run.caller.writable()
            await asyncio.sleep(0)

    async with world(flood) as w:
        call = w.router.Complete(ask())
        await call.read()
        await asyncio.sleep(0.2)  # flow control has stopped the writer by now
        call.cancel()
        await asyncio.wait_for(w.engine.runs[0].left.wait(), 20)
        await asyncio.wait_for(w.api.calls.idle(), 20)

    assert w.engine.runs[0].left_count == 1
    assert w.mistakes == []


CLIENT = textwrap.dedent("""
    import sys, grpc
    from escalade.v1 import router_service_pb2_grpc as services
    from escalade.v1.router_service_pb2 import CompleteRequest
    channel = grpc.insecure_channel(sys.argv[1])
    request = CompleteRequest()
    request.messages.add(role=2).parts.add(text="Why?")
    for response in services.RouterServiceStub(channel).Complete(request):
        print("one", flush=True)
""")


async def test_a_killed_client_is_noticed() -> None:
    async def one(run: FakeRun) -> None:
        run.caller.deliver(1, (TextDelta("x"),))

    async with world(one) as w:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, f"127.0.0.1:{w.port}", stdout=asyncio.subprocess.PIPE
        )
        assert client.stdout is not None
        assert await asyncio.wait_for(client.stdout.readline(), 20) == b"one\n"
        os.kill(client.pid, signal.SIGKILL)
        await client.wait()
        await asyncio.wait_for(w.engine.runs[0].left.wait(), 20)

    assert w.engine.runs[0].left_count == 1


async def test_the_handler_does_not_wait_for_settlement() -> None:
    """P4: a run that never closes its books does not hold up the call."""
    async with world() as w:
        call = w.router.Complete(ask())
        await w.engine.started.wait()
        call.cancel()
        await asyncio.wait_for(w.api.calls.idle(), 20)

    assert w.engine.runs[0].left_count == 1


async def test_a_stalled_reader_is_cut_and_its_run_told() -> None:
    """Faults C5, with a write stall of 0.2 s instead of 60."""

    async def flood(run: FakeRun) -> None:
        while not run.left.is_set():
            run.caller.deliver(1, (TextDelta("x" * 50_000),))
            await run.caller.writable()
            await asyncio.sleep(0)

    async with world(flood, options=ServerOptions(port=0, write_stall_s=0.2)) as w:
        call = w.router.Complete(ask())
        await call.read()
        await asyncio.wait_for(w.engine.runs[0].left.wait(), 20)
        await asyncio.wait_for(w.api.calls.idle(), 20)
        with suppress(aio.AioRpcError):  # it wakes up, reads the rest, and is told
            while await asyncio.wait_for(call.read(), 20) is not aio.EOF:
                pass
        ended = await told(call, [])

    assert w.engine.runs[0].left_count == 1
    assert ended.code is grpc.StatusCode.CANCELLED
    assert "not read" in ended.message


# --------------------------------------------------------------- mistakes of ours (P5, D8)


async def test_a_mistake_while_starting_leaks_nothing() -> None:
    async with world() as w:
        w.engine.start_error = ValueError(CANARY)
        told = await listen(w.router.Complete(ask()))

    assert told.code is grpc.StatusCode.INTERNAL
    assert told.reason == "BUG"
    assert told.detail(error_details_pb2.ErrorInfo).metadata["id"] == "bug-1"
    assert told.kinds == ["failed"]
    assert CANARY not in repr(told)
    assert CANARY in str(w.mistakes[0])


async def test_a_mistake_while_converting_ends_the_stream_in_order() -> None:
    class Unknown:
        secret = CANARY

    async def wrong(run: FakeRun) -> None:
        run.caller.announce(ASSESSED)
        await asyncio.sleep(0.05)
        run.caller.announce(Unknown())  # type: ignore[arg-type]

    async with world(wrong) as w:
        told = await listen(w.router.Complete(ask()))

    assert told.code is grpc.StatusCode.INTERNAL
    assert told.kinds == ["assessed", "failed"]
    assert [event.sequence for event in told.events] == [1, 2]
    assert CANARY not in repr(told)
    assert w.engine.runs[0].left_count == 1


async def test_a_mistake_before_admission_leaks_nothing() -> None:
    async with world() as w:
        w.api.calls.refusal = _raise_canary  # type: ignore[assignment, method-assign]
        told = await listen(w.router.Complete(ask()))

    assert told.code is grpc.StatusCode.INTERNAL
    assert told.reason == "BUG"
    assert CANARY not in repr(told)


async def test_a_mistake_that_the_engine_reports_leaks_nothing() -> None:
    async def wrong(run: FakeRun) -> None:
        run.caller.end(failed(ErrorReason.BUG, detail=CANARY))

    async with world(wrong) as w:
        told = await listen(w.router.Complete(ask()))

    assert told.code is grpc.StatusCode.INTERNAL
    assert told.kinds == ["failed"]
    assert CANARY not in repr(told)


def _raise_canary(size_bytes: int, agent: object) -> None:
    raise KeyError(CANARY)
