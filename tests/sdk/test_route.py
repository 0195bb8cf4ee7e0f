"""Routes over the scripted service: what is told, when, and what is done when the road breaks."""

from collections.abc import Callable
from datetime import timedelta

import grpc
import httpx
import pytest

import escalade
from escalade import testing
from escalade.testing import Refused
from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2 as x
from escalade.v1 import escalation_pb2 as e
from escalade.v1 import router_service_pb2 as r
from tests.sdk.route_faces import (
    ONE,
    TWO,
    USED,
    Given,
    RouteFace,
    Told,
    first,
    raising,
    refused,
    well,
)

# ------------------------------------------------------------------------------------- told well


def test_an_answer_is_reported_with_its_usage(route_face: RouteFace) -> None:
    told: list[escalade.Announcement] = []
    with testing.Server(routes=[ONE]) as server:
        seen = route_face.walk(server, well, on_event=told.append)
    (call,) = server.routes
    (outcome,) = call.outcomes

    assert seen.error is None
    assert seen.kinds() == ["Assessed", "Selected", "Finished"]
    assert seen.events == told
    assert seen.result is not None
    assert seen.result.cost_nanos == 5
    assert (outcome.attempt, outcome.ok.finish_reason) == (1, c.FINISH_REASON_STOP)
    assert outcome.ok.usage == c.Usage(
        input_tokens=1_000, output_tokens=200, cached_input_tokens=100
    )
    assert outcome.HasField("elapsed")
    assert call.request.request_id == seen.result.request_id
    assert not server.reports


def test_a_choice_says_what_to_call(route_face: RouteFace) -> None:
    with testing.Server(routes=[ONE]) as server:
        (choice,) = route_face.walk(server, well).choices

    assert (choice.number, choice.provider, choice.model) == (1, "openai", "gpt-4o-mini")
    assert (choice.wire_model, choice.dialect, choice.layer) == ("gpt-4o-mini", "openai", "free")
    assert (choice.account, choice.reservation_id) == ("default", "reservation-1")
    assert (choice.max_input_tokens, choice.max_output_tokens) == (4_000, 500)
    assert choice.expires is not None
    assert choice.skips == ()
    assert str(choice) == "1. openai/gpt-4o-mini in free"


def test_leaving_without_a_word_is_ok_without_usage(route_face: RouteFace) -> None:
    with testing.Server(routes=[ONE]) as server:
        seen = route_face.walk(server, lambda _, __: None)
    (outcome,) = server.routes[0].outcomes

    assert outcome.HasField("ok")
    assert not outcome.ok.HasField("usage")
    assert seen.attempts[0].succeeded


def test_the_loop_may_be_left_after_the_answer(route_face: RouteFace) -> None:
    """What was told arrives, and its end is known, although nobody iterates any more."""
    with testing.Server(routes=[[*ONE[:-1], testing.finished()]]) as server:
        seen = route_face.walk(server, well, leave_after=1)

    assert len(server.routes[0].outcomes) == 1
    assert seen.result is not None
    assert seen.has_report


def test_what_the_task_is_goes_along(route_face: RouteFace) -> None:
    task = escalade.Task("plan", files=["a.py"], tokens=70)
    with testing.Server(routes=[ONE]) as server:
        route_face.walk(server, well, task=task)

    assert server.routes[0].request.task == e.Task(type="plan", files=["a.py"], tokens=70)


def test_everything_of_the_first_message() -> None:
    limits = escalade.Constraints(free_only=True)
    with testing.Server(routes=[ONE]) as server, server.client(token="t") as client:
        view = client.with_options(constraints=limits, metadata={"team": "a"})
        with view.route(
            "debug", messages="Why?", features=["tools", "images", "json_schema"],
            input_tokens=7, max_output_tokens=9, request_id="mine",
        ) as route:  # fmt: skip
            for choice in route:
                with choice.attempt():
                    pass
    (call,) = server.routes

    assert call.request == r.RouteRequest(
        task=e.Task(type="debug"),
        constraints=e.Constraints(free_only=True),
        features=[r.FEATURE_TOOLS, r.FEATURE_IMAGES, r.FEATURE_JSON_SCHEMA],
        input_tokens=7,
        max_output_tokens=9,
        messages=[c.Message(role=c.ROLE_USER, parts=[c.Part(text="Why?")])],
        request_id="mine",
    )
    assert (call.metadata["team"], call.metadata["authorization"]) == ("a", "Bearer t")


