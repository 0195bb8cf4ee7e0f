import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import escalade
from escalade import testing
from escalade.testing import answer, escalated, failed, finished, retracted, selected, text
from escalade.v1 import completion_pb2, escalation_pb2, operations_service_pb2
from tests.sdk.faces import Face


@contextmanager
def serving(*script: testing.Reply) -> Iterator[testing.Server]:
    with testing.Server(script) as server:
        yield server


def test_the_example_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    script = [answer("Because.", cost_nanos=2_100_000), answer("It ", "is.")]
    with testing.Server(script) as server, escalade.Client(server.target) as client:
        answered = client.complete(
            "Why does this test fail?", task=escalade.Task("debug", files=["a.py"])
        )
        print(answered.text, answered.model, answered.cost_usd, answered.escalations)  # noqa: T201
        with client.stream("Explain.", on_event=print) as stream:
            pieces = list(stream.text)

    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Because. gpt-4o-mini 0.0021 ()",
        "Selected: openai/gpt-4o-mini in free",
        "Finished: STOP",
    ]
    assert pieces == ["It ", "is."]
    asked = server.calls[0].request
    assert (asked.task.type, list(asked.task.files)) == ("debug", ["a.py"])


def test_complete_asks_for_the_whole_and_for_restarts(face: Face) -> None:
    reply: testing.Reply = [
        selected("a"),
        text("wrong"),
        retracted(1),
        escalated("free", "paid", "OUTAGE", "gone"),
        selected("b", layer="paid", attempt=2),
        text("right", attempt=2),
        finished("b", layer="paid", cost_nanos=5, attempt=2),
    ]
    announced: list[escalade.Announcement] = []
    with serving(reply) as server:
        answered = face.complete(server, on_event=announced.append)

    asked = server.calls[0].request
    assert asked.delivery == completion_pb2.DELIVERY_WHOLE
    assert asked.on_interruption == completion_pb2.ON_INTERRUPTION_RESTART
    assert len(asked.request_id) == 32
    assert (answered.text, answered.model, answered.layer) == ("right", "b", "paid")
    assert (answered.cost_nanos, answered.cost_usd) == (5, Decimal("0.000000005"))
    assert [(e.from_layer, e.to_layer, e.reason) for e in answered.escalations] == [
        ("free", "paid", "OUTAGE")
    ]
    assert [type(event) for event in announced] == [
        escalade.Selected,
        escalade.Escalated,
        escalade.Selected,
        escalade.Finished,
    ]
    assert answered.request_id == asked.request_id
    assert [attempt.status for attempt in answered.attempts] == ["OK"]


def test_a_stream_asks_for_failure_unless_it_may_restart(face: Face) -> None:
    with serving(answer("x"), answer("x")) as server:
        face.text(server)
        face.text(server, on_restart=lambda _: None)

    assert [call.request.on_interruption for call in server.calls] == [
        completion_pb2.ON_INTERRUPTION_FAIL,
        completion_pb2.ON_INTERRUPTION_RESTART,
    ]
    assert {call.request.delivery for call in server.calls} == {completion_pb2.DELIVERY_STREAM}
    assert len({call.request.request_id for call in server.calls}) == 2


def test_text_comes_before_the_end(face: Face) -> None:
    reply: testing.Reply = [text("now"), testing.Pause(30), text("later"), finished()]
    started = time.monotonic()
    with serving(reply) as server:
        seen = face.stream(server, leave_after=1)

    assert seen.kinds() == ["TextDelta"]
    assert seen.snapshot.text == "now"
    assert not seen.snapshot.finished
    assert time.monotonic() - started < 25


def test_leaving_the_block_cancels(face: Face) -> None:
    with serving([text("a"), testing.Pause(30), finished()]) as server:
        seen = face.stream(server, leave_after=1)

        assert server.calls[0].cancelled.wait(5)
    assert isinstance(seen.error, escalade.UsageError)  # answer() of a stream that was left
    assert "before its end" in str(seen.error)


