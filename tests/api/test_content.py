"""The hash of a request (R27): what makes two requests under one id the same."""

import pytest

from escalade.v1 import completion_pb2 as c
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import FEATURE_TOOLS, CompleteRequest, RouteRequest
from escalade_server.api.content import content_of
from tests.api.world import ask

BASE = ask(request_id="r-1", task=e.Task(type="debug", labels={"team": "x", "run": "7"}))


def changed(**fields: object) -> CompleteRequest:
    made = CompleteRequest()
    made.CopyFrom(BASE)
    made.MergeFrom(CompleteRequest(**fields))  # type: ignore[arg-type]
    return made


def within(seconds: int, **fields: object) -> e.Constraints:
    made = e.Constraints(**fields)  # type: ignore[arg-type]
    made.timeout.FromSeconds(seconds)
    return made


@pytest.mark.parametrize(
    "other",
    [
        changed(request_id="r-2"),
        changed(resume_token="place"),
        changed(delivery=c.DELIVERY_WHOLE),
        changed(on_interruption=c.ON_INTERRUPTION_FAIL),
        changed(constraints=within(9)),
        changed(constraints=e.Constraints()),
    ],
    ids=["id", "resume", "delivery", "interruption", "timeout", "no limits"],
)
def test_how_an_answer_travels_is_no_content(other: CompleteRequest) -> None:
    other.flush_interval.FromMilliseconds(50)
    before = other.SerializeToString(deterministic=True)

    assert content_of(other) == content_of(BASE)
    assert other.SerializeToString(deterministic=True) == before


def test_everything_else_is() -> None:
    """By the proto itself: a field added later counts, unless somebody says that it does not."""
    travels = {"request_id", "resume_token", "delivery", "flush_interval", "on_interruption"}
    found = {content_of(BASE)}
    for field in CompleteRequest.DESCRIPTOR.fields:
        if field.name in travels:
            continue
        other = changed()
        if field.message_type is None:
            setattr(other, field.name, 1)
        elif field.is_repeated:
            getattr(other, field.name).add()
        elif field.name == "constraints":
            other.constraints.free_only = True
        else:
            getattr(other, field.name).MergeFromString(b"\xa2\x06\x01x")  # a field unknown here
        found.add(content_of(other))

    assert len(found) == len(CompleteRequest.DESCRIPTOR.fields) - len(travels) + 1


def test_limits_count_but_their_time_does_not() -> None:
    free = changed(constraints=e.Constraints(free_only=True))

    assert content_of(free) != content_of(BASE)
    assert content_of(changed(constraints=within(9, free_only=True))) == content_of(free)


def test_the_order_of_labels_is_no_content() -> None:
    other = ask(request_id="r-1", task=e.Task(type="debug", labels={"run": "7", "team": "x"}))

    assert content_of(other) == content_of(BASE)


def test_a_task_to_route_is_another_request() -> None:
    task = e.Task(type="debug")
    routed = RouteRequest(task=task, request_id="r-1")
    again = RouteRequest(task=task, request_id="r-1", resume_token="place")

    assert content_of(routed) == content_of(again)
    assert content_of(routed) != content_of(CompleteRequest(task=task, request_id="r-1"))
    assert content_of(routed) != content_of(
        RouteRequest(task=task, request_id="r-1", features=[FEATURE_TOOLS])
    )


def test_without_an_id_of_the_callers_there_is_none() -> None:
    assert content_of(ask()) == ""
    assert content_of(RouteRequest(task=e.Task())) == ""