# ----------------------------------------------------------------------------------- told badly


def test_a_providers_exception_ends_with_its_block(route_face: RouteFace) -> None:
    error = refused(429, b'{"error": {}}', Retry_After="7", Set_Cookie="secret")
    with testing.Server(routes=[TWO]) as server:
        seen = route_face.walk(server, first(error))
    failed, ok = server.routes[0].outcomes

    assert seen.models() == ["a", "b"]
    assert (seen.attempts[0].succeeded, seen.attempts[1].succeeded) == (False, True)
    assert seen.attempts[0].error is error
    assert failed.failed.failure_evidence == r.FailureEvidence(
        http_status=429, headers={"retry-after": "7"}, body=b'{"error": {}}'
    )
    assert (ok.attempt, ok.HasField("ok")) == (2, True)


def test_a_call_that_never_left_is_not_sent(route_face: RouteFace) -> None:
    with testing.Server(routes=[TWO]) as server:
        route_face.walk(server, first(httpx.PoolTimeout("all busy")))

    assert server.routes[0].outcomes[0].HasField("not_sent")


OTHERS: list[tuple[Callable[[Told], None], r.Outcome]] = [
    (
        lambda a: a.rejected("schema_violation", USED, detail="no\nfield"),
        r.Outcome(
            rejected=r.OutcomeRejected(
                gate=c.GATE_SCHEMA_VIOLATION,
                usage=c.Usage(input_tokens=1_000, output_tokens=200, cached_input_tokens=100),
                detail="no field",
            )
        ),
    ),
    (lambda a: a.rejected(), r.Outcome(rejected=r.OutcomeRejected())),
    (lambda a: a.not_sent(), r.Outcome(not_sent=r.OutcomeNotSent())),
    (
        lambda a: a.failed("OVERLOADED"),
        r.Outcome(failed=r.OutcomeFailed(failure_class=x.FAILURE_CLASS_OVERLOADED)),
    ),
    (
        lambda a: a.failed(
            escalade.FailureEvidence(529, {"Retry-After": "1", "Cookie": "no"}, b"x" * 9_000)
        ),
        r.Outcome(
            failed=r.OutcomeFailed(
                failure_evidence=r.FailureEvidence(
                    http_status=529, headers={"retry-after": "1"}, body=b"x" * 8_192
                )
            )
        ),
    ),
    (
        lambda a: a.failed(TimeoutError()),
        r.Outcome(
            failed=r.OutcomeFailed(
                failure_evidence=r.FailureEvidence(transport_failure=r.TRANSPORT_FAILURE_TIMEOUT)
            )
        ),
    ),
]


@pytest.mark.parametrize(("say", "outcome"), OTHERS)
def test_every_other_outcome_leads_to_the_next(
    route_face: RouteFace, say: Callable[[Told], None], outcome: r.Outcome
) -> None:
    def call(attempt: Told, choice: Given) -> None:
        if choice.number == 1:
            say(attempt)

    with testing.Server(routes=[TWO]) as server:
        seen = route_face.walk(server, call)
    told = server.routes[0].outcomes[0]
    told.ClearField("elapsed")
    told.ClearField("attempt")

    assert seen.models() == ["a", "b"]
    assert told == outcome


def test_a_choice_that_is_passed_over_is_not_sent(route_face: RouteFace) -> None:
    with testing.Server(routes=[[*TWO[:-1], testing.failed("ALL_MODELS_FAILED")]]) as server:
        seen = route_face.walk(server, None)

    assert [o.HasField("not_sent") for o in server.routes[0].outcomes] == [True, True]
    assert isinstance(seen.error, escalade.AllModelsFailed)


