"""A user's code. It is type-checked, strictly, and never run."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import assert_type

import grpc

import escalade
from escalade import testing
from escalade.v1 import escalation_pb2, operations_service_pb2


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

        with client.stream("Explain.", on_event=print) as stream:
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


def started_over(event: escalade.Retracted) -> None:
    print(event.attempt, event.reason)  # noqa: T201


def tell(event: escalade.Event) -> str:
    match event:
        case escalade.TextDelta(text=text) | escalade.ReasoningDelta(text=text):
            return text
        case escalade.Escalated(from_layer, to_layer):
            return f"{from_layer} to {to_layer}"
        case escalade.Waiting(earliest=earliest):
            assert_type(earliest, datetime | None)
        case escalade.Finished(answer):
            return answer.story
        case _:
            pass
    return str(event)


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
    return None


def my_own_test() -> None:
    reply: testing.Reply = [testing.text("a"), testing.Pause(0.1), testing.finished()]
    script: Sequence[testing.Reply] = [reply, testing.answer("b"), [testing.Refused("DRAINING")]]
    with testing.Server(script) as server, server.client() as client:
        assert_type(client, escalade.Client)
        assert_type(server.calls[0].request.request_id, str)


def mistakes(client: escalade.Client) -> None:
    client.complete(42)  # type: ignore[arg-type]
    client.complete("x", reasoning_effort="huge")  # type: ignore[arg-type]
    client.complete("x", tool_choice="sometimes")  # type: ignore[arg-type]
    client.complete("x", temperatur=1.0)  # type: ignore[call-arg]
    client.stream("x").text.missing()  # type: ignore[attr-defined]
    escalade.Task("debug").type = "plan"  # type: ignore[misc]
