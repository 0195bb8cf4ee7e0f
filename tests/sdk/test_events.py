from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import escalade
from escalade import testing
from escalade._events import announcement_from_proto
from escalade.v1 import completion_pb2, error_pb2, escalation_pb2

NOON = Timestamp()
NOON.FromDatetime(datetime(2026, 1, 2, 12, tzinfo=UTC))
MINI = escalation_pb2.ModelRef(layer="free", provider="openai", model="gpt-4o-mini")
GLM = escalation_pb2.ModelRef(layer="free", provider="nano-gpt", model="glm-5")

LINES = {
    "Assessed: debug scores 4.9 (type, tokens estimated), starts in free (FREE_ONLY)": (
        escalation_pb2.Event(
            assessed=escalation_pb2.Assessed(
                score=4.9,
                parts=escalation_pb2.ScoreParts(depth=4.9),
                threshold=8,
                task_type="debug",
                type_estimated=True,
                tokens_estimated=True,
                target_layer="paid",
                start_layer="free",
                clamped_by=escalation_pb2.START_CLAMP_FREE_ONLY,
            )
        )
    ),
    "Selected: openai/gpt-4o-mini in free; 1 passed over; held back by EMPTY": (
        escalation_pb2.Event(
            selected=escalation_pb2.Selected(
                attempt=1,
                target=MINI,
                held_by=[completion_pb2.GATE_EMPTY],
                skips=[
                    escalation_pb2.Skip(
                        target=GLM,
                        verdict=escalation_pb2.VERDICT_CLASS_RATE,
                        reason="window_full",
                        until=NOON,
                    )
                ],
            )
        )
    ),
    "Fallback: openai/gpt-4o-mini → nano-gpt/glm-5 (RATE_SHORT: 429 slow down)": (
        escalation_pb2.Event(
            fallback=escalation_pb2.Fallback(
                failed_attempt=1,
                from_target=MINI,
                to_target=GLM,
                failure_class=error_pb2.FAILURE_CLASS_RATE_SHORT,
                detail="429\nslow down",
            )
        )
    ),
    "Escalated: free → paid (RATE_LIMIT: 50 of 50)": testing.escalated(
        "free", "paid", "RATE_LIMIT", "50 of 50"
    ),
    "Waiting until 2026-01-02 12:00:00 UTC, place 2 (RATE: all full)": escalation_pb2.Event(
        waiting=escalation_pb2.Waiting(
            reason=escalation_pb2.VERDICT_CLASS_RATE, detail="all full", earliest=NOON, position=2
        )
    ),
    "Waiting, place 1 (HELD)": escalation_pb2.Event(
        waiting=escalation_pb2.Waiting(reason=escalation_pb2.VERDICT_CLASS_HELD, position=1)
    ),
    "Retracted: the text of attempt 1 is void (TIMEOUT: silent)": testing.retracted(
        1, "TIMEOUT", "silent"
    ),
    "Alert: BUDGET: paid has spent 80 %": escalation_pb2.Event(
        alert=escalation_pb2.Alert(
            kind=escalation_pb2.ALERT_KIND_BUDGET, detail="paid has spent 80 %", percent=80
        )
    ),
    "Failed: RATE_LIMITED: come back at noon": testing.failed("RATE_LIMITED", "come back at noon"),
}


@pytest.mark.parametrize("line", LINES)
def test_an_event_is_one_readable_line(line: str) -> None:
    assert str(announcement_from_proto(LINES[line])) == line


def test_every_kind_of_event_is_shown() -> None:
    kinds = {kind.name for kind in escalation_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields}
    shown = {event.WhichOneof("kind") for event in LINES.values()}

    assert kinds - shown == {"delta", "finished"}  # the fold makes those


def test_the_fields_of_events() -> None:
    made = [announcement_from_proto(event) for event in LINES.values()]
    assessed, selected, fallback, escalated, waiting = made[:5]

    assert isinstance(assessed, escalade.Assessed)
    assert (assessed.threshold, assessed.depth_points, assessed.target_layer) == (8, 4.9, "paid")
    assert isinstance(selected, escalade.Selected)
    assert selected.model == escalade.Model("free", "openai", "gpt-4o-mini")
    assert selected.skips[0].until == datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert (selected.skips[0].verdict, selected.skips[0].reason) == ("RATE", "window_full")
    assert isinstance(fallback, escalade.Fallback)
    assert fallback.failed_attempt == 1
    assert isinstance(escalated, escalade.Escalated)
    assert escalated.failed_attempt is None
    assert isinstance(waiting, escalade.Waiting)
    assert waiting.earliest == datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_an_attempt_tells_all() -> None:
    attempt = escalation_pb2.Attempt(
        attempt=2,
        target=MINI,
        status=escalation_pb2.ATTEMPT_STATUS_REJECTED,
        failure_class=error_pb2.FAILURE_CLASS_GATE,
        gate=completion_pb2.GATE_INVALID_JSON,
        http_status=200,
        started=NOON,
        first_token=NOON,
        ended=NOON,
        usage=completion_pb2.Usage(input_tokens=5, output_tokens=3, reasoning_tokens=0),
        cost=completion_pb2.Cost(list_nano_usd=9, charged_nano_usd=4),
        basis=completion_pb2.BASIS_ESTIMATED,
    )
    end = testing.finished()
    end.finished.report.attempts.append(attempt)
    end.finished.report.usage.input_tokens = 11
    end.finished.report.baseline_nano_usd = 15
    end.finished.report.trace_id = "ab"
    with testing.Server([[end]]) as server, server.client() as client:
        answer = client.complete("x")

    read = answer.attempts[1]
    assert str(read) == "2. openai/gpt-4o-mini: REJECTED (GATE)"
    assert (read.gate, read.http_status, read.basis) == ("INVALID_JSON", 200, "ESTIMATED")
    assert read.started == read.first_token == read.ended == datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert read.usage == escalade.Usage(5, 3, reasoning_tokens=0)
    assert (read.cost_nanos, read.list_nanos, str(read.cost_usd)) == (4, 9, "4E-9")
    assert answer.usage == escalade.Usage(11, 0)
    assert (answer.trace_id, answer.report.baseline_nano_usd) == ("ab", 15)
    assert (answer.provider, answer.quality, answer.finish_reason) == ("openai", "MET", "STOP")
    assert answer.list_usd == 0
    assert str(answer) == answer.text == ""


def test_a_model_without_a_name_is_its_layer() -> None:
    assert str(escalade.Model("paid", "", "")) == "paid"
    assert str(escalade.Model("paid", "openai", "gpt", "default")) == "openai/gpt"
    assert str(escalade.Model("paid", "openai", "gpt", "spare")) == "openai/gpt (spare)"
