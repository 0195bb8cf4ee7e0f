"""A user's code. It is type-checked, strictly, and never run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import assert_never, assert_type

import grpc

import escalade
from escalade import testing
from escalade.v1 import escalation_pb2, operations_service_pb2, router_service_pb2


def the_readme() -> None:
    with escalade.Client("localhost:50051") as client:
        answer = client.complete(
            "Why does this test fail?", task=escalade.Task("debug", files=["a.py"])
        )
        assert_type(answer, escalade.Answer)
        assert_type(answer.text, str)
        assert_type(answer.model, str)
        assert_type(answer.cost_usd, Decimal)
        assert_type(answer.cost_nanos, int)
        assert_type(answer.escalations, tuple[escalade.Escalated, ...])
        assert_type(answer.attempts, tuple[escalade.Attempt, ...])
        assert_type(answer.report, escalation_pb2.Report)

        with client.stream("Explain.", on_event=announce) as stream:
            assert_type(stream, escalade.Stream)
            for text in stream.text:
                assert_type(text, str)
            assert_type(stream.answer(), escalade.Answer)
            assert_type(stream.snapshot, escalade.Snapshot)


async def the_same_with_asyncio() -> None:
    tls = escalade.Tls(root_certificates=b"...")
    async with escalade.AsyncClient("dns:///escalade:50051", token="t", tls=tls) as client:
        assert_type(await client.complete("x", timeout=2.5), escalade.Answer)
        async with client.stream("x", on_restart=started_over) as stream:
            assert_type(stream, escalade.AsyncStream)
            async for event in stream:
                tell(event)
            assert_type(await stream.answer(), escalade.Answer)
        assert_type(await client.status(), operations_service_pb2.GetStatusResponse)
        assert_type(
            await client.usage_report(day="2026-11-22"),
            operations_service_pb2.GetUsageReportResponse,
        )


def my_own_sdk(client: escalade.Client, feature: escalade.Feature) -> str:
    answer = ""
    with client.route("debug", features=[feature], input_tokens=7, on_event=announce) as route:
        assert_type(route, escalade.Route)
        for choice in route:
            assert_type(choice, escalade.Choice)
            assert_type(choice.wire_model, str)
            assert_type(choice.max_output_tokens, int)
            assert_type(choice.expires, datetime | None)
            assert_type(choice.skips, tuple[escalade.Skip, ...])
            with choice.attempt() as attempt:
                assert_type(attempt, escalade.OpenAttempt)
                answer = report(attempt)
                attempt.progress()
            assert_type(attempt.succeeded, bool)
        assert_type(route.report, escalation_pb2.Report | None)
        assert_type(route.result, escalade.Answer | None)
        assert_type(route.events, list[escalade.Announcement])
    return answer


async def my_own_sdk_with_asyncio(client: escalade.AsyncClient) -> escalade.Plan:
    async with client.route(escalade.Task("debug"), timeout=60) as route:
        assert_type(route, escalade.AsyncRoute)
        async for choice in route:
            assert_type(choice, escalade.AsyncChoice)
            async with choice.attempt() as attempt:
                assert_type(attempt, escalade.AsyncOpenAttempt)
                attempt.ok(escalade.Usage(1, 2))
                await attempt.progress()
    return await client.plan("debug")


def report(attempt: escalade.OpenAttempt) -> str:
    finish: escalade.Finish = "stop"
    broken: escalade.Transport = "reset"
    cls: escalade.FailureClass = "OVERLOADED"
    attempt.first_token()
    attempt.ok({"usage": None}, finish_reason=finish)
    attempt.rejected("too_short", detail="three words")
    attempt.failed(cls)
    attempt.failed(escalade.FailureEvidence(429, {"retry-after": "1"}, b"{}", broken))
    attempt.failed(TimeoutError())
    attempt.failed("SLEEPY")  # type: ignore[arg-type]
    attempt.not_sent()
    return "answer"


def a_plan(client: escalade.Client) -> None:
    plan = client.plan("debug", max_output_tokens=500)
    assert_type(plan, escalade.Plan)
    assert_type(plan.selected, escalade.Model | None)
    assert_type(plan.candidates, tuple[escalade.Candidate, ...])
    assert_type(plan.candidates[0].worst_case_usd, Decimal)


def started_over(event: escalade.Retracted) -> None:
    print(event.attempt, event.reason)  # noqa: T201


def tell(event: escalade.Event) -> str:
    match event:
        case escalade.TextDelta(text=text) | escalade.ReasoningDelta(text=text):
            return text
        case escalade.Assessed(score=score, threshold=threshold):
            assert_type(score, float)
            assert_type(threshold, float | None)
        case escalade.Selected(model=model, skips=skips):
            assert_type(model, escalade.Model)
            assert_type(skips, tuple[escalade.Skip, ...])
        case escalade.Fallback(from_model, to_model):
            return f"{from_model} to {to_model}"
        case escalade.Escalated(from_layer=from_layer, to_layer=to_layer):
            return f"{from_layer} to {to_layer}"
        case escalade.Waiting(earliest=earliest):
            assert_type(earliest, datetime | None)
        case escalade.Reconnected(tries=tries, cause=cause, resumed=resumed):
            assert_type(tries, int)
            assert_type(cause, escalade.EscaladeError)
            assert_type(resumed, bool)
        case escalade.Retracted(attempt=attempt):
            assert_type(attempt, int)
        case escalade.Alert(percent=percent):
            assert_type(percent, int | None)
        case escalade.Finished(answer):
            return answer.story
        case escalade.Failed(report=report):
            assert_type(report, escalation_pb2.Report)
        case _:
            assert_never(event)
    return str(event)


def announce(event: escalade.Announcement) -> None:
    if not isinstance(event, escalade.Reconnected):
        tell(event)


def a_record(answer: escalade.Answer, snapshot: escalade.Snapshot) -> None:
    assert_type(answer.usage, escalade.Usage)
    assert_type(answer.usage.cached_input_tokens, int | None)
    assert_type(answer.attempts[0].model, escalade.Model)
    assert_type(answer.message, escalade.Message)
    assert_type(answer.tool_calls, tuple[escalade.ToolCall, ...])
    assert_type(snapshot.tool_calls, tuple[escalade.ToolCall, ...])
    for part in answer.message.parts:
        show(part)


def show(part: escalade.Part) -> str:
    match part:
        case escalade.Text(text=text) | escalade.Reasoning(text=text):
            return text
        case escalade.Image(media_type=media_type, data=data):
            assert_type(data, bytes)
            return media_type
        case escalade.ToolCall(name=name, arguments_json=arguments):
            return name + arguments
        case escalade.ToolResult(tool_call_id=call, is_error=is_error):
            assert_type(is_error, bool)
            return call
        case escalade.ProviderState(data=data):
            return data.hex()
        case _:
            assert_never(part)


def a_view(client: escalade.Client, waiting: escalade.AsyncClient) -> None:
    headers: Mapping[str, str] = {"team": "a"}
    free = escalade.Constraints(free_only=True)
    assert_type(client.with_options(timeout=3, constraints=free, metadata=headers), escalade.Client)
    assert_type(waiting.with_options(timeout=3), escalade.AsyncClient)
    with client.with_options(timeout=3) as view:
        assert_type(view, escalade.Client)


def words(
    role: escalade.Role,
    messages: escalade.Messages,
    mode: escalade.ToolMode,
    effort: escalade.ReasoningEffort,
    form: escalade.ResponseFormat,
    gate: escalade.Gate,
    kind: escalade.EvidenceKind,
    demand: escalade.DataDemand,
) -> None:
    escalade.Message(role, (escalade.Text("x"),))
    task = escalade.Task(
        "debug",
        data_demand=demand,
        evidence=[escalade.Evidence(kind, "signal")],
        labels={"team": "a"},
    )
    quality = escalade.QualityDemands(gates=[gate])
    with escalade.Client() as client:
        client.complete(
            messages,
            task=task,
            tool_choice=mode,
            reasoning_effort=effort,
            response_format=form,
            quality=quality,
            flush=1,  # type: ignore[call-arg]
        )


ERRORS: tuple[type[escalade.EscaladeError], ...] = (
    escalade.UsageError,
    *(escalade.TransportError, escalade.Unreachable, escalade.StreamCut, escalade.ServerBusy),
    *(escalade.RequestTooLarge, escalade.AnswerTooLarge, escalade.DeadlineReached),
    *(escalade.Cancelled, escalade.ProtocolViolation),
    *(escalade.StatusError, escalade.RequestInvalid, escalade.RequestRejected),
    *(escalade.OutcomeConflict, escalade.ResumeTokenInvalid, escalade.CallerUnknown),
    *(escalade.RoleRequired, escalade.LayerForbidden, escalade.NoEligibleModel),
    *(escalade.ConsentRequired, escalade.QualityNotMet, escalade.TriggerNotMet),
    *(escalade.BudgetExhausted, escalade.RateLimited, escalade.TooManyWaiters),
    *(escalade.AllModelsFailed, escalade.Draining, escalade.LedgerUnavailable),
    *(escalade.Interrupted, escalade.RequestInProgress, escalade.AlreadyAnswered),
    *(escalade.ReservationUnknown, escalade.ModelUnknown, escalade.CursorExpired),
    *(escalade.TraceUnknown,),
    *(escalade.NotYetBuilt, escalade.ServiceBug),
)


def a_step_of_an_agent(client: escalade.Client, history: list[escalade.Message]) -> None:
    read = escalade.Tool("read", "Reads a file.", {"type": "object"})
    answer = client.complete(
        history,
        system="Be brief.",
        tools=[read],
        tool_choice=read,
        response_format=escalade.JsonSchema({"type": "object"}),
        sampling=escalade.Sampling(temperature=0.2, stop=["END"]),
        reasoning_effort="low",
        constraints=escalade.Constraints(
            spend_limit_usd=0.05, max_wait=timedelta(minutes=5), denied_models=("gpt-4o",)
        ),
        quality=escalade.QualityDemands(gates=["invalid_json"], on_unmet="deliver"),
    )
    history.append(answer.message)
    results = [escalade.ToolResult(call.id, str(call.arguments())) for call in answer.tool_calls]
    history.append(escalade.Message.tool(*results))


def trouble(client: escalade.Client) -> timedelta | None:
    try:
        client.complete("x", constraints=escalade.Constraints(free_only=True))
    except escalade.RateLimited as error:
        assert_type(error.retry_at, datetime | None)
        return error.retry_after
    except TimeoutError:
        return None
    except escalade.EscaladeError as error:
        assert_type(error.code, grpc.StatusCode | None)
        assert_type(error.attempts, tuple[escalade.Attempt, ...])
        assert_type(error.report, escalation_pb2.Report | None)
        assert_type(error.violations, tuple[escalade.Violation, ...])
    return None


def my_own_test() -> None:
    reply: testing.Reply = [
        testing.assessed(),
        testing.selected(),
        testing.waiting("token", earliest=datetime.now(UTC)),
        testing.fallback("a", "b"),
        testing.escalated("free", "paid"),
        testing.reasoning("a"),
        testing.text("a"),
        testing.retracted(1),
        testing.tool_call("read"),
        testing.Pause(0.1),
        testing.finished(),
    ]
    step: testing.Step = testing.Cut(grpc.StatusCode.UNAVAILABLE)
    script: Sequence[testing.Reply] = [
        reply,
        testing.slowly(testing.answer("b"), 0.1),
        [testing.Refused("DRAINING", retry_after=timedelta(seconds=1))],
        [testing.failed("RATE_LIMITED")],
        [step],
        [testing.cut_by_proxy()],
    ]
    with testing.Server(script) as server, server.client() as client:
        server.add(testing.answer("c"))
        assert_type(client, escalade.Client)
        assert_type(server.calls, list[testing.Call])
        assert_type(server.calls[0].request.request_id, str)


def my_own_test_of_a_route() -> None:
    script: testing.RouteScript = [[testing.selected(lease=timedelta(1)), testing.finished()]]
    with testing.Server(routes=script) as server:
        server.add_routes([testing.selected(), testing.Pause(0.1), testing.Cut()])
        assert_type(server.routes, list[testing.RouteCall])
        assert_type(server.routes[0].outcomes, list[router_service_pb2.Outcome])
        assert_type(server.reports, list[router_service_pb2.ReportOutcomeRequest])


def by_request(request: router_service_pb2.CompleteRequest) -> testing.Reply:
    return testing.answer(request.messages[0].parts[0].text)


async def my_own_test_with_asyncio() -> None:
    async with testing.Server(by_request) as server, server.async_client() as client:
        assert_type(client, escalade.AsyncClient)


def mistakes(client: escalade.Client) -> None:
    client.complete(42)  # type: ignore[arg-type]
    client.complete("x", reasoning_effort="huge")  # type: ignore[arg-type]
    client.complete("x", tool_choice="sometimes")  # type: ignore[arg-type]
    client.complete("x", temperatur=1.0)  # type: ignore[call-arg]
    client.stream("x").text.missing()  # type: ignore[attr-defined]
    escalade.Task("debug").type = "plan"  # type: ignore[misc]