def test_the_last_failure_is_the_cause_of_the_error(route_face: RouteFace) -> None:
    error = refused(500)
    with testing.Server(routes=[[testing.selected(), testing.failed("RATE_LIMITED")]]) as server:
        seen = route_face.walk(server, raising(error))

    assert isinstance(seen.error, escalade.RateLimited)
    assert seen.error.__cause__ is error
    assert seen.kinds() == ["Selected", "Failed"]
    assert seen.has_report


def test_a_refusal_is_an_answer_so_its_exception_is_raised(route_face: RouteFace) -> None:
    error = refused(400, b'{"error": {"code": "content_filter"}}')
    end = testing.finished(finish_reason="CONTENT_FILTER")
    with testing.Server(routes=[[testing.selected(), end]]) as server:
        seen = route_face.walk(server, raising(error))

    assert seen.error is error
    assert seen.result is not None
    assert seen.result.finish_reason == "CONTENT_FILTER"


def test_a_mistake_of_the_caller_goes_through_and_is_booked_as_broken_off(
    route_face: RouteFace,
) -> None:
    with testing.Server(routes=[TWO]) as server:
        seen = route_face.walk(server, raising(KeyError("mine")))
    (report,) = server.reports

    assert isinstance(seen.error, KeyError)
    assert not server.routes[0].outcomes
    assert report.reservation_id == "reservation-1"
    assert report.outcome.failed.failure_class == x.FAILURE_CLASS_CANCELLED


def test_an_exception_after_the_word_changes_nothing_of_it(route_face: RouteFace) -> None:
    def call(attempt: Told, choice: Given) -> None:
        well(attempt, choice)
        raise refused(500)

    with testing.Server(routes=[ONE]) as server:
        seen = route_face.walk(server, call)

    assert isinstance(seen.error, httpx.HTTPStatusError)
    assert server.routes[0].outcomes[0].HasField("ok")


def test_what_the_service_says_first_is_raised(route_face: RouteFace) -> None:
    script: list[testing.Reply] = [
        [Refused("CONSENT_REQUIRED")],
        [testing.failed("NO_ELIGIBLE_MODEL", "none")],
    ]
    with testing.Server(routes=script) as server:
        assert isinstance(route_face.walk(server, well).error, escalade.ConsentRequired)
        assert isinstance(route_face.walk(server, well).error, escalade.NoEligibleModel)


def test_a_stream_that_breaks_the_rules_is_not_believed(route_face: RouteFace) -> None:
    with testing.Server(routes=[[testing.selected()]]) as server:
        assert route_face.walk(server, well).error is None  # it was reported outside
        assert len(server.reports) == 1
    with testing.Server(routes=[[testing.assessed()]]) as server:
        assert isinstance(route_face.walk(server, well).error, escalade.ProtocolViolation)


# ------------------------------------------------------------------------------------- the rest


def test_the_lease_is_extended_while_the_block_is_open(route_face: RouteFace) -> None:
    short = testing.selected(lease=timedelta(seconds=1))
    with testing.Server(routes=[[short, testing.finished()]]) as server:
        route_face.walk(server, well, pause_s=1.4)
    beats = [one.attempt for one in server.routes[0].progress]

    assert beats == [1, 1]


def test_the_lease_may_be_extended_by_hand() -> None:
    with (
        testing.Server(routes=[ONE]) as server,
        server.client() as client,
        client.route("debug") as route,
    ):
        for choice in route:
            with choice.attempt() as attempt:
                attempt.progress()
                attempt.first_token()
                attempt.first_token()
    (call,) = server.routes

    assert [one.attempt for one in call.progress] == [1]
    assert call.outcomes[0].HasField("time_to_first_token")