async def test_cancelling_the_task_cancels_the_call() -> None:
    with serving([selected(), testing.Pause(30), finished()]) as server:
        async with server.async_client() as client:
            began = asyncio.Event()
            task = asyncio.create_task(client.complete("x", on_event=lambda _: began.set()))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.calls[0].cancelled.wait, 5)


def test_a_restart_is_told_before_the_new_text(face: Face) -> None:
    reply: testing.Reply = [
        text("old "),
        text("words"),
        testing.Pause(0.05),
        retracted(1, detail="broke"),
        text("stale", attempt=1),
        text("new", attempt=2),
        finished("b", attempt=2),
    ]
    told: list[str] = []
    with serving(reply) as server:
        seen = face.text(server, on_restart=lambda event: told.append(str(event)))

    assert told == ["Retracted: the text of attempt 1 is void (OUTAGE: broke)"]
    assert seen.pieces == ["old ", "words", "new"]
    assert seen.answer is not None
    assert (seen.answer.text, seen.snapshot.text, seen.snapshot.attempt) == ("new", "new", 2)


def test_a_restart_that_nobody_asked_for_is_not_spliced(face: Face) -> None:
    reply: testing.Reply = [
        text("old"),
        testing.Pause(0),
        retracted(1),
        text("new", attempt=2),
        finished(),
    ]
    with serving(reply) as server:
        seen = face.text(server)

    assert seen.pieces == ["old"]
    assert isinstance(seen.error, escalade.ProtocolViolation)
    assert seen.again is seen.error


def test_a_broken_model_fails_the_stream_with_what_was_paid(face: Face) -> None:
    report = escalation_pb2.Report(
        cost=completion_pb2.Cost(charged_nano_usd=7, list_nano_usd=9),
        attempts=[
            escalation_pb2.Attempt(
                attempt=1,
                target=escalation_pb2.ModelRef(layer="free", provider="openai", model="m"),
                status=escalation_pb2.ATTEMPT_STATUS_FAILED,
                detail="cut\nafter 20 of 64",
            )
        ],
        story="It broke.",
    )
    with serving([text("half"), failed("INTERRUPTED", "m broke", report=report)]) as server:
        seen = face.text(server)

    error = seen.error
    assert isinstance(error, escalade.Interrupted)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INTERRUPTED")
    assert (error.cost_nanos, error.cost_usd, error.story) == (7, Decimal("7E-9"), "It broke.")
    assert [str(attempt) for attempt in error.attempts] == [
        "1. openai/m: FAILED (cut after 20 of 64)"
    ]
    assert error.request_id == server.calls[0].request.request_id
    assert str(error) == f"m broke [INTERRUPTED, request {error.request_id}]"
    assert (seen.pieces, seen.snapshot.text) == (["half"], "half")
    assert seen.again is error


def test_events_end_with_failed_then_raise(face: Face) -> None:
    with serving([selected(), failed("ALL_MODELS_FAILED", "all gone")]) as server:
        seen = face.stream(server)

    assert seen.kinds() == ["Selected", "Failed"]
    assert str(seen.events[-1]) == "Failed: ALL_MODELS_FAILED: all gone"
    assert isinstance(seen.error, escalade.AllModelsFailed)


def test_a_rate_limit_tells_when_to_come_back(face: Face) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    earliest = Timestamp()
    earliest.FromDatetime(later)
    report = escalation_pb2.Report(earliest=earliest)
    refused = testing.Refused(
        "RATE_LIMITED", "full", timedelta(seconds=90), metadata={"quota": "openai"}
    )
    with serving([failed("RATE_LIMITED", "full", report=report)], [refused]) as server:
        with pytest.raises(escalade.RateLimited) as by_report:
            face.complete(server)
        with pytest.raises(escalade.RateLimited) as by_details:
            face.complete(server)

    assert by_report.value.retry_at == later
    assert by_report.value.retry_after is not None
    assert timedelta(minutes=59) < by_report.value.retry_after <= timedelta(hours=1)
    assert by_details.value.retry_after == timedelta(seconds=90)
    assert by_details.value.retry_at is not None
    assert abs(by_details.value.retry_at - datetime.now(UTC)) < timedelta(seconds=91)
    assert by_details.value.metadata == {"quota": "openai"}


