"""Misuse of ``Route``: refused by the field, and the books right after it (R32)."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2 as x
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import (
    Outcome,
    OutcomeFailed,
    OutcomeOk,
    OutcomeRejected,
    Progress,
    RouteRequest,
    RouteResponse,
)
from escalade_server.engine.ports import StoreError
from tests.api.route_world import (
    COST_NANOS,
    RESERVE_NANOS,
    USED,
    Served,
    Talk,
    evidence,
    failed,
    ok,
    paid,
    selected,
    unreported,
    within,
)

# --------------------------------------------------------------------------------------- misuse


def later(**fields: Any) -> RouteRequest:
    return RouteRequest(outcome=ok(), **fields)


BAD_FIRST = [
    (RouteRequest(), "task"),
    (RouteRequest(outcome=ok()), "outcome"),
    (RouteRequest(progress=Progress(attempt=1)), "progress"),
    (paid(features=[0]), "features[0]"),
    (paid(input_tokens=-1), "input_tokens"),
    (RouteRequest(task=e.Task(), max_output_tokens=0), "max_output_tokens"),
    (RouteRequest(task=e.Task(), request_id="a b"), "request_id"),
    (paid(constraints=within(8 * 86_400)), "constraints.timeout"),
    (RouteRequest(task=e.Task(tokens=-1)), "task.tokens"),
]


@pytest.mark.parametrize(("first", "field"), BAD_FIRST, ids=[f for _, f in BAD_FIRST])
async def test_a_wrong_first_message_is_refused_by_its_field(
    server: Served, first: RouteRequest, field: str
) -> None:
    ended = await (await Talk.begin(server, first)).end()

    assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
    assert ended.message.startswith(f"{field} ")
    assert ended.kinds == ["failed"]
    assert server.books() == (0, 0)


USAGE = {"input_tokens": 10, "output_tokens": 5}
BAD_LATER = [
    (paid(), "task"),
    (RouteRequest(), "outcome"),
    (RouteRequest(outcome=ok(2)), "outcome.attempt"),
    (RouteRequest(outcome=ok(0)), "outcome.attempt"),
    (RouteRequest(progress=Progress(attempt=2)), "progress.attempt"),
    (RouteRequest(outcome=Outcome(attempt=1)), "outcome.result"),
    (later(features=[1]), "features"),
    (later(request_id="x"), "request_id"),
    (later(constraints=within(1)), "constraints"),
    (RouteRequest(outcome=ok(1, c.Usage(input_tokens=-1))), "outcome.ok.usage.input_tokens"),
    (
        RouteRequest(outcome=ok(1, c.Usage(**USAGE, cached_input_tokens=11))),
        "outcome.ok.usage.cached_input_tokens",
    ),
    (
        RouteRequest(outcome=ok(1, c.Usage(**USAGE, reasoning_tokens=6))),
        "outcome.ok.usage.reasoning_tokens",
    ),
    (
        RouteRequest(outcome=Outcome(attempt=1, ok=OutcomeOk(reported_model="a\nb"))),
        "outcome.ok.reported_model",
    ),
    (RouteRequest(outcome=failed(x.FAILURE_CLASS_UNSPECIFIED)), "outcome.failed.failure_class"),
    (RouteRequest(outcome=failed(x.FAILURE_CLASS_GATE)), "outcome.failed.failure_class"),
    (
        RouteRequest(outcome=Outcome(attempt=1, failed=OutcomeFailed())),
        "outcome.failed.failure_class",
    ),
    (RouteRequest(outcome=evidence()), "outcome.failed.failure_evidence.http_status"),
    (
        RouteRequest(outcome=evidence(http_status=99)),
        "outcome.failed.failure_evidence.http_status",
    ),
    (
        RouteRequest(outcome=evidence(http_status=500, body=b"x" * 8_193)),
        "outcome.failed.failure_evidence.body",
    ),
    (
        RouteRequest(outcome=evidence(http_status=500, headers={"a": "x" * 2_000})),
        "outcome.failed.failure_evidence.headers",
    ),
    (
        RouteRequest(outcome=Outcome(attempt=1, ok=OutcomeOk(), elapsed=Duration(seconds=-1))),
        "outcome.elapsed",
    ),
]


@pytest.mark.parametrize(("message", "field"), BAD_LATER, ids=[f for _, f in BAD_LATER])
async def test_a_wrong_later_message_ends_the_task_and_books_the_reserve(
    server: Served, message: RouteRequest, field: str
) -> None:
    talk, reservation = await selected(server)
    await talk.call.write(message)
    ended = await talk.end()

    assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
    assert ended.message.startswith(f"{field} ")
    assert ended.events[-1].failed.reason == x.ERROR_REASON_REQUEST_INVALID
    assert [event.sequence for event in ended.events] == list(range(1, len(ended.events) + 1))
    await server.settled()
    assert server.books() == (RESERVE_NANOS, 0)
    assert (await server.report(reservation, ok())).corrected
    assert server.books() == (COST_NANOS, 0)


UNBUILT = [
    (
        RouteRequest(task=e.Task(session_id="s", evidence=[e.Evidence(kind=9)])),  # type: ignore[arg-type]
        "task.evidence[0].kind = 9",
    ),
    (paid(features=[9]), "features[0] = 9"),
]


@pytest.mark.parametrize(("first", "name"), UNBUILT, ids=[n for _, n in UNBUILT])
async def test_what_is_not_built_is_refused_by_name(
    server: Served, first: RouteRequest, name: str
) -> None:
    ended = await (await Talk.begin(server, first)).end()

    assert ended.code is grpc.StatusCode.UNIMPLEMENTED
    assert name in ended.message


async def test_a_stream_without_a_message_is_refused(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Talk(server.router.Route(timeout=10))
    await silent.call.done_writing()
    ended = await silent.end()
    monkeypatch.setattr("escalade_server.api.route.FIRST_S", 0.05)
    slow = await Talk(server.router.Route(timeout=10)).end()

    for told in (ended, slow):
        assert told.code is grpc.StatusCode.INVALID_ARGUMENT
        assert told.message.startswith("task ")


async def test_bytes_that_are_no_message_end_the_call(server: Served) -> None:
    path = "/escalade.v1.RouterService/Route"
    first = paid().SerializeToString()
    for sent in ([b"\xff"], [first, b"\xff"]):
        raw: Any = server.channel.stream_stream(
            path, response_deserializer=RouteResponse.FromString
        )
        talk = Talk(raw(timeout=10))
        for data in sent:
            await talk.call.write(data)
        ended = await talk.end()
        assert (ended.code, ended.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID",
        )  # fmt: skip
        assert "no valid message" in ended.message
    await server.settled()
    assert server.books()[1] == 0


async def test_a_report_that_cannot_be_booked_may_be_sent_again(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = await unreported(server)

    def broken(*_: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as while_full:
        while_full.setattr(server.running.engine.store, "settle", broken)
        assert await server.refused(reservation, ok()) == "UNAVAILABLE LEDGER_UNAVAILABLE"
    assert await server.refused(reservation, ok()) == "OK"
    assert server.books() == (COST_NANOS, 0)


async def test_a_gate_may_be_the_callers_own(server: Served) -> None:
    for gate, word in ((c.GATE_UNSPECIFIED, "of its own"), (c.GATE_EMPTY, "empty")):
        reservation = await unreported(server)
        outcome = Outcome(attempt=1, rejected=OutcomeRejected(gate=gate, usage=USED))
        detail = (await server.report(reservation, outcome)).attempt.detail
        assert detail == f"failed the caller's gate {word}"
    unknown = Outcome(attempt=1, rejected=OutcomeRejected(gate=99))  # type: ignore[arg-type]
    assert await server.refused(reservation, unknown) == "UNIMPLEMENTED NOT_YET_BUILT"