def test_the_plan_lists_every_model(route_face: RouteFace) -> None:
    end = e.Event()
    end.finished.report.story = "score 3 → free"
    end.finished.report.selected.model = "b"
    rows = (("a", e.VERDICT_CLASS_RATE, "window_full"), ("b", e.VERDICT_CLASS_OK, ""))
    for model, verdict, reason in rows:
        end.finished.report.plan.add(
            target=e.ModelRef(layer="free", provider="p", model=model),
            verdict=verdict, reason=reason, worst_case_nano_usd=2_000_000,
        )  # fmt: skip
    with testing.Server(routes=[[testing.assessed(), end]]) as server:
        plan = route_face.plan(server, "debug")

    assert server.routes[0].request.task.dry_run
    assert plan.assessed is not None
    assert str(plan) == "score 3 → free"
    assert plan.selected is not None
    assert plan.selected.model == "b"
    assert [one.model.model for one in plan.candidates] == ["a", "b"]
    assert [str(one) for one in plan.skips] == ["p/a in free: RATE (window_full)"]
    assert str(plan.candidates[0].worst_case_usd) == "0.002"


def test_a_plan_that_is_refused_is_an_error(route_face: RouteFace) -> None:
    script = [[testing.failed("NO_ELIGIBLE_MODEL")]]
    with testing.Server(routes=script) as server, pytest.raises(escalade.NoEligibleModel):
        route_face.plan(server, "debug")


def test_mistakes_are_told() -> None:
    with testing.Server(routes=[TWO]) as server, server.client() as client:
        with pytest.raises(escalade.UsageError, match="features"):
            client.route("debug", features=["teleport"])  # type: ignore[list-item]
        with pytest.raises(escalade.UsageError, match="one word"):
            client.route("debug", features="tools")  # type: ignore[arg-type]
        with pytest.raises(escalade.UsageError, match="cannot be sent"):
            client.route(None)  # type: ignore[arg-type]
        route = client.route("debug")
        with pytest.raises(escalade.UsageError, match="inside `with`"):
            next(route)
        with route:
            choice = next(route)
            attempt = choice.attempt()
            with pytest.raises(escalade.UsageError, match="inside its block"):
                attempt.ok()
            with attempt:
                with pytest.raises(escalade.UsageError, match="still open"):
                    next(route)
                with pytest.raises(escalade.UsageError, match="good for one attempt"):
                    choice.attempt().__enter__()
                with pytest.raises(escalade.UsageError, match="no usage is known in a object"):
                    attempt.ok(object())
                with pytest.raises(escalade.UsageError, match="HTTP status"):
                    attempt.failed(escalade.FailureEvidence())
                attempt.rejected()
                with pytest.raises(escalade.UsageError, match="one outcome"):
                    attempt.ok()
            with pytest.raises(escalade.UsageError, match="entered once"):
                route.__enter__()
        with pytest.raises(StopIteration):
            next(route)


def test_a_script_that_is_over_says_so(route_face: RouteFace) -> None:
    with testing.Server() as server:
        server.add_routes(ONE)
        assert route_face.walk(server, well).error is None
        error = route_face.walk(server, well).error

    assert isinstance(error, escalade.TransportError)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "no reply to route 2" in str(error)


def test_a_route_can_be_scripted_by_its_task(route_face: RouteFace) -> None:
    def script(request: r.RouteRequest) -> testing.Reply:
        return [testing.selected(request.task.type), testing.finished()]

    with testing.Server(routes=script) as server:
        assert route_face.walk(server, well, task="plan").models() == ["plan"]


def test_an_answer_that_its_sdk_raises_is_an_answer(route_face: RouteFace) -> None:
    error = type("LengthFinishReasonError", (Exception,), {"__module__": "openai"})("cut")
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    error.completion = {"usage": usage, "choices": [{"finish_reason": "length"}]}
    with testing.Server(routes=[ONE]) as server:
        seen = route_face.walk(server, raising(error))
    (outcome,) = server.routes[0].outcomes

    assert seen.error is error
    assert outcome.ok.usage == c.Usage(input_tokens=10, output_tokens=5)
    assert outcome.ok.finish_reason == c.FINISH_REASON_LENGTH


async def test_the_lease_may_be_extended_by_hand_in_a_task_too() -> None:
    async with (
        testing.Server(routes=[ONE]) as server,
        server.async_client() as client,
        client.route("debug") as route,
    ):
        async for choice in route:
            async with choice.attempt() as attempt:
                await attempt.progress()
                attempt.first_token()
    (call,) = server.routes

    assert [one.attempt for one in call.progress] == [1]
    assert call.outcomes[0].HasField("time_to_first_token")