def test_unavailable_is_retried_until_the_call_is_accepted(face: Face) -> None:
    announced: list[str] = []
    with serving([testing.Cut()], [testing.Refused("DRAINING")], answer("at last")) as server:
        answered = face.complete(
            server, request_id="mine", on_event=lambda event: announced.append(str(event))
        )

    assert answered.text == "at last"
    assert [call.request.request_id for call in server.calls] == ["mine"] * 3
    assert announced == ["Selected: openai/gpt-4o-mini in free", "Finished: STOP"]  # by gRPC


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in grpc.StatusCode
        if code not in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    ],
    ids=lambda code: str(code.name),
)
def test_nothing_else_is_retried(code: grpc.StatusCode) -> None:
    with (
        serving([testing.Cut(code)], answer("no")) as server,
        server.client() as client,
        pytest.raises(escalade.TransportError),
    ):
        client.complete("x")

    assert len(server.calls) == 1


def test_the_deadline_is_sent_and_kept(face: Face) -> None:
    with serving([selected(), testing.Pause(30), finished()]) as server:
        started = time.monotonic()
        with pytest.raises(escalade.DeadlineReached) as reached:
            face.complete(server, timeout=2)

    assert time.monotonic() - started < 25
    assert isinstance(reached.value, TimeoutError)
    assert server.calls[0].timeout_s is not None
    assert 0 < server.calls[0].timeout_s < 2.1


def test_the_call_s_timeout_wins_over_the_client_s() -> None:
    script = [answer("a"), answer("b"), answer("c")]
    with testing.Server(script) as server:
        with escalade.Client(server.target, timeout=50) as client:
            client.complete("x")
            client.complete("x", timeout=5)
        with escalade.Client(server.target) as client:
            client.complete("x")

    given = [call.timeout_s for call in server.calls]
    assert given[0] is not None
    assert given[1] is not None
    assert 40 < given[0] < 51
    assert given[1] < 6
    assert given[2] is None


def test_tool_calls_come_with_the_end_only(face: Face) -> None:
    fragment = completion_pb2.ToolCallDelta(index=0, arguments_json_fragment='"a.py"}')
    reply: testing.Reply = [
        text("Let me look."),
        testing.tool_call("read", '{"path":', call_id="c1"),
        escalation_pb2.Event(delta=completion_pb2.Delta(attempt=1, tool_call=fragment)),
        testing.tool_call("list", "{}", call_id="c2", index=1),
        testing.Pause(0.05),
        finished(finish_reason="TOOL_CALLS"),
    ]
    with serving(reply, reply, reply) as server:
        early = face.stream(server, leave_after=1)
        seen = face.stream(server)
        whole = face.complete(server)

    assert early.snapshot.tool_calls == ()
    assert seen.kinds() == ["TextDelta", "Finished"]
    end = seen.events[-1]
    assert isinstance(end, escalade.Finished)
    for answered in (end.answer, whole):
        calls = answered.tool_calls
        assert [(call.id, call.name) for call in calls] == [("c1", "read"), ("c2", "list")]
        assert calls[0].arguments() == {"path": "a.py"}
        assert answered.finish_reason == "TOOL_CALLS"
        assert [type(part) for part in answered.message.parts] == [
            escalade.Text,
            escalade.ToolCall,
            escalade.ToolCall,
        ]


def test_a_replayed_answer_is_streamed_too(face: Face) -> None:
    end = finished()
    end.finished.replayed = True
    end.finished.answer.parts.add(text="as before")
    with serving([end]) as server:
        seen = face.text(server)

    assert seen.pieces == ["as before"]
    assert seen.answer is not None
    assert seen.answer.replayed
    assert seen.answer.text == "as before"


def test_ok_without_an_end_is_no_answer(face: Face) -> None:
    with serving([selected(), text("half")]) as server, pytest.raises(escalade.ProtocolViolation):
        face.complete(server)


def test_an_error_after_finished_is_no_answer(face: Face) -> None:
    reply: testing.Reply = [
        text("all"),
        finished(),
        testing.Cut(grpc.StatusCode.INTERNAL, "ledger broke"),
    ]
    with serving(reply) as server:
        seen = face.text(server)

    assert seen.pieces == ["all"]
    assert seen.answer is None
    assert isinstance(seen.error, escalade.TransportError)
    assert not seen.snapshot.finished


def test_the_token_travels_and_hides(face: Face) -> None:
    with serving(answer("x")) as server:
        face.text(server, token="top-secret")
        client = server.client(token="top-secret")

    assert server.calls[0].metadata["authorization"] == "Bearer top-secret"
    assert "top-secret" not in repr(client) + repr(vars(client))


def test_a_proxy_variable_does_not_divert_loopback(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(answer("straight")) as server:
        assert face.complete(server).text == "straight"


def test_a_callback_that_raises_ends_the_call(face: Face) -> None:
    def break_down(event: escalade.Announcement) -> None:
        raise RuntimeError(str(event))

    with serving([selected(), testing.Pause(30), finished()]) as server:
        with pytest.raises(RuntimeError, match="Selected"):
            face.complete(server, on_event=break_down)
        assert server.calls[0].cancelled.wait(5)


def test_too_large_a_request_is_not_sent(face: Face) -> None:
    with (
        serving(answer("x")) as server,
        pytest.raises(escalade.RequestTooLarge, match="16,777,216"),
    ):
        face.complete(server, "x" * (16 * 2**20))

    assert server.calls == []


def test_too_large_an_answer_is_told_from_a_quota() -> None:
    with (
        serving(answer("x" * 5000)) as server,
        escalade.Client(
            server.target, channel_options=[("grpc.max_receive_message_length", 1000)]
        ) as client,
        pytest.raises(escalade.AnswerTooLarge),
    ):
        client.complete("x")


def test_status(face: Face) -> None:
    given = operations_service_pb2.GetStatusResponse(version="9.9")
    with testing.Server([], status=given) as server:
        assert face.status(server) == "9.9"


def test_nobody_there(face: Face) -> None:
    with testing.Server([]) as server:
        pass
    with pytest.raises(escalade.Unreachable):
        face.complete(server)
    with pytest.raises(escalade.Unreachable):
        face.status(server)


def test_a_closed_client_says_so() -> None:
    with testing.Server([]) as server:
        client = server.client()
        client.close()
        with pytest.raises(escalade.UsageError, match="closed"):
            client.complete("x")


def test_a_stream_is_used_in_its_block_and_once() -> None:
    with serving(answer("x")) as server, server.client() as client:
        stream = client.stream("x")
        with pytest.raises(escalade.UsageError, match="inside"):
            stream.answer()
        with stream:
            assert stream.answer().text == "x"
            assert stream.answer().text == "x"
        assert stream.answer().text == "x"
        with pytest.raises(escalade.UsageError, match="once"), stream:
            pass


def test_an_async_client_may_be_made_without_a_loop() -> None:
    with serving(answer("x")) as server:
        client = server.async_client()

        async def call() -> str:
            async with client:
                return (await client.complete("x")).text

        assert asyncio.run(call()) == "x"


def test_threads_share_a_client() -> None:
    count = 8
    with testing.Server([answer("x")] * count) as server, server.client() as client:
        texts: list[str] = []
        threads = [
            threading.Thread(target=lambda: texts.append(client.complete("x").text))
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert texts == ["x"] * count


def test_a_call_beyond_the_script_says_so() -> None:
    with (
        testing.Server([]) as server,
        server.client() as client,
        pytest.raises(escalade.TransportError, match="no reply to call 1"),
    ):
        client.complete("x")
